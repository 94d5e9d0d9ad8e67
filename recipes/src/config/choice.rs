//! Keys whose value is one of a few words.

use serde::{Deserialize, Serialize};

/// What is learned, and from which rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Supervised fine-tuning: the answers of the rows.
    Sft,
    /// Direct preference optimization: which of two answers is better.
    Dpo,
}

impl Recipe {
    /// The names that `train` accepts.
    pub const NAMES: [&str; 2] = ["sft", "dpo"];

    /// Whether it learns from pairs of a chosen and a rejected answer.
    pub fn is_preference(self) -> bool {
        matches!(self, Self::Dpo)
    }

    /// Whether it compares with a reference model: the model as it was when the run started.
    pub fn has_reference(self) -> bool {
        matches!(self, Self::Dpo)
    }
}

/// Which weights are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FineTuneType {
    /// Adapters on a frozen model.
    Lora,
    /// Every weight.
    Full,
}

/// The learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Stays constant.
    Constant,
    /// Falls to zero linearly.
    Linear,
    /// Falls to zero along half a cosine.
    Cosine,
}

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW with f32 moments.
    Adamw,
    /// AdamW with moments in eight bits.
    Adamw8bit,
}
