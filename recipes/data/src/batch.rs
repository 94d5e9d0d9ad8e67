//! Lays out examples as batches, in an order that depends only on seed and epoch.

use std::borrow::{Borrow, Cow};
use std::ops::Range;

use burnish_engine::{Batch, IGNORE, bucket};

use super::examples::Examples;
use super::tokenize::Example;

pub(crate) mod order;
mod pack;

/// Granules of the largest batch below which batches keep their own lengths.
const SMALL: usize = 16;

/// How batches are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Rows in a batch.
    pub batch_size: usize,
    /// Maximum length of a row.
    pub max_seq_length: usize,
    /// Whether several examples are packed into a row.
    pub packing: bool,
    /// Whether the rows of a batch lie end to end, as one row without padding between them.
    pub padding_free: bool,
    /// Seed of the order in each epoch; `None` keeps the order of the file.
    pub shuffle_seed: Option<u64>,
    /// Whether every two consecutive examples are a preference pair, which stays together; `batch_size` then counts pairs.
    pub preference_pairs: bool,
    /// What the tokens of a batch without padding are rounded up to a multiple of, where the largest batch is many times that. It saves
    /// kernels for incomplete tiles where each takes seconds to compile.
    pub granule: usize,
    /// Pads short rows; padding is neither attended to nor trained on.
    pub pad_token_id: u32,
}

impl Default for BatchOptions {
    /// Single rows of up to 2048 tokens, in the order of the file, without padding.
    fn default() -> Self {
        Self {
            batch_size: 1,
            max_seq_length: 2048,
            packing: false,
            padding_free: true,
            shuffle_seed: None,
            preference_pairs: false,
            granule: 1,
            pad_token_id: 0,
        }
    }
}

impl BatchOptions {
    /// A sample is a row, or a preference pair.
    fn rows_per_sample(&self) -> usize {
        if self.preference_pairs { 2 } else { 1 }
    }

    /// One batch of all these examples, each in a row of its own, whose tokens are rounded up to a multiple of the granule.
    pub fn lay_out(&self, examples: &[Example]) -> Batch {
        lay_out(&examples.iter().map(|example| vec![example]).collect::<Vec<_>>(), self)
    }
}

/// The shape of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// Tokens in a row, padding included.
    pub length: usize,
    /// Rows.
    pub rows: usize,
}

impl Shape {
    /// The shape for rows of these lengths.
    fn of(lengths: &[usize], options: &BatchOptions) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (used, rows) = if options.padding_free { (lengths.iter().sum(), 1) } else { (longest, lengths.len()) };
        let limit =
            if options.padding_free { options.max_seq_length.saturating_mul(lengths.len()) } else { options.max_seq_length };
        // Examples should not exceed max_seq_length, but a caller may not have truncated them.
        let length = bucket(used).next_multiple_of(options.granule.max(1)).min(limit).max(used);
        Self { length, rows: rows.min(lengths.len()) }
    }

    /// Tokens of all rows.
    pub fn size(self) -> usize {
        self.rows * self.length
    }
}

/// Pads rows of examples to the same length, or lays them end to end.
fn lay_out<E: Borrow<Example>>(rows: &[Vec<E>], options: &BatchOptions) -> Batch {
    let length_of = |row: &Vec<E>| row.iter().map(|example| example.borrow().input_ids.len()).sum::<usize>();
    let tokens: Vec<usize> = rows.iter().map(length_of).collect();
    let shape = Shape::of(&tokens, options);
    let size = shape.size();
    let mut batch = Batch {
        input_ids: vec![options.pad_token_id; size],
        labels: vec![IGNORE; size],
        position_ids: vec![0; size],
        segment_ids: vec![0; size],
        rows: shape.rows,
        length: shape.length,
        tokens: tokens.iter().sum(),
        target_tokens: 0,
        desirable: Vec::new(),
    };
    let (mut start, mut segment) = (0, 0);
    for (row, examples) in rows.iter().enumerate() {
        if !options.padding_free {
            start = row * shape.length;
        }
        for example in examples {
            segment += 1;
            put(&mut batch, start, segment, example.borrow());
            start += example.borrow().input_ids.len();
        }
    }
    batch
}

fn put(batch: &mut Batch, start: usize, segment: u32, example: &Example) {
    let end = start + example.input_ids.len();
    batch.input_ids[start..end].copy_from_slice(&example.input_ids);
    batch.labels[start..end].copy_from_slice(&example.labels);
    // No token of the same example precedes it, so nothing predicts it.
    if let Some(first) = batch.labels[start..end].first_mut() {
        *first = IGNORE;
    }
    batch.segment_ids[start..end].fill(segment);
    for (position, id) in batch.position_ids[start..end].iter_mut().enumerate() {
        *id = position as u32;
    }
    batch.target_tokens += example.target_tokens();
    batch.desirable.push(example.desirable);
}

/// The batches of all epochs, with random access: a run resumed at (epoch, index) gets the same batches as an uninterrupted one.
#[derive(Debug, Clone)]
pub struct Batches {
    examples: Examples,
    rows: Rows,
    options: BatchOptions,
}

/// The examples of each row.
#[derive(Debug, Clone)]
enum Rows {
    /// One.
    Single(usize),
    /// Those that are packed into it: their indices, and where those of each row end.
    Packed { members: Vec<u32>, ends: Vec<usize> },
}

impl Rows {
    fn packed(rows: Vec<Vec<usize>>) -> Self {
        let (mut members, mut ends) = (Vec::new(), Vec::with_capacity(rows.len()));
        for row in rows {
            members.extend(row.into_iter().map(|example| example as u32));
            ends.push(members.len());
        }
        Self::Packed { members, ends }
    }

