//! What a family declares of its tensors: each has a role, a name in checkpoints and a name in GGUF files.

mod loader;

pub use loader::PartLoader;

use crate::config::ModelConfig;

/// What a tensor does in a decoder. Its shape follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Rows of tokens.
    Embedding,
    /// Before attention.
    InputNorm,
    /// To queries.
    Query,
    /// To keys.
    Key,
    /// To values.
    Value,
    /// To queries, keys and values, side by side.
    QueryKeyValue,
    /// Of each query head.
    QueryNorm,
    /// Of each key head.
    KeyNorm,
    /// From attention back to the residual stream.
    AttentionOutput,
    /// After attention, before its result is added.
    PostAttentionNorm,
    /// Before the feed-forward.
    FeedForwardNorm,
    /// Through the activation.
    Gate,
    /// Times the activation.
    Up,
    /// Both of them, side by side.
    GateUp,
    /// From the feed-forward back to the residual stream.
    Down,
    /// After the feed-forward, before its result is added.
    PostFeedForwardNorm,
    /// Before the head.
    FinalNorm,
    /// To logits; absent where the embedding serves.
    Head,
}

impl Role {
    /// The shape of the weight: `[out, in]` of a matrix, `[features]` of a norm.
    pub fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let query = config.num_attention_heads * config.head_dim;
        let key_value = config.num_key_value_heads * config.head_dim;
        match self {
            Self::Embedding | Self::Head => vec![vocab, hidden],
            Self::Query => vec![query, hidden],
            Self::Key | Self::Value => vec![key_value, hidden],
            Self::QueryKeyValue => vec![query + 2 * key_value, hidden],
            Self::AttentionOutput => vec![hidden, query],
            Self::Gate | Self::Up => vec![inner, hidden],
            Self::GateUp => vec![2 * inner, hidden],
            Self::Down => vec![hidden, inner],
            Self::QueryNorm | Self::KeyNorm => vec![config.head_dim],
            Self::InputNorm
            | Self::PostAttentionNorm
            | Self::FeedForwardNorm
            | Self::PostFeedForwardNorm
            | Self::FinalNorm => vec![hidden],
        }
    }

    /// Whether there is a bias beside the weight.
    pub fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Query | Self::Key | Self::Value | Self::QueryKeyValue => config.biases.query_key_value,
            Self::AttentionOutput => config.biases.attention_output,
            Self::Gate | Self::Up | Self::GateUp | Self::Down => config.biases.mlp,
            _ => false,
        }
    }

    /// Whether it is the weight of a norm.
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

    /// Whether every block has one.
    pub fn is_of_block(self) -> bool {
        !matches!(self, Self::Embedding | Self::FinalNorm | Self::Head)
    }

    /// Whether adapters may be attached to it.
    pub fn is_linear(self) -> bool {
        self.is_of_block() && !self.is_norm()
    }

    /// The heads that share its rows.
    pub fn heads(self, config: &ModelConfig) -> Option<usize> {
        match self {
            Self::Query => Some(config.num_attention_heads),
            Self::Key => Some(config.num_key_value_heads),
            _ => None,
        }
    }
}

/// How GGUF files order the rows of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As checkpoints do.
    Same,
    /// The two halves of each head interleaved, as llama.cpp's first rotation wants them.
    Interleaved,
}

/// One kind of tensor of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it does.
    pub role: Role,
    /// Its checkpoint name without `.weight`; that of a block's part is without `model.layers.N.` too.
    pub name: &'static str,
    /// Its GGUF name, without `.weight` and `blk.N.`.
    pub gguf: &'static str,
    /// The order of its rows in GGUF files.
    pub rows: RowOrder,
}

impl Part {
    /// A part whose rows GGUF files keep as checkpoints do.
    pub const fn new(role: Role, name: &'static str, gguf: &'static str) -> Self {
        Self { role, name, gguf, rows: RowOrder::Same }
    }

    /// The part with rows interleaved in GGUF files.
    #[must_use]
    pub const fn interleaved(self) -> Self {
        Self { rows: RowOrder::Interleaved, ..self }
    }

    /// The checkpoint name without `.weight`, of a block or, with `None`, outside of blocks.
    pub fn checkpoint_name(&self, layer: Option<usize>) -> String {
        layer.map_or_else(|| self.name.to_owned(), |layer| format!("{LAYERS}{layer}.{}", self.name))
    }

    /// The GGUF name without `.weight`.
    pub fn gguf_name(&self, layer: Option<usize>) -> String {
        layer.map_or_else(|| self.gguf.to_owned(), |layer| format!("{GGUF_LAYERS}{layer}.{}", self.gguf))
    }
}

/// What checkpoints put before the number of a block.
const LAYERS: &str = "model.layers.";
/// What GGUF files put before it.
const GGUF_LAYERS: &str = "blk.";

/// A tensor that a checkpoint of some configuration has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredTensor {
    /// Its checkpoint name.
    pub name: String,
    /// Its GGUF name.
    pub gguf: String,
    /// Slowest dim first.
    pub shape: Vec<usize>,
    /// What declared it.
    pub part: &'static Part,
    /// Its block.
    pub layer: Option<usize>,
}

/// Every tensor that a checkpoint of a configuration has: embedding, blocks, norm, head.
pub fn declared_tensors(config: &ModelConfig) -> Vec<DeclaredTensor> {
    let parts = config.family.parts;
    let mut tensors = Vec::new();
    let mut push = |part: &'static Part, layer: Option<usize>| {
        let (name, gguf) = (part.checkpoint_name(layer), part.gguf_name(layer));
        let shape = part.role.shape(config);
        let bias = part.role.has_bias(config).then(|| ("bias", vec![shape[0]]));
        let kinds = [Some(("weight", shape)), bias].into_iter().flatten();
        tensors.extend(kinds.map(|(kind, shape)| DeclaredTensor {
            name: format!("{name}.{kind}"),
            gguf: format!("{gguf}.{kind}"),
            shape,
            part,
            layer,
        }));
    };
    let outer = |role: Role| parts.iter().filter(move |part| part.role == role);
    outer(Role::Embedding).for_each(|part| push(part, None));
    for layer in 0..config.num_hidden_layers {
        parts.iter().filter(|part| part.role.is_of_block()).for_each(|part| push(part, Some(layer)));
    }
    outer(Role::FinalNorm).for_each(|part| push(part, None));
    outer(Role::Head).filter(|_| !config.tie_word_embeddings).for_each(|part| push(part, None));
    tensors
}

/// The checkpoint name of a GGUF tensor, and what declares it, where one of the parts does.
pub(crate) fn of_gguf(parts: &'static [Part], name: &str) -> Option<(String, &'static Part)> {
    let (stem, kind) = name.rsplit_once('.')?;
    let (layer, own) = match stem.strip_prefix(GGUF_LAYERS).and_then(|rest| rest.split_once('.')) {
        Some((layer, own)) => (Some(layer.parse::<usize>().ok()?), own),
        None => (None, stem),
    };
    let part = parts.iter().find(|part| part.gguf == own && part.role.is_of_block() == layer.is_some())?;
    Some((format!("{}.{kind}", part.checkpoint_name(layer)), part))
}
