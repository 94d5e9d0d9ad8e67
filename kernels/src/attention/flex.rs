//! The CPU kernel: blocks of queries against the keys that they may see, so that memory is linear in the sequence.
//!
//! Each segment is computed on its own, so that rows laid end to end cost what they would cost apart.

use burn::tensor::TensorMetadata;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{AttentionOptions, Statistics, reference, reference_backward};
use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{all_f32, tensor, vector};

/// Queries of a block.
const BLOCK: usize = 64;

/// A head of a batch row.
#[derive(Clone, Copy)]
struct Head {
    batch: usize,
    /// A query head, or the key-value head of a key or value.
    head: usize,
}

/// Adjacent positions.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    length: usize,
}

impl Span {
    fn end(self) -> usize {
        self.start + self.length
    }

    /// The spans of equal ids, which must be adjacent, in a row of them.
    fn of_segments(ids: &[i64]) -> impl Iterator<Item = Self> + '_ {
        ids.chunk_by(PartialEq::eq).scan(0, |start, run| {
            let span = Self { start: *start, length: run.len() };
            *start = span.end();
            Some(span)
        })
    }
}

/// A segment of a batch row; without segments, the whole row.
#[derive(Clone, Copy)]
struct Segment {
    batch: usize,
    /// Its keys.
    keys: Span,
}

/// The tensors of one call as slices, with their extents.
struct Problem<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    segments: Vec<Segment>,
    queries: usize,
    keys: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    /// One score of each head, which takes part in the softmax alone.
    sinks: Option<&'a [f32]>,
    options: AttentionOptions,
}

