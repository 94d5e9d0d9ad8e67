//! Weights.

use std::path::Path;

use burnish_export::ImportanceMatrix;
use burnish_models::checkpoint::{Checkpoint, PytorchFiles, SafetensorsFolder, open_folder, quantised_folder};
use burnish_models::gguf::GgufFile;
use burnish_models::{ModelConfig, json};

use super::{KIB, MIB, Target, files, outcome};

/// Words of the headers of safetensors.
const HEADER: &[&str] = &[
    "\"dtype\":\"F64\"",
    "\"F8_E4M3\"",
    "\"BOOL\"",
    "\"shape\":[]",
    "[0]",
    "[4294967295,4294967295]",
    "\"data_offsets\":[0,0]",
    "\"__metadata__\":{}",
    ".weight",
    ".weight_scale_inv",
    ".absmax",
    ".scales",
    ".biases",
];

/// Reads every tensor in every way.
pub(super) fn read_all(checkpoint: &dyn Checkpoint) -> String {
    let mut said = String::new();
    for name in checkpoint.names() {
        let shape = checkpoint.shape(&name).unwrap_or_default();
        let rows = shape.iter().rev().skip(1).try_fold(1usize, |rows, dim| rows.checked_mul(*dim)).unwrap_or(0);
        let results = [
            checkpoint.read_f32(&name).err(),
            checkpoint.read_rows(&name, rows / 2..rows).err(),
            checkpoint.read_rows(&name, rows..usize::MAX).err(),
            checkpoint.read_bytes(&name).err(),
            checkpoint.read_packed(&name).err(),
        ];
        for error in results.into_iter().flatten() {
            said = error.to_string();
        }
    }
    format!("read {said}")
}

pub(super) const SAFETENSORS: Target = Target {
    name: "safetensors",
    file: "model.safetensors",
    beside: &[],
    seeds: || {
        files(&[
            include_bytes!("../../../fixtures/parity/llama/model-00003-of-00003.safetensors"),
            include_bytes!("../../../fixtures/pytorch/views.safetensors"),
            include_bytes!("../../../../models/tests/fixtures/fp8/fp8.safetensors"),
            include_bytes!("../../../../models/tests/fixtures/packed/mlx.safetensors"),
        ])
    },
    words: HEADER,
    fixed: 8 * MIB,
    read: |path| outcome(SafetensorsFolder::from_files(&[path.to_owned()]), |file| read_all(&file)),
};

pub(super) const PYTORCH: Target = Target {
    name: "pytorch",
    file: "pytorch_model.bin",
    beside: &[],
    seeds: || {
        files(&[
            include_bytes!("../../../fixtures/pytorch/protocol4.pt"),
            include_bytes!("../../../fixtures/pytorch/nested.pt"),
            include_bytes!("../../../fixtures/pytorch/module.pt"),
            include_bytes!("../../../fixtures/pytorch/views.bin"),
            include_bytes!("../../../fixtures/pytorch/legacy.bin"),
            include_bytes!("../../../fixtures/pytorch/adapter_model.bin"),
        ])
    },
    // Opcodes of pickle that build on the stack, memoise, or call.
    words: &[
        "(",
        "}",
        "]",
        "u.",
        "R",
        "\u{b}",
        "q\u{0}",
        "h\u{0}",
        "ctorch\nFloatStorage\n",
        "ccollections\nOrderedDict\n",
        "t",
        "0",
        "2",
    ],
    fixed: 128 * KIB,
    read: |path| outcome(PytorchFiles::open(&[path.to_owned()]), |file| read_all(&file)),
};

pub(super) const GGUF: Target = Target {
    name: "gguf",
    file: "m-00001-of-00002.gguf",
    beside: &[],
    seeds: || files(&[include_bytes!("../../../fixtures/leave/adapter.gguf")]),
    words: &[
        "general.alignment",
        "split.count",
        "split.no",
        "llama.",
        "tokenizer.ggml.",
        "blk.0.",
        "gemma3",
        "qwen2",
        ".weight",
    ],
    fixed: 32 * MIB,
    read: |path| {
        outcome(GgufFile::open(path), |file| {
            let config = file.config_json().and_then(|json| ModelConfig::from_json(&json));
            let config = outcome(config, |_| "a model".to_owned());
            let tokenizer = outcome(file.tokenizer(), |tokenizer| super::text::encode(&tokenizer));
            let template = outcome(file.chat_template(), |template| format!("{}", template.is_some()));
            file.entries().for_each(drop);
            format!("{config}; {tokenizer}; {template}; {}", read_all(&file))
        })
    },
};

pub(super) const INDEX: Target = Target {
    name: "index",
    file: "model.safetensors.index.json",
    beside: &[(
        "model-00003-of-00003.safetensors",
        include_bytes!("../../../fixtures/parity/llama/model-00003-of-00003.safetensors"),
    )],
    seeds: || {
        let whole = include_bytes!("../../../fixtures/parity/llama/model.safetensors.index.json");
        let one = br#"{"weight_map": {"a": "model-00003-of-00003.safetensors", "b": "../b.safetensors"}}"#;
        files(&[whole, one])
    },
    words: &["../", "model-00003-of-00003.safetensors", "\"weight_map\"", "/etc/passwd", "C:\\"],
    fixed: 2 * MIB,
    read: |path| outcome(open_folder(folder(path)), |checkpoint| read_all(&*checkpoint)),
};

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Reads a folder of quantised weights with that `config.json`.
fn quantised(path: &Path, config: &str) -> String {
    let config = json::parse(config).unwrap_or_default();
    let opened = open_folder(folder(path)).and_then(|inner| quantised_folder(folder(path), inner, &config));
    outcome(opened, |checkpoint| read_all(&*checkpoint))
}

pub(super) const PACKED: Target = Target {
    name: "packed",
    file: "model.safetensors",
    beside: &[],
    seeds: || {
        files(&[
            include_bytes!("../../../../models/tests/fixtures/packed/bitsandbytes.safetensors"),
            include_bytes!("../../../../models/tests/fixtures/packed/mlx.safetensors"),
        ])
    },
    words: HEADER,
    fixed: 8 * MIB,
    read: |path| {
        let bitsandbytes = quantised(
            path,
            r#"{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}}"#,
        );
        format!("{bitsandbytes}; {}", quantised(path, r#"{"quantization": {"group_size": 64, "bits": 4}}"#))
    },
};

pub(super) const FLOAT8: Target = Target {
    name: "float8",
    file: "model.safetensors",
    beside: &[],
    seeds: || {
        files(&[
            include_bytes!("../../../../models/tests/fixtures/fp8/fp8.safetensors"),
            include_bytes!("../../../../models/tests/fixtures/fp8/compressed.safetensors"),
        ])
    },
    words: HEADER,
    fixed: 8 * MIB,
    read: |path| {
        let fp8 = quantised(path, r#"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}"#);
        format!("{fp8}; {}", quantised(path, r#"{"quantization_config": {"quant_method": "fp8"}}"#))
    },
};

pub(super) const IMPORTANCE: Target = Target {
    name: "imatrix",
    file: "imatrix.gguf",
    beside: &[],
    seeds: Vec::new,
    words: &[".in_sum2", ".counts", "imatrix.datasets", "imatrix.chunk_count"],
    fixed: 8 * MIB,
    read: |path| outcome(ImportanceMatrix::open(path), |matrix| format!("{matrix:?}")),
};
