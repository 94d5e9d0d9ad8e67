//! The CPU kernel: blocks of queries against the keys that they may see, so memory is linear in the sequence.

use burn::tensor::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::AttentionOptions;
use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{tensor, vector};

/// Queries of a block.
const BLOCK: usize = 64;

/// The tensors of one call as slices, with their extents.
struct Problem<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    segments: Option<Vec<i64>>,
    queries: usize,
    keys: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    options: AttentionOptions,
}

impl<'a> Problem<'a> {
    fn new([query, key, value]: [&'a FlexTensor; 3], segments: Option<&FlexTensor>, options: AttentionOptions) -> Self {
        let (shape, keys) = (query.shape(), key.shape());
        Self {
            query: query.storage(),
            key: key.storage(),
            value: value.storage(),
            segments: segments.map(|ids| ids.clone().into_data().iter::<i64>().collect()),
            queries: shape[1],
            keys: keys[1],
            heads: shape[2],
            key_value_heads: keys[2],
            head_dim: shape[3],
            options,
        }
    }

    /// Rows `start .. start + rows` of one head in a `[batch, length, heads, head_dim]` buffer.
    fn rows(
        &self,
        data: &'a [f32],
        length: usize,
        heads: usize,
        at: (usize, usize),
        start: usize,
        rows: usize,
    ) -> Matrix<'a> {
        let (batch, head) = at;
        let row_stride = heads * self.head_dim;
        Matrix {
            data,
            offset: (batch * length + start) * row_stride + head * self.head_dim,
            rows,
            columns: self.head_dim,
            row_stride,
            column_stride: 1,
        }
    }

