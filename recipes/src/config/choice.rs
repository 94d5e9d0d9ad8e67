//! Keys whose value is one of a few words.

use std::str::FromStr;

use burnish_models::Quantization;
use serde::{Deserialize, Serialize};

use crate::data::RowUse;

/// What is learned, and from which rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Supervised fine-tuning: the answers of the rows.
    Sft,
    /// Direct preference optimization: which of two answers is better.
    Dpo,
    /// Odds ratio preference optimization: the chosen texts, and which of two answers is better.
    Orpo,
    /// Kahneman-Tversky optimization: whether an answer is good or bad.
    Kto,
    /// Simple preference optimization: which of two answers is better, by a margin.
    Simpo,
    /// Contrastive preference optimization: the chosen answers, and which of two is better.
    Cpo,
}

impl Recipe {
    /// The names that `train` accepts.
    pub const NAMES: [&str; 6] = ["sft", "dpo", "orpo", "kto", "simpo", "cpo"];
    /// All of them, in the order of their names.
    pub const ALL: [Self; 6] = [Self::Sft, Self::Dpo, Self::Orpo, Self::Kto, Self::Simpo, Self::Cpo];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The rows that it learns from.
    pub fn rows(self) -> RowUse {
        match self {
            Self::Sft => RowUse::Answers,
            Self::Dpo | Self::Orpo | Self::Simpo | Self::Cpo => RowUse::Pairs,
            Self::Kto => RowUse::Ratings,
        }
    }

    /// Whether it learns from pairs of a chosen and a rejected answer.
    pub fn has_pairs(self) -> bool {
        self.rows() == RowUse::Pairs
    }

    /// Whether it compares with a reference model: the model as it was when the run started.
    pub fn has_reference(self) -> bool {
        matches!(self, Self::Dpo | Self::Kto)
    }

    /// The keys of preferences that affect it.
    pub fn preference_keys(self) -> &'static [&'static str] {
        match self {
            Self::Sft => &[],
            Self::Dpo => &["beta", "loss_type", "label_smoothing", "rpo_alpha"],
            Self::Orpo => &["beta"],
            Self::Kto => &["beta", "loss_type", "desirable_weight", "undesirable_weight"],
            Self::Simpo => &["beta", "label_smoothing", "simpo_gamma"],
            Self::Cpo => &["beta", "loss_type", "label_smoothing", "cpo_alpha", "simpo_gamma"],
        }
    }
}

/// The keys of preference recipes.
pub const PREFERENCE_KEYS: [&str; 8] = [
    "beta",
    "loss_type",
    "label_smoothing",
    "rpo_alpha",
    "cpo_alpha",
    "simpo_gamma",
    "desirable_weight",
    "undesirable_weight",
];

/// The keys that have no effect with an adapter, because it has its own.
pub const ADAPTER_KEYS: [&str; 9] =
    ["rank", "alpha", "rslora", "dora", "init", "modules_to_save", "target_modules", "target_parameters", "num_layers"];

/// The loss of a preference recipe, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the recipes document their losses")]
pub enum LossType {
    /// The recipe's own.
    Auto,
    Sigmoid,
    Robust,
    Hinge,
    Ipo,
    SigmoidNorm,
    NcaPair,
    BcoPair,
    SppoHard,
    ApoZero,
    ApoDown,
    Simpo,
    Kto,
    ApoZeroUnpaired,
}

impl LossType {
    /// The names that `loss_type` accepts.
    pub const NAMES: [&str; 14] = [
        "auto",
        "sigmoid",
        "robust",
        "hinge",
        "ipo",
        "sigmoid_norm",
        "nca_pair",
        "bco_pair",
        "sppo_hard",
        "apo_zero",
        "apo_down",
        "simpo",
        "kto",
        "apo_zero_unpaired",
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
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

/// Whether a run measures which way to compute products is the fastest on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tune {
    /// Where the run is long enough to repay it.
    Auto,
    /// Products are computed by default.
    Never,
    /// Whatever it takes.
    Always,
}
