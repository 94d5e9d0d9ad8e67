//! Adapters.

use std::path::Path;

use burnish_lora::{HostAdapter, MergedCheckpoint, read_config};
use burnish_models::{Checkpoint, Result as ModelResult};

use super::{MIB, Target, files, outcome};

/// A model in which each matrix that an adapter may name has the shape of those of `parity/llama`.
struct Base;

impl Checkpoint for Base {
    fn names(&self) -> Vec<String> {
        vec!["model.layers.0.self_attn.q_proj.weight".to_owned(), "model.layers.1.mlp.down_proj.weight".to_owned()]
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let [outputs, inputs] = match name.rsplit('.').nth(1)? {
            "q_proj" | "o_proj" => [32, 32],
            "k_proj" | "v_proj" => [16, 32],
            "gate_proj" | "up_proj" => [48, 32],
            "down_proj" => [32, 48],
            "embed_tokens" | "lm_head" => [96, 32],
            _ => return None,
        };
        Some(vec![outputs, inputs])
    }

    fn read_f32(&self, name: &str) -> ModelResult<Vec<f32>> {
        Ok(vec![0.5; self.shape(name).unwrap_or_default().iter().product()])
    }
}

/// Reads an adapter: its configuration, its layers, and what merging gives.
fn read(path: &Path) -> String {
    let config = outcome(read_config(path), |config| format!("{:?}", config.init));
    let layers = outcome(HostAdapter::open(&Base, path), |adapter| {
        let layers: Vec<String> = adapter.layers().map(str::to_owned).collect();
        let read = |name: &String| outcome(adapter.layer(name), |layer| format!("{}", layer.is_some()));
        layers.iter().map(read).next_back().unwrap_or_default()
    });
    let merged = outcome(MergedCheckpoint::open(&Base, path), |merged| super::weights::read_all(&merged));
    format!("{config}; {layers}; {merged}")
}

fn folder(path: &Path) -> String {
    read(path.parent().unwrap_or(path))
}

const CONFIG: &[u8] = include_bytes!("../../../fixtures/parity/llama/adapter/adapter_config.json");

pub(super) const PEFT: Target = Target {
    name: "peft",
    file: "adapter_model.safetensors",
    beside: &[("adapter_config.json", CONFIG)],
    seeds: || {
        files(&[
            include_bytes!("../../../fixtures/parity/llama/adapter/adapter_model.safetensors"),
            include_bytes!("../../../fixtures/adapters/dora_biased/start/adapter_model.safetensors"),
        ])
    },
    words: &["lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "base_model.model.", "[0,0]", "[0,32]", "\"F16\""],
    fixed: 8 * MIB,
    read: folder,
};

pub(super) const PEFT_CONFIG: Target = Target {
    name: "peft-config",
    file: "adapter_config.json",
    beside: &[(
        "adapter_model.safetensors",
        include_bytes!("../../../fixtures/parity/llama/adapter/adapter_model.safetensors"),
    )],
    seeds: || {
        files(&[
            CONFIG,
            include_bytes!("../../../fixtures/adapters/pissa/trained/adapter_config.json"),
            include_bytes!("../../../fixtures/adapters/olora/trained/adapter_config.json"),
            include_bytes!("../../../fixtures/adapters/modules/start/adapter_config.json"),
        ])
    },
    words: &[
        "\"rank_pattern\":{\".*\":1}",
        "\"alpha_pattern\"",
        "\"r\":0",
        "(((((",
        "[a-z]*",
        "\"pissa\"",
        "\"use_dora\":true",
        "all-linear",
    ],
    fixed: 32 * MIB,
    read: folder,
};

pub(super) const MLX: Target = Target {
    name: "mlx-adapter",
    file: "adapters.safetensors",
    beside: &[("adapter_config.json", include_bytes!("../../../fixtures/leave/mlx-adapter/adapter_config.json"))],
    seeds: || files(&[include_bytes!("../../../fixtures/leave/mlx-adapter/adapters.safetensors")]),
    words: &[".lora_a", ".lora_b", "[0,0]", "[32,0]", "\"F16\""],
    fixed: 8 * MIB,
    read: folder,
};

pub(super) const GGUF_LORA: Target = Target {
    name: "gguf-adapter",
    file: "adapter.gguf",
    beside: &[],
    seeds: || files(&[include_bytes!("../../../fixtures/leave/adapter.gguf")]),
    words: &[".lora_a", ".lora_b", "adapter.lora.alpha", "adapter", "lora", "qwen2", "blk.99999999999."],
    fixed: 8 * MIB,
    read,
};
