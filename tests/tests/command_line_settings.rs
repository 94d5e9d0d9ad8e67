//! Settings of other programs on the command line: their files train as their translations do, and variables are honoured.
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

/// Runs the program; returns stdout and stderr.
fn run(folder: &Path, command: &mut Command) -> (String, String) {
    let output = command.current_dir(folder).output().unwrap();
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stderr}");
    (stdout, stderr)
}

/// Losses and gradient norms of a run, as they were written.
fn losses(run: &Path) -> Vec<[String; 3]> {
    let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let of = |line: &str| {
        let step: Value = serde_json::from_str(line).unwrap();
        ["loss", "grad_norm", "learning_rate"].map(|key| step[key].to_string())
    };
    lines.lines().map(of).collect()
}

fn rows(folder: &Path) {
    let row = |index: usize| {
        let answer = ["one", "two", "three", "four"][index % 4];
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"number {index}\"}}, {{\"role\": \"assistant\", \"content\": \"{answer}\"}}]}}\n"
        )
    };
    std::fs::write(folder.join("rows.jsonl"), (0..16).map(row).collect::<String>()).unwrap();
}

/// A file of each program, and by hand what it means here. `MODEL` is the model.
const FILES: [(&str, &str, &str); 5] = [
    (
        "mlx-lm",
        "model: MODEL\ntrain: true\ndata: rows.jsonl\nnum_layers: 2\nbatch_size: 2\niters: 4\ngrad_accumulation_steps: 2\n\
         learning_rate: 1e-3\nlora_parameters: {rank: 4, scale: 10.0, dropout: 0.1}\nmask_prompt: true\nadapter_path: RUN\n",
        "rank = 4\nalpha = 40.0\ndropout = 0.1\nnum_layers = 2\nbatch_size = 2\ngrad_accumulation_steps = 2\niters = 2\n\
         learning_rate = 1e-3\nlr_scheduler = \"constant\"\nwarmup = 0\nmax_grad_norm = 0\nweight_decay = 0\n",
    ),
    (
        "Unsloth",
        "model: MODEL\ndata: {local_dataset: [rows.jsonl]}\ntraining: {max_steps: 3, batch_size: 2, gradient_accumulation_steps: 1, \
         load_in_4bit: false, output_dir: RUN}\nlora: {lora_r: 4, lora_alpha: 8}\n",
        "rank = 4\nalpha = 8.0\nbatch_size = 2\niters = 3\nlr_scheduler = \"linear\"\nwarmup = 5\nmask_prompt = false\n\
         optimizer = \"adamw8bit\"\nseed = 3407\ngrad_checkpoint = true\n",
    ),
    (
        "axolotl",
        "base_model: MODEL\ndatasets:\n  - {path: rows.jsonl, type: chat_template}\nadapter: lora\nlora_r: 4\nlora_alpha: 8\n\
         lora_target_linear: true\nsequence_len: 64\nmicro_batch_size: 2\nmax_steps: 3\nlearning_rate: 1e-3\noutput_dir: RUN\n",
        "rank = 4\nalpha = 8.0\nbatch_size = 2\niters = 3\nmax_seq_length = 64\nlength_policy = \"drop\"\nlearning_rate = 1e-3\n\
         weight_decay = 0\n",
    ),
    (
        "LLaMA-Factory",
        "model_name_or_path: MODEL\nstage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 4\nlora_target: all\n\
         dataset: rows.jsonl\ntemplate: default\ncutoff_len: 64\nper_device_train_batch_size: 2\nmax_steps: 3\noutput_dir: RUN\n",
        "rank = 4\nalpha = 8.0\nbatch_size = 2\niters = 3\nmax_seq_length = 64\nlearning_rate = 5e-5\n\
         lr_scheduler = \"linear\"\nwarmup = 0\nweight_decay = 0\ngrad_checkpoint = true\n",
    ),
    (
        "TRL",
        "model_name_or_path: MODEL\ndataset_name: rows.jsonl\nuse_peft: true\nlora_r: 4\nassistant_only_loss: true\n\
         per_device_train_batch_size: 2\nmax_steps: 3\noutput_dir: RUN\n",
        "rank = 4\nalpha = 32.0\ndropout = 0.05\ntarget_modules = [\"q_proj\", \"v_proj\"]\nbatch_size = 2\niters = 3\n\
         max_seq_length = 1024\nlearning_rate = 2e-5\nlr_scheduler = \"linear\"\nwarmup = 0\nweight_decay = 0\n\
         grad_checkpoint = true\n",
    ),
];

