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
    let output = command.arg("--output-dir").arg(run).args(more).env_remove("WANDB_MODE").output().unwrap();
    (output.status.success(), text(&output).1)
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
        train(&watched, &["--timings", "--grad-checkpoint", "--report-to", "tensorboard,wandb", "--run-name", "x"]);
    assert!(ok && log.contains("a step took, on average over 3:") && log.contains("  backward "), "{log}");
    assert!(log.contains("tensorboard --logdir ") && log.contains("wandb sync "), "{log}");
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
    // Both folders are the run's own, and go with it.
    assert!(watched.join("tensorboard").is_dir() && watched.join("wandb").is_dir());
    let (ok, log) = train(&watched, &["--overwrite"]);
    assert!(ok && !watched.join("tensorboard").exists() && !watched.join("wandb").exists(), "{log}");
}

#[test]
fn a_dashboard_without_a_terminal_and_unknown_trackers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for (more, words) in [
        (&["--tui"][..], "--tui needs a terminal"),
        (&["--report-to", "trackio"], "import_tf_events"),
        (&["--report-to", "tensorbord"], "should be none, tensorboard, wandb"),
    ] {
        let (ok, log) = train(&run, more);
        assert!(!ok && log.contains("error: ") && log.contains(words) && !run.exists(), "{log}");
    }
}