    fn query_rows(&self, data: &'a [f32], batch: usize, head: usize, start: usize, rows: usize) -> Matrix<'a> {
        self.rows(data, self.queries, self.heads, (batch, head), start, rows)
    }

    fn key_rows(&self, data: &'a [f32], batch: usize, head: usize, start: usize, rows: usize) -> Matrix<'a> {
        self.rows(data, self.keys, self.key_value_heads, (batch, head), start, rows)
    }

    /// Keys that a block of queries can see: causal end, and start of the window.
    fn seen(&self, start: usize, rows: usize) -> (usize, usize) {
        let past = self.keys - self.queries;
        let end = past + start + rows;
        let begin = self.options.sliding_window.map_or(0, |window| (past + start + 1).saturating_sub(window));
        (begin, end)
    }

    /// Probabilities of a block of queries over the keys `begin .. end`, row-major into `scores`.
    fn probabilities(&self, scores: &mut Vec<f32>, batch: usize, head: usize, start: usize, rows: usize) -> (usize, usize) {
        let (begin, end) = self.seen(start, rows);
        let width = end - begin;
        scores.clear();
        scores.resize(rows * width, 0.0);
        let group = self.heads / self.key_value_heads;
        let query = self.query_rows(self.query, batch, head, start, rows);
        let key = self.key_rows(self.key, batch, head / group, begin, width).transposed();
        let factor = self.options.scale as f32;
        multiply(MatrixMut { data: scores, row_stride: width }, false, factor, query, key, false);
        let past = self.keys - self.queries;
        for (index, row) in scores.chunks_exact_mut(width).enumerate() {
            let position = past + start + index;
            self.normalise(row, batch, begin, position);
        }
        (begin, end)
    }

    /// Masks one row of scores and takes its softmax; hidden keys get probability 0.
    fn normalise(&self, row: &mut [f32], batch: usize, begin: usize, position: usize) {
        let first = self.options.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window)).max(begin) - begin;
        let last = position + 1 - begin;
        row[..first].fill(0.0);
        row[last..].fill(0.0);
        let row = &mut row[first..last];
        if let Some(segments) = &self.segments {
            let segments = &segments[batch * self.keys..(batch + 1) * self.keys];
            let own = segments[position];
            for (score, segment) in row.iter_mut().zip(&segments[begin + first..begin + last]) {
                if *segment != own {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        let largest = vector::maximum(row);
        let sum = vector::exp_and_sum(row, largest);
        vector::scale(row, 1.0 / sum);
    }
}

/// A buffer that tasks write to at places that never overlap.
#[derive(Clone, Copy)]
struct Shared(*mut f32, usize);

// SAFETY: each task writes the rows of heads of its own only, see the callers.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Adds a row-major block to the rows of one head, or sets them.
    ///
    /// # Safety
    /// No other task may touch these rows of this head at the same time.
    unsafe fn put(&self, block: &[f32], width: usize, offset: usize, row_stride: usize) {
        for (index, row) in block.chunks_exact(width).enumerate() {
            let start = offset + index * row_stride;
            assert!(start + width <= self.1, "attention: write out of the buffer");
            // SAFETY: in bounds by the assert; exclusive by the contract of the method.
            unsafe { core::ptr::copy_nonoverlapping(row.as_ptr(), self.0.add(start), width) };
        }
    }
}

fn blocks(queries: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..queries).step_by(BLOCK).map(move |start| (start, BLOCK.min(queries - start)))
}

pub(crate) fn forward(
    query: &FlexTensor,
    key: &FlexTensor,
    value: &FlexTensor,
    segments: Option<&FlexTensor>,
    options: AttentionOptions,
) -> FlexTensor {
    let shape = query.shape();
    let owned = [query, key, value].map(FlexTensor::to_contiguous);
    let problem = Problem::new(owned.each_ref(), segments, options);
    let mut output = vec![0.0; shape.num_elements()];
    let shared = Shared(output.as_mut_ptr(), output.len());
    let group = problem.heads / problem.key_value_heads;
    let row_stride = problem.heads * problem.head_dim;
    (0..shape[0] * problem.heads).into_par_iter().for_each(|task| {
        let shared = &shared;
        let (batch, head) = (task / problem.heads, task % problem.heads);
        let (mut scores, mut block) = (Vec::new(), Vec::new());
        for (start, rows) in blocks(problem.queries) {
            let (begin, end) = problem.probabilities(&mut scores, batch, head, start, rows);
            block.clear();
            block.resize(rows * problem.head_dim, 0.0);
            let probabilities = Matrix::new(&scores, rows, end - begin);
            let value = problem.key_rows(problem.value, batch, head / group, begin, end - begin);
            multiply(MatrixMut { data: &mut block, row_stride: problem.head_dim }, false, 1.0, probabilities, value, false);
            let offset = (batch * problem.queries + start) * row_stride + head * problem.head_dim;
            // SAFETY: a task owns one head of one batch row.
            unsafe { shared.put(&block, problem.head_dim, offset, row_stride) };
        }
    });
    tensor(output, [shape[0], shape[1], shape[2], shape[3]])
}

pub(crate) fn backward(
    query: &FlexTensor,
    key: &FlexTensor,
    value: &FlexTensor,
    segments: Option<&FlexTensor>,
    grad: &FlexTensor,
    options: AttentionOptions,
) -> [FlexTensor; 3] {
    let (shape, key_shape) = (query.shape(), key.shape());
    let owned = [query, key, value].map(FlexTensor::to_contiguous);
    let grad = grad.to_contiguous();
    let grad: &[f32] = grad.storage();
    let problem = Problem::new(owned.each_ref(), segments, options);
    let mut d_query = vec![0.0; shape.num_elements()];
    let (mut d_key, mut d_value) = (vec![0.0; key_shape.num_elements()], vec![0.0; key_shape.num_elements()]);
    let outputs = [&mut d_query, &mut d_key, &mut d_value].map(|buffer| Shared(buffer.as_mut_ptr(), buffer.len()));
    (0..shape[0] * problem.key_value_heads).into_par_iter().for_each(|task| {
        let at = (task / problem.key_value_heads, task % problem.key_value_heads);
        group_backward(&problem, grad, outputs, at);
    });
    let query_shape = [shape[0], shape[1], shape[2], shape[3]];
    let key_shape = [key_shape[0], key_shape[1], key_shape[2], key_shape[3]];
    [tensor(d_query, query_shape), tensor(d_key, key_shape), tensor(d_value, key_shape)]
}

/// The gradients of one key-value head and of all query heads that share it.
fn group_backward(problem: &Problem, grad: &[f32], [d_query, d_key, d_value]: [Shared; 3], (batch, pair): (usize, usize)) {
    let (dim, group) = (problem.head_dim, problem.heads / problem.key_value_heads);
    let (mut sum_key, mut sum_value) = (vec![0.0; problem.keys * dim], vec![0.0; problem.keys * dim]);
    let (mut scores, mut d_scores, mut block) = (Vec::new(), Vec::new(), Vec::new());
    for head in pair * group..(pair + 1) * group {
        for (start, rows) in blocks(problem.queries) {
            let (begin, end) = problem.probabilities(&mut scores, batch, head, start, rows);
            let width = end - begin;
            let d_output = problem.query_rows(grad, batch, head, start, rows);
            let query = problem.query_rows(problem.query, batch, head, start, rows);
            let key = problem.key_rows(problem.key, batch, pair, begin, width);
            let value = problem.key_rows(problem.value, batch, pair, begin, width);
            d_scores.clear();
            d_scores.resize(rows * width, 0.0);
            multiply(MatrixMut { data: &mut d_scores, row_stride: width }, false, 1.0, d_output, value.transposed(), false);
            let probabilities = Matrix::new(&scores, rows, width);
            let target = MatrixMut { data: &mut sum_value[begin * dim..end * dim], row_stride: dim };
            multiply(target, true, 1.0, probabilities.transposed(), d_output, false);
            for (d, p) in d_scores.chunks_exact_mut(width).zip(scores.chunks_exact(width)) {
                let row = vector::dot(d, p);
                vector::softmax_gradient(d, p, row, problem.options.scale as f32);
            }
            let d = Matrix::new(&d_scores, rows, width);
            let target = MatrixMut { data: &mut sum_key[begin * dim..end * dim], row_stride: dim };
            multiply(target, true, 1.0, d.transposed(), query, false);
            block.clear();
            block.resize(rows * dim, 0.0);
            multiply(MatrixMut { data: &mut block, row_stride: dim }, false, 1.0, d, key, false);
            let row_stride = problem.heads * dim;
            let offset = (batch * problem.queries + start) * row_stride + head * dim;
            // SAFETY: a task owns its query heads.
            unsafe { d_query.put(&block, dim, offset, row_stride) };
        }
    }
    let row_stride = problem.key_value_heads * dim;
    let offset = batch * problem.keys * row_stride + pair * dim;
    // SAFETY: a task owns one key-value head of one batch row.
    unsafe {
        d_key.put(&sum_key, dim, offset, row_stride);
        d_value.put(&sum_value, dim, offset, row_stride);
    }
}
