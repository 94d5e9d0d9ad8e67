//! The configuration of an adapter.

use serde::{Deserialize, Serialize};

use crate::error::{LoraError, Result};
use crate::pattern::{Pattern, find};

/// What an adapter computes: the keys of PEFT's `LoraConfig` that decide it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the update (`r`).
    pub rank: usize,
    /// The update is multiplied by `alpha / rank` (`lora_alpha`).
    pub alpha: f64,
    /// In training, the probability that an element of the adapter's input is dropped (`lora_dropout`), at least 0 and below 1.
    pub dropout: f64,
    /// Multiply the update by `alpha / √rank` instead (`use_rslora`; Kalajdzievski 2023, "rsLoRA").
    pub rslora: bool,
    /// Which linear layers get an adapter.
    pub target_modules: TargetModules,
    /// How many blocks get adapters, counted from the last; `None` means all of them.
    pub num_layers: Option<usize>,
    /// Ranks of layers that differ from `rank`.
    pub rank_pattern: Vec<Pattern<usize>>,
    /// Alphas of layers that differ from `alpha`.
    pub alpha_pattern: Vec<Pattern<f64>>,
}

/// Which linear layers of a block get an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// `all-linear`, or the name of one layer.
    One(String),
    /// The last parts of their names, such as `q_proj` or `self_attn.q_proj`.
    Named(Vec<String>),
}

impl TargetModules {
    /// All linear layers of every block.
    pub fn all_linear() -> Self {
        Self::One("all-linear".to_owned())
    }

    /// The names; `None` means all layers.
    pub fn names(&self) -> Option<Vec<&str>> {
        match self {
            Self::One(name) if name == "all-linear" => None,
            Self::One(name) => Some(vec![name]),
            Self::Named(names) if names.iter().any(|name| name == "all-linear") => None,
            Self::Named(names) => Some(names.iter().map(String::as_str).collect()),
        }
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 16.0,
            dropout: 0.0,
            rslora: false,
            target_modules: TargetModules::all_linear(),
            num_layers: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }
}

impl LoraConfig {
    /// Factor on the update of a layer that no pattern matches: `alpha / rank`, or `alpha / √rank` for rsLoRA.
    pub fn scale(&self) -> f64 {
        self.scale_for(self.rank, self.alpha)
    }

    /// Rank of the update of a layer, by its full name.
    pub fn rank_of(&self, layer: &str) -> usize {
        find(&self.rank_pattern, layer, self.rank)
    }

    /// Factor on the update of a layer, by its full name.
    pub fn scale_of(&self, layer: &str) -> f64 {
        self.scale_for(self.rank_of(layer), find(&self.alpha_pattern, layer, self.alpha))
    }

    fn scale_for(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        if self.rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Checks that every value is in range.
    ///
    /// # Errors
    /// [`LoraError::Config`] names the value that is not.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(LoraError::Config { reason });
        if self.rank == 0 || self.rank_pattern.iter().any(|pattern| pattern.value == 0) {
            return refuse("rank: expected at least 1, got 0".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(format!("dropout: expected at least 0 and below 1, got {}", self.dropout));
        }
        let mut alphas = [self.alpha].into_iter().chain(self.alpha_pattern.iter().map(|pattern| pattern.value));
        if let Some(alpha) = alphas.find(|alpha| !alpha.is_finite()) {
            return refuse(format!("alpha: expected a finite number, got {alpha}"));
        }
        Ok(())
    }
}
