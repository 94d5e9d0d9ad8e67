//! The program on the command line: bad input is an error with a hint, and a run is never lost.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use burnish_tests::{burnish, fixture, text};

fn program() -> Command {
    burnish(env!("CARGO_BIN_EXE_burnish-under-test"))
}

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart")
}

fn model() -> String {
    assets().join("model").display().to_string()
}

/// Runs the program, and expects exit code 1, `error:` with every one of the words, and no panic.
fn fails(arguments: &[&str], words: &[&str]) -> String {
    let output = program().args(arguments).output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    assert!(stderr.lines().any(|line| line.starts_with("error: ")), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("internal"), "{arguments:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{arguments:?} does not say `{word}`: {stderr}");
    }
    stderr
}

/// A copy of the tiny model, to be damaged.
fn damaged(folder: &Path, damage: impl Fn(&Path)) -> String {
    let copy = folder.join("model");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(assets().join("model")).unwrap().flatten() {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    damage(&copy);
    copy.display().to_string()
}

fn generate_fails(model: &str, words: &[&str]) {
    fails(&["generate", "--model", model, "--prompt", "hi"], words);
}

#[test]
fn damaged_models_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let weights = |folder: &Path| folder.join("model.safetensors");
    let cut = damaged(&folder.path().join("cut"), |model| {
        let bytes = fs::read(weights(model)).unwrap();
        fs::write(weights(model), &bytes[..bytes.len() / 2]).unwrap();
    });
    generate_fails(&cut, &["model.safetensors", "hint: "]);
    let lying = damaged(&folder.path().join("lying"), |model| {
        let mut bytes = fs::read(weights(model)).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(weights(model), bytes).unwrap();
    });
    generate_fails(&lying, &["model.safetensors", "hint: "]);
    let outside = damaged(&folder.path().join("outside"), |model| {
        fs::rename(weights(model), model.join("elsewhere.safetensors")).unwrap();
        let index = r#"{"weight_map": {"model.norm.weight": "../../etc/passwd"}}"#;
        fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    });
    generate_fails(&outside, &["points outside the folder"]);
    let missing = damaged(&folder.path().join("missing"), |model| {
        let text = fs::read_to_string(model.join("config.json")).unwrap();
        let text = text.replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5").replace("384", "380");
        fs::write(model.join("config.json"), text).unwrap();
    });
    // All misfits are reported together: a missing layer, and a different width.
    let words = ["model.layers.4.mlp.up_proj.weight: missing", "model.layers.0.mlp.up_proj.weight", "hint: "];
    fails(&["-v", "generate", "--model", &missing, "--prompt", "hi"], &words);
    generate_fails(&missing, &["more (-v shows all)", "hint: "]);
    for format in ["gguf", "hf"] {
        let target = folder.path().join(format).display().to_string();
        let words = ["model.layers.4.mlp.up_proj.weight", "hint: config.json and the weights"];
        fails(&["-v", "export", "--model", &missing, "--format", format, "--output", &target], &words);
        assert!(!Path::new(&target).exists());
    }
    let unknown = damaged(&folder.path().join("unknown"), |model| {
        let text = fs::read_to_string(model.join("config.json")).unwrap().replace("\"llama\"", "\"mamba\"");
        fs::write(model.join("config.json"), text).unwrap();
    });
    generate_fails(&unknown, &["unknown model type `mamba`", "hint: "]);
    let mute = damaged(&folder.path().join("mute"), |model| {
        fs::write(model.join("tokenizer_config.json"), "{}").unwrap();
    });
    generate_fails(&mute, &["no chat template", "hint: "]);
    let gguf = folder.path().join("cut.gguf");
    fs::write(&gguf, b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0").unwrap();
    generate_fails(&gguf.display().to_string(), &["cut.gguf", "number of tensors"]);
    generate_fails("no/such/folder", &["hint: "]);
}

fn train_fails(data: &str, more: &[&str], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run").display().to_string();
    let mut arguments = vec!["train", "--data", data, "--output-dir", &output, "--iters", "1"];
    let model = model();
    if !more.contains(&"--model") {
        arguments.extend(["--model", &model]);
    }
    arguments.extend(more);
    fails(&arguments, words);
}

#[test]
fn bad_data_and_configuration_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut rows = [r#"{"text": "some words"}"#; 10];
    rows[6] = "nonsense";
    train_fails(&file("rows.jsonl", &rows.join("\n")), &[], &["rows.jsonl:7:", "hint: "]);
    train_fails(&file("empty.jsonl", ""), &[], &["empty.jsonl", "hint: "]);
    train_fails("no-such-file.jsonl", &[], &["no-such-file.jsonl", "hint: "]);
    let data = file("good.jsonl", r#"{"text": "some words to learn"}"#);
    let config = file("c.toml", "learning_rte = 1e-3\n");
    train_fails(&data, &["-c", &config], &["unknown key `learning_rte`", "hint: did you mean `learning_rate`?"]);
    train_fails(&data, &["--batch-size", "0", "--dropout", "2"], &["`batch_size` should be at least 1", "below 1, got 2"]);
    train_fails(&data, &["--rank", "many"], &["`rank`", "whole number"]);
    train_fails(&data, &["--target-modules", "query"], &["query", "q_proj", "hint: "]);
    let other = fixture("parity/llama/adapter").display().to_string();
    train_fails(&data, &["--adapter", &other], &["does not fit this model", "hint: "]);
    let usage = program().args(["train", "--no-such-flag"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

/// The arguments of a short run on the tiny model.
fn train_arguments(run: &Path, iters: &str, more: &[&str]) -> Vec<String> {
    let (model, data) = (model(), assets().join("data").display().to_string());
    let run = run.display().to_string();
    let fixed = [
        "--backend",
        "cpu",
        "--batch-size",
        "4",
        "--rank",
        "4",
        "--dropout",
        "0.1",
        "--save-every",
        "3",
        "--steps-per-eval",
        "4",
    ];
    let last = ["--val-batches", "2", "--learning-rate", "1e-3"];
    let mut arguments = vec!["train", "--model", &model, "--data", &data, "--output-dir", &run, "--iters", iters];
    arguments.extend(fixed.iter().chain(&last).chain(more));
    arguments.into_iter().map(str::to_owned).collect()
}

fn train(run: &Path, iters: &str, more: &[&str]) -> (bool, String) {
    let output = program().args(train_arguments(run, iters, more)).output().unwrap();
    (output.status.success(), text(&output).1)
}

fn losses(run: &Path) -> Vec<(u64, f64)> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    lines.lines().map(parse).map(|row| (row["step"].as_u64().unwrap(), row["loss"].as_f64().unwrap())).collect()
}

fn adapter(run: &Path) -> Vec<u8> {
    fs::read(run.join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    assert!(train(&whole, "10", &["--save-total-limit", "0"]).0);
    assert_eq!(losses(&whole).len(), 10);
    // As if killed after step 8: the adapter and the last checkpoint are missing, and the metrics have later lines.
    assert!(train(&broken, "10", &["--save-total-limit", "0"]).0);
    fs::remove_dir_all(broken.join("adapter")).unwrap();
    fs::remove_dir_all(broken.join("checkpoint-10")).unwrap();
    // A damaged checkpoint is reported, and the one before it is used.
    let damaged = broken.join("checkpoint-9/optimizer.safetensors");
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let (ok, log) = train(&broken, "10", &["--resume", "auto", "--save-total-limit", "0"]);
    assert!(ok && log.contains("checkpoint-9") && log.contains("damaged") && log.contains("step 8"), "{log}");
    assert_eq!(losses(&broken), losses(&whole));
    assert_eq!(adapter(&broken), adapter(&whole));
    // Without any checkpoint the run starts over, and ends the same.
    for step in [3, 4, 6, 8, 9, 10] {
        fs::remove_dir_all(broken.join(format!("checkpoint-{step}"))).unwrap();
    }
    assert!(train(&broken, "10", &["--resume", "auto"]).0);
    assert_eq!(losses(&broken), losses(&whole));
    assert_eq!(adapter(&broken), adapter(&whole));
}

#[test]
fn full_fine_tuning_with_moments_in_eight_bits_resumes_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let more = ["--fine-tune-type", "full", "--save-total-limit", "0", "--optimizer"];
    for run in [&whole, &broken] {
        let (ok, log) = train(run, "6", &[&more[..], &["paged_adamw_8bit"]].concat());
        assert!(ok && log.contains("is read as `optimizer = \"adamw8bit\"`"), "{log}");
    }
    fs::remove_dir_all(broken.join("checkpoint-6")).unwrap();
    let (ok, log) = train(&broken, "6", &[&more[..], &["adamw8bit", "--resume", "auto"]].concat());
    assert!(ok, "{log}");
    assert_eq!(losses(&broken), losses(&whole));
    let state = |run: &Path, file: &str| fs::read(run.join("checkpoint-6").join(file)).unwrap();
    for file in ["optimizer.safetensors", "model.safetensors"] {
        assert_eq!(state(&broken, file), state(&whole, file), "{file}");
    }
    // A quarter of the moments' memory, and some for norms.
    let [moments, weights] = ["optimizer.safetensors", "model.safetensors"].map(|file| state(&whole, file).len());
    assert!(moments * 10 < weights * 6, "{moments} bytes of moments, {weights} of weights");
    // With the other optimizer the moments are converted, and it is said.
    fs::remove_dir_all(broken.join("checkpoint-6")).unwrap();
    let (ok, log) = train(&broken, "6", &[&more[..], &["adamw", "--resume", "auto"]].concat());
    assert!(ok && log.contains("`optimizer` was \"adamw8bit\" and is now \"adamw\""), "{log}");
    assert_eq!(losses(&broken)[..3], losses(&whole)[..3]);
}

#[test]
#[cfg(unix)]
fn ctrl_c_finishes_the_step_saves_and_says_how_to_continue() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    assert!(train(&whole, "400", &["--save-every", "0"]).0);
    let mut child = program()
        .args(train_arguments(&broken, "400", &["--steps-per-report", "1", "--save-every", "0"]))
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.starts_with("step 5/")), "the run did not start");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let log: Vec<String> = log.collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{log:?}");
    let said = text(&output).0;
    assert!(said.contains("stopped at step") && said.contains("--resume auto") && said.contains("checkpoint-"), "{said}");
    assert!(log.iter().any(|line| line.contains("finishing the step")), "{log:?}");
    let taken = losses(&broken).len();
    assert!(taken < 400 && broken.join(format!("checkpoint-{taken}")).exists(), "{taken} steps");
    assert!(train(&broken, "400", &["--resume", "auto", "--save-every", "0"]).0);
    assert_eq!(losses(&broken), losses(&whole));
    assert_eq!(adapter(&broken), adapter(&whole));
}

#[test]
fn the_best_checkpoint_is_kept_and_may_be_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // The rate climbs until it destroys what was learned.
    let rate = ["--learning-rate", "0.5", "--lr-scheduler", "constant", "--warmup", "12"];
    let more = ["--steps-per-eval", "1", "--save-every", "50", "--load-best-model-at-end"];
    let (ok, log) = train(&run, "12", &[&rate[..], &more[..]].concat());
    assert!(ok, "{log}");
    let state = fs::read_to_string(run.join("checkpoint-12/trainer_state.json")).unwrap();
    let best = serde_json::from_str::<serde_json::Value>(&state).unwrap()["best_step"].as_u64().unwrap();
    assert!(best < 12, "the last step is the best: {log}");
    let kept = fs::read(run.join(format!("checkpoint-{best}/adapter_model.safetensors"))).unwrap();
    assert_eq!(adapter(&run), kept);
}

