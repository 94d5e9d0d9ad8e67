//! LLaMA-Factory: `llamafactory-cli train sft.yaml`.

mod settings;

use serde_json::{Map, Value, json};

use super::{
    CHECKPOINTING, NO_EVALUATION, NO_LAYERS, NO_LOSS, NO_LOSS_PART, NO_NEW_TOKENS, NO_OPTIMIZER, NO_OTHER_MODULES,
    NO_REFERENCE, ONE_ATTENTION, ONLY_NF4, OWN_KERNELS, OWN_LOG, OWN_ROWS, OWN_TEMPLATE, Peer, TEXT_ONLY, with_double_quant,
};
use crate::config::entry::Entry;
use crate::config::meaning::Meaning::{self, Harmless, Only, Refused, Same, Translated};
use crate::config::value::number;

const ONE_FILE: &str = "put the rows into one file, in the order you want";

const KEYS: &[(&str, Meaning)] = &[
    ("cutoff_len", Same("max_seq_length")),
    ("lora_rank", Same("rank")),
    ("lora_target", Same("target_modules")),
    ("finetuning_type", Same("fine_tune_type")),
    ("adapter_name_or_path", Same("adapter")),
    ("neat_packing", Same("packing")),
    ("early_stopping_steps", Same("early_stopping")),
    ("save_every_steps", Same("save_every")),
    ("dataset", Translated),
    ("train_on_prompt", Translated),
    ("disable_shuffling", Translated),
    ("pure_bf16", Translated),
    ("stage", Translated),
    ("pref_loss", Translated),
    ("pref_beta", Same("beta")),
    ("pref_ftx", Same("rpo_alpha")),
    ("kto_chosen_weight", Same("desirable_weight")),
    ("kto_rejected_weight", Same("undesirable_weight")),
    ("pref_bco_weight", Refused(NO_LOSS_PART)),
    ("ref_model", Refused(NO_REFERENCE)),
    ("ref_model_adapters", Refused(NO_REFERENCE)),
    ("ref_model_quantization_bit", Refused(NO_REFERENCE)),
    ("reward_model_type", Harmless("it belongs to `stage: ppo`, which is refused")),
    ("do_train", Only(&["true"], "`burnish train` trains, `burnish eval` evaluates")),
    ("val_size", Same("val_split")),
    ("eval_dataset", Harmless(NO_EVALUATION)),
    ("eval_on_each_dataset", Harmless(NO_EVALUATION)),
    ("eval_num_beams", Harmless(NO_EVALUATION)),
    ("compute_accuracy", Harmless(NO_EVALUATION)),
    ("template", Harmless(OWN_TEMPLATE)),
    ("tool_format", Harmless(OWN_TEMPLATE)),
    ("enable_thinking", Harmless(OWN_TEMPLATE)),
    ("default_system", Refused("put the system message into each row")),
    ("dataset_dir", Harmless("`dataset` is a path, or a hub id")),
    ("media_dir", Harmless(TEXT_ONLY)),
    ("image_max_pixels", Harmless(TEXT_ONLY)),
    ("image_min_pixels", Harmless(TEXT_ONLY)),
    ("video_max_pixels", Harmless(TEXT_ONLY)),
    ("video_min_pixels", Harmless(TEXT_ONLY)),
    ("freeze_vision_tower", Harmless(TEXT_ONLY)),
    ("freeze_multi_modal_projector", Harmless(TEXT_ONLY)),
    ("freeze_language_model", Refused(TEXT_ONLY)),
    ("overwrite_cache", Harmless(OWN_ROWS)),
    ("preprocessing_num_workers", Harmless(OWN_ROWS)),
    ("preprocessing_batch_size", Harmless(OWN_ROWS)),
    ("tokenized_path", Harmless(OWN_ROWS)),
    ("streaming", Harmless(OWN_ROWS)),
    ("buffer_size", Harmless(OWN_ROWS)),
    ("mix_strategy", Only(&["concat"], ONE_FILE)),
    ("interleave_probs", Refused(ONE_FILE)),
    ("max_samples", Refused("use a shorter file")),
    ("mask_history", Refused("every answer of a chat is trained on; set `weight: 0` on a message to leave it out")),
    ("ignore_pad_token_for_loss", Only(&["true"], NO_LOSS)),
    ("use_dft_loss", Refused(NO_LOSS)),
    ("plot_loss", Harmless(OWN_LOG)),
    ("use_swanlab", Harmless(OWN_LOG)),
    ("swanlab_project", Harmless(OWN_LOG)),
    ("swanlab_run_name", Harmless(OWN_LOG)),
    ("swanlab_mode", Harmless(OWN_LOG)),
    ("print_param_status", Harmless(OWN_LOG)),
    ("flash_attn", Harmless(ONE_ATTENTION)),
    ("shift_attn", Refused("attention covers the whole row; remove it")),
    ("use_unsloth", Harmless(OWN_KERNELS)),
    ("enable_liger_kernel", Harmless(OWN_KERNELS)),
    ("use_unsloth_gc", Translated),
    ("disable_gradient_checkpointing", Translated),
    ("use_reentrant_gc", Harmless(CHECKPOINTING)),
    ("upcast_layernorm", Harmless("norms are computed in f32")),
    ("upcast_lmhead_output", Harmless("the loss is computed in f32")),
    ("use_fast_tokenizer", Harmless("tokenizer.json is read")),
    ("resize_vocab", Refused(NO_NEW_TOKENS)),
    ("add_tokens", Refused(NO_NEW_TOKENS)),
    ("add_special_tokens", Refused(NO_NEW_TOKENS)),
    ("split_special_tokens", Refused("special tokens are never split; remove it")),
    ("train_from_scratch", Refused("set model_config and fine_tune_type = \"full\"")),
    ("rope_scaling", Refused("it follows from the checkpoint's config.json; remove it")),
    ("infer_backend", Harmless("it concerns inference, not training")),
    ("infer_dtype", Harmless("it concerns inference, not training")),
    ("quantization_bit", Translated),
    ("quantization_method", Only(&["bnb", "bitsandbytes"], "only bitsandbytes' formats are supported; remove it")),
    ("quantization_type", Only(&["nf4"], ONLY_NF4)),
    ("double_quantization", Same("double_quant")),
    ("fp8", Refused("see `dtype` for the supported types; remove it")),
    ("pissa_init", Refused("set init = \"pissa_niter_16\", or \"pissa\" for its `pissa_iter: -1`, and remove it")),
    ("pissa_iter", Harmless("it is part of init, as in \"pissa_niter_16\"")),
    ("pissa_convert", Harmless("an adapter of PiSSA is always written as one on the original weights")),
    ("create_new_adapter", Refused("training continues with the given adapter; remove it")),
    ("additional_target", Same("modules_to_save")),
    ("freeze_trainable_layers", Harmless(NO_LAYERS)),
    ("freeze_trainable_modules", Harmless(NO_LAYERS)),
    ("use_llama_pro", Refused(NO_OTHER_MODULES)),
    ("use_galore", Refused(NO_OPTIMIZER)),
    ("use_apollo", Refused(NO_OPTIMIZER)),
    ("use_badam", Refused(NO_OPTIMIZER)),
    ("use_adam_mini", Refused(NO_OPTIMIZER)),
    ("use_muon", Refused(NO_OPTIMIZER)),
    ("export_dir", Harmless("`burnish export` and `burnish merge` write models")),
];

