//! The formulas. Each says what it counts; all are bytes.

use burnish_engine::{Checkpointing, MomentType};
use burnish_kernels::adamw8bit::LEAST_ELEMENTS;
use burnish_kernels::packed::codebook::DYNAMIC_BLOCK;
use burnish_models::ModelConfig;
use burnish_models::part::Role;
use serde::Serialize;

/// Adapters, gradients, moments, statistics and rotary tables are f32 whatever is computed in.
pub const F32: usize = size_of::<f32>();

/// Where a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// On a GPU: the bytes are those of its live tensors.
    Device,
    /// On the CPU: the bytes are those of the process, the program included.
    Host,
}

/// The widths of a model that the formulas need, in elements of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// The residual stream.
    pub hidden: usize,
    /// The inner activation of the feed-forward.
    pub inner: usize,
    /// All query heads.
    pub query: usize,
    /// All key heads, and all value heads.
    pub key_value: usize,
    /// The number of query heads.
    pub heads: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
}

impl Widths {
    /// Those of a model.
    pub fn of(model: &ModelConfig) -> Self {
        Self {
            hidden: model.hidden_size,
            inner: inner(model),
            query: model.num_attention_heads * model.head_dim,
            key_value: model.num_key_value_heads * model.head_dim,
            heads: model.num_attention_heads,
            vocabulary: model.vocab_size,
        }
    }
}

/// The inner width of the feed-forward; of all experts of a token, if there are any. Where layers differ, the widest.
fn inner(model: &ModelConfig) -> usize {
    let Some(experts) = &model.experts else { return model.intermediate_size };
    let of_experts = experts.per_token * experts.intermediate_size;
    if experts.dense_layers.is_empty() { of_experts } else { of_experts.max(model.intermediate_size) }
}

/// What experts keep of a token besides: their results in f32, and the shares of all of them.
fn experts_of_token(model: &ModelConfig) -> usize {
    model.experts.as_ref().map_or(0, |experts| (experts.per_token * model.hidden_size + 2 * experts.count) * F32)
}

/// What the attention half of a block keeps of a token for its backward: the stream before it and after it, query, key and value,
/// the result with its log-sum-exp, and the inputs of norms on queries, on keys and after the attention. A norm's result is
/// computed again, unless the norm's weight trains.
pub fn attention_of_token(model: &ModelConfig, element: usize, trains_all: bool) -> usize {
    let Widths { hidden, query, key_value, heads, .. } = Widths::of(model);
    let extra = |role, width| if model.family.part(role).is_some() { width } else { 0 };
    let norms = extra(Role::QueryNorm, query) + extra(Role::KeyNorm, key_value) + extra(Role::PostAttentionNorm, hidden);
    let normed = if trains_all { hidden } else { 0 };
    (2 * hidden + 2 * query + 2 * key_value + norms + normed) * element + heads * F32
}

/// What the feed-forward of a block keeps of a token: gate and up, and the input of a norm after it. Their product is computed again.
pub fn feed_forward_of_token(model: &ModelConfig, element: usize, trains_all: bool) -> usize {
    let Widths { hidden, inner, .. } = Widths::of(model);
    let norm = if model.family.part(Role::PostFeedForwardNorm).is_some() { hidden } else { 0 };
    let normed = if trains_all { hidden } else { 0 };
    (2 * inner + norm + normed) * element + experts_of_token(model)
}

/// What adapters keep of a token, of the compute type: `x·Aᵀ`, and of experts `x` too.
pub fn adapters_of_token(elements: usize, element: usize) -> usize {
    elements * element
}

/// The input of a block: all that it keeps of a token if it is checkpointed.
pub fn input_of_token(model: &ModelConfig, element: usize) -> usize {
    model.hidden_size * element
}

/// What a token takes outside of the blocks: the stream after them, the gradient of the hidden states, which the loss computes
/// already in its forward, and an entry of each rotary table.
pub fn ends_of_token(model: &ModelConfig, element: usize, trains_all: bool) -> usize {
    let normed = if trains_all { model.hidden_size } else { 0 };
    (2 * model.hidden_size + normed) * element + model.rotary.len() * model.head_dim * F32
}

/// Tokens of a slice of a checkpointed feed-forward.
pub fn slice_tokens(model: &ModelConfig, checkpointing: Checkpointing, tokens: usize) -> usize {
    checkpointing.slice(inner(model), tokens)
}

/// Tensors of a feed-forward's inner width that its backward takes beside gate and up. On a device it is one, their product and then its
/// gradient, because the gradients of gate and up are written over them. The CPU does so for SiLU only, so there they count too.
fn inner_gradients(place: Place) -> usize {
    match place {
        Place::Device => 1,
        Place::Host => 3,
    }
}

/// What the backward of a block without checkpointing takes besides what is kept: the gradients of the feed-forward's inner tensors,
/// the input of a norm, and the gradients of the stream.
pub fn backward_of_token(model: &ModelConfig, element: usize, place: Place) -> usize {
    let Widths { hidden, inner, .. } = Widths::of(model);
    (inner_gradients(place) * inner + 3 * hidden) * element + 2 * experts_of_token(model)
}