#[test]
fn early_stopping_ends_with_the_best_step_and_is_final() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // The rate climbs until it destroys what was learned.
    let rate = ["--learning-rate", "0.5", "--lr-scheduler", "constant", "--warmup", "12"];
    // Checkpoints are off, but the best one is kept anyway.
    let more = ["--steps-per-eval", "1", "--save-every", "0", "--early-stopping", "2"];
    let (ok, log) = train(&run, "40", &[&rate[..], &more[..]].concat());
    assert!(ok && log.contains("stopped early") && log.contains("best so far"), "{log}");
    let (taken, result) = (losses(&run), adapter(&run));
    assert!(taken.len() < 40);
    let state = fs::read_to_string(run.join(format!("checkpoint-{}/trainer_state.json", taken.len()))).unwrap();
    let best = serde_json::from_str::<serde_json::Value>(&state).unwrap()["best_step"].as_u64().unwrap();
    assert_eq!(best as usize, taken.len() - 2);
    assert_eq!(fs::read(run.join(format!("checkpoint-{best}/adapter_model.safetensors"))).unwrap(), result);
    let (ok, log) = train(&run, "40", &[&rate[..], &more[..], &["--resume", "auto"]].concat());
    assert!(ok && log.contains("stopped early"), "{log}");
    assert_eq!((losses(&run), adapter(&run)), (taken, result));
}

