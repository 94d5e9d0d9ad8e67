//! Keeps the memory pools of a device from growing over micro-batches of changing lengths.
//!
//! A pool keeps what the largest step took. Tensors of other lengths may not fit into its free parts; then it takes more from the device.

use burnish_engine::{Batch, StepItem};

use super::plan::{Plan, Shapes};
use crate::data::Shape;

/// Growth that is tolerated, as a divisor of the pools.
const TOLERATED: u64 = 50;

/// Micro-batches of the run for each that is rehearsed beyond the largest.
const REHEARSED: usize = 50;

/// What is known about the pools of a device.
#[derive(Debug, Default)]
pub struct Pools {
    /// The shapes of the last step; empty before the first.
    shapes: Vec<Shape>,
    /// The most that the pools should take: what the largest micro-batch needed.
    limit: Option<u64>,
    /// Whether they grew beyond that.
    grew: bool,
}

impl Pools {
    /// Whether the pools should be trimmed before a step with these micro-batches: once they grew, whenever shapes change.
    pub fn are_trimmed_for(&mut self, batches: &[Batch]) -> bool {
        let shapes: Vec<Shape> = batches.iter().map(|batch| Shape { length: batch.length, rows: batch.rows }).collect();
        let changed = shapes != self.shapes;
        self.shapes = shapes;
        self.grew && changed
    }

    /// The micro-batches to rehearse after the first step: the largest shape of the run, and the next smaller ones, up to one for every
    /// [`REHEARSED`] micro-batches of the run. Then the pools have their final size, the kernels are compiled, and memory that
    /// does not suffice is found now and not in mid-run.
    pub fn to_rehearse(&self, plan: &Plan, shapes: &Shapes) -> Vec<StepItem> {
        if self.limit.is_some() || shapes.count() <= 1 {
            return Vec::new();
        }
        let most = 1 + shapes.micro_batches() / REHEARSED;
        let others = shapes.by_size().into_iter().take(most).filter(|(shape, ..)| !self.shapes.contains(shape));
        others.map(|(_, epoch, index)| plan.rehearsal(epoch, index)).collect()
    }

    /// Takes note of what the pools hold after a step, and after the rehearsals if there were any.
    pub fn hold(&mut self, reserved: u64) {
        let limit = *self.limit.get_or_insert(reserved + reserved / TOLERATED);
        self.grew |= reserved > limit;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::TrainConfig;
    use crate::data::{BatchOptions, Batches, Example};

    #[test]
    fn a_long_run_rehearses_more_shapes() {
        let example = |length: usize| Example { input_ids: vec![1; length], labels: vec![1; length], desirable: true };
        let batches = Batches::new([40, 80, 300, 160].map(example).to_vec(), BatchOptions::default());
        let config = TrainConfig { iters: 3 * REHEARSED, ..TrainConfig::default() };
        let plan = Plan::new(&config, Arc::new(batches), 0);
        let mut pools = Pools::default();
        pools.are_trimmed_for(&plan.steps().next().unwrap().batches);
        let lengths = |items: Vec<StepItem>| items.iter().map(|item| item.batches[0].length).collect::<Vec<_>>();
        let most = 1 + plan.shapes().micro_batches() / REHEARSED;
        assert!(most > 3);
        assert_eq!(lengths(pools.to_rehearse(&plan, &plan.shapes())), [320, 160, 80]);
    }

    #[test]
    fn the_largest_micro_batch_is_rehearsed_once_and_pools_that_grew_are_trimmed() {
        let example = |length: usize| Example { input_ids: vec![1; length], labels: vec![1; length], desirable: true };
        let batches = Batches::new([40, 40, 300, 80].map(example).to_vec(), BatchOptions::default());
        let plan = Plan::new(&TrainConfig::default(), Arc::new(batches), 0);
        let steps: Vec<StepItem> = plan.steps().collect();
        let mut pools = Pools::default();
        assert!(!pools.are_trimmed_for(&steps[0].batches));
        let rehearsed = pools.to_rehearse(&plan, &plan.shapes());
        assert!(rehearsed.len() == 1 && rehearsed[0].batches == steps[2].batches);
        pools.hold(1000);
        assert!(!pools.are_trimmed_for(&steps[1].batches) && pools.to_rehearse(&plan, &plan.shapes()).is_empty());
        pools.hold(1020);
        assert!(!pools.are_trimmed_for(&steps[2].batches));
        pools.hold(1021);
        assert!(pools.are_trimmed_for(&steps[3].batches) && !pools.are_trimmed_for(&steps[3].batches));

        // The first step had the largest one.
        let mut pools = Pools::default();
        pools.are_trimmed_for(&steps[2].batches);
        assert!(pools.to_rehearse(&plan, &plan.shapes()).is_empty());
    }
}
