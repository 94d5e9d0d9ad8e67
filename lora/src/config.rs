//! The configuration of an adapter.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::error::{LoraError, Result};
use crate::init::Init;
use crate::pattern::{Pattern, find, is_named};

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
    /// Parameters that get an adapter as a whole: those that hold the experts of a layer, such as `mlp.experts.gate_up_proj`, or weights
    /// of linear layers and routers, such as `mlp.gate.weight`. The last parts of their names. PEFT has neither dropout nor `DoRA` for
    /// an adapter with such targets.
    pub target_parameters: Vec<String>,
    /// How many blocks get adapters, counted from the last; `None` means all of them.
    pub num_layers: Option<usize>,
    /// Ranks of layers that differ from `rank`.
    pub rank_pattern: Vec<Pattern<usize>>,
    /// Alphas of layers that differ from `alpha`.
    pub alpha_pattern: Vec<Pattern<f64>>,
    /// Train the length of each row of the adapted weights too (`use_dora`; Liu et al. 2024, "DoRA").
    pub dora: bool,
    /// How the factors of a new adapter begin (`init_lora_weights`).
    pub init: Init,
    /// Matrices that are trained as a whole beside the adapters: `embed_tokens`, `lm_head`. If the model uses its embedding as
    /// its head, either name means the one matrix, and it stays both.
    pub modules_to_save: Vec<String>,
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

    /// The names as they are written.
    pub fn list(&self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name.clone()],
            Self::Named(names) => names.clone(),
        }
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
            target_parameters: Vec::new(),
            num_layers: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            dora: false,
            init: Init::Default,
            modules_to_save: Vec::new(),
        }
    }
}

impl LoraConfig {
    /// Factor on the update of a layer that no pattern matches: `alpha / rank`, or `alpha / √rank` for rsLoRA.
    pub fn scale(&self) -> f64 {
        self.scale_for(self.rank, self.alpha)
    }

    /// Rank of the update of a layer or parameter, by its full name.
    pub fn rank_of(&self, layer: &str) -> usize {
        find(&self.rank_pattern, &self.key(layer), self.rank)
    }

    /// Factor on the update of a layer or parameter, by its full name.
    pub fn scale_of(&self, layer: &str) -> f64 {
        self.scale_for(self.rank_of(layer), find(&self.alpha_pattern, &self.key(layer), self.alpha))
    }

    /// The alpha of a rank that gives that factor.
    pub(crate) fn alpha_for(&self, rank: usize, scale: f64) -> f64 {
        scale / self.scale_for(rank, 1.0)
    }

    /// Whether `target_parameters` names a parameter, by its full name.
    pub(crate) fn names_parameter(&self, parameter: &str) -> bool {
        self.target_parameters.iter().any(|target| is_named(parameter, target))
    }

    /// What patterns are compared with: the name of the parameter where the weight of a layer is the target.
    fn key<'a>(&self, layer: &'a str) -> Cow<'a, str> {
        let parameter = format!("{layer}.weight");
        if self.names_parameter(&parameter) { parameter.into() } else { layer.into() }
    }

    fn alphas(&self) -> impl Iterator<Item = f64> {
        [self.alpha].into_iter().chain(self.alpha_pattern.iter().map(|pattern| pattern.value))
    }

    fn scale_for(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        if self.rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// The configuration of this adapter beside the initial factors that were taken out of the base: its rank is doubled, and
    /// its scale stays. Files store it this way, since `W - s B₀A₀ + s B A = W + s [B, -B₀] [A; A₀]`.
    ///
    /// # Source
    /// `subtract_mutated_init` and `save_pretrained` of PEFT 0.21.
    pub(crate) fn converted(&self) -> Self {
        if !self.init.changes_base() {
            return self.clone();
        }
        let factor = if self.rslora { std::f64::consts::SQRT_2 } else { 2.0 };
        Self {
            rank: 2 * self.rank,
            alpha: factor * self.alpha,
            rank_pattern: self.rank_pattern.iter().map(|pattern| pattern.map(|rank| 2 * rank)).collect(),
            alpha_pattern: self.alpha_pattern.iter().map(|pattern| pattern.map(|alpha| factor * alpha)).collect(),
            init: Init::Default,
            ..self.clone()
        }
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
        self.check_parameters()?;
        if let Some(alpha) = self.alphas().find(|alpha| !alpha.is_finite()) {
            return refuse(format!("alpha: expected a finite number, got {alpha}"));
        }
        if self.init.decomposes()
            && let Some(alpha) = self.alphas().find(|alpha| *alpha <= 0.0)
        {
            return refuse(format!("alpha: `init = \"{}\"` needs one above 0, got {alpha}", self.init));
        }
        Ok(())
    }

    /// Refuses what PEFT refuses for adapters of parameters.
    fn check_parameters(&self) -> Result<()> {
        if self.target_parameters.is_empty() {
            return Ok(());
        }
        let targets = self.target_parameters.join(", ");
        let refuse = |what: &str, way: &str| {
            let reason = format!("{what} does not work with adapters of parameters ({targets}), as in PEFT: set {way}");
            Err(LoraError::Config { reason })
        };
        if self.dropout > 0.0 {
            return refuse("dropout", "dropout = 0, or target_modules to layers outside the experts");
        }
        if self.dora {
            return refuse("dora", "dora = false, or target_modules to layers outside the experts");
        }
        if !matches!(self.init, Init::Default | Init::Gaussian) {
            return refuse(&format!("init = \"{}\"", self.init), "init = \"default\"");
        }
        Ok(())
    }
}