#[test]
fn a_run_that_would_lose_work_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    assert!(train(&run, "6", &["--save-total-limit", "0"]).0);
    let (before, result) = (losses(&run), adapter(&run));
    let checkpoint = run.join("checkpoint-3").display().to_string();
    let from = |more: &[&str]| train(&run, "6", more);
    let other = fixture("parity/llama/adapter").display().to_string();
    let own = run.join("adapter").display().to_string();
    for (more, words) in [
        (&["--resume", &checkpoint][..], &["checkpoints after step 3", "--overwrite"][..]),
        (&["--resume", "auto", "--rank", "8"], &["`rank` was 4", "hint: "]),
        (&["--resume", "auto", "--alpha", "3"], &["`alpha` was 16", "hint: "]),
        (&["--overwrite", "--adapter", &own], &["`adapter` is ", "hint: "]),
        (&["--overwrite", "--adapter", &other], &["does not fit this model"]),
        (&["--overwrite", "--target-modules", "query"], &["query", "q_proj"]),
    ] {
        let (ok, log) = from(more);
        assert!(!ok && words.iter().all(|word| log.contains(word)), "{more:?}: {log}");
        assert!(losses(&run) == before && adapter(&run) == result, "{more:?} changed the run");
    }
    // After an error before the first write, the folder can be used again.
    let fresh = folder.path().join("fresh");
    assert!(!train(&fresh, "2", &["--target-modules", "query"]).0);
    assert!(train(&fresh, "2", &[]).0);
    // Resumed from an older checkpoint, with the later ones deleted, the run ends as before.
    assert!(from(&["--resume", &checkpoint, "--overwrite"]).0);
    assert!(losses(&run) == before && adapter(&run) == result);
}

