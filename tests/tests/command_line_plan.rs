//! `plan` on the command line: what a run takes of memory, and what would fit.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use burnish_tests::{burnish, text};
use serde_json::Value;

fn program() -> Command {
    burnish(env!("CARGO_BIN_EXE_burnish-under-test"))
}

fn model() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model").display().to_string()
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stderr}");
    stdout
}

fn fails(arguments: &[&str], words: &[&str]) {
    let output = program().args(arguments).output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    for word in ["error: ", "hint: "].iter().chain(words) {
        assert!(stderr.contains(word), "{arguments:?} does not say `{word}`: {stderr}");
    }
}

fn plan(arguments: &[&str]) -> Value {
    let model = model();
    let fixed = ["plan", "--json", "--backend", "cpu", "--model", &model];
    serde_json::from_str(&succeeds(program().args(fixed).args(arguments))).unwrap()
}

#[test]
fn a_plan_follows_the_flags() {
    let bytes = |plan: &Value, key: &str| plan["memory"][key].as_u64().unwrap();
    let some = plan(&["--batch-size", "8", "--max-seq-length", "128"]);
    assert_eq!((some["tokens"].as_u64(), some["fits"].as_bool()), (Some(1024), Some(true)));
    let kept = plan(&["--batch-size", "8", "--max-seq-length", "128", "--grad-checkpoint"]);
    assert_eq!(bytes(&kept, "activations"), some["activations"]["checkpointed"].as_u64().unwrap());
    assert_eq!(bytes(&some, "activations"), some["activations"]["all"].as_u64().unwrap());
    assert!(kept["total"].as_u64() < some["total"].as_u64());
    let pairs = plan(&["dpo", "--batch-size", "8", "--max-seq-length", "128"]);
    assert_eq!(pairs["tokens"].as_u64(), Some(2048));
    let full = plan(&["--fine-tune-type", "full"]);
    assert_eq!((bytes(&full, "adapters"), bytes(&full, "gradients")), (0, bytes(&full, "weights")));
    assert!(plan(&["--rank", "32"])["memory"]["adapters"].as_u64() > Some(bytes(&some, "adapters")));
}

#[test]
fn what_does_not_fit_comes_with_changes_that_do() {
    // 4 GiB less a tenth: the weights fit, four rows of 2,048 tokens do not.
    let shape = ["plan", "--json", "--model", "llama-3.2-1b", "--backend", "cuda", "--memory", "4"];
    let plan: Value = serde_json::from_str(&succeeds(program().args(shape))).unwrap();
    assert_eq!(plan["fits"], false);
    let changes = plan["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 3, "{plan}");
    let (total, available) = (plan["total"].as_u64().unwrap(), plan["budget"]["available"].as_u64().unwrap());
    for change in changes {
        let saves = change["saves"].as_u64().unwrap();
        assert!(saves > 0 && change["fits"].as_bool() == Some(total - saves <= available), "{change}");
    }
    assert!(changes.iter().any(|change| change["change"] == "grad_checkpoint = true"), "{plan}");
    // A smaller micro-batch leaves the step as many rows.
    for rows in [5u64, 7, 9, 16] {
        let told = succeeds(program().args(shape).args(["--memory", "11", "--batch-size", &rows.to_string()]));
        let told: Value = serde_json::from_str(&told).unwrap();
        let change = told["changes"].as_array().unwrap().iter().find_map(|change| {
            let text = change["change"].as_str().unwrap().strip_prefix("batch_size = ")?;
            text.split_once(" with grad_accumulation_steps = ")
        });
        let (batch, steps) = change.unwrap_or_else(|| panic!("{told}"));
        assert_eq!(batch.parse::<u64>().unwrap() * steps.parse::<u64>().unwrap(), rows, "{told}");
    }
    // The largest sizes fit, and one more does not.
    let length = plan["largest_max_seq_length"].as_u64().unwrap();
    let fits = |length: u64| {
        let length = length.to_string();
        let found = succeeds(program().args(shape).args(["--max-seq-length", &length]));
        serde_json::from_str::<Value>(&found).unwrap()["fits"].as_bool().unwrap()
    };
    assert!(length > 2 && fits(length) && !fits(length + 1), "{plan}");
    fails(&["plan", "--model", &model(), "--memory", "8", "--chip", "M0"], &["chip"]);
    let half = program().args(["plan", "--model", &model(), "--memory", "0.5"]).output().unwrap();
    assert_eq!(half.status.code(), Some(2));
    assert!(text(&half).1.contains("expected a whole number of GiB"), "{}", text(&half).1);
}

#[cfg(feature = "metal")]
#[test]
fn a_plan_for_a_chip_predicts_the_time_of_a_step() {
    let shape = ["plan", "--json", "--model", "llama-3.2-1b", "--chip", "M3 Max", "--memory", "36"];
    let plan: Value = serde_json::from_str(&succeeds(program().args(shape))).unwrap();
    let time = &plan["step_time"];
    assert!(
        time["label"].as_str().unwrap().starts_with("a prediction") && time["chip"] == "Apple M3 Max with 40 GPU cores",
        "{time}"
    );
    let [seconds, flops, tflops] = ["seconds", "flops", "tflops"].map(|key| time[key].as_f64().unwrap());
    assert!((seconds - flops / tflops / 1e12).abs() < 1e-6 && seconds > 1.0, "{time}");
}
