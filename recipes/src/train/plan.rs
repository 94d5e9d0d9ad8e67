//! Which steps a run takes, and on which rows.

use std::sync::Arc;

use burnish_engine::{Checkpointing, Objective, StepItem};

use crate::config::TrainConfig;
use crate::data::{Batches, Epoch};
use crate::recipe;

/// The steps of a run.
#[derive(Clone)]
pub struct Plan {
    /// The training data.
    pub batches: Arc<Batches>,
    /// Micro-batches per optimizer step.
    pub accumulation: usize,
    /// Optimizer steps of the whole run.
    pub total: usize,
    /// Steps already taken.
    pub done: usize,
    /// Seed of dropout.
    pub seed: u64,
    /// How the loss is computed.
    pub objective: Objective,
    /// How blocks are checkpointed, if they are.
    pub checkpointing: Option<Checkpointing>,
}

impl Plan {
    /// Plans `iters` steps, or all steps of the epochs if `iters` is 0.
    pub fn new(config: &TrainConfig, batches: Arc<Batches>, done: usize) -> Self {
        let accumulation = config.grad_accumulation_steps;
        let total = if config.iters > 0 { config.iters } else { config.epochs * batches.steps_per_epoch(accumulation) };
        let checkpointing = config.grad_checkpoint.then(Checkpointing::default);
        Self { batches, accumulation, total, done, seed: config.seed, objective: recipe::objective(config), checkpointing }
    }

    /// The remaining steps.
    pub fn steps(&self) -> Steps {
        Steps { plan: self.clone(), step: self.done, epoch: None }
    }
}

/// Iterates over the remaining steps.
pub struct Steps {
    plan: Plan,
    step: usize,
    /// The epoch of the last step, kept because ordering all rows takes a while.
    epoch: Option<Epoch<Arc<Batches>>>,
}

impl Steps {
    /// Steps taken so far.
    pub fn taken(&self) -> usize {
        self.step
    }

    /// Steps of the whole run.
    pub fn total(&self) -> usize {
        self.plan.total
    }
}

impl Iterator for Steps {
    type Item = StepItem;

    fn next(&mut self) -> Option<StepItem> {
        if self.step >= self.plan.total {
            return None;
        }
        let batches = &self.plan.batches;
        let each = batches.steps_per_epoch(self.plan.accumulation);
        let (epoch, within) = (self.step / each, self.step % each);
        self.step += 1;
        let order = match self.epoch.take() {
            Some(order) if order.number() == epoch => order,
            _ => Epoch::of(batches.clone(), epoch),
        };
        let batches = batches.of_step(within, self.plan.accumulation).map(|index| order.batch(index)).collect();
        self.epoch = Some(order);
        let objective = self.plan.objective.clone();
        let Plan { seed, checkpointing, .. } = self.plan;
        Some(StepItem { step: self.step, epoch, batches, seed, objective, loss_scale: 1.0, checkpointing })
    }
}