/// After a failed write, the last checkpoint is intact: the run resumes from it and ends like an uninterrupted one.
#[cfg(unix)]
fn assert_resumes(run: &Path, more: &[&str], whole: &Path) {
    let (ok, log) = train(run, "60", &[more, &["--resume", "auto"]].concat());
    assert!(ok && log.contains("resuming from") && !log.contains("damaged"), "{log}");
    assert_eq!(losses(run), losses(whole));
    assert_eq!(adapter(run), adapter(whole));
}

/// A limit on the size of files needs no privileges. The adapter is below the limit, the optimizer state above it.
#[test]
#[cfg(unix)]
fn a_failed_write_is_an_error_and_the_last_checkpoint_is_intact() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole"), folder.path().join("run"));
    let more = ["--save-total-limit", "0", "--save-every", "30", "--steps-per-eval", "0"];
    assert!(train(&whole, "60", &more).0);
    let (ok, log) = train(&run, "60", &more);
    assert!(ok, "{log}");
    // As if the run had been stopped after step 30.
    fs::remove_dir_all(run.join("adapter")).unwrap();
    fs::remove_dir_all(run.join("checkpoint-60")).unwrap();
    let mut names: Vec<_> = fs::read_dir(&run).unwrap().flatten().map(|entry| entry.file_name()).collect();
    // The limit counts blocks of 512 bytes. The signal must be ignored, or it would kill the program.
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 500 && trap '' XFSZ && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_burnish-under-test")])
        .args(train_arguments(&run, "60", &[&more[..], &["--resume", "auto"]].concat()))
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let log = text(&output).1;
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("optimizer.safetensors") && log.contains("File too large"), "{log}");
    assert!(log.contains("error: ") && log.contains("hint: the size of files is limited"), "{log}");
    assert!(!log.contains("panicked") && !log.contains("internal"), "{log}");
    let mut left: Vec<_> = fs::read_dir(&run).unwrap().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    left.sort();
    assert_eq!(left, names, "half a checkpoint was left behind, or one is missing");
    assert_resumes(&run, &more, &whole);
}

/// Runs the program in a mount namespace with a file system of 2 MB at `disk`; `None` if that is not permitted.
#[cfg(target_os = "linux")]
fn on_a_small_disk(disk: &Path, arguments: &[String]) -> Option<(bool, String)> {
    let script = "mount -t tmpfs -o size=2m none \"$0\" || exit 77; \"$@\"; code=$?; cp -r \"$0\" \"$0.after\"; exit $code";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(disk);
    command.arg(env!("CARGO_BIN_EXE_burnish-under-test")).args(arguments).env("NO_COLOR", "1");
    let output = command.output().ok()?;
    let log = text(&output).1;
    let refused = output.status.code() == Some(77) || log.contains("unshare");
    (!refused).then(|| (output.status.success(), log))
}

