//! Which steps a run takes, and on which rows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use burnish_engine::{Checkpointing, Objective, StepItem};

use crate::config::TrainConfig;
use crate::data::{Batches, Epoch, Shape};
use crate::recipe::{self, kto::has_one_prompt, kto::longest_beside};

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
    /// Whether the parts of a step are measured.
    pub timed: bool,
}

impl Plan {
    /// Plans `iters` steps, or all steps of the epochs if `iters` is 0.
    pub fn new(config: &TrainConfig, batches: Arc<Batches>, done: usize) -> Self {
        let accumulation = config.grad_accumulation_steps;
        let total = if config.iters > 0 { config.iters } else { config.epochs * batches.steps_per_epoch(accumulation) };
        let checkpointing = config.grad_checkpoint.then(|| Checkpointing::of(&config.backend));
        let objective = recipe::objective(config, &batches);
        let (seed, timed) = (config.seed, config.timings);
        Self { batches, accumulation, total, done, seed, objective, checkpointing, timed }
    }

    /// The shapes of the remaining micro-batches.
    pub fn shapes(&self) -> Shapes {
        let mut shapes = Shapes::default();
        self.visit(|epoch, index| shapes.take(epoch.shape(index), epoch.number(), index));
        shapes
    }

    /// A note on the remaining micro-batches in which the recipe can't compare prompts.
    pub fn note(&self, config: &TrainConfig) -> Option<String> {
        if !recipe::compares_prompts(config) {
            return None;
        }
        let mut count = 0;
        self.visit(|epoch, index| count += usize::from(has_one_prompt(epoch.examples(index))));
        let (are, their) = if count == 1 { ("micro-batch has", "its") } else { ("micro-batches have", "their") };
        (count > 0).then(|| {
            format!("{count} {are} answers to one prompt only; {their} KL is taken from the answers themselves, as in TRL")
        })
    }

    /// Tokens of the largest pass without gradients, where the recipe has others than those of its micro-batches: each prompt with
    /// another's answer, of which the longest may be taken more than once.
    pub fn without_gradients(&self, config: &TrainConfig) -> Option<usize> {
        if !recipe::compares_prompts(config) {
            return None;
        }
        let mut most = 0;
        self.visit(|epoch, index| most = most.max(longest_beside(epoch.examples(index), config.max_seq_length)));
        let of_batches = self.shapes().largest().map_or(0, Shape::size);
        Some(most.max(of_batches))
    }

    /// Goes through the remaining micro-batches.
    fn visit(&self, mut visit: impl FnMut(&Epoch<&Batches>, usize)) {
        let each = self.batches.steps_per_epoch(self.accumulation).max(1);
        let mut step = self.done;
        while step < self.total {
            let epoch = Epoch::of(&*self.batches, step / each);
            for step in step..self.total.min(epoch.number() * each + each) {
                for index in self.batches.of_step(step % each, self.accumulation) {
                    visit(&epoch, index);
                }
            }
            step = epoch.number() * each + each;
        }
    }

    /// A step of one micro-batch, to be rehearsed.
    pub fn rehearsal(&self, epoch: usize, index: usize) -> StepItem {
        let batches = vec![self.batches.batch(epoch, index)];
        let Self { seed, checkpointing, .. } = *self;
        StepItem {
            step: 1,
            epoch,
            batches,
            seed,
            objective: self.objective.clone(),
            loss_scale: 1.0,
            checkpointing,
            timed: false,
        }
    }

    /// The remaining steps.
    pub fn steps(&self) -> Steps {
        Steps { plan: self.clone(), step: self.done, epoch: None }
    }
}

/// The shapes of a run's micro-batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shapes {
    /// Epoch and index of the first batch of each shape.
    all: BTreeMap<Shape, (usize, usize)>,
    /// The number of micro-batches.
    micro_batches: usize,
}

impl Shapes {
    fn take(&mut self, shape: Shape, epoch: usize, index: usize) {
        self.all.entry(shape).or_insert((epoch, index));
        self.micro_batches += 1;
    }

    /// The number of different shapes.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The number of micro-batches.
    pub fn micro_batches(&self) -> usize {
        self.micro_batches
    }

    /// The shapes, the largest first, with epoch and index of the first batch that has each.
    pub fn by_size(&self) -> Vec<(Shape, usize, usize)> {
        let mut all: Vec<_> = self.all.iter().map(|(shape, (epoch, index))| (*shape, *epoch, *index)).collect();
        all.sort_by_key(|(shape, ..)| std::cmp::Reverse(shape.size()));
        all
    }

