//! Forward and backward that keep only the input of each block: the backward computes a block again before it needs it.
//!
//! burn can't run one backward pass within another, so the graph is not one: the forward runs on the inner backend, and each half of a
//! block has a graph of its own, whose backward starts from the gradient of its output. The feed-forward has one for each slice of
//! tokens, because its inner activation is the widest tensor of a block.

use std::ops::Range;

use burn::module::{AutodiffModule, Module};
use burn::tensor::Tensor;
use burnish_kernels::{FusedBackend, TrainBackend, backward_from, is_tracked};
use burnish_models::blocks::Block;
use burnish_models::{AdapterPass, BlockState, LanguageModel, ModelInput};

use crate::gradient_sums::GradientSums;

/// How blocks are checkpointed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpointing {
    /// The largest size of a feed-forward's inner activation, in elements: longer inputs are computed by slices of tokens.
    pub mlp_elements: usize,
}

impl Default for Checkpointing {
    /// 16 MiB of a 16-bit type: 1024 tokens of a model with an inner width of 8192.
    fn default() -> Self {
        Self { mlp_elements: 8 << 20 }
    }
}

impl Checkpointing {
    /// For a backend, by its name. On `cuda` slices may be four times as long: of 1024 tokens, a product with a hidden size of 2048 has 64
    /// tiles of 128 × 256 for the 132 processors of an H200.
    pub fn of(backend: &str) -> Self {
        let Self { mlp_elements } = Self::default();
        Self { mlp_elements: if backend == "cuda" { 4 * mlp_elements } else { mlp_elements } }
    }
}

/// Rows of the tiles of matrix products: longer slices are whole tiles.
const TILE: usize = 128;
/// Slices begin where a block of dropout's random words begins, whatever the width.
const ALIGNMENT: usize = 4;

impl Checkpointing {
    /// Tokens of a slice of `count`, for a feed-forward of that inner width. Slices longer than the default are halves at most: they take
    /// half of the memory and hardly more time.
    pub fn slice(self, width: usize, count: usize) -> usize {
        let tokens = |elements: usize| {
            let tokens = (elements / width.max(1)).max(ALIGNMENT);
            tokens - tokens % if tokens > TILE { TILE } else { ALIGNMENT }
        };
        let most = tokens(self.mlp_elements);
        let least = most.min(tokens(Self::default().mlp_elements));
        most.min(least.max(count.div_ceil(2).next_multiple_of(TILE))).min(count)
    }
}

/// What a forward pass keeps for its backward pass.
pub(crate) struct Checkpoints<B: TrainBackend> {
    checkpointing: Checkpointing,
    input: ModelInput<B>,
    state: BlockState<B>,
    /// The first block that is trained or whose input needs a gradient.
    first: usize,
    /// The inputs of the blocks from `first` on.
    inputs: Vec<Tensor<B::InnerBackend, 2>>,
    /// The stream after the last block.
    output: Tensor<B, 2>,
}

impl<B: TrainBackend> Checkpoints<B> {
    /// Computes all blocks.
    pub fn forward(model: &LanguageModel<B>, checkpointing: Checkpointing, input: ModelInput<B>) -> Self {
        let (inner, inner_input) = (model.valid(), input.clone().inner());
        let state = inner.state(&inner_input);
        let trains = |block: &Block<B::InnerBackend>| block.num_params() > 0;
        let first =
            if inner.trains_embedding() { 0 } else { inner.blocks().iter().position(trains).unwrap_or(inner.num_layers()) };
        let mut inputs = Vec::with_capacity(inner.num_layers() - first);
        let mut x = inner.embed(&inner_input).into_tensor();
        for (index, block) in inner.blocks().iter().enumerate() {
            if index >= first {
                inputs.push(x.clone());
            }
            let middle = block.attend(x.into(), &state, None).into_tensor();
            x = by_slices(checkpointing, block, middle, |middle, rows| {
                let pass = state.adapters.from_row(rows.start);
                block.feed_forward(rows_of(middle, rows).into(), pass).into_tensor()
            });
        }
        let output = Tensor::from_inner(x);
        let is_leaf = first < inner.num_layers() || inner.trains_embedding();
        let output = if is_leaf { output.require_grad() } else { output };
        Self { checkpointing, input, state: BlockState::from_inner(&state), first, inputs, output }
    }

    /// The stream after the last block. It is where the graph of the loss begins.
    pub fn output(&self) -> Tensor<B, 2> {
        self.output.clone()
    }

