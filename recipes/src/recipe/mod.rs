//! What is taught: a file a recipe.

pub mod dpo;

use std::sync::Arc;

use anyhow::Result;
use burnish_engine::{Objective, with_hint};
use serde::{Deserialize, Serialize};

use crate::config::{FineTuneType, TrainConfig};

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

    /// What it can't do.
    ///
    /// # Errors
    /// A sentence with the key.
    pub fn check(self, config: &TrainConfig) -> Result<()> {
        if self == Self::Sft {
            return Ok(());
        }
        if config.fine_tune_type == FineTuneType::Full {
            return Err(with_hint(
                "`recipe` is dpo and `fine_tune_type` is full: the reference would be a second model in memory",
                "fine_tune_type = \"lora\" trains adapters, and the model without them is the reference",
            ));
        }
        if config.packing {
            return Err(with_hint("`recipe` is dpo and `packing` is on: a row holds one answer", "leave packing out"));
        }
        if !(config.beta > 0.0 && config.beta.is_finite()) {
            return Err(with_hint(format!("`beta` is {}, expected a positive number", config.beta), "0.1 is usual"));
        }
        if !(0.0..0.5).contains(&config.label_smoothing) {
            let found = config.label_smoothing;
            return Err(with_hint(
                format!("`label_smoothing` is {found}, expected 0 or more, and less than 0.5"),
                "0 is off",
            ));
        }
        Ok(())
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
