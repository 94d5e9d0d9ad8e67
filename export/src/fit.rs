//! Checks that weights fit the configuration that is exported with them.

use burnish_models::checkpoint::check_shapes;
use burnish_models::part::declared_tensors;
use burnish_models::{Checkpoint, ModelConfig};

use crate::error::Result;

/// Checks that no tensor is missing or has another shape.
///
/// # Errors
/// [`ModelError::Mismatch`](burnish_models::ModelError::Mismatch) lists all of these.
pub(crate) fn check(config: &ModelConfig, weights: &dyn Checkpoint) -> Result<()> {
    let declared: Vec<_> = declared_tensors(config).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
    Ok(check_shapes(weights, &declared)?)
}
