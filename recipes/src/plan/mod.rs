//! What a run needs of memory, and what would fit, before anything is loaded.

mod budget;
mod changes;
pub mod chip;
mod largest;
mod model;
pub mod preset;
mod storages;
mod text;
mod time;

use anyhow::Result;
use burnish_engine::{Checkpointing, MomentType};
use burnish_lora::{LoraConfig, read_config};
use burnish_memory::{Memory, Place, Step, Trained};
use burnish_models::{Checkpoint, FloatType, ModelConfig, Storage};
use serde::Serialize;

pub use budget::Budget;
pub use changes::Change;
pub use model::Header;
pub use storages::Stored;
pub use time::StepTime;

use crate::config::{FineTuneType, OptimizerKind, TrainConfig};
use crate::recipe;
use crate::storage;

/// A run whose memory is computed, on a backend and in a type that are chosen.
#[derive(Clone, Copy)]
pub struct Planned<'a> {
    /// The configuration.
    pub config: &'a TrainConfig,
    /// The model.
    pub model: &'a ModelConfig,
    /// Its checkpoint, of which only headers are read.
    pub checkpoint: &'a dyn Checkpoint,
    /// The backend.
    pub backend: &'static str,
    /// The type that it computes in.
    pub dtype: FloatType,
    /// Tokens of the largest micro-batch; `None` takes rows of `max_seq_length`.
    pub tokens: Option<usize>,
    /// Tokens of the largest pass without gradients; `None` takes those of a micro-batch.
    pub without_gradients: Option<usize>,
    /// Bytes of this process before the model is loaded, where it is this process that trains.
    pub process: Option<u64>,
}

/// What is free again of a process that has read tokenizer and rows. Measured with glibc.
const FREE_AGAIN: u64 = 64 << 20;

/// Bytes of this process before the model is loaded: tokenizer, rows, and the program.
pub fn process_so_far() -> Option<u64> {
    burnish_engine::bytes::resident_bytes().map(|bytes| bytes.saturating_sub(FREE_AGAIN))
}

/// The plan of a run.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryPlan {
    /// The backend.
    pub backend: &'static str,
    /// The type that it computes in.
    pub dtype: &'static str,
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
    /// What is trained.
    pub trains: String,
    /// How the weights are stored.
    pub storage: String,
    /// What a step takes.
    pub memory: Memory,
    /// The most that is alive at a time.
    pub total: u64,
    /// What is kept for the backward with `grad_checkpoint`, and without it.
    pub activations: Activations,
    /// What the backend may use; `None` where that is not known.
    pub budget: Option<Budget>,
    /// Whether it fits, where the budget is known.
    pub fits: Option<bool>,
    /// Changes that save memory, the cheapest first, if it does not fit.
    pub changes: Vec<Change>,
    /// The largest `batch_size` that fits, all else as it is; 0 if none does.
    pub largest_batch_size: Option<usize>,
    /// The largest `max_seq_length` that fits, all else as it is; 0 if none does.
    pub largest_max_seq_length: Option<usize>,
    /// The largest `rank` that fits, all else as it is; 0 if none does. `None` without adapters.
    pub largest_rank: Option<usize>,
    /// Types and storages of the weights; empty where the budget is not known.
    pub stored: Vec<Stored>,
    /// The time of a step, where the chip is known.
    pub step_time: Option<StepTime>,
}

/// What is kept for the backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Activations {
    /// With `grad_checkpoint`.
    pub checkpointed: u64,
    /// Without it.
    pub all: u64,
}