/// The same with a disk that is really full, if the system permits mounting one. The test above covers systems that don't.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error_and_the_last_checkpoint_is_intact() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, disk) = (folder.path().join("whole"), folder.path().join("disk"));
    fs::create_dir(&disk).unwrap();
    let more = ["--save-total-limit", "0", "--save-every", "2", "--steps-per-eval", "0"];
    let Some((ok, log)) = on_a_small_disk(&disk, &train_arguments(&disk.join("run"), "60", &more)) else { return };
    assert!(!ok && log.contains("error: ") && log.contains("No space left") && log.contains("hint: "), "{log}");
    assert!(!log.contains("panicked") && !log.contains("internal"), "{log}");
    assert!(train(&whole, "60", &more).0);
    assert_resumes(&folder.path().join("disk.after/run"), &more, &whole);
}

#[test]
#[cfg(target_os = "linux")]
fn a_folder_without_permission_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let locked = folder.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let arguments = train_arguments(&locked.join("run"), "1", &[]);
    let program = env!("CARGO_BIN_EXE_burnish-under-test");
    // Permissions don't apply to root, unless it drops the capability to override them.
    let is_root = fs::write(locked.join("probe"), "").is_ok();
    let output = if is_root {
        let drop = ["--bounding-set", "-dac_override", "--inh-caps", "-dac_override"];
        Command::new("setpriv").args(drop).arg(program).args(&arguments).output().unwrap()
    } else {
        Command::new(program).args(&arguments).output().unwrap()
    };
    let log = text(&output).1;
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("error: ") && log.contains("ermission denied") && log.contains("hint: "), "{log}");
}

#[test]
fn a_run_is_not_overwritten_without_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    assert!(train(&run, "2", &[]).0);
    let before = adapter(&run);
    let (ok, log) = train(&run, "3", &[]);
    assert!(!ok && log.contains("already has a run") && log.contains("--resume auto"), "{log}");
    assert_eq!(adapter(&run), before);
    assert!(train(&run, "3", &["--overwrite"]).0);
    assert_ne!(adapter(&run), before);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let (ok, log) = train(&file.join("run"), "1", &[]);
    assert!(!ok && log.contains("error: "), "{log}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "in the way");
}

#[test]
fn the_quickstart_teaches_the_model_and_leaves_files_that_load() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("quickstart");
    let output = program().args(["--json", "quickstart", "--output-dir"]).arg(&root).output().unwrap();
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stderr}");
    let last: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let right = |when: &str| last[when]["right"].as_u64().unwrap();
    assert!(right("before") <= 5 && right("after") >= 90, "{} before, {} after", right("before"), right("after"));
    // Adapter, merged folder and GGUF give the same answer.
    let prompt = "Book a table at Sakura for 5, Friday 6 pm.";
    let answer = |arguments: &[&str]| {
        let output = program().args(["--json", "generate", "--prompt", prompt]).args(arguments).output().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        value["text"].as_str().unwrap().to_owned()
    };
    let path = |name: &str| root.join(name).display().to_string();
    let expected = r#"{"people": 5, "place": "Sakura", "day": "fri", "time": "18:00"}"#;
    assert_eq!(answer(&["--model", &path("base"), "--adapter", &path("run/adapter")]), expected);
    assert_eq!(answer(&["--model", &path("merged")]), expected);
    assert_eq!(answer(&["--model", &path("bookings-f16.gguf")]), expected);
}

#[test]
fn the_report_has_no_paths_and_no_names() {
    let said = |command: &mut Command| text(&command.output().unwrap()).0;
    let home = tempfile::tempdir().unwrap();
    let user = "planted-user-name";
    let mut private = vec![user.to_owned(), home.path().display().to_string(), env!("CARGO_MANIFEST_DIR").to_owned()];
    private.extend(std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()));
    for arguments in [&["env"][..], &["env", "--json"]] {
        let planted = [("HOME", home.path().to_str().unwrap()), ("USER", user), ("LOGNAME", user)];
        let report = said(program().args(arguments).envs(planted).current_dir(home.path()));
        // A host may have a name that is a word of the report.
        for name in private.iter().filter(|name| name.len() > 5) {
            assert!(!report.contains(name.as_str()), "{name} in {report}");
        }
        for known in ["burn", "0.21.0", std::env::consts::ARCH, "cpu"] {
            assert!(report.contains(known), "{report}");
        }
    }
    let json: serde_json::Value = serde_json::from_str(&said(program().args(["env", "--json"]))).unwrap();
    assert_eq!((&json["backends"][0]["name"], &json["backends"][0]["found"]), (&"cpu".into(), &true.into()));
}
