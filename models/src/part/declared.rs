//! The tensors that a configuration declares: the parts of its family, with their sizes.

use std::collections::BTreeSet;

use super::{Part, Role};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;

impl Role {
    /// The shape of the weight: `[out, in]` for a matrix, `[features]` for a norm.
    pub fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let query = config.num_attention_heads * config.head_dim;
        let key_value = config.num_key_value_heads * config.head_dim;
        let (experts, of_expert) =
            config.experts.as_ref().map_or((0, 0), |experts| (experts.count, experts.intermediate_size));
        match self {
            Self::Embedding | Self::Head => vec![vocab, hidden],
            Self::Query => vec![query, hidden],
            Self::Key | Self::Value => vec![key_value, hidden],
            Self::QueryKeyValue => vec![query + 2 * key_value, hidden],
            Self::AttentionOutput => vec![hidden, query],
            Self::Gate | Self::Up => vec![inner, hidden],
            Self::GateUp => vec![2 * inner, hidden],
            Self::Down => vec![hidden, inner],
            Self::Sinks => vec![config.num_attention_heads],
            Self::Router => vec![experts, hidden],
            Self::ExpertGate | Self::ExpertUp => vec![of_expert, hidden],
            Self::ExpertDown => vec![hidden, of_expert],
            Self::QueryNorm if config.norms_span_heads => vec![query],
            Self::KeyNorm if config.norms_span_heads => vec![key_value],
            Self::QueryNorm | Self::KeyNorm => vec![config.head_dim],
            Self::InputNorm
            | Self::PostAttentionNorm
            | Self::FeedForwardNorm
            | Self::PostFeedForwardNorm
            | Self::FinalNorm => vec![hidden],
        }
    }

    /// Whether the layer of that index has it.
    pub fn is_in(self, config: &ModelConfig, layer: usize) -> bool {
        match self {
            Self::Gate | Self::Up | Self::GateUp | Self::Down => config.experts_of(layer).is_none(),
            _ if self.is_expert() || self == Self::Router => config.experts_of(layer).is_some(),
            _ => true,
        }
    }

    /// Whether there is a bias too.
    pub fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Query | Self::Key | Self::Value | Self::QueryKeyValue => config.biases.query_key_value,
            Self::AttentionOutput => config.biases.attention_output,
            Self::Gate | Self::Up | Self::GateUp | Self::Down => config.biases.mlp,
            Self::Router | Self::ExpertGate | Self::ExpertUp | Self::ExpertDown => {
                config.experts.as_ref().is_some_and(|experts| experts.biased)
            }
            _ => false,
        }
    }

    /// The number of heads that its rows are divided among, for queries and keys.
    pub fn heads(self, config: &ModelConfig) -> Option<usize> {
        match self {
            Self::Query => Some(config.num_attention_heads),
            Self::Key => Some(config.num_key_value_heads),
            _ => None,
        }
    }
}

/// A tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredTensor {
    /// Its checkpoint name.
    pub name: String,
    /// Its GGUF name.
    pub gguf: String,
    /// Its shape, the slowest dimension first.
    pub shape: Vec<usize>,
    /// The part that declares it.
    pub part: &'static Part,
    /// The block that it belongs to.
    pub layer: Option<usize>,
}

/// All tensors of a model: embedding, blocks, norm, and the head if it is not the embedding.
pub fn declared_tensors(config: &ModelConfig) -> Vec<DeclaredTensor> {
    let parts = config.family.parts;
    let mut tensors = Vec::new();
    let mut push = |part: &'static Part, layer: Option<usize>, name: String| {
        let gguf = part.gguf_name(layer);
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
    outer(Role::Embedding).for_each(|part| push(part, None, part.checkpoint_name(None)));
    for layer in 0..config.num_hidden_layers {
        for part in parts.iter().filter(|part| part.role.is_of_block() && part.role.is_in(config, layer)) {
            let experts =
                if part.role.is_expert() { config.experts_of(layer).map_or(0, |experts| experts.count) } else { 1 };
            (0..experts).for_each(|expert| push(part, Some(layer), part.expert_name(Some(layer), expert)));
        }
    }
    outer(Role::FinalNorm).for_each(|part| push(part, None, part.checkpoint_name(None)));
    outer(Role::Head).filter(|_| !config.tie_word_embeddings).for_each(|part| push(part, None, part.checkpoint_name(None)));
    tensors
}

impl ModelConfig {
    /// The number of weights of the model.
    pub fn parameter_count(&self) -> usize {
        declared_tensors(self).iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    }
}

/// The floats of a checkpoint that the configuration declares no tensor for. transformers ignores them too, with a warning.
pub fn undeclared_tensors(config: &ModelConfig, checkpoint: &dyn Checkpoint) -> Vec<String> {
    let declared: BTreeSet<String> = declared_tensors(config).into_iter().map(|tensor| tensor.name).collect();
    let is_undeclared = |name: &String| !declared.contains(name) && checkpoint.integer_dtype(name).is_none();
    checkpoint.names().into_iter().filter(is_undeclared).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::SafetensorsFolder;

    #[test]
    fn weights_of_more_layers_than_the_configuration_has_are_undeclared() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity/biased");
        let checkpoint = SafetensorsFolder::open(&folder).unwrap();
        let mut json = crate::json_file::read(&folder.join("config.json")).unwrap();
        let undeclared = |json: &serde_json::Value| undeclared_tensors(&ModelConfig::from_json(json).unwrap(), &checkpoint);
        assert!(undeclared(&json).is_empty());
        json["mlp_bias"] = false.into();
        assert_eq!(undeclared(&json).len(), 2 * 3);
        json["num_hidden_layers"] = 1.into();
        let found = undeclared(&json);
        assert!(found.contains(&"model.layers.1.input_layernorm.weight".to_owned()), "{found:?}");
        assert!(found.iter().all(|name| name.starts_with("model.layers.1.") || name.contains("0.mlp.")), "{found:?}");
    }
}
