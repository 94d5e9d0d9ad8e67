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

/// A file of each program. `MODEL` is the model.
const FILES: [(&str, &str); 5] = [
    (
        "mlx-lm",
        "model: MODEL\ntrain: true\ndata: rows.jsonl\nnum_layers: 2\nbatch_size: 2\niters: 4\ngrad_accumulation_steps: 2\n\
         learning_rate: 1e-3\nlora_parameters: {rank: 4, scale: 10.0, dropout: 0.1}\nmask_prompt: true\nadapter_path: RUN\n",
    ),
    (
        "Unsloth",
        "model: MODEL\ndata: {local_dataset: [rows.jsonl]}\ntraining: {max_steps: 3, batch_size: 2, gradient_accumulation_steps: 1, \
         load_in_4bit: false, output_dir: RUN}\nlora: {lora_r: 4, lora_alpha: 8}\n",
    ),
    (
        "axolotl",
        "base_model: MODEL\ndatasets:\n  - {path: rows.jsonl, type: chat_template}\nadapter: lora\nlora_r: 4\nlora_alpha: 8\n\
         lora_target_linear: true\nsequence_len: 64\nmicro_batch_size: 2\nmax_steps: 3\nlearning_rate: 1e-3\noutput_dir: RUN\n",
    ),
    (
        "LLaMA-Factory",
        "model_name_or_path: MODEL\nstage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 4\nlora_target: all\n\
         dataset: rows.jsonl\ntemplate: default\ncutoff_len: 64\nper_device_train_batch_size: 2\nmax_steps: 3\noutput_dir: RUN\n",
    ),
    (
        "TRL",
        "model_name_or_path: MODEL\ndataset_name: rows.jsonl\nuse_peft: true\nlora_r: 4\nassistant_only_loss: true\n\
         per_device_train_batch_size: 2\nmax_steps: 3\noutput_dir: RUN\n",
    ),
];

#[test]
fn a_file_of_another_program_trains_as_its_translation_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    rows(folder);
    for (peer, file) in FILES {
        let [theirs, ours, of_theirs, of_ours] =
            ["theirs.yaml", "ours.toml", "theirs", "ours"].map(|name| format!("{peer}-{name}"));
        std::fs::write(folder.join(&theirs), file.replace("MODEL", &model()).replace("RUN", &of_theirs)).unwrap();
        run(folder, program().args(["init", "--from", &theirs, &ours]));
        let (_, said) = run(folder, program().args(["train", "-c", &theirs, "--backend", "cpu"]));
        assert!(said.contains("is read as `"), "{said}");
        run(folder, program().args(["train", "-c", &ours, "--backend", "cpu", "--output-dir", &of_ours]));
        let [theirs, ours] = [of_theirs, of_ours].map(|run| folder.join(run));
        let steps = losses(&theirs);
        assert!(steps.len() >= 2, "{peer}: {steps:?}");
        assert_eq!(steps, losses(&ours), "{peer}");
        let config = |run: &Path| {
            let text = std::fs::read_to_string(run.join("config.toml")).unwrap();
            text.lines().filter(|line| !line.starts_with("output_dir")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(config(&theirs), config(&ours), "{peer}");
    }
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