    /// The largest shape.
    pub fn largest(&self) -> Option<Shape> {
        self.all.keys().copied().max_by_key(|shape| shape.size())
    }
}

impl fmt::Display for Shapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Shape { rows, length }) = self.largest() else { return f.write_str("no micro-batches") };
        match self.count() {
            1 => write!(f, "every micro-batch has {rows} × {length} tokens"),
            count => write!(f, "micro-batches of {count} shapes, the largest {rows} × {length} tokens"),
        }
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
        let each = batches.steps_per_epoch(self.plan.accumulation).max(1);
        let (epoch, within) = (self.step / each, self.step % each);
        self.step += 1;
        let order = match self.epoch.take() {
            Some(order) if order.number() == epoch => order,
            _ => Epoch::of(batches.clone(), epoch),
        };
        let batches = batches.of_step(within, self.plan.accumulation).map(|index| order.batch(index)).collect();
        self.epoch = Some(order);
        let objective = self.plan.objective.clone();
        let Plan { seed, checkpointing, timed, .. } = self.plan;
        Some(StepItem { step: self.step, epoch, batches, seed, objective, loss_scale: 1.0, checkpointing, timed })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Recipe;
    use crate::data::{BatchOptions, Example};

    /// A run over rows of these lengths.
    fn plan(lengths: &[usize], options: BatchOptions, iters: usize) -> Plan {
        let example = |length: &usize| Example { input_ids: vec![1; *length], labels: vec![1; *length], desirable: true };
        let batches = Arc::new(Batches::new(lengths.iter().map(example).collect::<Vec<_>>(), options));
        let config = TrainConfig { iters, grad_accumulation_steps: 2, ..TrainConfig::default() };
        Plan::new(&config, batches, 0)
    }

    #[test]
    fn the_shapes_are_those_of_the_steps() {
        let lengths: Vec<usize> = (0..37).map(|index| 40 + index * 61 % 281).collect();
        for padding_free in [false, true] {
            let options = BatchOptions { batch_size: 3, padding_free, shuffle_seed: Some(1), ..BatchOptions::default() };
            let mut plan = plan(&lengths, options, 17);
            plan.done = 4;
            let shapes = plan.shapes();
            let batches: Vec<_> = plan.steps().flat_map(|item| item.batches).collect();
            let all: BTreeSet<Shape> =
                batches.iter().map(|batch| Shape { length: batch.length, rows: batch.rows }).collect();
            assert!(shapes.all.keys().eq(&all) && shapes.micro_batches() == batches.len());
            let by_size = shapes.by_size();
            assert!(by_size.is_sorted_by_key(|(shape, ..)| std::cmp::Reverse(shape.size())) && by_size.len() == all.len());
            assert_eq!(shapes.largest().unwrap().size(), by_size[0].0.size());
            for (shape, epoch, index) in by_size {
                let rehearsed = &plan.rehearsal(epoch, index).batches[0];
                assert_eq!((rehearsed.length, rehearsed.rows), (shape.length, shape.rows));
                assert!(batches.contains(rehearsed));
            }
            assert!(shapes.to_string().starts_with(&format!("micro-batches of {} shapes, the largest ", all.len())));
        }
    }

    #[test]
    fn micro_batches_of_one_prompt_are_counted() {
        // The prompts are the first tokens, all the same; an epoch has micro-batches of 2, 2 and 1 examples.
        let options = BatchOptions { batch_size: 2, ..BatchOptions::default() };
        let mut plan = plan(&[4; 5], options, 4);
        let kto = TrainConfig { recipe: Recipe::Kto, ..TrainConfig::default() };
        let note = plan.note(&kto).unwrap();
        assert!(note.starts_with("6 micro-batches have answers to one prompt only; their KL"), "{note}");
        plan.done = 3;
        assert!(plan.note(&kto).unwrap().starts_with("1 micro-batch has answers"));
        assert!(plan.note(&TrainConfig::default()).is_none());
    }

    #[test]
    fn packed_rows_have_one_shape() {
        let options = BatchOptions { batch_size: 2, max_seq_length: 64, packing: true, ..BatchOptions::default() };
        let shapes = plan(&[32; 16], options, 3).shapes();
        assert_eq!(shapes.to_string(), "every micro-batch has 1 × 128 tokens");
        assert_eq!(plan(&[32; 16], options, 0).shapes().count(), 1);
    }
}
