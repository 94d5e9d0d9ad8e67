//! Configurations: of models, and of runs.

use std::path::Path;

use burnish_models::{ModelConfig, json};
use burnish_recipes::config::{Needs, load_with};
use serde_json::Map;

use super::{MIB, Target, files, outcome};

pub(super) const MODEL: Target = Target {
    name: "model-config",
    file: "config.json",
    beside: &[],
    seeds: || {
        files(&[
            include_bytes!("../../../fixtures/parity/llama/config.json"),
            include_bytes!("../../../fixtures/parity/phi3/config.json"),
            include_bytes!("../../../fixtures/parity/gemma3/config.json"),
            include_bytes!("../../../fixtures/parity/olmo3/config.json"),
            include_bytes!("../../../fixtures/parity/ministral3/config.json"),
            include_bytes!("../../../fixtures/parity/granite/config.json"),
            include_bytes!("../../../fixtures/parity/smollm3/config.json"),
        ])
    },
    words: &[
        "\"model_type\":\"qwen3\"",
        "\"head_dim\":0",
        "\"num_hidden_layers\":4294967295",
        "\"rope_scaling\":{\"rope_type\":\"yarn\"}",
        "\"longrope\"",
        "\"short_factor\":[0]",
        "\"layer_types\":[]",
        "\"sliding_window\":0",
        "\"text_config\":{}",
        "1e308",
        "\"factor\":0",
    ],
    fixed: 32 * MIB,
    read: |path| {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        match json::parse(&text) {
            Ok(json) => outcome(ModelConfig::from_json(&json), |config| config.family.gguf.name.to_string()),
            Err(error) => error.to_string(),
        }
    },
};

fn run(path: &Path) -> String {
    outcome(load_with(Some(path), Map::new(), &[], Needs::Model), |loaded| format!("{:?}", loaded.notes))
}

pub(super) const RUN_TOML: Target = Target {
    name: "run-toml",
    file: "run.toml",
    beside: &[],
    seeds: || {
        files(&[
            include_bytes!("../../../../recipes/assets/quickstart/pretrain.toml"),
            b"model = \"m\"\ndata = \"d\"\nrank = 8\nlearning_rate = 1e-4\ntarget_modules = [\"q_proj\"]\nresume = \"auto\"\n",
        ])
    },
    words: &[
        "rank",
        "epochs",
        "iters",
        "= nan",
        "= inf",
        "[[a]]",
        "\"\"\"",
        "'''",
        "1979-05-27",
        "lora_r = 8",
        "= -1",
        "= 1e400",
    ],
    fixed: 8 * MIB,
    read: run,
};

pub(super) const RUN_YAML: Target = Target {
    name: "run-yaml",
    file: "run.yaml",
    seeds: || {
        files(&[
            b"model: m\ndata: d\nrank: 8\nlr: 1e-4\ntarget_modules:\n  - q_proj\n  - v_proj\n",
            b"base_model: m\ndatasets:\n  - path: d\n    type: alpaca\nadapter: lora\nlora_r: 8\nsequence_len: 2048\nmicro_batch_size: 2\n",
            b"model: m\nlora_parameters:\n  keys: [\"self_attn.q_proj\"]\n  rank: 8\n  scale: 20.0\n  dropout: 0.0\niters: 10\n",
        ])
    },
    words: &[
        "&a",
        "*a",
        "<<: *a",
        "|",
        ">",
        "- ",
        "? ",
        "!!binary",
        "~",
        "---",
        "...",
        "%YAML 1.1",
        "&a [*a,*a,*a,*a,*a,*a,*a,*a]",
        "\t",
    ],
    ..RUN_TOML
};
