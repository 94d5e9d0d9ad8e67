//! Unsloth: arguments of its Python functions and of `unsloth-cli.py`, and the sections of `unsloth train -c`.

use serde_json::{Map, Value, json};

use super::{
    CHECKPOINTING, NO_EVALUATION, NO_EXPORT, NO_LOFTQ, NO_NEW_TOKENS, NO_OPTIMIZER, NO_QAT, NO_RATES, NO_UPLOAD, ONE_DEVICE,
    OWN_EVENTS, OWN_KERNELS, OWN_ROWS, Peer, TEXT_ONLY, no_traps, with_double_quant,
};
use crate::config::entry::Entry;
use crate::config::meaning::Meaning::{self, Harmless, Only, Refused, Same, Translated, Yields};

const NO_GENERATION: &str = "it concerns inference, not training";
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

pub(in crate::config) const PEER: Peer = Peer {
    name: "Unsloth",
    keys: KEYS,
    settings: SETTINGS,
    signs: &["training", "lora", "logging"],
    defaults,
    traps: no_traps,
};

const SETTINGS: &[(Meaning, &[&str])] = &[
    (Harmless(CHECKPOINTING), &["checkpoint_skip_layers", "temporary_location"]),
    (Harmless(ONE_DEVICE), &["device_map_planner_kwargs", "offload_layers"]),
    (Harmless(NO_GENERATION), &["disable_log_stats"]),
    (Harmless(NO_EVALUATION), &["return_logits"]),
    (Harmless(TEXT_ONLY), &["finetune_audio_layers", "text_only", "whisper_language", "whisper_task"]),
    (Harmless(OWN_KERNELS), &["fullgraph", "unsloth_force_compile"]),
    (Harmless("adapters are f32, and the model computes in `dtype`"), &["float32_mixed_precision"]),
    (Harmless("the model is the one that `model` names"), &["auto_model", "on_model_resolved", "use_exact_model_name"]),
    (Harmless("tokenizer.json is read as it is"), &["fix_tokenizer"]),
    (Harmless(NO_UPLOAD), &["token"]),
    (Refused("`quantization` stores the base as nf4, int4 or int8; set it and remove this key"), &["load_in_fp8"]),
    (Refused(NO_QAT), &["qat_scheme"]),
    (Refused(NO_OPTIMIZER), &["q_galore_config"]),
    (Refused(NO_NEW_TOKENS), &["resize_model_vocab"]),
];

/// Reads `load_in_4bit: false`, whose default is true, so that the default does not count.
pub(in crate::config) fn rewrite(entries: &mut [Entry]) {
    let in_8bit = entries.iter().any(|entry| entry.name == "load_in_8bit" && entry.value == true);
    for entry in entries.iter_mut().filter(|entry| entry.name == "load_in_4bit" && entry.value == false && !in_8bit) {
        "quantization".clone_into(&mut entry.name);
        entry.value = "auto".into();
    }
}

/// From `unsloth train -c`, whose files have sections. It has no key for the optimizer, which is its 8-bit AdamW.
fn defaults(given: &Map<String, Value>) -> Value {
    let mut defaults = json!({
        "rank": 64, "batch_size": 2, "grad_accumulation_steps": 4, "epochs": 3, "warmup": 5.0, "lr_scheduler": "linear",
        "mask_prompt": false, "optimizer": "adamw8bit", "seed": 3407, "grad_checkpoint": true,
    });
    if given.get("fine_tune_type").is_some_and(|kind| kind == "full") {
        return defaults;
    }
    if !given.contains_key("quantization") {
        defaults["quantization"] = "nf4".into();
        defaults["double_quant"] = true.into();
    }
    with_double_quant(given, defaults)
}