impl<'a> Problem<'a> {
    fn new(
        [query, key, value]: [&'a FlexTensor; 3],
        segments: Option<&FlexTensor>,
        sinks: Option<&'a FlexTensor>,
        options: AttentionOptions,
    ) -> Self {
        let (shape, keys) = (query.shape(), key.shape());
        let length = keys[1];
        let segments = match segments {
            Some(ids) => {
                let ids: Vec<i64> = ids.clone().into_data().iter::<i64>().collect();
                let rows = ids.chunks_exact(length.max(1)).enumerate();
                rows.flat_map(|(batch, ids)| Span::of_segments(ids).map(move |keys| Segment { batch, keys })).collect()
            }
            None => (0..shape[0]).map(|batch| Segment { batch, keys: Span { start: 0, length } }).collect(),
        };
        Self {
            query: query.storage(),
            key: key.storage(),
            value: value.storage(),
            segments,
            queries: shape[1],
            keys: keys[1],
            heads: shape[2],
            key_value_heads: keys[2],
            head_dim: shape[3],
            sinks: sinks.map(FlexTensor::storage),
            options,
        }
    }

    /// Some positions of one head in a `[batch, length, heads, head_dim]` buffer.
    fn rows(&self, data: &'a [f32], length: usize, heads: usize, at: Head, rows: Span) -> Matrix<'a> {
        let row_stride = heads * self.head_dim;
        Matrix {
            data,
            offset: (at.batch * length + rows.start) * row_stride + at.head * self.head_dim,
            rows: rows.length,
            columns: self.head_dim,
            row_stride,
            column_stride: 1,
        }
    }

    fn query_rows(&self, data: &'a [f32], at: Head, rows: Span) -> Matrix<'a> {
        self.rows(data, self.queries, self.heads, at, rows)
    }

    fn key_rows(&self, data: &'a [f32], at: Head, rows: Span) -> Matrix<'a> {
        self.rows(data, self.keys, self.key_value_heads, at, rows)
    }

    /// The key-value head of a query head.
    fn key_value_head(&self, at: Head) -> Head {
        Head { head: at.head / (self.heads / self.key_value_heads), ..at }
    }

    /// Blocks of the queries of a segment.
    fn blocks(&self, segment: Segment) -> impl Iterator<Item = Span> {
        let past = self.keys - self.queries;
        let (start, end) = (segment.keys.start.max(past) - past, segment.keys.end().max(past) - past);
        (start..end).step_by(BLOCK).map(move |start| Span { start, length: BLOCK.min(end - start) })
    }

    /// The keys that some of a block of queries can see: from the start of the window or of the segment to the last query's own
    /// position.
    fn seen(&self, segment: Segment, queries: Span) -> Span {
        let past = self.keys - self.queries;
        let window = self.options.sliding_window;
        let start = window.map_or(0, |window| (past + queries.start + 1).saturating_sub(window)).max(segment.keys.start);
        Span { start, length: past + queries.end() - start }
    }

    /// Writes the probabilities of a block of queries to `scores`, row-major, and returns the keys that they are for. With a soft-cap,
    /// `slopes` becomes the derivatives of the scores by their products.
    fn probabilities(&self, [scores, slopes]: [&mut Vec<f32>; 2], segment: Segment, head: usize, queries: Span) -> Span {
        let at = Head { batch: segment.batch, head };
        let keys = self.seen(segment, queries);
        scores.clear();
        scores.resize(queries.length * keys.length, 0.0);
        let query = self.query_rows(self.query, at, queries);
        let key = self.key_rows(self.key, self.key_value_head(at), keys).transposed();
        let factor = self.options.scale as f32;
        multiply(MatrixMut { data: scores, row_stride: keys.length }, false, factor, query, key, false);
        if let Some(cap) = self.options.softcap {
            cap_scores(scores, slopes, cap as f32);
        }
        let past = self.keys - self.queries;
        for (index, row) in scores.chunks_exact_mut(keys.length).enumerate() {
            self.normalise(row, keys.start, past + queries.start + index, self.sinks.map(|sinks| sinks[head]));
        }
        keys
    }

    /// Masks one row of scores and takes its softmax; hidden keys get probability 0.
    fn normalise(&self, row: &mut [f32], begin: usize, position: usize, sink: Option<f32>) {
        let first = self.options.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window)).max(begin) - begin;
        let last = position + 1 - begin;
        row[..first].fill(0.0);
        row[last..].fill(0.0);
        let row = &mut row[first..last];
        let largest = vector::maximum(row).max(sink.unwrap_or(f32::NEG_INFINITY));
        let sum = vector::exp_and_sum(row, largest) + sink.map_or(0.0, |sink| (sink - largest).exp());
        vector::scale(row, 1.0 / sum);
    }
}

/// `score = cap · tanh(score / cap)`, whose derivative is `1 - tanh²`.
fn cap_scores(scores: &mut [f32], slopes: &mut Vec<f32>, cap: f32) {
    slopes.clear();
    slopes.extend(scores.iter_mut().map(|score| {
        let inner = (*score / cap).tanh();
        *score = cap * inner;
        1.0 - inner * inner
    }));
}

/// A buffer that tasks write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut f32, usize);

// SAFETY: each task writes only rows of its own heads, see the callers.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Writes a row-major block to the rows of one head.
    ///
    /// # Safety
    /// No other task may access these rows of this head at the same time.
    unsafe fn put(&self, block: &[f32], width: usize, offset: usize, row_stride: usize) {
        for (index, row) in block.chunks_exact(width).enumerate() {
            let start = offset + index * row_stride;
            assert!(start + width <= self.1, "attention: write beyond the buffer");
            // SAFETY: in bounds by the assert; exclusive by the contract of the method.
            unsafe { core::ptr::copy_nonoverlapping(row.as_ptr(), self.0.add(start), width) };
        }
    }
}

/// The result.
pub(crate) fn forward(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    segments: Option<FlexTensor>,
    options: AttentionOptions,
) -> FlexTensor {
    let computed = compute([&query, &key, &value], segments.as_ref(), None, options);
    computed.unwrap_or_else(|| reference::<Flex>(query, key, value, segments, options))
}

/// The result, with or without sinks; `None` if not all inputs are f32.
pub(crate) fn compute(
    inputs: [&FlexTensor; 3],
    segments: Option<&FlexTensor>,
    sinks: Option<&FlexTensor>,
    options: AttentionOptions,
) -> Option<FlexTensor> {
    if !all_f32(&inputs) {
        return None;
    }
    let shape = inputs[0].shape();
    let owned = inputs.map(FlexTensor::to_contiguous);
    let sinks = sinks.map(FlexTensor::to_contiguous);
    let problem = Problem::new(owned.each_ref(), segments, sinks.as_ref(), options);
    let mut output = vec![0.0; shape.num_elements()];
    let shared = Shared(output.as_mut_ptr(), output.len());
    let row_stride = problem.heads * problem.head_dim;
    (0..problem.segments.len() * problem.heads).into_par_iter().for_each(|task| {
        let shared = &shared;
        let segment = problem.segments[task / problem.heads];
        let at = Head { batch: segment.batch, head: task % problem.heads };
        let (mut scores, mut slopes, mut block) = (Vec::new(), Vec::new(), Vec::new());
        for queries in problem.blocks(segment) {
            let keys = problem.probabilities([&mut scores, &mut slopes], segment, at.head, queries);
            block.clear();
            block.resize(queries.length * problem.head_dim, 0.0);
            let probabilities = Matrix::new(&scores, queries.length, keys.length);
            let value = problem.key_rows(problem.value, problem.key_value_head(at), keys);
            multiply(MatrixMut { data: &mut block, row_stride: problem.head_dim }, false, 1.0, probabilities, value, false);
            let offset = (at.batch * problem.queries + queries.start) * row_stride + at.head * problem.head_dim;
            // SAFETY: a task owns one head of one segment.
            unsafe { shared.put(&block, problem.head_dim, offset, row_stride) };
        }
    });
    Some(tensor(output, [shape[0], shape[1], shape[2], shape[3]]))
}

/// Gradients for query, key and value; the probabilities are recomputed.
pub(crate) fn backward(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    segments: Option<FlexTensor>,
    _statistics: Option<Statistics<Flex>>,
    grad: FlexTensor,
    options: AttentionOptions,
) -> [FlexTensor; 3] {
    let computed = gradients([&query, &key, &value], segments.as_ref(), None, &grad, options);
    computed.unwrap_or_else(|| reference_backward::<Flex>(query, key, value, segments, grad, options))
}

/// The gradients, with or without sinks; `None` if not all inputs are f32.
pub(crate) fn gradients(
    inputs: [&FlexTensor; 3],
    segments: Option<&FlexTensor>,
    sinks: Option<&FlexTensor>,
    grad: &FlexTensor,
    options: AttentionOptions,
) -> Option<[FlexTensor; 3]> {
    if !all_f32(&inputs) || !all_f32(&[grad]) {
        return None;
    }
    let (shape, key_shape) = (inputs[0].shape(), inputs[1].shape());
    let owned = inputs.map(FlexTensor::to_contiguous);
    let grad = grad.to_contiguous();
    let grad: &[f32] = grad.storage();
    let sinks = sinks.map(FlexTensor::to_contiguous);
    let problem = Problem::new(owned.each_ref(), segments, sinks.as_ref(), options);
    let mut d_query = vec![0.0; shape.num_elements()];
    let (mut d_key, mut d_value) = (vec![0.0; key_shape.num_elements()], vec![0.0; key_shape.num_elements()]);
    let outputs = [&mut d_query, &mut d_key, &mut d_value].map(|buffer| Shared(buffer.as_mut_ptr(), buffer.len()));
    (0..problem.segments.len() * problem.key_value_heads).into_par_iter().for_each(|task| {
        let segment = problem.segments[task / problem.key_value_heads];
        group_backward(&problem, grad, outputs, segment, task % problem.key_value_heads);
    });
    let query_shape = [shape[0], shape[1], shape[2], shape[3]];
    let key_shape = [key_shape[0], key_shape[1], key_shape[2], key_shape[3]];
    Some([tensor(d_query, query_shape), tensor(d_key, key_shape), tensor(d_value, key_shape)])
}

/// The gradients of one segment of a key-value head, and of all query heads that share it.
fn group_backward(problem: &Problem, grad: &[f32], [d_query, d_key, d_value]: [Shared; 3], segment: Segment, head: usize) {
    let (dim, group) = (problem.head_dim, problem.heads / problem.key_value_heads);
    let own = Head { batch: segment.batch, head };
    let (start, length) = (segment.keys.start, segment.keys.length);
    let (mut sum_key, mut sum_value) = (vec![0.0; length * dim], vec![0.0; length * dim]);
    let (mut scores, mut slopes, mut d_scores, mut block) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for head in own.head * group..(own.head + 1) * group {
        let at = Head { head, ..own };
        for queries in problem.blocks(segment) {
            let keys = problem.probabilities([&mut scores, &mut slopes], segment, head, queries);
            let (rows, width) = (queries.length, keys.length);
            let sums = (keys.start - start) * dim..(keys.end() - start) * dim;
            let d_output = problem.query_rows(grad, at, queries);
            let query = problem.query_rows(problem.query, at, queries);
            let key = problem.key_rows(problem.key, own, keys);
            let value = problem.key_rows(problem.value, own, keys);
            d_scores.clear();
            d_scores.resize(rows * width, 0.0);
            multiply(MatrixMut { data: &mut d_scores, row_stride: width }, false, 1.0, d_output, value.transposed(), false);
            let probabilities = Matrix::new(&scores, rows, width);
            let target = MatrixMut { data: &mut sum_value[sums.clone()], row_stride: dim };
            multiply(target, true, 1.0, probabilities.transposed(), d_output, false);
            for (d, p) in d_scores.chunks_exact_mut(width).zip(scores.chunks_exact(width)) {
                let row = vector::dot(d, p);
                vector::softmax_gradient(d, p, row, problem.options.scale as f32);
            }
            // Empty without a soft-cap.
            d_scores.iter_mut().zip(&slopes).for_each(|(d, slope)| *d *= slope);
            let d = Matrix::new(&d_scores, rows, width);
            let target = MatrixMut { data: &mut sum_key[sums], row_stride: dim };
            multiply(target, true, 1.0, d.transposed(), query, false);
            block.clear();
            block.resize(rows * dim, 0.0);
            multiply(MatrixMut { data: &mut block, row_stride: dim }, false, 1.0, d, key, false);
            let row_stride = problem.heads * dim;
            let offset = (own.batch * problem.queries + queries.start) * row_stride + head * dim;
            // SAFETY: a task owns this segment of its query heads.
            unsafe { d_query.put(&block, dim, offset, row_stride) };
        }
    }
    let row_stride = problem.key_value_heads * dim;
    let offset = (own.batch * problem.keys + start) * row_stride + own.head * dim;
    // SAFETY: a task owns one segment of a key-value head.
    unsafe {
        d_key.put(&sum_key, dim, offset, row_stride);
        d_value.put(&sum_value, dim, offset, row_stride);
    }
}
