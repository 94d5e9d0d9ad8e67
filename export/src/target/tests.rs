use super::*;
use crate::counted_file::write_text;

fn folder(root: &Path, name: &str, files: &[&str]) -> PathBuf {
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    for file in files {
        fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        fs::write(folder.join(file), "old").unwrap();
    }
    folder
}

fn write(target: &Path, overwrite: bool, inputs: &[PathBuf]) -> Result<()> {
    write_folder(target, overwrite, inputs, |folder| write_text(&folder.join("config.json"), "new").map(drop))
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The error of a refused export. Checks that the folder did not change.
fn refused(target: &Path, overwrite: bool, inputs: &[PathBuf]) -> String {
    let before = entries(target);
    let error = write(target, overwrite, inputs).unwrap_err().to_string();
    assert_eq!(entries(target), before);
    assert!(
        before.iter().filter(|name| target.join(name).is_file()).all(|name| fs::read(target.join(name)).unwrap() == b"old")
    );
    error
}

#[test]
fn only_what_an_export_wrote_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let shards = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", ".DS_Store"];
    for (name, files) in [
        ("model", &["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"][..]),
        ("shards", &shards),
        ("templates", &["config.json", "additional_chat_templates/tool_use.jinja"]),
        ("adapter", &["adapter_config.json", "adapter_model.safetensors"]),
        ("empty", &[]),
    ] {
        let target = folder(root.path(), name, files);
        assert!(refused(&target, false, &[]).contains("already exists"), "{name}");
        write(&target, true, &[]).unwrap();
        assert_eq!(
            (entries(&target), fs::read(target.join("config.json")).unwrap()),
            (vec!["config.json".into()], b"new".to_vec())
        );
    }
    for (name, files, words) in [
        ("mine", &["config.json", "thesis.tex"][..], "`thesis.tex`"),
        ("deep", &["config.json", "data/rows.jsonl"], "`data`"),
        ("odd", &["additional_chat_templates/rows.jsonl"], "`additional_chat_templates`"),
        ("like", &["model-1-of-2.safetensors"], "`model-1-of-2.safetensors`"),
        ("card", &["config.json", "README.md"], "`README.md`"),
        ("run", &["config.toml", "metrics.jsonl"], "training run"),
        ("run2", &["checkpoint-20/trainer_state.json"], "training run"),
    ] {
        // That is said at once: --overwrite would not help.
        for overwrite in [false, true] {
            let error = refused(&folder(root.path(), name, files), overwrite, &[]);
            assert!(error.contains(words), "{name}: {error}");
        }
    }
    assert!(entries(root.path()).iter().all(|name| !name.starts_with('.')));
}

#[test]
fn an_input_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let base = folder(root.path(), "base", &["config.json", "model.safetensors"]);
    for inputs in [vec![base.clone()], vec![base.join("model.safetensors")]] {
        assert!(refused(&base, true, &inputs).contains("is an input of this export"));
    }
    // Other targets are allowed, also beside or inside the input.
    write(&root.path().join("other"), false, std::slice::from_ref(&base)).unwrap();
    write(&base.join("merged"), false, std::slice::from_ref(&base)).unwrap();
    write(&base.join("merged"), true, std::slice::from_ref(&base)).unwrap();
    let gguf = root.path().join("m.gguf");
    fs::write(&gguf, "GGUF and more").unwrap();
    let again = |inputs: &[PathBuf]| write_file(&gguf, true, inputs, b"GGUF", |file| file.put(b"GGUF new"));
    assert!(again(std::slice::from_ref(&gguf)).unwrap_err().to_string().contains("is an input of this export"));
    assert_eq!(fs::read(&gguf).unwrap(), b"GGUF and more");
    assert_eq!(again(&[base]).unwrap(), 8);
    assert_eq!(fs::read(&gguf).unwrap(), b"GGUF new");
}

#[cfg(unix)]
#[test]
fn a_link_to_an_input_counts_as_the_input() {
    let root = tempfile::tempdir().unwrap();
    let blobs = folder(root.path(), "blobs", &["abc"]);
    let snapshot = folder(root.path(), "snapshot", &["config.json"]);
    std::os::unix::fs::symlink(blobs.join("abc"), snapshot.join("model.safetensors")).unwrap();
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&snapshot, &link).unwrap();
    for target in [&snapshot, &link] {
        assert!(refused(target, true, &[snapshot.join("model.safetensors")]).contains("is an input of this export"));
    }
}

#[test]
fn files_and_folders_do_not_replace_each_other() {
    let root = tempfile::tempdir().unwrap();
    let target = folder(root.path(), "out", &["config.json"]);
    for overwrite in [false, true] {
        let error = write_file(&target, overwrite, &[], b"GGUF", |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("is a folder"), "{error}");
        let error = write(&target.join("config.json"), overwrite, &[]).unwrap_err().to_string();
        assert!(error.contains("is a file"), "{error}");
    }
    let text = root.path().join("notes.txt");
    fs::write(&text, "mine").unwrap();
    for overwrite in [false, true] {
        let error = write_file(&text, overwrite, &[], b"GGUF", |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("no export wrote") && fs::read(&text).unwrap() == b"mine", "{error}");
    }
    let slash = root.path().join("sub/");
    let error = write_file(&slash, false, &[], b"GGUF", |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("is the name of a folder"), "{error}");
    assert_eq!(entries(root.path()), ["notes.txt", "out"]);
}

#[cfg(unix)]
#[test]
fn leftovers_of_killed_exports_of_earlier_versions_are_deleted_after_a_day() {
    let root = tempfile::tempdir().unwrap();
    let yesterday = std::time::SystemTime::now() - STALE - Duration::from_mins(1);
    let age = |path: &Path| File::open(path).unwrap().set_modified(yesterday).unwrap();
    let left = |name: &str, files: &[&str]| {
        let folder = folder(root.path(), name, files);
        for file in files {
            age(&folder.join(file));
        }
        age(&folder);
    };
    left(".burnish-aB3xY9", &["config.json", "model.safetensors"]);
    // A folder that was being replaced, files that no export writes, and other names stay.
    left(".burnish-old123", &["old/config.json"]);
    age(&root.path().join(".burnish-old123/old"));
    age(&root.path().join(".burnish-old123"));
    left(".burnish-other1", &["notes.txt"]);
    left(".burnish-longer7", &["config.json"]);
    left("burnish-aB3xY9", &["config.json"]);
    // Another process may still be writing these.
    left(".burnish-begun1", &["config.json"]);
    fs::write(root.path().join(".burnish-begun1/model.safetensors"), "new").unwrap();
    age(&root.path().join(".burnish-begun1"));
    folder(root.path(), ".burnish-young1", &["config.json"]);
    for (name, bytes) in [(".burnish-gguf12", "GGUF..."), (".burnish-text12", "text...")] {
        fs::write(root.path().join(name), bytes).unwrap();
        age(&root.path().join(name));
    }
    let mut gone = remove_stale(root.path());
    gone.sort();
    assert_eq!(gone, [".burnish-aB3xY9", ".burnish-gguf12"].map(|name| root.path().join(name)));
    assert_eq!(entries(root.path()).len(), 7);
    assert!(remove_stale(root.path()).is_empty());
}