/// The effective configuration of a run, less its own folder.
fn config(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("config.toml")).unwrap();
    text.lines().filter(|line| !line.starts_with("output_dir")).map(str::to_owned).collect()
}

#[test]
fn a_file_of_another_program_trains_as_its_translation_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    rows(folder);
    for (peer, file, native) in FILES {
        let [theirs, made, own] = ["theirs.yaml", "made.toml", "own.toml"].map(|name| format!("{peer}-{name}"));
        let [of_theirs, of_made, of_own] = ["theirs", "made", "own"].map(|name| format!("{peer}-{name}"));
        std::fs::write(folder.join(&theirs), file.replace("MODEL", &model()).replace("RUN", &of_theirs)).unwrap();
        std::fs::write(folder.join(&own), format!("model = '{}'\ndata = \"rows.jsonl\"\n{native}", model())).unwrap();
        run(folder, program().args(["init", "--from", &theirs, &made]));
        let (_, said) = run(folder, program().args(["train", "-c", &theirs, "--backend", "cpu"]));
        assert!(said.contains("is read as `"), "{said}");
        for (file, output) in [(&made, &of_made), (&own, &of_own)] {
            run(folder, program().args(["train", "-c", file, "--backend", "cpu", "--output-dir", output]));
        }
        let [theirs, made, own] = [of_theirs, of_made, of_own].map(|run| folder.join(run));
        let steps = losses(&theirs);
        assert!(steps.len() >= 2, "{peer}: {steps:?}");
        for other in [&made, &own] {
            assert_eq!(config(&theirs), config(other), "{peer}");
            assert_eq!(steps, losses(other), "{peer}");
        }
    }
}

/// Flags of `unsloth-cli.py`, which has no file of settings.
const UNSLOTH_FLAGS: &str = "--model_name MODEL --dataset rows.jsonl --max_seq_length 64 --r 4 --lora_alpha 8 --lora_dropout 0.1 --bias none \
    --use_gradient_checkpointing unsloth --random_state 5 --per_device_train_batch_size 2 --gradient_accumulation_steps 2 \
    --warmup_steps 1 --max_steps 3 --learning_rate 1e-3 --optim adamw_8bit --weight_decay 0.02 --lr_scheduler_type linear \
    --logging_steps 1 --report_to none --output_dir theirs";

/// The same in flags of our own.
const OWN_FLAGS: &str = "--model MODEL --data rows.jsonl --max-seq-length 64 --rank 4 --alpha 8 --dropout 0.1 --grad-checkpoint --seed 5 \
    --batch-size 2 --grad-accumulation-steps 2 --warmup 1 --iters 3 --learning-rate 1e-3 --optimizer adamw8bit --weight-decay 0.02 \
    --lr-scheduler linear --steps-per-report 1 --output-dir own";

#[test]
fn flags_of_unsloth_train_as_their_translation_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    rows(folder);
    for flags in [UNSLOTH_FLAGS, OWN_FLAGS] {
        let flags = flags.split_whitespace().map(|word| if word == "MODEL" { model() } else { word.to_owned() });
        run(folder, program().args(["train", "--backend", "cpu"]).args(flags));
    }
    let [theirs, own] = ["theirs", "own"].map(|run| folder.join(run));
    assert_eq!(config(&theirs), config(&own));
    assert_eq!(losses(&theirs), losses(&own));
    assert_eq!(losses(&own).len(), 3);
}