pub(in crate::config) const PEER: Peer = Peer {
    name: "LLaMA-Factory",
    keys: KEYS,
    settings: settings::SETTINGS,
    signs: &["stage", "finetuning_type", "cutoff_len", "lora_target", "template", "do_train"],
    defaults,
    traps,
};

/// What `dataset` names there is looked up in `dataset_info.json`, which is not read here.
fn traps(given: &Map<String, Value>) -> Vec<String> {
    let name = given.get("data").and_then(Value::as_str).filter(|name| !name.contains(['/', '\\', '.']));
    let trap = |name| {
        format!(
            "names of LLaMA-Factory's dataset_info.json are not looked up: `dataset: {name}` is a file, a folder or a hub id here"
        )
    };
    name.map(trap).into_iter().collect()
}

/// From its `LoraArguments` and transformers' `TrainingArguments`; alpha is twice the rank.
fn defaults(given: &Map<String, Value>) -> Value {
    let rank = given.get("rank").and_then(Value::as_u64).unwrap_or(8);
    let defaults = json!({
        "rank": 8, "alpha": 2.0 * rank as f64, "batch_size": 8, "epochs": 3, "learning_rate": 5e-5,
        "lr_scheduler": "linear", "warmup": 0.0, "weight_decay": 0.0, "grad_checkpoint": true,
    });
    with_double_quant(given, defaults)
}

/// Reads `pref_loss` and `pref_ftx`, whose meaning depends on each other and on `stage`, as its trainers do.
///
/// # Errors
/// The key, and why it is not supported.
pub(in crate::config) fn rewrite(entries: &mut Vec<Entry>, notes: &mut Vec<String>) -> Result<(), (&'static str, String)> {
    let given = |name: &str| entries.iter().find(|entry| entry.name == name).map(|entry| &entry.value);
    let stage = given("stage").and_then(Value::as_str).unwrap_or("dpo").to_owned();
    let loss = given("pref_loss").and_then(Value::as_str).unwrap_or_default().to_owned();
    let ftx = given("pref_ftx").and_then(number).filter(|weight| *weight > 0.0);
    if stage != "dpo" {
        if !loss.is_empty() {
            notes.push(format!("`pref_loss` has no effect: `stage` is {stage}"));
            entries.retain(|entry| entry.name != "pref_loss");
        }
        return match ftx {
            Some(ftx) if stage == "kto" => {
                Err(("pref_ftx", format!("= {ftx} is not supported: kto has no loss of the chosen answers; remove it")))
            }
            _ => Ok(()),
        };
    }
    match (loss.as_str(), ftx) {
        ("orpo", Some(ftx)) => {
            let reason =
                format!("= {ftx} is not supported: the loss of orpo has that of the chosen texts already; remove it");
            Err(("pref_ftx", reason))
        }
        ("orpo", None) => {
            notes.push(
                "`pref_loss` is orpo, which learns the prompts of chosen answers too, as in TRL; \
                 LLaMA-Factory learns the answers only"
                    .to_owned(),
            );
            Ok(())
        }
        ("simpo", Some(ftx)) => {
            notes.push(format!(
                "`pref_loss` simpo with `pref_ftx` is read as `recipe = \"cpo\"`, `loss_type = \"simpo\"`, `cpo_alpha = {ftx:?}`"
            ));
            entries.retain(|entry| !["stage", "pref_loss", "pref_ftx"].contains(&entry.name.as_str()));
            let keys: [(&str, Value); 3] =
                [("recipe", "cpo".into()), ("loss_type", "simpo".into()), ("cpo_alpha", ftx.into())];
            entries.extend(keys.map(|(name, value)| Entry::new(name, value)));
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_dataset_info_is_told() {
        let told = |data: &str| traps(json!({ "data": data }).as_object().unwrap());
        assert!(told("identity")[0].contains("`dataset: identity` is a file"));
        for data in ["./rows", "rows.json", "owner/name"] {
            assert!(told(data).is_empty(), "{data}");
        }
    }
}
