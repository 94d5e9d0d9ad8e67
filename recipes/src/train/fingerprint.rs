//! Digests of a run's inputs, so that a resumed run notices when they changed.

use std::path::Path;

use anyhow::{Context, Result};
use burnish_lora::ADAPTER_FILES;
use burnish_models::{Checkpoint, Pretrained};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::Batches;

/// Digests of a run's inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Tokens and labels of all training rows, which depend on data, tokenizer, chat template and configuration.
    train: String,
    /// The same for the validation rows.
    valid: Option<String>,
    /// The base model: names and shapes of all tensors, and the values of some.
    base: String,
    /// The adapter of the reference model, if it has one.
    #[serde(default)]
    reference: Option<String>,
}

/// How many matrices of the base are read, spread over the model.
const SAMPLED_MATRICES: usize = 8;
/// Larger matrices are read only if there are too few smaller ones.
const LARGEST_SAMPLE: usize = 1 << 22;

impl Fingerprint {
    /// Digests a run's inputs. Of the base it reads only the vectors and a few matrices, which takes less than a second.
    ///
    /// # Errors
    /// When a tensor can't be read.
    pub fn of(train: &Batches, valid: Option<&Batches>, base: &Pretrained, reference: Option<&Path>) -> Result<Self> {
        Ok(Self {
            train: of_rows(train),
            valid: valid.map(of_rows),
            base: of_base(&*base.checkpoint)?,
            reference: reference.map(of_adapter).transpose()?,
        })
    }

    /// Whether the validation losses of both can be compared.
    pub fn validates_as(&self, then: &Self) -> bool {
        self.valid == then.valid
    }

    /// The inputs that changed, named for the user.
    pub fn changes(&self, then: &Self) -> Vec<&'static str> {
        let mut changed = Vec::new();
        if self.train != then.train {
            changed.push("the training rows");
        }
        if self.valid != then.valid {
            changed.push("the validation rows");
        }
        if self.base != then.base {
            changed.push("the base model");
        }
        if self.reference != then.reference {
            changed.push("the adapter of the reference model");
        }
        changed
    }
}

fn of_rows(batches: &Batches) -> String {
    let mut hasher = Sha256::new();
    for example in batches.examples() {
        hasher.update((example.input_ids.len() as u64).to_le_bytes());
        example.input_ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        example.labels.iter().for_each(|label| hasher.update(label.to_le_bytes()));
    }
    hex(hasher)
}

fn of_adapter(folder: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for name in ADAPTER_FILES {
        let file = folder.join(name);
        hasher.update(std::fs::read(&file).with_context(|| file.display().to_string())?);
    }
    Ok(hex(hasher))
}

/// A digest in hexadecimal.
pub(super) fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn of_base(base: &dyn Checkpoint) -> Result<String> {
    let mut hasher = Sha256::new();
    let (mut vectors, mut matrices, mut large) = (Vec::new(), Vec::new(), Vec::new());
    let mut names = base.names();
    names.sort_unstable();
    for name in names {
        let shape = base.shape(&name).unwrap_or_default();
        hasher.update(format!("{name} {shape:?}\n"));
        let elements: usize = shape.iter().product();
        match shape.len() {
            1 => vectors.push(name),
            2 if elements <= LARGEST_SAMPLE => matrices.push(name),
            2 => large.push((elements, name)),
            _ => {}
        }
    }
    if matrices.len() < SAMPLED_MATRICES {
        // Too few small matrices: read the smallest of the large ones.
        large.sort_unstable();
        matrices.extend(large.into_iter().take(SAMPLED_MATRICES - matrices.len()).map(|(_, name)| name));
    }
    let every = matrices.len().div_ceil(SAMPLED_MATRICES).max(1);
    for name in vectors.iter().chain(matrices.iter().step_by(every)) {
        base.read_f32(name)?.iter().for_each(|value| hasher.update(value.to_le_bytes()));
    }
    Ok(hex(hasher))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{BatchOptions, Example};

    struct Planted(Vec<(&'static str, Vec<usize>, f32)>);

    impl Checkpoint for Planted {
        fn names(&self) -> Vec<String> {
            self.0.iter().map(|(name, ..)| (*name).to_owned()).collect()
        }

        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.iter().find(|(own, ..)| *own == name).map(|(_, shape, _)| shape.clone())
        }

        fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
            let (_, shape, value) = self.0.iter().find(|(own, ..)| *own == name).unwrap();
            Ok(vec![*value; shape.iter().product()])
        }
    }

    #[test]
    fn different_rows_and_bases_have_different_digests() {
        let options = BatchOptions {
            batch_size: 1,
            max_seq_length: 8,
            packing: false,
            shuffle_seed: None,
            preference_pairs: false,
            pad_token_id: 0,
        };
        let rows = |ids: &[u32], labels: &[i64]| {
            let example = Example { input_ids: ids.to_vec(), labels: labels.to_vec() };
            of_rows(&Batches::new(vec![example], options))
        };
        assert_eq!(rows(&[1, 2], &[-100, 2]), rows(&[1, 2], &[-100, 2]));
        assert_ne!(rows(&[1, 2], &[-100, 2]), rows(&[1, 3], &[-100, 2]));
        assert_ne!(rows(&[1, 2], &[-100, 2]), rows(&[1, 2], &[1, 2]));
        let base = |norm: f32, weight: f32, rows: usize| {
            of_base(&Planted(vec![("norm", vec![4], norm), ("w", vec![rows, 2], weight)])).unwrap()
        };
        assert_eq!(base(1.0, 2.0, 3), base(1.0, 2.0, 3));
        for other in [base(1.5, 2.0, 3), base(1.0, 2.5, 3), base(1.0, 2.0, 4)] {
            assert_ne!(other, base(1.0, 2.0, 3));
        }
        // A model that has only large matrices.
        assert_ne!(base(1.0, 2.0, LARGEST_SAMPLE), base(1.0, 2.5, LARGEST_SAMPLE));
    }

    #[test]
    fn changes_are_named() {
        let of = |train: &str, valid: Option<&str>, base: &str| Fingerprint {
            train: train.to_owned(),
            valid: valid.map(str::to_owned),
            base: base.to_owned(),
            reference: None,
        };
        assert!(of("a", None, "b").changes(&of("a", None, "b")).is_empty());
        let other = Fingerprint { reference: Some("f".to_owned()), ..of("c", Some("d"), "e") };
        let all = of("a", None, "b").changes(&other);
        let expected = ["the training rows", "the validation rows", "the base model", "the adapter of the reference model"];
        assert_eq!(all, expected);
        assert!(other.validates_as(&of("x", Some("d"), "y")) && !other.validates_as(&of("c", None, "e")));
    }
}
