//! The configuration of a training run. Flags override the file, and the file overrides the defaults.

mod alias;
mod choice;
mod entry;
mod error;
mod foreign;
mod init;
mod key;
mod load;
mod meaning;
mod peers;
mod problems;
mod report_to;
mod source;
mod value;

pub use alias::{FOREIGN, programs};
pub use choice::{
    ADAPTER_KEYS, FineTuneType, LossType, LrScheduler, OptimizerKind, PREFERENCE_KEYS, QuantizationKind, Recipe, Tune,
};
pub use error::ConfigError;
pub use init::{commented_toml, commented_toml_of};
pub use key::{Key, Kind};
pub use load::{Loaded, Needs, Variable, load, load_with, read_file};
pub use meaning::Meaning;
pub use report_to::{ReportTo, Tracker};

use std::path::Path;

use burnish_lora::{Init, LoraConfig, TargetModules};
use burnish_models::Quantization;
use serde::{Deserialize, Serialize};

use crate::data::{Columns, LengthPolicy};
use key::{ConfigValue, config};

config! {
    /// The configuration of `burnish train`.
    pub struct TrainConfig {
        "Model and data" {
            /// Model to fine-tune: a Hugging Face folder, a hub id, or a .gguf file.
            model: String = String::new(),
            /// Training data: a file of rows, a folder with train.jsonl and valid.jsonl, or a hub id; several, with weights: a.jsonl, b.jsonl:0.5
            data: String = String::new(),
            /// Column that is read as `text`.
            text_feature: Option<String> = None,
            /// Column that is read as `prompt`.
            prompt_feature: Option<String> = None,
            /// Column that is read as `completion`.
            completion_feature: Option<String> = None,
            /// Column that is read as `messages`.
            chat_feature: Option<String> = None,
            /// Maximum length of an example in tokens.
            max_seq_length: usize = 2048,
            /// What happens to longer examples: truncate, split (into several), or drop.
            length_policy: LengthPolicy = LengthPolicy::Truncate,
            /// Train on the answers only, not on the prompts.
            mask_prompt: bool = true,
            /// Pack several examples into one row; they don't attend to each other.
            packing: bool = false,
            /// Lay the rows of a micro-batch end to end instead of padding them: less work for the same loss.
            padding_free: bool = true,
            /// Shuffle the rows in each epoch.
            shuffle: bool = true,
            /// Skip and count bad rows instead of stopping at the first.
            skip_bad_rows: bool = false,
            /// Keep prepared rows in the user's cache folder, for the next run and for data larger than memory.
            keep_rows: bool = true,
        }
        "Machine" {
            /// Backend: auto, cpu, wgpu, metal (macOS), vulkan (Linux, Windows), cuda; if built in: candle, emulator.
            backend: String = "auto".to_owned(),
            /// Data type of the frozen model: auto (fastest on the device), f32, f16 or bf16. Adapters are f32.
            dtype: String = "auto".to_owned(),
            /// Storage of the frozen matrices: auto (as in the file), none, nf4 (4.5 bits per weight), int4 or int8.
            quantization: QuantizationKind = QuantizationKind::Auto,
            /// Quantise the scales of nf4 too (4.13 bits per weight).
            double_quant: bool = false,
            /// Quantise embedding and head too, in 8 bits; otherwise they are quantised only if the file has them so.
            quantize_embedding: bool = false,
            /// Train even if the planned memory exceeds what the backend may use.
            allow_over_budget: bool = false,
            /// Measure which way to compute matrix products is the fastest on this device: auto (if the run is long enough), never or always.
            tune: Tune = Tune::Auto,
            /// Random seed of data order, adapters and dropout.
            seed: u64 = 42,
        }
        "Run folder" {
            /// Folder for checkpoints, metrics and the adapter.
            output_dir: String = "runs/train".to_owned(),
            /// Delete the files of an earlier run in output_dir.
            overwrite: bool = false,
            /// Checkpoint to continue from: none, auto (the newest intact one), or its folder.
            resume: String = "none".to_owned(),
            /// Resume even if the rows or the base model changed since the checkpoint.
            allow_changed_inputs: bool = false,
            /// Optimizer steps between checkpoints; 0 saves only what the result needs.
            save_every: usize = 100,
            /// Newest checkpoints to keep, besides the best one; 0 keeps all.
            save_total_limit: usize = 2,
            /// End with the weights of the lowest validation loss instead of the last step's. Implied by early_stopping.
            load_best_model_at_end: bool = false,
            /// Optimizer steps between lines of the log.
            steps_per_report: usize = 10,
            /// Where metrics go besides metrics.jsonl: none, tensorboard, trackio, wandb (offline, for `wandb sync`), or a list of them.
            report_to: ReportTo = ReportTo::default(),
            /// Project of the run in trackio and wandb; empty is burnish, or for wandb WANDB_PROJECT.
            project_name: String = String::new(),
            /// Name of the run in trackio and wandb; empty is the name of output_dir, or for wandb WANDB_NAME.
            run_name: String = String::new(),
            /// Measure how long data, forward, backward and optimizer take in each step; waiting for each makes steps slower.
            timings: bool = false,
            /// macOS: keep the Mac awake while it trains.
            prevent_sleep: bool = true,
        }
        "Method" {
            /// sft: supervised fine-tuning on answers. dpo, orpo, simpo, cpo: preferences in pairs of answers. kto: good and bad answers.
            recipe: Recipe = Recipe::Sft,
            /// dpo, kto: strength of the penalty for leaving the reference model. simpo, cpo: scale of rewards. orpo: weight of the odds ratio.
            beta: f64 = 0.1,
            /// Loss of dpo, kto and cpo under TRL's name, such as sigmoid, ipo, hinge or robust; auto is the recipe's own.
            loss_type: LossType = LossType::Auto,
            /// dpo, simpo, cpo: share of pairs assumed to be mislabelled, from 0 (off) to below 0.5.
            label_smoothing: f64 = 0.0,
            /// dpo: weight of the chosen answers' own loss, which is added.
            rpo_alpha: f64 = 0.0,
            /// cpo: weight of the chosen answers' own loss, which is added.
            cpo_alpha: f64 = 1.0,
            /// simpo: margin by which the reward of the chosen answer should be higher.
            simpo_gamma: f64 = 0.5,
            /// kto: weight of good answers.
            desirable_weight: f64 = 1.0,
            /// kto: weight of bad answers.
            undesirable_weight: f64 = 1.0,
            /// lora: train adapters. full: train every weight.
            fine_tune_type: FineTuneType = FineTuneType::Lora,
            /// Train a new model from scratch, with the config.json and tokenizer.json in this folder; needs fine_tune_type full.
            model_config: Option<String> = None,
            /// Adapter to start from: a PEFT or MLX folder, or a .gguf file.
            adapter: Option<String> = None,
            /// Rank of the adapters.
            rank: usize = 16,
            /// Scale of the adapters' update: alpha / rank.
            alpha: f64 = 16.0,
            /// Dropout probability of the adapters' inputs.
            dropout: f64 = 0.0,
            /// Scale by alpha / sqrt(rank) instead of alpha / rank (rsLoRA).
            rslora: bool = false,
            /// Train the norm of each adapted row too (DoRA).
            dora: bool = false,
            /// Initialisation of the adapters: default (B is zero), gaussian, pissa, pissa_niter_N, olora or loftq.
            init: Init = Init::Default,
            /// Layers to adapt: all-linear, or names such as q_proj,v_proj.
            target_modules: TargetModules = TargetModules::all_linear(),
            /// Parameters of experts and routers to adapt, such as mlp.experts.gate_up_proj,mlp.experts.down_proj.
            target_parameters: TargetModules = TargetModules::Named(Vec::new()),
            /// Matrices to train as a whole besides the adapters: embed_tokens, lm_head.
            modules_to_save: TargetModules = TargetModules::Named(Vec::new()),
            /// Number of blocks to adapt, counted from the last; 0 is all.
            num_layers: usize = 0,
        }
        "Steps" {
            /// Rows in a micro-batch; for dpo, orpo, simpo and cpo, pairs.
            batch_size: usize = 4,
            /// Micro-batches in an optimizer step. The loss is the mean over all their tokens.
            grad_accumulation_steps: usize = 1,
            /// Keep only the input of each block, and compute blocks again for their gradients: much less memory, a third to a half more time.
            grad_checkpoint: bool = false,
            /// Passes over the data, if iters is 0.
            epochs: usize = 1,
            /// Optimizer steps of the run; 0 trains for epochs.
            iters: usize = 0,
        }
        "Optimizer" {
            /// Peak learning rate.
            learning_rate: f64 = 2e-4,
            /// Decay of the learning rate after the warm-up: constant, linear or cosine.
            lr_scheduler: LrScheduler = LrScheduler::Cosine,
            /// Warm-up steps; a value below 1 is a share of all steps; 0 is off.
            warmup: f64 = 0.03,
            /// Optimizer: adamw, or adamw8bit, whose moments take a quarter of the memory.
            optimizer: OptimizerKind = OptimizerKind::Adamw,
            /// Learning rate of the adapters' B over that of A (LoRA+); 1 is off.
            lora_plus_ratio: f64 = 1.0,
            /// Decay rate of the first moment.
            beta1: f64 = 0.9,
            /// Decay rate of the second moment.
            beta2: f64 = 0.999,
            /// Added to the denominator of the update.
            epsilon: f64 = 1e-8,
            /// Decoupled weight decay, of matrices only.
            weight_decay: f64 = 0.01,
            /// Clip the global gradient norm to this value; 0 is off.
            max_grad_norm: f64 = 1.0,
        }
        "Validation" {
            /// Training rows that are used for validation instead: a share below 1, or a number of rows; 0 is off.
            val_split: f64 = 0.0,
            /// Optimizer steps between validations; 0 is off.
            steps_per_eval: usize = 100,
            /// Maximum number of validation batches; 0 is all.
            val_batches: usize = 0,
            /// Stop after this many validations without improvement; 0 is off.
            early_stopping: usize = 0,
            /// Number of validation prompts to answer before and after training, in samples.jsonl, for `burnish report`; 0 is off.
            samples: usize = 0,
        }
    }
}

