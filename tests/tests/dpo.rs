//! Direct preference optimization: compared with TRL's trainer, and on the command line.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::DType;
use burnish_engine::{AdamWConfig, Adapter, Batch, Checkpointing, IGNORE, Objective, StepItem, TrainedPart};
use burnish_kernels::tolerance::Tolerance;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, LoadOptions};
use burnish_recipes::recipe::dpo::Dpo;
use burnish_tests::{Golden, burnish, fixture, text};
use serde_json::Value;

fn close(name: &str, values: &[f32], expected: &[f32]) {
    Tolerance::of(DType::F32).check(name, values, expected).unwrap();
}

/// TRL's batch, with chosen and rejected answers alternating.
fn batch(bytes: &[u8]) -> Batch {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let ints = |name: &str| -> Vec<i64> {
        let data = file.tensor(name).unwrap().data().chunks_exact(4);
        data.map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
    };
    let length = file.tensor("input_ids").unwrap().shape()[1];
    let in_pairs = |values: Vec<i64>| -> Vec<i64> {
        [0, 2, 1, 3].into_iter().flat_map(|row| values[row * length..(row + 1) * length].to_vec()).collect()
    };
    let (ids, mask) = (in_pairs(ints("input_ids")), in_pairs(ints("attention_mask")));
    let completion = in_pairs(ints("completion_mask"));
    let labels: Vec<i64> =
        ids.iter().zip(&completion).map(|(id, learned)| if *learned > 0 { *id } else { IGNORE }).collect();
    Batch {
        input_ids: ids.iter().map(|id| *id as u32).collect(),
        position_ids: (0..ids.len()).map(|index| (index % length) as u32).collect(),
        segment_ids: mask.iter().enumerate().map(|(index, mask)| *mask as u32 * (index / length + 1) as u32).collect(),
        tokens: mask.iter().sum::<i64>() as usize,
        target_tokens: completion.iter().sum::<i64>() as usize,
        labels,
        rows: 4,
        length,
    }
}

/// Compares loss, metrics and gradients, with the base model or the initial adapter as the reference.
fn equals_trl(backend: &str, cases: &[(&str, f64)]) {
    let device = burnish_backends::open(backend).unwrap();
    let (golden, folder) = (Golden::open("llama").unwrap(), fixture("dpo"));
    let values = SafetensorsFolder::from_files(&[folder.join("golden.safetensors")]).unwrap();
    let floats = |name: &str| values.read_f32(name).unwrap();
    let (policy, before) = (folder.join("policy"), golden.folder.join("adapter"));
    let batch = batch(&fs::read(folder.join("golden.safetensors")).unwrap());
    for (case, label_smoothing) in cases {
        let part = TrainedPart::Adapters {
            base: &golden.weights,
            options: LoadOptions::default(),
            adapter: Adapter::Folder { path: &policy, dropout: 0.0 },
            reference: (*case == "adapter").then_some(before.as_path()),
        };
        let judge = Dpo { beta: 0.3, label_smoothing: *label_smoothing };
        let objective = Objective::Judged(Arc::new(judge));
        let mut trainer = device.train(&golden.config, part, AdamWConfig::default()).unwrap();
        let key = format!("{case}.{label_smoothing:?}");
        let evaluated = trainer.loss(&batch, &objective).unwrap() / 2.0;
        close(&format!("{key} evaluated"), &[evaluated as f32], &floats(&format!("{key}.loss")));
        let item = StepItem { batches: vec![batch.clone()], objective, ..StepItem::default() };
        trainer.forward_backward(&StepItem { checkpointing: Some(Checkpointing::default()), ..item.clone() }).unwrap();
        let checkpointed = trainer.gradients();
        trainer.forward_backward(&item).unwrap();
        let gradients = trainer.gradients();
        assert_eq!(checkpointed, gradients, "{key}");
        trainer.update(0.0);
        let loss = trainer.finish().unwrap().loss as f32;
        close(&format!("{key} loss"), &[loss], &floats(&format!("{key}.loss")));
        let metrics: Vec<f32> = trainer.metrics().iter().map(|(_, value)| *value as f32).collect();
        close(&format!("{key} metrics"), &metrics, &floats(&format!("{key}.metrics")));
        let prefix = format!("{key}.grad.base_model.model.");
        let names: Vec<String> = values.names().into_iter().filter(|name| name.starts_with(&prefix)).collect();
        assert!(!names.is_empty() && names.len() == gradients.len(), "{}: {}", names.len(), gradients.len());
        for gradient in gradients {
            let name = format!("{prefix}{}", gradient.name);
            close(&name, &gradient.values, &floats(&name));
        }
    }
}

const ALL: [(&str, f64); 4] = [("fresh", 0.0), ("fresh", 0.2), ("adapter", 0.0), ("adapter", 0.2)];

#[test]
fn the_cpu_equals_trl() {
    equals_trl("cpu", &ALL);
}

#[cfg(feature = "candle")]
#[test]
fn candle_equals_trl() {
    equals_trl("candle", &ALL[..1]);
}

#[cfg(feature = "metal")]
#[test]
fn our_runtime_equals_trl() {
    equals_trl(if cfg!(target_os = "macos") { "metal" } else { "vulkan" }, &ALL);
}