/// What a checkpointed block takes of a token while its own backward runs, besides its input: its attention half, which is computed
/// again.
pub fn again_of_token(model: &ModelConfig, element: usize, ranks: usize) -> usize {
    let attention = attention_of_token(model, element, false) - input_of_token(model, element);
    attention + adapters_of_token(ranks, element)
}

/// What the backward of a checkpointed block takes besides for each token of a slice of its feed-forward: gate, up, and the gradients of
/// the inner tensors.
pub fn slice_of_token(model: &ModelConfig, element: usize, place: Place) -> usize {
    let Widths { hidden, inner, .. } = Widths::of(model);
    ((2 + inner_gradients(place)) * inner + 2 * hidden) * element + 3 * experts_of_token(model)
}

/// The tokens whose loss is computed together, and the bytes of an element of their logits: on a GPU 64 MB of the compute type, on the CPU
/// 4 Mi elements of f32, in multiples of 32 tokens. With a soft-cap they are 8 Mi elements everywhere.
fn chunk(model: &ModelConfig, element: usize, tokens: usize, place: Place) -> (usize, usize) {
    let (bytes, element) = match (place, model.logits_softcap) {
        (_, Some(_)) => ((8 << 20) * F32, F32),
        (Place::Device, None) => (64_000_000, element),
        (Place::Host, None) => ((4 << 20) * F32, F32),
    };
    let most = match (bytes / (model.vocab_size * element).max(1), place) {
        (most, Place::Host) if most >= 32 && model.logits_softcap.is_none() => most / 32 * 32,
        (most, _) => most,
    };
    (most.clamp(1, tokens.max(1)), element)
}

/// The logits of the tokens whose loss is computed together; with a soft-cap as many buffers as the composed operations hold.
pub fn logits(model: &ModelConfig, element: usize, tokens: usize, place: Place) -> usize {
    let (tokens, element) = chunk(model, element, tokens, place);
    tokens * (model.vocab_size * element).max(1) * if model.logits_softcap.is_some() { CAPPED } else { 1 }
}

/// Buffers of soft-capped logits: log-probabilities, the capped logits over the cap, and their squares.
const CAPPED: usize = 3;

/// What a pass without gradients takes of a token: the stream, the input of a block's feed-forward, gate, up and their product.
pub fn forward_of_token(model: &ModelConfig, element: usize) -> usize {
    let Widths { hidden, inner, query, key_value, .. } = Widths::of(model);
    let attention = 2 * query + 2 * key_value;
    (2 * hidden + attention.max(3 * inner)) * element
}

/// What an update takes besides gradients and moments: small parameters are updated in packs of up to 4 MiB, one of parameters, one
/// of gradients, one of results.
pub fn update(trained: impl Iterator<Item = usize>) -> usize {
    3 * trained.sum::<usize>().min(PACK) * F32
}

/// Elements of the largest pack of small parameters.
const PACK: usize = 1 << 20;

/// How often the gradient of a trained head exists while it is computed. It is a sum over chunks of tokens: on a GPU there are the sum and
/// the next chunk's part, if there are several; the CPU adds them in place.
pub fn copies_of_head(model: &ModelConfig, element: usize, tokens: usize, place: Place) -> usize {
    let in_place = place == Place::Host && model.logits_softcap.is_none();
    if in_place || chunk(model, element, tokens, place).0 >= tokens { 1 } else { 2 }
}

/// Copies of the gradient of a head that is the embedding too, beyond one: its two gradients are added, and on the CPU there are also what
/// the embedding's is scattered into, and the sum.
pub fn copies_of_tied(place: Place) -> usize {
    if place == Place::Host { 3 } else { 1 }
}

/// The program itself on the CPU, before any tensor: code and stacks, and the tokenizer, by the vocabulary. Measured on Linux.
pub fn process(model: &ModelConfig, place: Place) -> usize {
    match place {
        Place::Device => 0,
        Place::Host => (24 << 20) + 640 * model.vocab_size,
    }
}

/// What the allocator of a process holds unused: a sixteenth of what comes and goes, and what the last update freed, which lies between
/// what stays. What passes without gradients freed is used by the step that follows. Measured with glibc; a GPU's pools are counted by the
/// budget's reserve.
pub fn unused(comes_and_goes: usize, freed: usize, place: Place) -> usize {
    match place {
        Place::Device => 0,
        Place::Host => comes_and_goes / 16 + freed,
    }
}

/// Both moments of a parameter: 8 bytes of an element, or for large matrices in eight bits 2, and a scale for each block of 256.
pub fn moments(elements: usize, is_matrix: bool, kind: MomentType) -> usize {
    match kind {
        MomentType::EightBit if is_matrix && elements >= LEAST_ELEMENTS => {
            2 * (elements.next_multiple_of(DYNAMIC_BLOCK) + elements.div_ceil(DYNAMIC_BLOCK) * F32)
        }
        _ => 2 * elements * F32,
    }
}