    /// Adds the gradients of `loss`, which was computed from [`Checkpoints::output`].
    pub fn backward(self, model: &LanguageModel<B>, loss: Tensor<B, 1>, sums: &mut GradientSums) {
        let Self { checkpointing, input, state, first, mut inputs, output } = self;
        let mut gradients = loss.backward();
        let mut gradient = output.grad_remove(&mut gradients);
        drop(output);
        // The embedding may be the head too: what both give is added before it is added to other micro-batches.
        let mut ends = GradientSums::default();
        ends.add(model, gradients);
        for (index, block) in model.blocks().iter().enumerate().skip(first).rev() {
            let (Some(x), Some(of_output)) = (inputs.pop(), gradient.take()) else { break };
            let x = Tensor::<B, 2>::from_inner(x);
            let is_leaf = index > first || model.trains_embedding();
            let x = if is_leaf { x.require_grad() } else { x };
            let middle = block.attend(x.clone().into(), &state, None).into_tensor();
            let of_middle = feed_forward_backward(checkpointing, block, &middle, of_output, state.adapters, sums);
            if let Some(of_middle) = of_middle {
                let mut gradients = backward_from(middle, of_middle);
                gradient = x.grad_remove(&mut gradients);
                sums.add(block, gradients);
            }
        }
        if let (true, Some(gradient)) = (model.trains_embedding(), gradient) {
            ends.add(model, backward_from(model.embed(&input).into_tensor(), gradient));
        }
        sums.add_sums(model, ends);
    }
}

/// Adds the gradients of a block's feed-forward, given that of its output; returns the gradient of its input, the stream after the
/// attention, if that needs one.
fn feed_forward_backward<B: TrainBackend>(
    checkpointing: Checkpointing,
    block: &Block<B>,
    middle: &Tensor<B, 2>,
    gradient: Tensor<B::InnerBackend, 2>,
    pass: AdapterPass,
    sums: &mut GradientSums,
) -> Option<Tensor<B::InnerBackend, 2>> {
    let needs_gradient = is_tracked(middle);
    let middle = middle.clone().inner();
    let of_middle = by_slices(checkpointing, block, gradient, |gradient, rows| {
        let pass = pass.from_row(rows.start);
        let x = Tensor::<B, 2>::from_inner(rows_of(middle.clone(), rows.clone()));
        let x = if needs_gradient { x.require_grad() } else { x };
        let y = block.unread_feed_forward(x.clone().into(), pass).into_tensor();
        let mut gradients = backward_from(y, rows_of(gradient, rows));
        let of_x = x.grad_remove(&mut gradients);
        sums.add(block, gradients);
        of_x.unwrap_or_else(|| x.inner())
    });
    needs_gradient.then_some(of_middle)
}

/// Replaces the rows of a tensor slice by slice, each by a function of the tensor and of the slice's rows, which has their shape. The
/// function may read those rows only, because others may have been replaced: so only one tensor of that size is held.
fn by_slices<I: FusedBackend, B: FusedBackend>(
    checkpointing: Checkpointing,
    block: &Block<B>,
    mut x: Tensor<I, 2>,
    mut each: impl FnMut(Tensor<I, 2>, Range<usize>) -> Tensor<I, 2>,
) -> Tensor<I, 2> {
    let [count, features] = x.dims();
    let slice = checkpointing.slice(block.mlp.width(), count);
    if count <= slice {
        return each(x, 0..count);
    }
    for start in (0..count).step_by(slice) {
        let rows = start..count.min(start + slice);
        let y = each(x.clone(), rows.clone());
        x = x.slice_assign([rows, 0..features], y);
    }
    x
}

/// Some rows of a tensor, or the tensor itself if those are all.
fn rows_of<I: FusedBackend>(x: Tensor<I, 2>, rows: Range<usize>) -> Tensor<I, 2> {
    if rows.len() == x.dims()[0] { x } else { x.narrow(0, rows.start, rows.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_slices_are_halves_at_most() {
        let of = |backend, width, count| Checkpointing::of(backend).slice(width, count);
        assert_eq!([of("cuda", 8192, 16_384), of("cuda", 8192, 8192), of("cuda", 8192, 2048)], [4096, 4096, 1024]);
        assert_eq!([of("cuda", 14_336, 2048), of("cuda", 14_336, 500), of("cuda", 8192, 1000)], [1024, 500, 1000]);
        assert_eq!([of("metal", 8192, 8192), of("metal", 14_336, 2048)], [1024, 512]);
        assert_eq!(Checkpointing { mlp_elements: 1 }.slice(8192, 13), 4);
        let lengths: Vec<usize> = (0..20_000).map(|count| of("cuda", 8192, count)).collect();
        assert!(lengths.is_sorted());
    }
}
