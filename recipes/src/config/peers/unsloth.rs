//! Unsloth: arguments of its Python functions and of `unsloth-cli.py`, and the sections of `unsloth train -c`.

use serde_json::{Map, Value, json};

use super::{NO_LOFTQ, NO_RATES, NO_UPLOAD, OWN_EVENTS, OWN_KERNELS, OWN_ROWS, Peer, TEXT_ONLY};
use crate::config::meaning::Meaning::{self, Harmless, Only, Refused, Same, Translated, Yields};

const NO_GENERATION: &str = "it concerns inference, not training";
const NO_EXPORT: &str = "the run writes an adapter; use `burnish export` or `burnish merge` for other formats";
const NO_RAW_TEXT: &str = "put the text into a .jsonl file with `text` rows";
const NAME_LAYERS: &str = "list the layers in target_modules";

const KEYS: &[(&str, Meaning)] = &[
    ("model_name", Same("model")),
    ("random_state", Yields("seed")),
    ("random_seed", Same("seed")),
    ("training_type", Same("fine_tune_type")),
    ("train_on_completions", Same("mask_prompt")),
    ("finetune_last_n_layers", Same("num_layers")),
    ("full_finetuning", Translated),
    ("local_dataset", Translated),
    ("format_type", Harmless("the kind of a row follows from its keys")),
    ("use_gradient_checkpointing", Translated),
    ("load_in_16bit", Harmless("the type follows from `dtype`")),
    ("fast_inference", Harmless(NO_GENERATION)),
    ("gpu_memory_utilization", Harmless(NO_GENERATION)),
    ("max_lora_rank", Harmless(NO_GENERATION)),
    ("float8_kv_cache", Harmless(NO_GENERATION)),
    ("unsloth_tiled_mlp", Harmless(OWN_KERNELS)),
    ("offload_embedding", Harmless(OWN_KERNELS)),
    ("chunk_size", Harmless(OWN_ROWS)),
    ("stride", Harmless(OWN_ROWS)),
    ("save_model", Harmless(NO_EXPORT)),
    ("save_method", Harmless(NO_EXPORT)),
    ("save_gguf", Harmless(NO_EXPORT)),
    ("save_path", Harmless(NO_EXPORT)),
    ("push_model", Harmless(NO_UPLOAD)),
    ("push_gguf", Harmless(NO_UPLOAD)),
    ("hub_path", Harmless(NO_UPLOAD)),
    ("enable_wandb", Translated),
    ("wandb_token", Harmless("`wandb sync`, which uploads the run, asks for it")),
    ("enable_tensorboard", Translated),
    ("tensorboard_dir", Harmless(OWN_EVENTS)),
    ("finetune_vision_layers", Harmless(TEXT_ONLY)),
    ("vision_all_linear", Harmless(TEXT_ONLY)),
    ("finetune_language_layers", Only(&["true"], TEXT_ONLY)),
    ("finetune_attention_modules", Only(&["true"], NAME_LAYERS)),
    ("finetune_mlp_modules", Only(&["true"], NAME_LAYERS)),
    ("use_loftq", Refused(NO_LOFTQ)),
    ("embedding_learning_rate", Refused(NO_RATES)),
    ("raw_text_file", Refused(NO_RAW_TEXT)),
];

pub(in crate::config) const PEER: Peer =
    Peer { name: "Unsloth", keys: KEYS, signs: &["training", "lora", "logging"], defaults };

/// From `unsloth train -c`, whose files have sections.
fn defaults(_: &Map<String, Value>) -> Value {
    json!({
        "rank": 64, "batch_size": 2, "grad_accumulation_steps": 4, "epochs": 3, "warmup": 5.0, "lr_scheduler": "linear",
        "mask_prompt": false,
    })
}