    fn len(&self) -> usize {
        match self {
            Self::Single(count) => *count,
            Self::Packed { ends, .. } => ends.len(),
        }
    }

    /// The indices of the examples of a row.
    fn of(&self, row: usize) -> impl Iterator<Item = usize> + '_ {
        let (members, single) = match self {
            Self::Single(_) => (&[][..], Some(row)),
            Self::Packed { members, ends } => {
                let start = row.checked_sub(1).map_or(0, |before| ends[before]);
                (&members[start..ends[row]], None)
            }
        };
        members.iter().map(|example| *example as usize).chain(single)
    }
}

impl Batches {
    /// Plans the batches. Packing is done once, so that all epochs have the same number of batches; the packed rows are shuffled in each
    /// epoch.
    pub fn new(examples: impl Into<Examples>, mut options: BatchOptions) -> Self {
        let examples = examples.into();
        let rows = if options.packing {
            let lengths: Vec<usize> = (0..examples.len()).map(|example| examples.tokens(example)).collect();
            // Shuffled, so that neighbours in the file don't always share a row.
            let order = order::order(lengths.len(), options.shuffle_seed, order::PACKING);
            Rows::packed(pack::pack(&lengths, &order, options.max_seq_length))
        } else {
            Rows::Single(examples.len())
        };
        let longest = if options.packing {
            options.max_seq_length
        } else {
            (0..examples.len()).map(|example| examples.tokens(example)).max().unwrap_or(0)
        };
        let most = longest * options.batch_size.clamp(1, rows.len().max(1)) * options.rows_per_sample();
        if !options.padding_free || most < SMALL * options.granule {
            options.granule = 1;
        }
        Self { examples, rows, options }
    }

    fn samples(&self) -> usize {
        self.rows.len() / self.options.rows_per_sample()
    }

    /// Number of batches per epoch; the last may have fewer rows.
    pub fn per_epoch(&self) -> usize {
        self.samples().div_ceil(self.options.batch_size.max(1))
    }

    /// Number of optimizer steps per epoch; the last may have fewer batches.
    pub fn steps_per_epoch(&self, grad_accumulation_steps: usize) -> usize {
        self.per_epoch().div_ceil(grad_accumulation_steps.max(1))
    }

    /// Indices of the batches of a step within its epoch.
    pub fn of_step(&self, step: usize, grad_accumulation_steps: usize) -> Range<usize> {
        let each = grad_accumulation_steps.max(1);
        let end = self.per_epoch();
        step.saturating_mul(each).min(end)..step.saturating_add(1).saturating_mul(each).min(end)
    }

    /// The batches of an epoch, counted from 0, in its own order.
    pub fn epoch(&self, number: usize) -> Epoch<&Self> {
        Epoch::of(self, number)
    }

    /// One batch of an epoch. For many, use [`Batches::epoch`], since each call here orders all rows.
    pub fn batch(&self, epoch: usize, index: usize) -> Batch {
        self.epoch(epoch).batch(index)
    }

    /// The maximum length of a row.
    pub fn max_seq_length(&self) -> usize {
        self.options.max_seq_length
    }

    /// What the tokens of a batch are rounded up to a multiple of.
    pub fn granule(&self) -> usize {
        self.options.granule
    }

    /// The examples, in the order of the file.
    pub fn examples(&self) -> &Examples {
        &self.examples
    }
}

/// The batches of one epoch.
#[derive(Debug, Clone)]
pub struct Epoch<A> {
    batches: A,
    number: usize,
    order: Vec<usize>,
}

impl<A: Borrow<Batches>> Epoch<A> {
    /// An epoch, counted from 0, with its own order. `batches` may be a reference or an `Arc`, which the epoch keeps.
    pub fn of(batches: A, number: usize) -> Self {
        let all: &Batches = batches.borrow();
        let order = order::order(all.samples(), all.options.shuffle_seed, number as u64);
        Self { batches, number, order }
    }

    /// The number of the epoch, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The batch at `index`; beyond the end of the epoch it has no rows.
    pub fn batch(&self, index: usize) -> Batch {
        let Batches { examples, options, .. } = self.batches.borrow();
        let rows: Vec<Vec<_>> = self.rows(index).map(|row| row.map(|example| examples.get(example)).collect()).collect();
        lay_out(&rows, options)
    }

    /// The examples of the batch at `index`.
    pub fn examples(&self, index: usize) -> impl Iterator<Item = Cow<'_, Example>> {
        let Batches { examples, .. } = self.batches.borrow();
        self.rows(index).flatten().map(move |example| examples.get(example))
    }

    /// The shape of the batch at `index`.
    pub fn shape(&self, index: usize) -> Shape {
        let Batches { examples, options, .. } = self.batches.borrow();
        let lengths: Vec<usize> = self.rows(index).map(|row| row.map(|example| examples.tokens(example)).sum()).collect();
        Shape::of(&lengths, options)
    }

    /// The rows of the batch at `index`, as indices of their examples.
    fn rows(&self, index: usize) -> impl Iterator<Item = impl Iterator<Item = usize>> {
        let Batches { rows, options, .. } = self.batches.borrow();
        let (each, together) = (options.batch_size.max(1), options.rows_per_sample());
        let chosen = self.order.iter().skip(index.saturating_mul(each)).take(each);
        chosen.flat_map(move |sample| (sample * together..(sample + 1) * together).map(|row| rows.of(row)))
    }

    /// All batches in order.
    pub fn iter(&self) -> impl Iterator<Item = Batch> + '_ {
        (0..self.batches.borrow().per_epoch()).map(|index| self.batch(index))
    }
}

#[cfg(test)]
mod tests;
