//! A checkpoint under the names that its family declares, whatever it calls and leaves out itself.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use burnish_kernels::packed::Packed;
use serde_json::Value;

use super::Checkpoint;
use crate::config::ModelConfig;
use crate::dtype::ComputeType;
use crate::error::{ModelError, Result};
use crate::part::Role;

/// Ends of names of buffers that old checkpoints have and transformers computes: angles and masks of attention.
const IGNORED: [&str; 4] = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".position_ids"];

/// Whether a tensor is one of those that transformers ignores too.
pub fn is_ignored(name: &str) -> bool {
    IGNORED.iter().any(|end| name.ends_with(end))
}

/// How multimodal checkpoints begin the names of their text part, before and since transformers 5, and what follows `model.` or
/// stands alone without it.
const TEXT_PREFIXES: [(&str, &str); 3] =
    [("language_model.model.", "model."), ("model.language_model.", "model."), ("language_model.lm_head.", "lm_head.")];

/// The checkpoint without what models do not read, under the names of a text model, with the head that it stores.
///
/// Of a tied pair the one that is stored serves as both; two that differ are not tied, as in transformers 5, and then the
/// configuration says so afterwards.
///
/// # Errors
/// When a tensor can't be read.
pub fn canonical(inner: Box<dyn Checkpoint>, config: &mut ModelConfig, json: &mut Value) -> Result<Box<dyn Checkpoint>> {
    let stored = inner.names();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let is_part = stored.iter().any(|name| text_name(name).is_some());
    for name in &stored {
        let own = if is_part { text_name(name).or_else(|| head_alone(name)) } else { Some(name.clone()) };
        if let Some(own) = own.filter(|own| !is_ignored(own)) {
            names.insert(own, name.clone());
        }
    }
    let of = |role: Role| config.family.part(role).map(|part| format!("{}.weight", part.checkpoint_name(None)));
    if let (true, Some(embedding), Some(head)) = (config.tie_word_embeddings, of(Role::Embedding), of(Role::Head)) {
        match (names.get(&embedding), names.get(&head)) {
            (Some(one), Some(other)) if !equal(&*inner, one, other)? => {
                tracing::warn!(
                    "`{embedding}` and `{head}` differ, so they are not tied, whatever `tie_word_embeddings` says"
                );
                config.tie_word_embeddings = false;
                json["tie_word_embeddings"] = Value::Bool(false);
            }
            (Some(_), Some(_)) => {
                names.remove(&head);
            }
            (None, Some(_)) => {
                let only = names.remove(&head).unwrap_or_default();
                names.insert(embedding, only);
            }
            (_, None) => {}
        }
    }
    let is_same = names.len() == stored.len() && names.iter().all(|(own, name)| own == name);
    Ok(if is_same { inner } else { Box::new(Renamed { inner, names }) })
}

/// The name in a text model of its own, for a tensor of a multimodal one's text part.
fn text_name(name: &str) -> Option<String> {
    TEXT_PREFIXES.iter().find_map(|(prefix, own)| name.strip_prefix(prefix).map(|rest| format!("{own}{rest}")))
}

/// The head, which transformers 5 keeps outside of the text part.
fn head_alone(name: &str) -> Option<String> {
    name.starts_with("lm_head.").then(|| name.to_owned())
}

fn equal(checkpoint: &dyn Checkpoint, one: &str, other: &str) -> Result<bool> {
    Ok(checkpoint.shape(one) == checkpoint.shape(other) && checkpoint.read_f32(one)? == checkpoint.read_f32(other)?)
}

/// Tensors under other names.
struct Renamed {
    inner: Box<dyn Checkpoint>,
    /// Own name to the one that is stored.
    names: BTreeMap<String, String>,
}

impl Renamed {
    fn stored(&self, name: &str) -> Result<&str> {
        let found = self.names.get(name).map(String::as_str);
        found.ok_or_else(|| ModelError::Misfit { problems: vec![format!("{name}: missing")] })
    }
}

impl Checkpoint for Renamed {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.names.get(name).and_then(|stored| self.inner.shape(stored))
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.inner.read_f32(self.stored(name)?)
    }

    fn read(&self, name: &str, dtype: ComputeType) -> Result<TensorData> {
        self.inner.read(self.stored(name)?, dtype)
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        self.inner.read_packed(self.stored(name)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Named(BTreeMap<String, Vec<f32>>);

    impl Checkpoint for Named {
        fn names(&self) -> Vec<String> {
            self.0.keys().cloned().collect()
        }

        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.get(name).map(|values| vec![values.len()])
        }

        fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
            Ok(self.0[name].clone())
        }
    }

    /// Names with values after it, and whether the configuration still ties.
    fn names(tensors: &[(&str, f32)]) -> (Vec<(String, f32)>, bool) {
        let mut json = json!({
            "model_type": "gemma3_text", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 4,
        });
        let mut config = ModelConfig::from_json(&json).unwrap();
        let tensors = tensors.iter().map(|(name, value)| ((*name).to_owned(), vec![*value])).collect();
        let checkpoint = canonical(Box::new(Named(tensors)), &mut config, &mut json).unwrap();
        assert_eq!(json.get("tie_word_embeddings"), (!config.tie_word_embeddings).then_some(&json!(false)));
        let values = checkpoint.names().into_iter().map(|name| (name.clone(), checkpoint.read_f32(&name).unwrap()[0]));
        (values.collect(), config.tie_word_embeddings)
    }

    fn owned(pairs: &[(&str, f32)]) -> Vec<(String, f32)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    const EMBEDDING: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";

    #[test]
    fn what_is_stored_decides_what_is_tied() {
        for (stored, own, tied) in [
            (vec![(EMBEDDING, 1.0)], vec![(EMBEDDING, 1.0)], true),
            (vec![(HEAD, 2.0)], vec![(EMBEDDING, 2.0)], true),
            (vec![(EMBEDDING, 3.0), (HEAD, 3.0)], vec![(EMBEDDING, 3.0)], true),
            (vec![(EMBEDDING, 1.0), (HEAD, 2.0)], vec![(HEAD, 2.0), (EMBEDDING, 1.0)], false),
        ] {
            assert_eq!(names(&stored), (owned(&own), tied), "{stored:?}");
        }
    }

    #[test]
    fn a_text_part_has_the_names_of_a_text_model() {
        let old = [
            ("language_model.model.norm.weight", 1.0),
            ("vision_tower.norm.weight", 2.0),
            ("language_model.lm_head.weight", 3.0),
        ];
        assert_eq!(names(&old).0, owned(&[(EMBEDDING, 3.0), ("model.norm.weight", 1.0)]));
        let new = [("model.language_model.norm.weight", 1.0), ("model.vision_tower.norm.weight", 2.0), (HEAD, 3.0)];
        assert_eq!(names(&new).0, owned(&[(EMBEDDING, 3.0), ("model.norm.weight", 1.0)]));
    }

    #[test]
    fn buffers_that_transformers_computes_are_left_out() {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
        assert_eq!(names(&[(name, 1.0), (EMBEDDING, 2.0)]).0, owned(&[(EMBEDDING, 2.0)]));
        assert!(!is_ignored("model.layers.0.self_attn.q_proj.bias"));
    }
}
