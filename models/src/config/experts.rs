//! Experts of feed-forwards.

use crate::error::{ModelError, Result};

/// The experts of a model: feed-forwards of which each token uses a few, chosen by a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// How many there are in a layer.
    pub count: usize,
    /// How many of them a token uses.
    pub per_token: usize,
    /// The inner width of each.
    pub intermediate_size: usize,
    /// Whether the shares of a token's experts are divided by their sum.
    pub normalised: bool,
    /// The layers that have a plain feed-forward instead.
    pub dense_layers: Vec<usize>,
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
        } else {
            return Ok(());
        };
        Err(ModelError::Config { reason })
    }
}