#[cfg(feature = "emulator")]
#[test]
fn emulated_metal_equals_trl() {
    equals_trl("emulator", &ALL[3..]);
}

fn assets() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart")
}

/// Pairs of a colour and `none` as lists of messages, without `prompt`.
fn write_pairs(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let colours = ["red", "blue", "green", "black", "white", "grey"];
    let pair = |index: usize| {
        let (good, bad) = (colours[index % 6], "none");
        let turns = |answer: &str| {
            serde_json::json!([
                { "role": "user", "content": format!("thing {index}?") }, { "role": "assistant", "content": answer },
            ])
        };
        serde_json::json!({ "chosen": turns(good), "rejected": turns(bad) }).to_string()
    };
    let lines = |range: std::ops::Range<usize>| range.map(pair).collect::<Vec<_>>().join("\n");
    fs::write(folder.join("train.jsonl"), lines(0..24)).unwrap();
    fs::write(folder.join("valid.jsonl"), lines(24..30)).unwrap();
}

fn train(folder: &Path, run: &str, more: &[&str]) -> std::process::Output {
    let mut command = burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
    command.args(["train", "dpo", "--backend", "cpu", "--batch-size", "4", "--rank", "4", "--learning-rate", "2e-3"]);
    command.args(["--steps-per-eval", "6", "--save-every", "6", "--epochs", "3", "--dropout", "0.1", "--beta", "0.5"]);
    command.arg("--model").arg(assets().join("model")).arg("--data").arg(folder.join("data"));
    command.arg("--output-dir").arg(folder.join(run)).args(more).output().unwrap()
}

fn rows(run: &Path) -> Vec<Value> {
    fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_learns_the_preference_and_resumes_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    write_pairs(&folder.path().join("data"));
    let output = train(folder.path(), "run", &[]);
    assert!(output.status.success(), "{}", text(&output).1);
    let run = folder.path().join("run");
    let found = rows(&run);
    assert_eq!(found.len(), 18);
    let metric = |row: &Value, name: &str| row[name].as_f64().unwrap();
    assert!((metric(&found[0], "loss") - 2f64.ln()).abs() < 0.05, "{}", found[0]);
    assert!(metric(&found[17], "loss") < 0.3 && metric(&found[17], "rewards/margins") > 1.0, "{}", found[17]);
    let stderr = text(&output).1;
    assert!(stderr.contains("24 training pairs") && stderr.contains("validation loss"), "{stderr}");
    assert!(stderr.contains(", margin ") && !stderr.contains("perplexity"), "{stderr}");

    // As if it had been killed after step 12.
    let adapter = fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
    fs::remove_dir_all(run.join("adapter")).unwrap();
    fs::remove_dir_all(run.join("checkpoint-18")).unwrap();
    let output = train(folder.path(), "run", &["--resume", "auto"]);
    assert!(output.status.success(), "{}", text(&output).1);
    let losses = |rows: &[Value]| rows.iter().map(|row| metric(row, "loss").to_bits()).collect::<Vec<_>>();
    assert_eq!(losses(&rows(&run)), losses(&found));
    assert!(fs::read(run.join("adapter/adapter_model.safetensors")).unwrap() == adapter);
}

#[test]
fn a_run_from_an_adapter_starts_at_its_reference() {
    let folder = tempfile::tempdir().unwrap();
    write_pairs(&folder.path().join("data"));
    assert!(train(folder.path(), "first", &["--iters", "6"]).status.success());
    let first = folder.path().join("first/adapter").display().to_string();
    let run = |name: &str, more: &[&str]| {
        let output = train(
            folder.path(),
            name,
            &[&["--adapter", &first, "--dropout", "0", "--lr-scheduler", "constant"], more].concat(),
        );
        assert!(output.status.success(), "{}", text(&output).1);
        rows(&folder.path().join(name)).iter().map(|row| row["loss"].as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let whole = run("second", &["--iters", "8", "--save-every", "4"]);
    // The policy still equals the reference.
    assert!((whole[0] - 2f64.ln()).abs() < 1e-6, "{whole:?}");
    // After resuming, the reference is still the adapter that the run started from, not the checkpoint's.
    fs::remove_dir_all(folder.path().join("second/checkpoint-8")).unwrap();
    fs::remove_dir_all(folder.path().join("second/adapter")).unwrap();
    assert_eq!(run("second", &["--iters", "8", "--save-every", "4", "--resume", "auto"]), whole);
}

#[test]
fn what_dpo_does_not_support_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_pairs(&folder.path().join("data"));
    for (flags, word) in [
        (&["--packing"][..], "`packing`"),
        (&["--fine-tune-type", "full"], "second model"),
        (&["--beta", "0"], "`beta`"),
        (&["--label-smoothing", "0.5"], "`label_smoothing`"),
        (&["--data", &assets().join("data").display().to_string()], "chosen and rejected"),
    ] {
        let output = train(folder.path(), "run", flags);
        let (_, stderr) = text(&output);
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {stderr}");
        assert!(stderr.contains("error: ") && stderr.contains(word), "{flags:?}: {stderr}");
    }
}
