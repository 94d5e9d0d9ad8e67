//! axolotl: `axolotl train lora.yml`.

mod settings;

use serde_json::{Map, Value, json};

use super::{
    CHECKPOINTING, NO_EVALUATION, NO_LAYERS, NO_LOFTQ, NO_LOSS_PART, NO_NEW_TOKENS, NO_OTHER_MODULES, NO_QAT, NO_RATES,
    NO_REWARDS, NO_SCHEDULE_PART, NO_SMOOTHING, NO_UPLOAD, ONE_ATTENTION, ONE_DEVICE, OWN_KERNELS, OWN_LOG, OWN_ROWS,
    OWN_TEMPLATE, PADDING, Peer, STEPS, no_traps, with_double_quant,
};
use crate::config::entry::Entry;
use crate::config::meaning::Meaning::{self, Harmless, Only, Refused, Same, Translated};
use crate::config::value::number;

const LIKE_CONFIG: &str = "it follows from the checkpoint's config.json and tokenizer.json";
const LATER: &str = "nothing is uploaded while a run goes on; `wandb sync` does that";
const NO_RELORA: &str = "adapters are never merged within a run; remove it";

const KEYS: &[(&str, Meaning)] = &[
    ("base_model", Same("model")),
    ("sequence_len", Same("max_seq_length")),
    ("sample_packing", Same("packing")),
    ("lora_r", Same("rank")),
    ("lora_target_modules", Same("target_modules")),
    ("micro_batch_size", Same("batch_size")),
    ("num_epochs", Same("epochs")),
    ("peft_use_rslora", Same("rslora")),
    ("lora_model_dir", Same("adapter")),
    ("shuffle_merged_datasets", Same("shuffle")),
    ("datasets", Translated),
    ("lora_target_linear", Translated),
    ("train_on_inputs", Translated),
    ("bfloat16", Translated),
    ("float16", Translated),
    ("float32", Translated),
    ("auto_resume_from_checkpoints", Translated),
    ("base_model_config", Harmless(LIKE_CONFIG)),
    ("tokenizer_config", Harmless(LIKE_CONFIG)),
    ("model_type", Harmless(LIKE_CONFIG)),
    ("tokenizer_type", Harmless(LIKE_CONFIG)),
    ("processor_type", Harmless(LIKE_CONFIG)),
    ("tokenizer_use_fast", Harmless(LIKE_CONFIG)),
    ("tokenizer_legacy", Harmless(LIKE_CONFIG)),
    ("is_llama_derived_model", Harmless(LIKE_CONFIG)),
    ("is_mistral_derived_model", Harmless(LIKE_CONFIG)),
    ("is_qwen_derived_model", Harmless(LIKE_CONFIG)),
    ("is_falcon_derived_model", Harmless(LIKE_CONFIG)),
    ("lora_fan_in_fan_out", Harmless(LIKE_CONFIG)),
    ("revision_of_model", Only(&["main"], super::NO_REVISION)),
    ("chat_template", Harmless(OWN_TEMPLATE)),
    ("chat_template_jinja", Refused("put it into the checkpoint's tokenizer_config.json")),
    ("default_system_message", Refused("put the system message into each row")),
    ("special_tokens", Refused(NO_NEW_TOKENS)),
    ("tokens", Refused(NO_NEW_TOKENS)),
    ("added_tokens_overrides", Refused(NO_NEW_TOKENS)),
    ("resize_token_embeddings_to_32x", Refused(NO_NEW_TOKENS)),
    ("test_datasets", Harmless(NO_EVALUATION)),
    ("val_set_size", Same("val_split")),
    ("excess_length_strategy", Translated),
    ("dataset_prepared_path", Harmless(OWN_ROWS)),
    ("dataset_processes", Harmless(OWN_ROWS)),
    ("dataset_keep_in_memory", Harmless(OWN_ROWS)),
    ("skip_prepare_dataset", Harmless(OWN_ROWS)),
    ("push_dataset_to_hub", Harmless(NO_UPLOAD)),
    ("hf_use_auth_token", Harmless(NO_UPLOAD)),
    ("dataset_exact_deduplication", Refused("remove the duplicates from the file")),
    ("pretraining_dataset", Refused("set `data` to a file with `text` rows")),
    ("pad_to_sequence_len", Harmless(PADDING)),
    ("sample_packing_group_size", Harmless("packing considers all rows")),
    ("sample_packing_bin_size", Harmless("packing considers all rows")),
    ("sample_packing_eff_est", Harmless("packing considers all rows")),
    ("total_num_tokens", Harmless("packing considers all rows")),
    ("eval_sample_packing", Harmless("the validation loss is the same, packed or not")),
    ("gptq", Refused("`quantization` may be nf4, int4 or int8; remove it")),
    ("peft", Refused(NO_LOFTQ)),
    ("qat", Refused(NO_QAT)),
    ("bnb_config_kwargs", Translated),
    ("peft_use_dora", Same("dora")),
    ("peft_init_lora_weights", Same("init")),
    ("peft_layers_to_transform", Refused(NO_LAYERS)),
    ("peft_layers_pattern", Refused(NO_LAYERS)),
    ("peft_layer_replication", Refused(NO_LAYERS)),
    ("peft_trainable_token_indices", Refused(NO_OTHER_MODULES)),
    ("lora_target_parameters", Same("target_parameters")),
    ("lora_modules_to_save", Same("modules_to_save")),
    ("unfrozen_parameters", Refused(NO_OTHER_MODULES)),
    ("relora", Refused(NO_RELORA)),
    ("relora_steps", Refused(NO_RELORA)),
    ("loraplus_lr_ratio", Same("lora_plus_ratio")),
    ("loraplus_lr_embedding", Harmless("the embedding has no adapter")),
    ("embedding_lr", Refused(NO_RATES)),
    ("embedding_lr_scale", Refused(NO_RATES)),
    ("lr_groups", Refused(NO_RATES)),
    ("lr_quadratic_warmup", Refused(NO_SCHEDULE_PART)),
    ("cosine_min_lr_ratio", Refused(NO_SCHEDULE_PART)),
    ("cosine_constant_lr_ratio", Refused(NO_SCHEDULE_PART)),
    ("rl", Translated),
    ("rl_beta", Same("beta")),
    ("dpo_beta", Same("beta")),
    ("dpo_loss_type", Translated),
    ("orpo_alpha", Same("beta")),
    ("kto_desirable_weight", Same("desirable_weight")),
    ("kto_undesirable_weight", Same("undesirable_weight")),
    ("dpo_label_smoothing", Refused(NO_SMOOTHING)),
    ("dpo_use_weighting", Refused(NO_LOSS_PART)),
    ("dpo_norm_loss", Refused("set loss_type = \"sigmoid_norm\" and remove it")),
    ("dpo_padding_free", Harmless(PADDING)),
    ("dpo_generate_during_eval", Harmless(NO_EVALUATION)),
    ("dpo_use_logits_to_keep", Harmless(OWN_KERNELS)),
    ("reward_model", Refused(NO_REWARDS)),
    ("use_pose", Refused("positions are never changed; remove it")),
    ("saves_per_epoch", Harmless(STEPS)),
    ("evals_per_epoch", Harmless(STEPS)),
    ("eval_table_size", Harmless(NO_EVALUATION)),
    ("eval_max_new_tokens", Harmless(NO_EVALUATION)),
    ("eval_batch_size", Harmless("validation uses batch_size")),
    ("loss_watchdog_threshold", Refused("a loss that is not finite ends the run; remove it")),
    ("loss_watchdog_patience", Harmless("a loss that is not finite ends the run")),
    ("noisy_embedding_alpha", Refused(super::NO_NEFTUNE)),
    ("flash_attention", Harmless(ONE_ATTENTION)),
    ("sdp_attention", Harmless(ONE_ATTENTION)),
    ("xformers_attention", Harmless(ONE_ATTENTION)),
    ("flex_attention", Harmless(ONE_ATTENTION)),
    ("eager_attention", Harmless(ONE_ATTENTION)),
    ("s2_attention", Refused("attention covers the whole row; remove it")),
    ("flash_attn_cross_entropy", Harmless(OWN_KERNELS)),
    ("flash_attn_rms_norm", Harmless(OWN_KERNELS)),
    ("flash_attn_fuse_qkv", Harmless(OWN_KERNELS)),
    ("flash_attn_fuse_mlp", Harmless(OWN_KERNELS)),
    ("lora_mlp_kernel", Harmless(OWN_KERNELS)),
    ("lora_qkv_kernel", Harmless(OWN_KERNELS)),
    ("lora_o_kernel", Harmless(OWN_KERNELS)),
    ("liger_rope", Harmless(OWN_KERNELS)),
    ("liger_rms_norm", Harmless(OWN_KERNELS)),
    ("liger_glu_activation", Harmless(OWN_KERNELS)),
    ("liger_layer_norm", Harmless(OWN_KERNELS)),
    ("liger_fused_linear_cross_entropy", Harmless(OWN_KERNELS)),
    ("cut_cross_entropy", Harmless(OWN_KERNELS)),
    ("plugins", Harmless("there are no plugins; keys that change the run are refused by name")),
    ("chunked_cross_entropy", Harmless(OWN_KERNELS)),
    ("activation_offloading", Harmless(CHECKPOINTING)),
    ("lora_on_cpu", Harmless(ONE_DEVICE)),
    ("gpu_memory_limit", Harmless(ONE_DEVICE)),
    ("max_memory", Harmless(ONE_DEVICE)),
    ("world_size", Harmless(ONE_DEVICE)),
    ("sequence_parallel_degree", Harmless(ONE_DEVICE)),
    ("context_parallel_size", Harmless(ONE_DEVICE)),
    ("strict", Harmless("an unknown key is always an error")),
    ("debug", Harmless("use -v for more output")),
    ("gc_steps", Harmless("memory is freed as soon as it is unused")),
    ("eot_tokens", Harmless(OWN_TEMPLATE)),
    ("wandb_project", Translated),
    ("wandb_entity", Harmless(LATER)),
    ("wandb_watch", Harmless(OWN_LOG)),
    ("wandb_name", Same("run_name")),
    ("wandb_run_id", Harmless("set WANDB_RUN_ID")),
    ("wandb_mode", Harmless("runs are written offline, for `wandb sync`")),
    ("wandb_log_model", Harmless(LATER)),
    ("use_wandb", Translated),
    ("use_tensorboard", Translated),
    ("use_trackio", Translated),
    ("trackio_project_name", Same("project_name")),
    ("trackio_run_name", Same("run_name")),
    ("use_mlflow", Harmless(OWN_LOG)),
    ("mlflow_tracking_uri", Harmless(OWN_LOG)),
    ("mlflow_experiment_name", Harmless(OWN_LOG)),
    ("use_comet", Harmless(OWN_LOG)),
    ("profiler_steps", Harmless(OWN_LOG)),
];

