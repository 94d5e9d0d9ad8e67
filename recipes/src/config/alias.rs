//! Names that other programs use for the same thing.

/// Another program's name, and ours. Both are snake case; as a flag either may be kebab case.
pub const ALIASES: &[(&str, &str)] = &[
    // mlx-lm
    ("lora_layers", "num_layers"),
    ("adapter_path", "output_dir"),
    ("resume_adapter_file", "adapter"),
    // Unsloth, TRL and transformers
    ("model_name", "model"),
    ("r", "rank"),
    ("lora_alpha", "alpha"),
    ("lora_dropout", "dropout"),
    ("use_rslora", "rslora"),
    ("per_device_train_batch_size", "batch_size"),
    ("gradient_accumulation_steps", "grad_accumulation_steps"),
    ("num_train_epochs", "epochs"),
    ("max_steps", "iters"),
    ("lr", "learning_rate"),
    ("lr_scheduler_type", "lr_scheduler"),
    ("warmup_steps", "warmup"),
    ("warmup_ratio", "warmup"),
    ("logging_steps", "steps_per_report"),
    ("save_steps", "save_every"),
    ("eval_steps", "steps_per_eval"),
    ("max_length", "max_seq_length"),
    ("resume_from_checkpoint", "resume"),
    ("adam_beta1", "beta1"),
    ("adam_beta2", "beta2"),
    ("adam_epsilon", "epsilon"),
    ("early_stopping_patience", "early_stopping"),
    // axolotl
    ("base_model", "model"),
    ("sequence_len", "max_seq_length"),
    ("sample_packing", "packing"),
    ("lora_r", "rank"),
    ("lora_target_modules", "target_modules"),
    ("micro_batch_size", "batch_size"),
    ("num_epochs", "epochs"),
    ("peft_use_rslora", "rslora"),
    ("lora_model_dir", "adapter"),
    // LLaMA-Factory
    ("model_name_or_path", "model"),
    ("dataset", "data"),
    ("cutoff_len", "max_seq_length"),
    ("lora_rank", "rank"),
    ("lora_target", "target_modules"),
    ("finetuning_type", "fine_tune_type"),
    ("adapter_name_or_path", "adapter"),
    ("save_every_steps", "save_every"),
];

/// Keys of other programs that ask for something not built here yet.
pub(super) const NOT_YET: &[(&str, &str)] = &[
    ("load_in_4bit", "4-bit bases are not part of this version; leave it out to train on the full weights"),
    ("load_in_8bit", "8-bit bases are not part of this version; leave it out to train on the full weights"),
    ("quantization", "quantised bases are not part of this version"),
    ("grad_checkpoint", "activation checkpointing is not part of this version"),
    ("use_gradient_checkpointing", "activation checkpointing is not part of this version"),
    ("use_dora", "DoRA is not part of this version"),
    ("dora", "DoRA is not part of this version"),
];

/// Our name for a key, when it is another program's.
pub(super) fn canonical(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, own)| *own)
}
