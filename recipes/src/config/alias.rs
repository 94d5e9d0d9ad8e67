//! What the keys of other programs mean here.

/// What becomes of another program's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It is a key of ours under another name.
    Same(&'static str),
    /// Its value is turned into keys of ours: `foreign.rs` says how.
    Translated,
    /// It changes nothing here, and this is why.
    Ignored(&'static str),
    /// It asks for something that is not built, and this is what to do.
    NotYet(&'static str),
}

use Meaning::{Ignored, NotYet, Same, Translated};

const NO_4BIT: &str = "quantised bases are not part of this version; leave it out to train on the full weights";
const NO_CHECKPOINTING: &str = "activation checkpointing is not part of this version; leave it out, and lower batch_size \
                                or max_seq_length if memory runs short";
const NO_DORA: &str = "only LoRA and rsLoRA are part of this version; leave it out";
const NO_OTHER_MODULES: &str = "adapters or all weights are trained, nothing between; see fine_tune_type";
const NO_SPLIT: &str = "validation rows come from valid.jsonl in the folder that `data` names";
const NO_TF32: &str = "f32 is computed as the backend does it; see dtype";
const OWN_ATTENTION: &str = "each backend has its own attention";
const OWN_LOG: &str = "each step is a line of metrics.jsonl";
const OWN_ROWS: &str = "rows are told apart by their keys, and prepared anew each time";
const OWN_TEMPLATE: &str = "the checkpoint's own is used";
const STEPS: &str = "say it in optimizer steps: save_every, steps_per_eval";

/// Keys of mlx-lm, Unsloth, TRL, transformers, axolotl and LLaMA-Factory, in snake case; as a flag in kebab case too.
pub const FOREIGN: &[(&str, Meaning)] = &[
    // mlx-lm
    ("lora_layers", Same("num_layers")),
    ("adapter_path", Same("output_dir")),
    ("resume_adapter_file", Same("adapter")),
    ("lora_parameters", Translated),
    ("lr_schedule", NotYet("it is mlx-lm's; say lr_scheduler, warmup and learning_rate")),
    ("train", Ignored("`burnish train` trains")),
    ("test", Ignored("`burnish eval` tests")),
    // Unsloth, TRL and transformers
    ("model_name", Same("model")),
    ("r", Same("rank")),
    ("lora_alpha", Same("alpha")),
    ("lora_dropout", Same("dropout")),
    ("use_rslora", Same("rslora")),
    ("per_device_train_batch_size", Same("batch_size")),
    ("gradient_accumulation_steps", Same("grad_accumulation_steps")),
    ("num_train_epochs", Same("epochs")),
    ("max_steps", Same("iters")),
    ("lr", Same("learning_rate")),
    ("lr_scheduler_type", Same("lr_scheduler")),
    ("warmup_steps", Translated),
    ("warmup_ratio", Translated),
    ("logging_steps", Same("steps_per_report")),
    ("save_steps", Same("save_every")),
    ("eval_steps", Same("steps_per_eval")),
    ("max_length", Same("max_seq_length")),
    ("resume_from_checkpoint", Translated),
    ("adam_beta1", Same("beta1")),
    ("adam_beta2", Same("beta2")),
    ("adam_epsilon", Same("epsilon")),
    ("optim", Same("optimizer")),
    ("random_state", Same("seed")),
    ("overwrite_output_dir", Same("overwrite")),
    ("early_stopping_patience", Same("early_stopping")),
    ("completion_only_loss", Same("mask_prompt")),
    ("assistant_only_loss", Same("mask_prompt")),
    ("full_finetuning", Translated),
    ("eval_strategy", Translated),
    ("evaluation_strategy", Translated),
    ("save_strategy", Translated),
    ("bias", Translated),
    ("load_in_4bit", NotYet(NO_4BIT)),
    ("load_in_8bit", NotYet(NO_4BIT)),
    ("quantization", NotYet(NO_4BIT)),
    ("grad_checkpoint", NotYet(NO_CHECKPOINTING)),
    ("use_gradient_checkpointing", NotYet(NO_CHECKPOINTING)),
    ("gradient_checkpointing", NotYet(NO_CHECKPOINTING)),
    ("use_dora", NotYet(NO_DORA)),
    ("dora", NotYet(NO_DORA)),
    ("loftq_config", NotYet(NO_DORA)),
    ("modules_to_save", NotYet(NO_OTHER_MODULES)),
    ("layers_to_transform", NotYet("num_layers takes the last so many blocks")),
    ("neftune_noise_alpha", NotYet("noise on embeddings is not part of this version; leave it out")),
    ("memory_limit", NotYet("it is not part of this version; leave it out")),
    ("torch_dtype", Same("dtype")),
    ("bf16", Translated),
    ("fp16", Translated),
    ("tf32", Ignored(NO_TF32)),
    ("report_to", Ignored(OWN_LOG)),
    ("logging_strategy", Ignored(OWN_LOG)),
    ("per_device_eval_batch_size", Ignored("validation takes batch_size")),
    ("task_type", Ignored("models here are causal language models")),
    ("dataset_text_field", Ignored(OWN_ROWS)),
    ("dataset_num_proc", Ignored(OWN_ROWS)),
    ("dataloader_num_workers", Ignored(OWN_ROWS)),
    // axolotl
    ("base_model", Same("model")),
    ("datasets", Translated),
    ("sequence_len", Same("max_seq_length")),
    ("sample_packing", Same("packing")),
    ("lora_r", Same("rank")),
    ("lora_target_modules", Same("target_modules")),
    ("lora_target_linear", Translated),
    ("micro_batch_size", Same("batch_size")),
    ("num_epochs", Same("epochs")),
    ("peft_use_rslora", Same("rslora")),
    ("lora_model_dir", Same("adapter")),
    ("train_on_inputs", Translated),
    ("val_set_size", Ignored(NO_SPLIT)),
    ("lora_modules_to_save", NotYet(NO_OTHER_MODULES)),
    ("saves_per_epoch", NotYet(STEPS)),
    ("evals_per_epoch", NotYet(STEPS)),
    ("flash_attention", Ignored(OWN_ATTENTION)),
    ("pad_to_sequence_len", Ignored("rows are padded to the longest of their batch")),
    ("dataset_prepared_path", Ignored(OWN_ROWS)),
    ("group_by_length", Ignored("rows keep the order that shuffle and seed decide")),
    ("chat_template", Ignored(OWN_TEMPLATE)),
    ("model_type", Ignored(OWN_TEMPLATE)),
    ("tokenizer_type", Ignored(OWN_TEMPLATE)),
    ("strict", Ignored("an unknown key is an error always")),
    ("wandb_project", Ignored(OWN_LOG)),
    ("wandb_entity", Ignored(OWN_LOG)),
    ("wandb_watch", Ignored(OWN_LOG)),
    ("wandb_name", Ignored(OWN_LOG)),
    ("wandb_log_model", Ignored(OWN_LOG)),
    // LLaMA-Factory
    ("model_name_or_path", Same("model")),
    ("dataset", Same("data")),
    ("cutoff_len", Same("max_seq_length")),
    ("lora_rank", Same("rank")),
    ("lora_target", Same("target_modules")),
    ("finetuning_type", Same("fine_tune_type")),
    ("adapter_name_or_path", Same("adapter")),
    ("neat_packing", Same("packing")),
    ("train_on_prompt", Translated),
    ("save_every_steps", Same("save_every")),
    ("quantization_bit", NotYet(NO_4BIT)),
    ("max_samples", NotYet("give a shorter file")),
    ("stage", Translated),
    ("do_train", Ignored("`burnish train` trains")),
    ("val_size", Ignored(NO_SPLIT)),
    ("template", Ignored(OWN_TEMPLATE)),
    ("flash_attn", Ignored(OWN_ATTENTION)),
    ("overwrite_cache", Ignored(OWN_ROWS)),
    ("preprocessing_num_workers", Ignored(OWN_ROWS)),
    ("plot_loss", Ignored(OWN_LOG)),
];

/// What a key of another program means, when it is one.
pub(super) fn meaning(name: &str) -> Option<Meaning> {
    FOREIGN.iter().find(|(foreign, _)| *foreign == name).map(|(_, meaning)| *meaning)
}

/// Other programs' names for a key of ours.
pub(super) fn other_names(key: &'static str) -> impl Iterator<Item = &'static str> {
    FOREIGN.iter().filter(move |(_, meaning)| *meaning == Same(key)).map(|(name, _)| *name)
}
