//! What a run needs of memory, and what would fit, before anything is loaded.

mod budget;
mod changes;
mod largest;
mod model;
mod text;

use anyhow::Result;
use burnish_engine::MomentType;
use burnish_lora::{LoraConfig, read_config};
use burnish_memory::{Memory, Place, Step, Trained};
use burnish_models::{Checkpoint, FloatType, ModelConfig, Storage};
use serde::Serialize;

pub use budget::{Budget, check_chip};
pub use changes::Change;
pub use model::Header;

use crate::config::{FineTuneType, OptimizerKind, TrainConfig};
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
            memory,
            budget,
            fits,
        })
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
            grad_checkpoint: config.grad_checkpoint,
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
