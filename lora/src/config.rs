//! What an adapter looks like, under PEFT's names.

use serde::{Deserialize, Serialize};

use crate::error::{LoraError, Result};

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
        }
    }
}

impl LoraConfig {
    /// Factor on the update.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        if self.rslora { self.alpha / rank.sqrt() } else { self.alpha / rank }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`LoraError::Config`] with the value.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(LoraError::Config { reason });
        if self.rank == 0 {
            return refuse("rank must be at least 1".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(format!("dropout {} is not within [0, 1)", self.dropout));
        }
        if !self.alpha.is_finite() {
            return refuse(format!("alpha {} is no number", self.alpha));
        }
        Ok(())
    }
}