#[test]
fn variables_of_the_environment_are_honoured_with_a_notice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    rows(folder);
    let model = model();
    let planned = |variables: &[(&str, &str)], more: &[&str]| {
        let mut command = program();
        command.args(["plan", "--model", &model]).args(more).envs(variables.iter().copied());
        run(folder, &mut command)
    };
    let (plan, said) = planned(&[("BURNISH_BACKEND", "cpu")], &[]);
    assert!(plan.contains("f32 on cpu") && said.contains("`BURNISH_BACKEND` is read as --backend cpu"), "{said}");
    let (plan, said) = planned(&[("BURNISH_BACKEND", "no-such")], &["--backend", "cpu"]);
    assert!(plan.contains("f32 on cpu") && !said.contains("BURNISH_BACKEND"), "{said}");
    let (plan, said) = planned(&[("UNSLOTH_ENABLE_MLX_QUANT", "1")], &["--backend", "cpu"]);
    assert!(said.contains("`UNSLOTH_ENABLE_MLX_QUANT` is read as `quantization = \"int4\"`"), "{said}");
    assert!(plan.contains("in int4"), "{plan}");
    let given = ["--backend", "cpu", "--quantization", "none"];
    let (_, said) = planned(&[("UNSLOTH_ENABLE_MLX_QUANT", "1")], &given);
    assert!(said.contains("`UNSLOTH_ENABLE_MLX_QUANT` has no effect: `quantization` is \"none\""), "{said}");
    let padding = ("UNSLOTH_DISABLE_AUTO_PADDING_FREE", "1");
    let (_, said) = planned(&[padding, ("UNSLOTH_VERBOSE", "1")], &["--backend", "cpu"]);
    assert!(
        said.contains("is read as `padding_free = false`") && said.contains("`UNSLOTH_VERBOSE` is read as -v"),
        "{said}"
    );
    let output = program().args(["init", "-"]).env("BURNISH_LOG", "no such=filter=").output().unwrap();
    let (_, stderr) = text(&output);
    assert!(output.status.code() == Some(2) && stderr.contains("error: BURNISH_LOG = no such=filter="), "{stderr}");
}

#[test]
fn a_preset_prints_its_settings_and_a_run_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    rows(folder);
    let shape = ["plan", "--model", "llama-3.2-1b", "--backend", "cuda", "--memory", "8", "--preset", "8gb"];
    let (plan, said) = run(folder, program().args(shape));
    assert!(plan.contains("it fits: ") && said.contains("preset 8gb: quantization = "), "{said}");
    let (plan, _) = run(folder, program().args(&shape[..7]));
    assert!(plan.contains("it does not fit: "), "{plan}");
    let model = model();
    let train = ["train", "--model", &model, "--data", "rows.jsonl", "--backend", "cpu", "--iters", "1", "--preset", "16gb"];
    let (_, said) = run(folder, program().args(train));
    assert!(said.contains("preset 16gb: quantization = "), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn results_that_can_not_be_printed_are_an_error() {
    for arguments in [&["init", "-"][..], &["completions", "bash"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = program().args(arguments).stdout(full).output().unwrap();
        let (_, stderr) = text(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("can't be written to standard output"), "{arguments:?}: {stderr}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn names_of_outputs_need_not_be_unicode() {
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join(std::ffi::OsStr::from_bytes(b"a\xff.toml"));
    for style in [&[][..], &["--json"]] {
        let output = program().arg("init").arg(&target).arg("--overwrite").args(style).output().unwrap();
        let (stdout, stderr) = text(&output);
        assert!(output.status.success() && target.exists() && stdout.contains("a\u{fffd}.toml"), "{stdout}{stderr}");
    }
}
