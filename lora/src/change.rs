//! How much an adapter changes the weights of a packed base.

use burnish_models::Checkpoint;

use crate::error::Result;

/// The size of a change of weights, against the quantisation steps of those weights, over all changed matrices that are packed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WeightChange {
    /// How many matrices there are.
    pub matrices: usize,
    /// The root mean square of the change of a weight.
    pub change: f64,
    /// The root mean square of the distance of two neighbouring values that a weight can have.
    pub step: f64,
}

impl WeightChange {
    /// Compares matrices of two checkpoints; `None` if none of them is packed in the first.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub fn of(base: &dyn Checkpoint, changed: &dyn Checkpoint, names: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let (mut matrices, mut weights) = (0, 0);
        let (mut change, mut step) = (0.0, 0.0);
        for name in names {
            let Some(packed) = base.read_packed(&name)? else { continue };
            // Types that only the host reads have no planes.
            let Ok((planes, words)) = packed.to_planes(&name) else { continue };
            let (before, after) = (packed.dequantize(), changed.read_f32(&name)?);
            change += before.iter().zip(&after).map(|(before, after)| f64::from(after - before).powi(2)).sum::<f64>();
            step += planes.mean_square_step(&words) * before.len() as f64;
            (matrices, weights) = (matrices + 1, weights + before.len());
        }
        let root = |sum: f64| (sum / weights as f64).sqrt();
        Ok((weights > 0).then(|| Self { matrices, change: root(change), step: root(step) }))
    }

    /// The change in quantisation steps.
    pub fn steps(&self) -> f64 {
        self.change / self.step
    }
}
