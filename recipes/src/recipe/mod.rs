//! The recipes, one file each: what is learned, and how the loss is computed.

pub mod dpo;

use std::sync::Arc;

use anyhow::Result;
use burnish_engine::{Objective, with_hint};

use crate::config::{FineTuneType, Recipe, TrainConfig};

/// How a recipe computes the loss of a step from the losses of its tokens.
pub fn objective(config: &TrainConfig) -> Objective {
    match config.recipe {
        Recipe::Sft => Objective::Tokens,
        Recipe::Dpo => Objective::Judged(Arc::new(dpo::Dpo { beta: config.beta, label_smoothing: config.label_smoothing })),
    }
}

/// Checks the configuration against what its recipe supports.
///
/// # Errors
/// When a key has a value that the recipe does not support; the message names the key.
pub fn check(config: &TrainConfig) -> Result<()> {
    match config.recipe {
        Recipe::Sft => Ok(()),
        Recipe::Dpo => check_dpo(config),
    }
}

fn check_dpo(config: &TrainConfig) -> Result<()> {
    if config.fine_tune_type == FineTuneType::Full {
        return Err(with_hint(
            "`recipe` is dpo and `fine_tune_type` is full: the reference would be a second model in memory",
            "fine_tune_type = \"lora\" trains adapters, and the model without them is the reference",
        ));
    }
    if config.packing {
        return Err(with_hint("`recipe` is dpo and `packing` is on, but a row holds one answer", "remove packing"));
    }
    if !(config.beta > 0.0 && config.beta.is_finite()) {
        return Err(with_hint(format!("`beta` should be a positive number, but is {}", config.beta), "0.1 is usual"));
    }
    if !(0.0..0.5).contains(&config.label_smoothing) {
        let found = config.label_smoothing;
        return Err(with_hint(format!("`label_smoothing` should be at least 0 and below 0.5, but is {found}"), "0 is off"));
    }
    Ok(())
}
