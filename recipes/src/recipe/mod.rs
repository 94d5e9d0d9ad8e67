//! What is taught: a file a recipe.

pub mod dpo;

use std::sync::Arc;

use burnish_engine::objective::Objective;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;

/// What is taught, and from which rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Supervised fine-tuning: the answers of the rows.
    Sft,
    /// Direct preference optimization: which of two answers is better.
    Dpo,
}

impl Recipe {
    /// What `train` takes.
    pub const NAMES: [&str; 2] = ["sft", "dpo"];

    /// From the losses of tokens to that of a step.
    pub fn objective(self, config: &TrainConfig) -> Objective {
        match self {
            Self::Sft => Objective::Tokens,
            Self::Dpo => {
                Objective::Judged(Arc::new(dpo::Dpo { beta: config.beta, label_smoothing: config.label_smoothing }))
            }
        }
    }

    /// Whether it learns from pairs of a chosen and a rejected answer.
    pub fn is_preference(self) -> bool {
        matches!(self, Self::Dpo)
    }

    /// Whether it compares with the model as the run found it.
    pub fn has_reference(self) -> bool {
        matches!(self, Self::Dpo)
    }
}
