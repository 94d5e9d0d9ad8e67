//! Keys whose value is one of a few words.

use std::str::FromStr;

use burnish_models::Quantization;
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

/// How the frozen matrices of the model are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantizationKind {
    /// As the file has them.
    Auto,
    /// As floats.
    None,
    /// Four bits by the quantiles of a normal distribution.
    Nf4,
    /// Four bits times a scale plus a bias.
    Int4,
    /// Eight bits times a scale plus a bias.
    Int8,
}

impl QuantizationKind {
    /// The names that `quantization` accepts.
    pub const NAMES: [&str; 5] = ["auto", "none", "nf4", "int4", "int8"];

    /// The storage, with or without quantised scales for NF4.
    pub fn storage(self, double_quant: bool) -> Quantization {
        match self {
            Self::Auto => Quantization::Auto,
            Self::None => Quantization::None,
            Self::Nf4 => Quantization::Nf4 { double: double_quant },
            Self::Int4 => Quantization::Int4,
            Self::Int8 => Quantization::Int8,
        }
    }
}

impl FromStr for QuantizationKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::None, Self::Nf4, Self::Int4, Self::Int8];
        let found = Self::NAMES.into_iter().zip(all).find(|(known, _)| *known == name);
        found.map(|(_, kind)| kind).ok_or_else(|| format!("expected one of {}, got `{name}`", Self::NAMES.join(", ")))
    }
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