impl Planned<'_> {
    /// The plan against a budget.
    ///
    /// # Errors
    /// When a matrix can't be stored as the configuration says, or the adapter's folder can't be read.
    pub fn plan(&self, budget: Option<Budget>) -> Result<MemoryPlan> {
        let storage = self.storage()?;
        let memory = self.memory_with(&storage)?;
        let kept = |grad_checkpoint| -> Result<u64> {
            let config = TrainConfig { grad_checkpoint, ..self.config.clone() };
            Ok(Planned { config: &config, ..*self }.memory_with(&storage)?.activations)
        };
        let total = memory.total();
        let fits = budget.as_ref().map(|budget| total <= budget.available);
        let limit = budget.as_ref().map(|budget| budget.available);
        Ok(MemoryPlan {
            backend: self.backend,
            dtype: self.dtype.name(),
            tokens: self.tokens(),
            trains: self.trains()?,
            storage: storage.to_string(),
            total,
            activations: Activations { checkpointed: kept(true)?, all: kept(false)? },
            changes: match limit.filter(|_| fits == Some(false)) {
                Some(limit) => changes::cheapest(self, limit)?,
                None => Vec::new(),
            },
            largest_batch_size: limit.map(|limit| largest::batch_size(self, limit)).transpose()?,
            largest_max_seq_length: limit.map(|limit| largest::max_seq_length(self, limit)).transpose()?,
            largest_rank: limit
                .filter(|_| self.config.fine_tune_type == FineTuneType::Lora && self.config.adapter.is_none())
                .map(|limit| largest::rank(self, limit))
                .transpose()?,
            stored: limit.map(|limit| storages::all(self, limit)).transpose()?.unwrap_or_default(),
            step_time: None,
            memory,
            budget,
            fits,
        })
    }

    /// The time of a step on a chip.
    ///
    /// # Errors
    /// As [`Planned::plan`].
    pub fn step_time(&self, chip: &chip::Rates) -> Result<StepTime> {
        let pass = time::Pass {
            config: self.config,
            model: self.model,
            memory: &self.memory()?,
            tokens: self.tokens(),
            length: self.length(),
            without_gradients: self.without_gradients() * recipe::passes_without_gradients(self.config),
        };
        Ok(pass.on(chip))
    }

    /// What a step takes.
    ///
    /// # Errors
    /// As [`Planned::plan`].
    pub fn memory(&self) -> Result<Memory> {
        self.memory_with(&self.storage()?)
    }

    /// The same, with weights that are stored so.
    fn memory_with(&self, storage: &Storage) -> Result<Memory> {
        let lora = self.lora()?;
        let config = self.config;
        let trained = match config.fine_tune_type {
            FineTuneType::Full => Trained::All,
            FineTuneType::Lora => Trained::Adapters(&lora),
        };
        let step = Step {
            element: self.dtype.size(),
            tokens: self.tokens(),
            without_gradients: self.without_gradients(),
            process: self.process,
            checkpointing: config.grad_checkpoint.then(|| Checkpointing::of(self.backend)),
            moments: match config.optimizer {
                OptimizerKind::Adamw => MomentType::F32,
                OptimizerKind::Adamw8bit => MomentType::EightBit,
            },
            accumulates: config.grad_accumulation_steps > 1,
            has_dropout: config.dropout > 0.0 && config.fine_tune_type == FineTuneType::Lora,
            ..Step::new(self.model, trained, storage.bytes(), place(self.backend))
        };
        Ok(step.memory())
    }

    /// How the weights are stored.
    fn storage(&self) -> Result<Storage> {
        Ok(Storage::of(self.model, self.checkpoint, storage::requested(self.config, self.dtype))?)
    }

    /// The adapters.
    fn lora(&self) -> Result<LoraConfig> {
        Ok(match &self.config.adapter {
            Some(folder) => LoraConfig { dropout: self.config.dropout, ..read_config(folder.as_ref())? },
            None => self.config.lora(),
        })
    }

    fn trains(&self) -> Result<String> {
        let lora = self.lora()?;
        Ok(match self.config.fine_tune_type {
            FineTuneType::Full => "every weight".to_owned(),
            FineTuneType::Lora => format!("adapters of rank {}", lora.rank),
        })
    }

    /// Rows of `max_seq_length`, as far as the model goes, as many as a micro-batch has.
    fn tokens(&self) -> usize {
        self.tokens.unwrap_or_else(|| rows(self.config).saturating_mul(self.length()))
    }

    /// Tokens of the passes without gradients: those of the reference model, and of the rows beside a micro-batch.
    fn without_gradients(&self) -> usize {
        let has = self.config.recipe.has_reference() || recipe::compares_prompts(self.config);
        if has { self.without_gradients.unwrap_or_else(|| self.tokens()) } else { 0 }
    }

    /// Tokens of a row.
    fn length(&self) -> usize {
        self.config.max_seq_length.min(self.model.max_position_embeddings)
    }
}

/// Rows of a micro-batch.
fn rows(config: &TrainConfig) -> usize {
    config.batch_size.saturating_mul(if config.recipe.has_pairs() { 2 } else { 1 })
}

/// Where a backend computes.
fn place(backend: &str) -> Place {
    match backend {
        "cpu" | "candle" | "ndarray" | "tch" | "emulator" | "emulator-stock" => Place::Host,
        _ => Place::Device,
    }
}

#[cfg(test)]
mod tests;
