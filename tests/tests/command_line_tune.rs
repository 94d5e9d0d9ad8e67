//! `tune` on the command line, and runs whose products were chosen: their checkpoints keep the choice.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use burnish_tests::{burnish, text};
use serde_json::Value;

const BACKEND: &str = if cfg!(target_os = "macos") { "metal" } else { "vulkan" };

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart")
}

/// The program, with a folder of its own for what it keeps.
fn program(place: &Path) -> Command {
    let mut command = burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
    // On macOS, the folder for caches lies in the home folder.
    command.env("XDG_CACHE_HOME", place.join("cache")).env("HOME", place);
    command
}

fn output(command: &mut Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let (stdout, stderr) = text(&output);
    (output.status.success(), stdout, stderr)
}

fn tune(place: &Path, more: &[&str]) -> Value {
    let model = assets().join("model").display().to_string();
    let fixed = ["tune", "--json", "--model", &model, "--batch-size", "4", "--max-seq-length", "256", "--rank", "4"];
    let (ok, stdout, stderr) = output(program(place).args(fixed).args(["--backend", BACKEND]).args(more));
    assert!(ok, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// The file with what was measured.
fn table(place: &Path) -> PathBuf {
    let folder = if cfg!(target_os = "macos") { "Library/Caches" } else { "cache" };
    let files = fs::read_dir(place.join(folder).join("burnish/products")).unwrap();
    let mut found = files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|is| is == "json"));
    let path = found.next().unwrap();
    assert!(found.next().is_none());
    path
}

fn train(place: &Path, run: &str, iters: &str, more: &[&str]) -> (bool, String) {
    let [model, data, run] =
        [assets().join("model"), assets().join("data"), place.join(run)].map(|path| path.display().to_string());
    let fixed = ["train", "--model", &model, "--data", &data, "--output-dir", &run, "--backend", BACKEND, "--rank", "4"];
    let steps = "--batch-size 16 --save-every 3 --steps-per-eval 0 --warmup 0 --lr-scheduler constant --iters"
        .split(' ')
        .chain([iters]);
    let (ok, _, stderr) = output(program(place).args(fixed).args(steps).args(more));
    (ok, stderr)
}

/// The gradient norms of a run, its losses to five digits (the last bit of a printed mean has differed where nothing else did), and its
/// adapter.
fn result(place: &Path, run: &str) -> (Vec<String>, Vec<u8>) {
    let lines = fs::read_to_string(place.join(run).join("metrics.jsonl")).unwrap();
    let of = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        format!("{} {:.5} {}", line["step"], line["loss"].as_f64().unwrap(), line["grad_norm"])
    };
    (lines.lines().map(of).collect(), fs::read(place.join(run).join("adapter/adapter_model.safetensors")).unwrap())
}

fn products(place: &Path, run: &str, step: usize) -> Value {
    let state = place.join(run).join(format!("checkpoint-{step}/trainer_state.json"));
    serde_json::from_str::<Value>(&fs::read_to_string(state).unwrap()).unwrap()["products"].clone()
}

#[test]
#[ignore = "two minutes; .ci/nightly runs it"]
fn tune_measures_every_candidate_once() {
    let folder = tempfile::tempdir().unwrap();
    let found = tune(folder.path(), &[]);
    let classes = found["classes"].as_array().unwrap();
    assert!(!classes.is_empty() && found["device"]["backend"] == BACKEND, "{found}");
    for class in classes {
        let candidates = class["candidates"].as_array().unwrap();
        assert!(candidates.len() > 1 && candidates[0]["name"] == "default", "{class}");
        assert!(candidates.iter().all(|candidate| candidate["tflops"].as_f64().is_some_and(|rate| rate > 0.0)), "{class}");
        assert!(candidates.iter().any(|candidate| candidate["name"] == class["chosen"]), "{class}");
    }
    let kept: Value = serde_json::from_str(&fs::read_to_string(table(folder.path())).unwrap()).unwrap();
    assert_eq!(kept["products"].as_object().unwrap().len(), classes.len());
    assert_eq!(kept["key"], found["device"]);
    assert!(tune(folder.path(), &[])["classes"].as_array().unwrap().is_empty());
    assert_eq!(tune(folder.path(), &["--again"])["classes"].as_array().unwrap().len(), classes.len());
    let model = assets().join("model").display().to_string();
    let (ok, _, stderr) = output(program(folder.path()).args(["tune", "--model", &model, "--backend", "cpu"]));
    assert!(!ok && stderr.contains("one way only") && stderr.contains("hint: "), "{stderr}");
}

#[test]
#[ignore = "two minutes; .ci/nightly runs it"]
fn a_resumed_run_computes_as_its_checkpoint_did() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let (ok, said) = train(place, "measured", "3", &["--tune", "always"]);
    assert!(ok && said.contains("classes of products in"), "{said}");
    // What was measured may be the default, so other candidates are planted: sums in many parts.
    let table = table(place);
    let mut planted: Value = serde_json::from_str(&fs::read_to_string(&table).unwrap()).unwrap();
    let mut other = planted.clone();
    for (class, candidate) in planted["products"].as_object_mut().unwrap() {
        *candidate = if class.starts_with("tn") { "threads parts 4" } else { "default" }.into();
    }
    other["products"].as_object_mut().unwrap().values_mut().for_each(|candidate| *candidate = "default".into());
    assert!(planted != other);
    let write = |contents: &Value| fs::write(&table, contents.to_string()).unwrap();
    write(&planted);
    let (ok, said) = train(place, "whole", "6", &[]);
    assert!(ok && said.contains("products are computed as measured on this device before"), "{said}");
    assert!(train(place, "broken", "3", &[]).0);
    write(&other);
    let (ok, said) = train(place, "broken", "6", &["--resume", "auto"]);
    assert!(ok && !said.contains("can differ"), "{said}");
    assert_eq!(result(place, "broken"), result(place, "whole"));
    assert_eq!(products(place, "broken", 6)["products"], planted["products"]);
    assert_eq!(products(place, "broken", 6), products(place, "whole", 6));
    // Without a choice nothing is kept, and a run without one stays so, whatever the file says later.
    assert!(train(place, "never", "3", &["--tune", "never"]).0);
    assert!(products(place, "never", 3).is_null());
    write(&planted);
    assert!(train(place, "never", "6", &["--tune", "never", "--resume", "auto"]).0);
    assert!(products(place, "never", 6).is_null());
    assert_ne!(result(place, "never"), result(place, "whole"), "the choice makes no difference");
    fs::write(&table, "{").unwrap();
    let (ok, said) = train(place, "damaged", "3", &[]);
    assert!(ok && said.contains("is ignored") && products(place, "damaged", 3).is_null(), "{said}");
}
