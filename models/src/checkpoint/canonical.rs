//! A checkpoint under the tensor names that its family declares.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use ::safetensors::Dtype;
use burn::tensor::TensorData;
use burnish_kernels::packed::{Packed, PackedKind};
use serde_json::Value;

use super::{Checkpoint, for_rows};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;
use crate::part::Role;

/// The ends of the names of buffers that old checkpoints store and transformers recomputes: rotary frequencies and masks.
const IGNORED: [&str; 4] = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".position_ids"];

/// Whether a tensor is a buffer that transformers ignores too.
pub fn is_ignored(name: &str) -> bool {
    IGNORED.iter().any(|end| name.ends_with(end))
}

/// The beginnings of names in the text part of a multimodal model, before and since transformers 4.52, and what replaces them in
/// a text model.
const TEXT_PREFIXES: [(&str, &str); 3] =
    [("language_model.model.", "model."), ("model.language_model.", "model."), ("language_model.lm_head.", "lm_head.")];

/// Returns the checkpoint under the names of a text model, without the tensors that no model reads.
///
/// Whether embedding and head are tied depends on what is stored, as in transformers 5: if only one of them is stored, it is
/// used for both; if both are stored and differ, they are not tied, and `config` and `json` are changed to say so.
///
/// # Errors
/// If embedding or head can't be read.
pub fn canonical(inner: Box<dyn Checkpoint>, config: &mut ModelConfig, json: &mut Value) -> Result<Box<dyn Checkpoint>> {
    let stored = inner.names();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let is_multimodal = stored.iter().any(|name| is_of_text_part(name));
    for name in &stored {
        let own = if is_multimodal { in_text_model(name) } else { Some(name.clone()) };
        if let Some(own) = own.filter(|own| !is_ignored(own)) {
            names.insert(own, name.clone());
        }
    }
    let of = |role: Role| config.family.part(role).map(|part| format!("{}.weight", part.checkpoint_name(None)));
    if let (true, Some(embedding), Some(head)) = (config.tie_word_embeddings, of(Role::Embedding), of(Role::Head)) {
        match (names.get(&embedding), names.get(&head)) {
            (Some(one), Some(other)) if !equal(&*inner, one, other)? => {
                tracing::warn!(
                    "`{embedding}` and `{head}` differ, so they are not tied, although `tie_word_embeddings` is true"
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

/// Whether the name is that of a tensor or module in the text part of a multimodal model.
pub fn is_of_text_part(name: &str) -> bool {
    TEXT_PREFIXES.iter().any(|(prefix, _)| name.starts_with(prefix))
}

/// The name that a tensor or module of a multimodal model has in a text model; `None` if it is not part of a text model.
pub fn in_text_model(name: &str) -> Option<String> {
    // The head lies beside the text part since transformers 4.52.
    let head = || name.starts_with("lm_head.").then(|| name.to_owned());
    let text = TEXT_PREFIXES.iter().find_map(|(prefix, own)| Some(format!("{own}{}", name.strip_prefix(prefix)?)));
    text.or_else(head)
}

/// Why two tensors are not read to their ends.
enum Stopped {
    Different,
    Failed(ModelError),
}

impl From<ModelError> for Stopped {
    fn from(error: ModelError) -> Self {
        Self::Failed(error)
    }
}

fn equal(checkpoint: &dyn Checkpoint, one: &str, other: &str) -> Result<bool> {
    if checkpoint.shape(one) != checkpoint.shape(other) {
        return Ok(false);
    }
    let mut row = 0;
    let columns = checkpoint.shape(one).and_then(|shape| shape.last().copied()).unwrap_or(1).max(1);
    // Embeddings are large, and mostly differ in the first rows if they do.
    let read = for_rows(checkpoint, one, |values| {
        let rows = row..row + values.len() / columns;
        row = rows.end;
        let is_equal = match checkpoint.read_rows(other, rows.clone())? {
            Some(others) => others == values,
            None => checkpoint.read_f32(other)?[rows.start * columns..rows.end * columns] == *values,
        };
        if is_equal { Ok(()) } else { Err(Stopped::Different) }
    });
    match read {
        Ok(()) => Ok(true),
        Err(Stopped::Different) => Ok(false),
        Err(Stopped::Failed(error)) => Err(error),
    }
}

/// A checkpoint whose tensors have other names.
struct Renamed {
    inner: Box<dyn Checkpoint>,
    /// The stored name of each tensor.
    names: BTreeMap<String, String>,
}

impl Renamed {
    fn stored(&self, name: &str) -> Result<&str> {
        let found = self.names.get(name).map(String::as_str);
        found.ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })
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

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>> {
        self.inner.read_rows(self.stored(name)?, rows)
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        self.inner.read(self.stored(name)?, dtype)
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        self.inner.packed_kind(self.names.get(name)?)
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        self.inner.read_packed(self.stored(name)?)
    }

    fn is_float8(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|stored| self.inner.is_float8(stored))
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        self.names.get(name).and_then(|stored| self.inner.integer_dtype(stored))
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.inner.read_bytes(self.stored(name)?)
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        self.inner.float_type(self.names.get(name)?)
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.inner.file_of(self.names.get(name)?)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.inner.files()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use burnish_kernels::packed::{Affine, Floats};
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

        fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
            // A stored value that the default of the trait would not give.
            dtype.convert(name, vec![self.0[name][0] + 0.5])
        }

        fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
            let blocks = Floats::F32(vec![self.0[name][0]]);
            let affine = Affine::new(name, [1, 64], [4, 64], vec![0; 8], blocks.clone(), blocks);
            Ok(Some(Packed::Affine(affine.unwrap())))
        }

        fn integer_dtype(&self, name: &str) -> Option<Dtype> {
            self.0.contains_key(name).then_some(Dtype::U8)
        }

        fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
            Ok(vec![self.0[name][0] as u8])
        }

        fn files(&self) -> Vec<PathBuf> {
            vec![PathBuf::from("model.safetensors")]
        }
    }

    /// The names with their values, and whether the configuration still ties embedding and head.
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

    fn owned(tensors: &[(&str, f32)]) -> Vec<(String, f32)> {
        tensors.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    const EMBEDDING: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";

    #[test]
    fn stored_tensors_decide_whether_embedding_and_head_are_tied() {
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
    fn tensors_of_a_text_part_have_the_names_of_a_text_model() {
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
    fn every_method_is_forwarded_under_the_stored_name() {
        let tensors = [(HEAD, 7.0)].map(|(name, value)| (name.to_owned(), vec![value])).into();
        let own = [(EMBEDDING.to_owned(), HEAD.to_owned())].into();
        let renamed = Renamed { inner: Box::new(Named(tensors)), names: own };
        assert_eq!(renamed.read(EMBEDDING, FloatType::F32).unwrap().to_vec::<f32>().unwrap(), [7.5]);
        assert_eq!(renamed.read_packed(EMBEDDING).unwrap().unwrap().dequantize(), [7.0; 64]);
        assert_eq!((renamed.integer_dtype(EMBEDDING), renamed.integer_dtype(HEAD)), (Some(Dtype::U8), None));
        assert_eq!(renamed.read_bytes(EMBEDDING).unwrap(), [7]);
        assert_eq!(renamed.files(), [PathBuf::from("model.safetensors")]);
    }

    #[test]
    fn buffers_that_transformers_recomputes_are_left_out() {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
        assert_eq!(names(&[(name, 1.0), (EMBEDDING, 2.0)]).0, owned(&[(EMBEDDING, 2.0)]));
        assert!(!is_ignored("model.layers.0.self_attn.q_proj.bias"));
    }

    /// Two tensors of many rows, and how many values were read of them.
    struct Counted(AtomicUsize, f32);

    impl Checkpoint for Counted {
        fn names(&self) -> Vec<String> {
            vec!["a".to_owned(), "b".to_owned()]
        }

        fn shape(&self, _: &str) -> Option<Vec<usize>> {
            Some(vec![1 << 16, 256])
        }

        fn read_f32(&self, _: &str) -> Result<Vec<f32>> {
            unreachable!()
        }

        fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>> {
            self.0.fetch_add(rows.len() * 256, Ordering::Relaxed);
            Ok(Some(vec![if name == "a" { 0.0 } else { self.1 }; rows.len() * 256]))
        }
    }

    #[test]
    fn tensors_are_compared_up_to_the_first_difference() {
        let (same, other) = (Counted(AtomicUsize::new(0), 0.0), Counted(AtomicUsize::new(0), 1.0));
        let read = |counted: &Counted| counted.0.load(Ordering::Relaxed);
        assert!(equal(&same, "a", "b").unwrap() && !equal(&other, "a", "b").unwrap());
        assert_eq!(read(&same), (2 * 256) << 16);
        assert!(read(&other) <= read(&same) / 2, "{} of {}", read(&other), read(&same));
    }
}
