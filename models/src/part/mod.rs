//! The parts of a family: what each tensor is for, and its names in checkpoints and in GGUF files.

mod declared;
mod gguf;
mod loader;
mod stacked;

pub use declared::{DeclaredTensor, declared_tensors, undeclared_tensors};
pub use gguf::{GgufTensor, gguf_tensors};
pub use loader::PartLoader;
pub(crate) use stacked::of_layer;
pub use stacked::{StackedParameter, stacked_parameters};

/// What a tensor is for in a decoder. Its shape follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The embedding.
    Embedding,
    /// The norm before attention.
    InputNorm,
    /// The projection to queries.
    Query,
    /// The projection to keys.
    Key,
    /// The projection to values.
    Value,
    /// One projection to queries, keys and values.
    QueryKeyValue,
    /// One more score of each head, which takes part in the softmax alone.
    Sinks,
    /// The norm of each query head, or of all of them together.
    QueryNorm,
    /// The norm of each key head, or of all of them together.
    KeyNorm,
    /// The projection from attention back to the residual stream.
    AttentionOutput,
    /// The norm after attention, before the result is added to the residual stream.
    PostAttentionNorm,
    /// The norm before the feed-forward.
    FeedForwardNorm,
    /// The projection to the gate, which goes through the activation.
    Gate,
    /// The projection that is multiplied by the gate.
    Up,
    /// One projection to both.
    GateUp,
    /// The projection from the feed-forward back to the residual stream.
    Down,
    /// The projection to the scores of experts.
    Router,
    /// The gate of an expert.
    ExpertGate,
    /// The projection of an expert that is multiplied by its gate.
    ExpertUp,
    /// The projection of an expert back to the residual stream.
    ExpertDown,
    /// The norm after the feed-forward, before the result is added to the residual stream.
    PostFeedForwardNorm,
    /// The norm before the head.
    FinalNorm,
    /// The projection to logits; absent if the embedding is used for it.
    Head,
}

impl Role {
    /// Whether it is a norm.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Self::InputNorm
                | Self::QueryNorm
                | Self::KeyNorm
                | Self::PostAttentionNorm
                | Self::FeedForwardNorm
                | Self::PostFeedForwardNorm
                | Self::FinalNorm
        )
    }

    /// Whether it belongs to a block; the others occur once.
    pub fn is_of_block(self) -> bool {
        !matches!(self, Self::Embedding | Self::FinalNorm | Self::Head)
    }

    /// Whether it is a linear layer of a block, to which an adapter can be attached.
    pub fn is_linear(self) -> bool {
        self.is_of_block() && !self.is_norm() && !self.is_expert() && !self.is_single()
    }

    /// Whether it is in f32, whatever the model computes in.
    pub fn is_single(self) -> bool {
        matches!(self, Self::Router | Self::Sinks)
    }

    /// Whether there is one for each expert. Its name has `{}` where the number of the expert belongs, and GGUF files have those of all
    /// experts in one tensor.
    pub fn is_expert(self) -> bool {
        matches!(self, Self::ExpertGate | Self::ExpertUp | Self::ExpertDown)
    }
}

/// The order of the rows of a weight in GGUF files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As in checkpoints.
    Same,
    /// The two halves of each head are interleaved, because llama.cpp rotates adjacent elements for this architecture.
    Interleaved,
}

/// One kind of tensor of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it is for.
    pub role: Role,
    /// Its checkpoint name without `.weight`, and without `model.layers.N.` if it belongs to a block.
    pub name: &'static str,
    /// Its GGUF name without `.weight`, and without `blk.N.` if it belongs to a block.
    pub gguf: &'static str,
    /// The order of its rows in GGUF files.
    pub rows: RowOrder,
    /// The GGUF names of the two halves of its rows, where files have a tensor for each.
    pub halves: Option<[&'static str; 2]>,
    /// The parameter of transformers that has those of all experts: see [`StackedParameter`].
    pub parameter: Option<&'static str>,
    /// The name of its linear layer in mlx-lm, in a block, where that is not its checkpoint name without the number of the expert.
    pub mlx: Option<&'static str>,
}

impl Part {
    /// A part whose rows have the same order in GGUF files.
    pub const fn new(role: Role, name: &'static str, gguf: &'static str) -> Self {
        Self { role, name, gguf, rows: RowOrder::Same, halves: None, parameter: None, mlx: None }
    }

    /// A part whose rows GGUF files have in two tensors, the first half and the second.
    pub const fn in_halves(role: Role, name: &'static str, halves: [&'static str; 2]) -> Self {
        Self { halves: Some(halves), ..Self::new(role, name, halves[0]) }
    }

    /// The part with [`RowOrder::Interleaved`].
    #[must_use]
    pub const fn interleaved(self) -> Self {
        Self { rows: RowOrder::Interleaved, ..self }
    }

    /// The part of experts that is held by that parameter of transformers.
    #[must_use]
    pub const fn held_by(self, parameter: &'static str) -> Self {
        Self { parameter: Some(parameter), ..self }
    }

    /// The part with that name in mlx-lm.
    #[must_use]
    pub const fn in_mlx(self, name: &'static str) -> Self {
        Self { mlx: Some(name), ..self }
    }

    /// The checkpoint name without `.weight`, in the block `layer` if it belongs to one.
    pub fn checkpoint_name(&self, layer: Option<usize>) -> String {
        layer.map_or_else(|| self.name.to_owned(), |layer| format!("{LAYERS}{layer}.{}", self.name))
    }

    /// The checkpoint name without `.weight` of one expert's part.
    pub fn expert_name(&self, layer: Option<usize>, expert: usize) -> String {
        with_expert(&self.checkpoint_name(layer), expert)
    }

    /// The GGUF name without `.weight`, in the block `layer` if it belongs to one.
    pub fn gguf_name(&self, layer: Option<usize>) -> String {
        layer.map_or_else(|| self.gguf.to_owned(), |layer| format!("{GGUF_LAYERS}{layer}.{}", self.gguf))
    }
}

/// The name of one expert's tensor, from the name of a part that each of them has.
pub(crate) fn with_expert(name: &str, expert: usize) -> String {
    name.replacen("{}", &expert.to_string(), 1)
}

/// What comes before the index of a block in checkpoint names.
const LAYERS: &str = "model.layers.";
/// What comes before the index of a block in GGUF names.
const GGUF_LAYERS: &str = "blk.";

/// The checkpoint name of a GGUF tensor and its part; `None` if none of the parts has that name.
pub fn of_gguf(parts: &'static [Part], name: &str) -> Option<(String, &'static Part)> {
    let (stem, kind) = name.rsplit_once('.')?;
    let (layer, own) = match stem.strip_prefix(GGUF_LAYERS).and_then(|rest| rest.split_once('.')) {
        Some((layer, own)) => (Some(layer.parse::<usize>().ok()?), own),
        None => (None, stem),
    };
    let is_named = |part: &&Part| part.gguf == own && part.halves.is_none() && part.role.is_of_block() == layer.is_some();
    let part = parts.iter().find(is_named)?;
    Some((format!("{}.{kind}", part.checkpoint_name(layer)), part))
}