pub(in crate::config) const PEER: Peer =
    Peer { name: "axolotl", keys: KEYS, settings: settings::SETTINGS, signs: SIGNS, defaults, traps: no_traps };

const SIGNS: &[&str] = &["base_model", "sequence_len", "micro_batch_size"];

/// From its pydantic models. Without `adapter` it trains every weight.
fn defaults(given: &Map<String, Value>) -> Value {
    let defaults = json!({
        "fine_tune_type": "full", "rank": 8, "alpha": 8.0, "batch_size": 1, "max_seq_length": 512, "weight_decay": 0.0,
        "length_policy": "drop",
    });
    with_double_quant(given, defaults)
}

/// Reads keys that mean something else here: `adapter`, the kind of fine-tuning, and `batch_size`, the rows of an optimizer step.
///
/// # Errors
/// The key, and why it is not supported.
pub(in crate::config) fn rewrite(entries: &mut [Entry]) -> Result<(), (&'static str, String)> {
    let given = |name: &str| entries.iter().find(|entry| entry.name == name).and_then(|entry| number(&entry.value));
    let (batch, micro) = (given("batch_size"), given("micro_batch_size"));
    let steps = given("gradient_accumulation_steps");
    // The key that `batch_size` determines, and its value.
    let (name, value) = match (batch, micro, steps) {
        (Some(batch), Some(micro), None) => ("gradient_accumulation_steps", Some(batch / micro)),
        (Some(batch), None, Some(steps)) => ("micro_batch_size", Some(batch / steps)),
        (Some(batch), Some(micro), Some(steps)) if batch.to_bits() == (micro * steps).to_bits() => ("batch_size", None),
        (Some(_), Some(_), Some(_)) => {
            let reason = "is not micro_batch_size times gradient_accumulation_steps; remove it";
            return Err(("batch_size", reason.to_owned()));
        }
        _ => ("batch_size", batch),
    };
    for entry in entries {
        match entry.name.as_str() {
            "batch_size" if batch.is_some() => (entry.name, entry.value) = (name.to_owned(), json!(value)),
            "adapter" if entry.value == "lora" => "finetuning_type".clone_into(&mut entry.name),
            _ => {}
        }
    }
    Ok(())
}
