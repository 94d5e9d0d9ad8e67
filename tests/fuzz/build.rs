//! Embeds the corpus, so that the program runs on other machines.

use std::fmt::Write;
use std::path::Path;

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    println!("cargo:rerun-if-changed={}", corpus.display());
    let mut lines = String::from("&[\n");
    for folder in entries(&corpus) {
        let target = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for file in entries(&folder) {
            let path = file.display().to_string();
            writeln!(lines, "    ({target:?}, include_bytes!({path:?})),").ok();
        }
    }
    lines.push(']');
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    if let Err(error) = std::fs::write(Path::new(&out).join("corpus.rs"), lines) {
        println!("cargo:warning={error}");
    }
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = found.filter(|path| !path.ends_with(".gitkeep")).collect();
    paths.sort();
    paths
}
