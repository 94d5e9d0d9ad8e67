//! A crate outside the workspace, built and run on five backends that differ in one type alias.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::DType;
use burnish_kernels::tolerance::Tolerance;
use burnish_models::Checkpoint;
use burnish_models::gguf::GgufFile;

const ALIAS: &str = "type Backend = burn::backend::Flex;";
/// Names, and the types in the alias. The others are compared with the first.
const BACKENDS: [(&str, &str); 5] = [
    ("flex", "burn::backend::Flex"),
    ("ndarray", "burn_ndarray::NdArray"),
    ("candle", "burn_candle::Candle"),
    ("wgpu", "burnish_kernels::runtime::Wgpu"),
    ("emulator", "burnish_metal::emulator::MetalCpu"),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Writes a file unless it has that text already, so that cargo does not build it again.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(path, text).unwrap();
}

/// Writes the crate with one program a backend, builds them, and returns the folder that they are in.
fn build() -> PathBuf {
    let (source, target) = (workspace().join("tests/outside"), workspace().join("target"));
    let copy = target.join("outside");
    fs::create_dir_all(copy.join("src/bin")).unwrap();
    let manifest = fs::read_to_string(source.join("Cargo.toml")).unwrap();
    let manifest = manifest.replace("path = \"../..", &format!("path = \"{}", workspace().display()));
    write(&copy.join("Cargo.toml"), &manifest);
    fs::copy(workspace().join("Cargo.lock"), copy.join("Cargo.lock")).unwrap();
    let program = fs::read_to_string(source.join("src/main.rs")).unwrap();
    assert!(program.contains(ALIAS) && program.lines().count() <= 60);
    for (name, backend) in BACKENDS {
        let program = program.replace(ALIAS, &format!("#[allow(deprecated)]\ntype Backend = {backend};"));
        write(&copy.join(format!("src/bin/{name}.rs")), &program);
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(&copy).args(["build", "--release", "--bins"]).env("CARGO_TARGET_DIR", &target);
    // As in the workspace's profile, so that its build is reused.
    for package in ["burnish-engine", "burnish-metal", "outside"] {
        cargo.arg("--config").arg(format!("profile.release.package.{package}.opt-level = 1"));
    }
    assert!(cargo.status().unwrap().success());
    target.join("release")
}

#[test]
#[ignore = "builds five programs: cargo test --release -p burnish-examples --test outside -- --ignored"]
fn one_type_alias_chooses_the_backend() {
    let programs = build();
    let assets = workspace().join("recipes/assets/quickstart");
    let folder = tempfile::tempdir().unwrap();
    let mut first: Option<(Vec<f32>, String)> = None;
    for (name, _) in BACKENDS {
        let output = folder.path().join(name);
        let mut program = Command::new(programs.join(name));
        let ran = program.arg(assets.join("model")).arg(assets.join("data/train.jsonl")).arg(&output).output().unwrap();
        assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
        let said = String::from_utf8(ran.stdout).unwrap();
        let values = |key: &str| said.lines().filter_map(|line| line.strip_prefix(key)).collect::<Vec<_>>();
        let losses: Vec<f32> = values("loss ").into_iter().map(|loss| loss.parse().unwrap()).collect();
        let answer = values("answer ").concat();
        println!("{name}: {losses:?} {answer:?}");
        assert!(losses.len() == 10 && !answer.is_empty(), "{name}: {said}");
        assert!(!GgufFile::open(&output.join("model.gguf")).unwrap().names().is_empty());
        let (expected, text) = first.get_or_insert_with(|| (losses.clone(), answer.clone()));
        Tolerance::of(DType::F32).check(name, &losses, expected).unwrap();
        assert_eq!(&answer, text, "{name}");
    }
}