impl TrainConfig {
    /// The configuration of the adapters.
    pub fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            rslora: self.rslora,
            dora: self.dora,
            // An adapter that is given has begun already.
            init: if self.adapter.is_none() { self.init } else { Init::Default },
            target_modules: self.target_modules.clone(),
            target_parameters: self.target_parameters.list(),
            modules_to_save: self.modules_to_save.list(),
            num_layers: (self.num_layers > 0).then_some(self.num_layers),
            ..LoraConfig::default()
        }
    }

    /// This configuration with the values of an adapter that it starts from.
    fn with_adapter(&self, adapter: LoraConfig) -> Self {
        Self {
            rank: adapter.rank,
            alpha: adapter.alpha,
            rslora: adapter.rslora,
            dora: adapter.dora,
            init: Init::Default,
            target_modules: adapter.target_modules,
            target_parameters: TargetModules::Named(adapter.target_parameters),
            modules_to_save: TargetModules::Named(adapter.modules_to_save),
            num_layers: adapter.num_layers.unwrap_or(0),
            ..self.clone()
        }
    }

    /// The names of columns that differ from ours.
    pub fn columns(&self) -> Columns {
        let other = |column: &Option<String>, own: &str| column.clone().filter(|column| column != own);
        Columns {
            text: other(&self.text_feature, "text"),
            prompt: other(&self.prompt_feature, "prompt"),
            completion: other(&self.completion_feature, "completion"),
            chat: other(&self.chat_feature, "messages"),
        }
    }

    /// How the frozen matrices of linear layers are stored.
    pub fn storage(&self) -> Quantization {
        self.quantization.storage(self.double_quant)
    }

    /// The reference model's adapter, if the recipe has such a reference.
    pub fn reference(&self) -> Option<&Path> {
        self.adapter.as_deref().map(Path::new).filter(|_| self.recipe.has_reference())
    }

    /// Whether the run ends with the weights of the lowest validation loss instead of the last step's.
    pub fn ends_with_best(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping > 0
    }

    /// The configuration as a TOML file.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// Like [`TrainConfig::to_toml`], for the run's own folder: without the permissions that were given for this run only.
    pub fn to_kept_toml(&self) -> String {
        Self { overwrite: false, allow_changed_inputs: false, allow_over_budget: false, ..self.clone() }.to_toml()
    }
}

#[cfg(test)]
mod tests;
