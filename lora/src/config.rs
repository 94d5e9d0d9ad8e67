//! What an adapter looks like, under PEFT's names.

use serde::{Deserialize, Serialize};

use crate::error::{LoraError, Result};
use crate::pattern::{Pattern, find};

/// The parts of PEFT's `LoraConfig` that decide what an adapter computes.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an input element of the adapter is dropped in training.
    pub dropout: f64,
    /// Scale by `alpha / √rank` instead (Kalajdzievski 2023, "rsLoRA").
    pub rslora: bool,
    /// Which linear layers.
    pub target_modules: TargetModules,
    /// Only the last so many blocks; all of them when absent.
    pub num_layers: Option<usize>,
    /// Other ranks, by layer.
    pub rank_pattern: Vec<Pattern<usize>>,
    /// Other alphas, by layer.
    pub alpha_pattern: Vec<Pattern<f64>>,
}

/// Which linear layers of a block get an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// `all-linear`, or one name.
    One(String),
    /// By the last parts of their names, such as `q_proj`.
    Named(Vec<String>),
}

impl TargetModules {
    /// All linear layers of the blocks.
    pub fn all_linear() -> Self {
        Self::One("all-linear".to_owned())
    }

    /// The names, or `None` for all.
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
    /// Factor on the update, where no pattern gives a layer another rank or alpha.
    pub fn scale(&self) -> f64 {
        self.scale_for(self.rank, self.alpha)
    }

    /// Rank of the update of a layer.
    pub fn rank_of(&self, layer: &str) -> usize {
        find(&self.rank_pattern, layer, self.rank)
    }

    /// Factor on the update of a layer.
    pub fn scale_of(&self, layer: &str) -> f64 {
        self.scale_for(self.rank_of(layer), find(&self.alpha_pattern, layer, self.alpha))
    }

    fn scale_for(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        if self.rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`LoraError::Config`] with the value.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(LoraError::Config { reason });
        if self.rank == 0 || self.rank_pattern.iter().any(|pattern| pattern.value == 0) {
            return refuse("rank must be at least 1".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(format!("dropout {} is not within [0, 1)", self.dropout));
        }
        let mut alphas = [self.alpha].into_iter().chain(self.alpha_pattern.iter().map(|pattern| pattern.value));
        if let Some(alpha) = alphas.find(|alpha| !alpha.is_finite()) {
            return refuse(format!("alpha {alpha} is not finite"));
        }
        Ok(())
    }
}
