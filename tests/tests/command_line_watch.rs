//! What a run tells while it goes on: metrics, timings, files of trackers, and its dashboard.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use burnish_tests::{burnish, text};
use serde_json::Value;

/// A run of the tiny model.
fn train(run: &Path, more: &[&str]) -> (bool, String) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart");
    let mut command = burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
    command.args(["train", "--backend", "cpu", "--iters", "4", "--batch-size", "4", "--rank", "4", "--dropout", "0.1"]);
    command.args(["--save-every", "0", "--steps-per-eval", "2", "--val-batches", "2"]);
    command.arg("--model").arg(assets.join("model")).arg("--data").arg(assets.join("data"));
    command.env("TRACKIO_DIR", run.with_file_name("trackio")).env_remove("WANDB_MODE");
    let output = command.arg("--output-dir").arg(run).args(more).output().unwrap();
    (output.status.success(), text(&output).1)
}

/// The lines that trackio would import.
fn imported(inbox: &Path) -> Vec<Value> {
    let files = |folder: &Path| {
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    let texts =
        files(inbox).iter().flat_map(|run| files(run)).map(|file| fs::read_to_string(file).unwrap()).collect::<String>();
    texts.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines of the run's metrics.
fn metrics(run: &Path) -> Vec<Value> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn timings_and_trackers_leave_the_run_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, watched) = (folder.path().join("plain"), folder.path().join("watched"));
    assert!(train(&plain, &[]).0);
    let (ok, log) =
        train(&watched, &["--timings", "--grad-checkpoint", "--report-to", "tensorboard,trackio,wandb", "--run-name", "x"]);
    assert!(ok && log.contains("a step took, on average over 3:") && log.contains("  backward "), "{log}");
    for shown in ["tensorboard --logdir ", "trackio show --project 'burnish'", "wandb sync "] {
        assert!(log.contains(shown), "{log}");
    }
    let losses = |run: &Path| metrics(run).iter().map(|row| row["loss"].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(losses(&watched), losses(&plain));
    let adapter = |run: &Path| fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&watched), adapter(&plain));
    for row in metrics(&watched) {
        let part = |name: &str| row["timings"][name].as_f64().unwrap();
        let (device, whole) =
            (part("forward_ms") + part("backward_ms") + part("optimizer_ms"), row["step_ms"].as_f64().unwrap());
        assert!(part("backward_ms") > 0.0 && device > 0.5 * whole && device <= whole, "{row}");
    }
    assert!(metrics(&plain).iter().all(|row| row.get("timings").is_none()));
    let inbox: Vec<Value> = imported(&folder.path().join("trackio/inbox"));
    let losses_of =
        |lines: &[Value]| lines.iter().filter_map(|line| line["metrics"]["train/loss"].as_f64()).collect::<Vec<_>>();
    assert_eq!(losses_of(&inbox), losses(&plain));
    assert!(
        inbox.iter().all(|line| line["run"] == "x") && inbox.iter().any(|line| line["metrics"]["eval/loss"].is_number())
    );
    // The folders are the run's own, and go with it.
    let left = || ["tensorboard", "trackio", "wandb"].map(|name| watched.join(name).exists());
    assert_eq!(left(), [true; 3]);
    let (ok, log) = train(&watched, &["--overwrite"]);
    assert!(ok && left() == [false; 3], "{log}");
}

#[test]
fn rows_that_are_mostly_truncated_are_a_warning_also_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let (run, page) = (folder.path().join("run"), folder.path().join("page.html"));
    let (ok, log) = train(&run, &["--max-seq-length", "48"]);
    let warning = |log: &str| {
        log.lines().find(|line| line.starts_with("warning: ") && line.contains("train.jsonl: ")).map(str::to_owned)
    };
    let said = warning(&log).unwrap_or_else(|| panic!("{log}"));
    assert!(ok && said.ends_with("examples were truncated to max_seq_length: raise it, or split the rows"), "{said}");
    let mut command = burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
    let output = command.arg("report").arg(&run).arg("--output").arg(&page).output().unwrap();
    assert!(output.status.success(), "{}", text(&output).1);
    assert!(fs::read_to_string(&page).unwrap().contains("truncated: raise max_seq_length, or split the rows</span>"));
    // Rows of the usual length cause no warning.
    let (ok, log) = train(&run, &["--overwrite"]);
    assert!(ok && warning(&log).is_none(), "{log}");
}

#[test]
fn a_dashboard_without_a_terminal_and_unknown_trackers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for (more, words) in [
        (&["--tui"][..], "--tui needs a terminal"),
        (
            &["--report-to", "trackio", "--project-name", "my_configs"],
            "trackio keeps names with `_configs` for its own files",
        ),
        (&["--report-to", "tensorbord"], "should be none, tensorboard, trackio, wandb"),
    ] {
        let (ok, log) = train(&run, more);
        assert!(!ok && log.contains("error: ") && log.contains(words) && !run.exists(), "{log}");
    }
}
