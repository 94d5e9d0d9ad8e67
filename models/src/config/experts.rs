//! Experts of feed-forwards.

use crate::error::{ModelError, Result};

/// The experts of a model: feed-forwards of which each token uses a few, chosen by a router.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsConfig {
    /// How many there are in a layer.
    pub count: usize,
    /// How many of them a token uses.
    pub per_token: usize,
    /// The inner width of each.
    pub intermediate_size: usize,
    /// How the shares of a token's experts follow from the router's scores.
    pub shares: Shares,
    /// Whether the router and the experts have biases.
    pub biased: bool,
    /// The gate, if it is not that of SwiGLU.
    pub gate: Option<ClampedGate>,
    /// How checkpoints stack the experts of a layer, if they do.
    pub stacking: Stacking,
    /// The layers that have a plain feed-forward instead.
    pub dense_layers: Vec<usize>,
}

/// How the shares of a token's experts follow from the router's scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shares {
    /// Their parts of the softmax of all scores.
    OfAll,
    /// The same, divided by their sum.
    Normalised,
    /// The softmax of their own scores.
    OfChosen,
}

/// The gate of gpt-oss: with `g` and `u` clamped at a limit, `(u + 1) · g · σ(alpha · g)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClampedGate {
    /// The factor within the sigmoid.
    pub alpha: f64,
    /// The gate is at most this; what it is multiplied by is at most this in magnitude.
    pub limit: f64,
}

/// How the tensors `experts.gate_up_proj` and `experts.down_proj` of a checkpoint have the experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stacking {
    /// `[experts, out, in]`; the rows of the gate come before those that it is multiplied by.
    Rows,
    /// `[experts, in, out]`; the columns of the gate and those that it is multiplied by alternate.
    Columns,
}

impl ExpertsConfig {
    /// Checks that the numbers are consistent and not unreasonably large.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the one that is not.
    pub(super) fn check(&self) -> Result<()> {
        let Self { count, per_token, intermediate_size, .. } = self;
        let reason = if !(1..=1 << 12).contains(count) {
            format!("`num_experts`: expected a number from 1 to 4096, got {count}")
        } else if !(1..=*count).contains(per_token) {
            format!("`num_experts_per_tok`: expected a number from 1 to {count}, got {per_token}")
        } else if !(1..=1 << 22).contains(intermediate_size) {
            format!("`moe_intermediate_size`: expected a number from 1 to 4194304, got {intermediate_size}")
        } else if let Some(gate) = self.gate.filter(|gate| !(gate.alpha.is_finite() && gate.limit > 0.0)) {
            format!("`swiglu_alpha` and `swiglu_limit`: expected a finite number and one above 0, got {gate:?}")
        } else {
            return Ok(());
        };
        Err(ModelError::Config { reason })
    }
}
