//! From examples to rows of equal length, in an order that only the seed and the epoch decide.

use std::borrow::Borrow;
use std::ops::Range;

use burnish_engine::{Batch, IGNORE};

use super::tokenize::Example;

mod order;
mod pack;

/// How batches are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Rows of a batch.
    pub batch_size: usize,
    /// No row is longer.
    pub max_seq_length: usize,
    /// Put several examples into a row.
    pub packing: bool,
    /// Decides the order of each epoch; `None` keeps that of the file.
    pub shuffle_seed: Option<u64>,
    /// Two rows after each other are a pair, which stays together; `batch_size` counts pairs.
    pub pairs: bool,
    /// Fills short rows; it is never learned nor seen.
    pub pad_token_id: u32,
}

impl Default for BatchOptions {
    /// Single rows of up to 2048 tokens, in the order of the file.
    fn default() -> Self {
        Self { batch_size: 1, max_seq_length: 2048, packing: false, shuffle_seed: None, pairs: false, pad_token_id: 0 }
    }
}

impl BatchOptions {
    fn rows_a_unit(&self) -> usize {
        if self.pairs { 2 } else { 1 }
    }
}

/// Rows are padded to a multiple of this many tokens, so that kernels see few shapes.
const LENGTH_STEP: usize = 8;

/// Rows of examples, padded to one length.
fn lay_out(rows: &[Vec<&Example>], options: &BatchOptions) -> Batch {
    let length_of = |row: &Vec<&Example>| row.iter().map(|example| example.input_ids.len()).sum::<usize>();
    let tokens: Vec<usize> = rows.iter().map(length_of).collect();
    let longest = tokens.iter().copied().max().unwrap_or(0);
    // An example is never longer than max_seq_length, but a user of this type may not have cut it.
    let length = longest.next_multiple_of(LENGTH_STEP).min(options.max_seq_length).max(longest);
    let size = rows.len() * length;
    let mut batch = Batch {
        input_ids: vec![options.pad_token_id; size],
        labels: vec![IGNORE; size],
        position_ids: vec![0; size],
        segment_ids: vec![0; size],
        rows: rows.len(),
        length,
        tokens: tokens.iter().sum(),
        target_tokens: 0,
    };
    for (row, examples) in rows.iter().enumerate() {
        let mut start = row * length;
        for (segment, example) in examples.iter().enumerate() {
            put(&mut batch, start, segment as u32 + 1, example);
            start += example.input_ids.len();
        }
    }
    batch
}

fn put(batch: &mut Batch, start: usize, segment: u32, example: &Example) {
    let end = start + example.input_ids.len();
    batch.input_ids[start..end].copy_from_slice(&example.input_ids);
    batch.labels[start..end].copy_from_slice(&example.labels);
    // The token before it belongs to another example, or to none.
    if let Some(first) = batch.labels[start..end].first_mut() {
        *first = IGNORE;
    }
    batch.segment_ids[start..end].fill(segment);
    for (position, id) in batch.position_ids[start..end].iter_mut().enumerate() {
        *id = position as u32;
    }
    batch.target_tokens += example.target_tokens();
}

/// The batches of every epoch, any of which can be had at any time: a run that is resumed at (epoch, index) sees what it
/// would have seen.
#[derive(Debug, Clone)]
pub struct Batches {
    examples: Vec<Example>,
    /// Indices of the examples of each row.
    rows: Vec<Vec<usize>>,
    options: BatchOptions,
}

impl Batches {
    /// Plans the batches of some examples. Packing is done once, so that each epoch has as many batches; the rows are
    /// shuffled anew.
    pub fn new(examples: Vec<Example>, options: BatchOptions) -> Self {
        let rows = if options.packing {
            let lengths: Vec<usize> = examples.iter().map(|example| example.input_ids.len()).collect();
            // Otherwise neighbours in the file would always share a row.
            let order = order::order(lengths.len(), options.shuffle_seed, order::PACKING);
            pack::pack(&lengths, &order, options.max_seq_length)
        } else {
            (0..examples.len()).map(|example| vec![example]).collect()
        };
        Self { examples, rows, options }
    }

    /// Rows, or pairs of them.
    fn units(&self) -> usize {
        self.rows.len() / self.options.rows_a_unit()
    }

    /// Batches of an epoch; the last may have fewer rows.
    pub fn per_epoch(&self) -> usize {
        self.units().div_ceil(self.options.batch_size.max(1))
    }

    /// Optimizer steps of an epoch; the last may have fewer batches.
    pub fn steps_per_epoch(&self, grad_accumulation_steps: usize) -> usize {
        self.per_epoch().div_ceil(grad_accumulation_steps.max(1))
    }

    /// Indices of the batches of an epoch's step.
    pub fn of_step(&self, step: usize, grad_accumulation_steps: usize) -> Range<usize> {
        let each = grad_accumulation_steps.max(1);
        let end = self.per_epoch();
        step.saturating_mul(each).min(end)..step.saturating_add(1).saturating_mul(each).min(end)
    }

    /// The batches of an epoch, from 0, in its order.
    pub fn epoch(&self, number: usize) -> Epoch<&Self> {
        Epoch::of(self, number)
    }

    /// One batch of an epoch. To go through many, take the [`Batches::epoch`] first: each call here orders all rows.
    pub fn batch(&self, epoch: usize, index: usize) -> Batch {
        self.epoch(epoch).batch(index)
    }

    /// The examples, in the order of the file.
    pub fn examples(&self) -> &[Example] {
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
    /// An epoch, from 0, that keeps the batches it is of: a reference, or an `Arc`.
    pub fn of(batches: A, number: usize) -> Self {
        let all: &Batches = batches.borrow();
        let order = order::order(all.units(), all.options.shuffle_seed, number as u64);
        Self { batches, number, order }
    }

    /// Its number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The batch at `index`; one beyond the epoch has no rows.
    pub fn batch(&self, index: usize) -> Batch {
        let Batches { examples, rows, options } = self.batches.borrow();
        let each = options.batch_size.max(1);
        let chosen = self.order.iter().skip(index.saturating_mul(each)).take(each);
        let together = options.rows_a_unit();
        let chosen = chosen.flat_map(|unit| &rows[unit * together..(unit + 1) * together]);
        let rows: Vec<Vec<&Example>> = chosen.map(|row| row.iter().map(|example| &examples[*example]).collect()).collect();
        lay_out(&rows, options)
    }

    /// All batches in order.
    pub fn iter(&self) -> impl Iterator<Item = Batch> + '_ {
        (0..self.batches.borrow().per_epoch()).map(|index| self.batch(index))
    }
}

#[cfg(test)]
mod tests;
