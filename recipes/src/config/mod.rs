//! The configuration of a training run: flag over file over default.

mod alias;
mod foreign;
mod init;
mod key;
mod load;
mod peers;
mod problems;
mod source;

pub use alias::{FOREIGN, Meaning};
pub use init::commented_toml;
pub use key::{Key, Kind};
pub use load::{ConfigError, Loaded, load, read_file};

use std::path::Path;

use burnish_lora::{LoraConfig, TargetModules};
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

use key::{ConfigValue, config};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FineTuneType {
    /// Adapters on a frozen model.
    Lora,
    /// Every weight.
    Full,
}

/// How the learning rate moves after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// It stays.
    Constant,
    /// It falls to zero in a line.
    Linear,
    /// It falls to zero along half a cosine.
    Cosine,
}

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW with f32 moments.
    Adamw,
}

config! {
    /// Everything that `burnish train` can be told.
    pub struct TrainConfig {
        "Model and data" {
            /// Hugging Face folder, hub id, or .gguf file.
            model: String = String::new(),
            /// A .jsonl file, a folder with train.jsonl and valid.jsonl, or a hub id.
            data: String = String::new(),
            /// Longer examples are cut.
            max_seq_length: usize = 2048,
            /// Learn the answers only, not the prompts.
            mask_prompt: bool = true,
            /// Put several examples into one row; they do not see each other.
            packing: bool = false,
            /// A new order of the rows each epoch; false keeps file order.
            shuffle: bool = true,
            /// Count bad rows and go on, instead of stopping at the first.
            skip_bad_rows: bool = false,
        }
        "Machine" {
            /// cpu, candle, wgpu, metal (macOS), vulkan (elsewhere), cuda, emulator or auto.
            backend: String = "auto".to_owned(),
            /// What the frozen model computes in: auto (what the device is best at), f32, f16 or bf16; adapters are f32.
            dtype: String = "auto".to_owned(),
            /// Decides order, adapters and dropout.
            seed: u64 = 42,
        }
        "Run folder" {
            /// Where the run writes; never overwritten without overwrite.
            output_dir: String = "runs/train".to_owned(),
            /// Delete what an earlier run left in output_dir.
            overwrite: bool = false,
            /// auto continues from the newest whole checkpoint, none begins anew, or a checkpoint's folder.
            resume: String = "none".to_owned(),
            /// Resume although the rows or the base model changed since the checkpoint.
            allow_changed_inputs: bool = false,
            /// Optimizer steps between checkpoints; 0 writes none, but for the best where it shall be the result.
            save_every: usize = 100,
            /// Checkpoints kept, the best one besides; 0 keeps all.
            save_total_limit: usize = 2,
            /// End with the weights of the lowest validation loss instead of the last; early_stopping always does.
            load_best_model_at_end: bool = false,
            /// Steps between lines of the log.
            steps_per_report: usize = 10,
        }
        "What is trained" {
            /// sft learns the answers of the rows; dpo learns which of two answers is better.
            recipe: Recipe = Recipe::Sft,
            /// How far dpo may go from the reference: less for more.
            beta: f64 = 0.1,
            /// Share of pairs that dpo expects to be the wrong way round, less than 0.5; 0 is plain dpo.
            label_smoothing: f64 = 0.0,
            /// lora trains adapters, full trains every weight.
            fine_tune_type: FineTuneType = FineTuneType::Lora,
            /// Folder with config.json and tokenizer.json: train its model from scratch; needs fine_tune_type = "full".
            model_config: Option<String> = None,
            /// Start from this PEFT adapter.
            adapter: Option<String> = None,
            /// Rank of the adapters.
            rank: usize = 16,
            /// The update is scaled by alpha / rank.
            alpha: f64 = 16.0,
            /// Probability with which an input element of an adapter is dropped.
            dropout: f64 = 0.0,
            /// Scale by alpha / sqrt(rank) instead.
            rslora: bool = false,
            /// Layers that get adapters: "all-linear", or a list of names such as q_proj.
            target_modules: TargetModules = TargetModules::all_linear(),
            /// Only the last so many blocks get adapters; 0 is all.
            num_layers: usize = 0,
        }
        "Steps" {
            /// Rows of one micro-step.
            batch_size: usize = 4,
            /// Micro-steps of one optimizer step; their loss is the mean over all their tokens.
            grad_accumulation_steps: usize = 1,
            /// Passes over the data; counts when iters is 0.
            epochs: usize = 1,
            /// Optimizer steps; 0 leaves it to epochs.
            iters: usize = 0,
        }
        "Optimizer" {
            /// Peak learning rate.
            learning_rate: f64 = 2e-4,
            /// constant, linear or cosine.
            lr_scheduler: LrScheduler = LrScheduler::Cosine,
            /// Steps of warm-up; below 1 a share of all steps, 0 is off.
            warmup: f64 = 0.03,
            /// adamw keeps its moments in f32.
            optimizer: OptimizerKind = OptimizerKind::Adamw,
            /// Decay of the first moment.
            beta1: f64 = 0.9,
            /// Decay of the second moment.
            beta2: f64 = 0.999,
            /// Added to the root of the second moment.
            epsilon: f64 = 1e-8,
            /// Decoupled weight decay.
            weight_decay: f64 = 0.01,
            /// Longest gradient, all parameters together; 0 is off.
            max_grad_norm: f64 = 1.0,
        }
        "Validation" {
            /// Steps between validations; 0 is off.
            steps_per_eval: usize = 100,
            /// Validation batches at most; 0 is all.
            val_batches: usize = 0,
            /// Validations without improvement before the run ends; 0 is off.
            early_stopping: usize = 0,
        }
    }
}

impl TrainConfig {
    /// The adapter part.
    pub fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            rslora: self.rslora,
            target_modules: self.target_modules.clone(),
            num_layers: (self.num_layers > 0).then_some(self.num_layers),
            ..LoraConfig::default()
        }
    }

    /// The adapter of the reference model, where the recipe compares with one that has an adapter.
    pub fn reference(&self) -> Option<&Path> {
        self.adapter.as_deref().map(Path::new).filter(|_| self.recipe.has_reference())
    }

    /// Whether the result is that of the lowest validation loss, not that of the last step.
    pub fn ends_with_best(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping > 0
    }

    /// The configuration as a TOML file.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// As [`TrainConfig::to_toml`], for a run's own folder: what was allowed once is not allowed to who begins from that file.
    pub fn to_kept_toml(&self) -> String {
        Self { overwrite: false, allow_changed_inputs: false, ..self.clone() }.to_toml()
    }
}

#[cfg(test)]
mod tests;
