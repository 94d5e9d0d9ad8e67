//! Digests of a run's inputs, so that a resumed run notices when they changed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use burnish_lora::adapter_files;
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
    /// The base model: names and shapes of all tensors, the values of vectors, and those of one matrix of each kind.
    base: String,
    /// The adapter of the reference model, if it has one.
    #[serde(default)]
    reference: Option<String>,
}

/// Of a larger matrix, only every n-th element is hashed.
const MOST_ELEMENTS: usize = 1 << 22;
/// Matrices with more elements, which are embeddings, are not read.
const LARGEST_READ: usize = 1 << 26;

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

    /// The changed inputs that affect training, named for the user.
    pub fn changes(&self, then: &Self) -> Vec<&'static str> {
        let rows = (self.train != then.train).then_some("the training rows");
        rows.into_iter().chain(self.model_changes(then)).collect()
    }

    /// The changed inputs that affect the validation loss, named for the user.
    pub fn validation_changes(&self, then: &Self) -> Vec<&'static str> {
        let rows = (self.valid != then.valid).then_some("the validation rows");
        rows.into_iter().chain(self.model_changes(then)).collect()
    }

    fn model_changes(&self, then: &Self) -> impl Iterator<Item = &'static str> {
        let base = (self.base != then.base).then_some("the base model");
        let reference = (self.reference != then.reference).then_some("the adapter of the reference model");
        base.into_iter().chain(reference)
    }
}

fn of_rows(batches: &Batches) -> String {
    let mut hasher = Sha256::new();
    // A digest of many bytes at once is several times faster than one number by number.
    let mut bytes = Vec::new();
    for example in batches.examples().iter() {
        bytes.clear();
        bytes.extend((example.input_ids.len() as u64).to_le_bytes());
        example.input_ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        example.labels.iter().for_each(|label| bytes.extend(label.to_le_bytes()));
        if !example.desirable {
            bytes.extend(b"undesirable");
        }
        hasher.update(&bytes);
    }
    hex(hasher)
}

fn of_adapter(folder: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for file in adapter_files(folder)? {
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
    let mut names = base.names();
    names.sort_unstable();
    // By the name without the layer: a merged adapter may have changed one kind of matrix alone, and the first layers not at all.
    let mut last: BTreeMap<String, (Option<usize>, &str)> = BTreeMap::new();
    for name in &names {
        let shape = base.shape(name).unwrap_or_default();
        hasher.update(format!("{name} {shape:?}\n"));
        if base.integer_dtype(name).is_some() {
            // Buffers of positions and the like.
            continue;
        }
        let layer = name.split('.').find_map(|part| part.parse::<usize>().ok());
        let kind = match shape.len() {
            2 if shape.iter().product::<usize>() > LARGEST_READ => continue,
            2 => name.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join("."),
            // Every vector counts.
            1 => name.clone(),
            _ => continue,
        };
        let found = last.entry(kind).or_insert((layer, name.as_str()));
        if layer >= found.0 {
            *found = (layer, name.as_str());
        }
    }
    for (_, name) in last.values() {
        let values = base.read_f32(name)?;
        let every = values.len().div_ceil(MOST_ELEMENTS).max(1);
        values.iter().step_by(every).for_each(|value| hasher.update(value.to_le_bytes()));
    }
    Ok(hex(hasher))
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;
    use crate::data::{BatchOptions, Example};

    const POSITIONS: &str = "position_ids";

    struct Planted<'a>(Vec<(&'a str, Vec<usize>, f32)>);

    impl Checkpoint for Planted<'_> {
        fn names(&self) -> Vec<String> {
            self.0.iter().map(|(name, ..)| (*name).to_owned()).collect()
        }

        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.iter().find(|(own, ..)| *own == name).map(|(_, shape, _)| shape.clone())
        }

        fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
            let (_, shape, value) = self.0.iter().find(|(own, ..)| *own == name).unwrap();
            assert!(name != POSITIONS);
            Ok(vec![*value; shape.iter().product()])
        }

        fn integer_dtype(&self, name: &str) -> Option<Dtype> {
            (name == POSITIONS).then_some(Dtype::I64)
        }
    }

    #[test]
    fn different_rows_and_bases_have_different_digests() {
        let options = BatchOptions {
            batch_size: 1,
            max_seq_length: 8,
            packing: false,
            padding_free: true,
            shuffle_seed: None,
            preference_pairs: false,
            granule: 1,
            pad_token_id: 0,
        };
        let rows = |ids: &[u32], labels: &[i64]| {
            let example = Example { input_ids: ids.to_vec(), labels: labels.to_vec(), desirable: true };
            [true, false].map(|desirable| of_rows(&Batches::new(vec![Example { desirable, ..example.clone() }], options)))
        };
        let [good, bad] = rows(&[1, 2], &[-100, 2]);
        assert_ne!(good, bad);
        assert_eq!(rows(&[1, 2], &[-100, 2]), rows(&[1, 2], &[-100, 2]));
        assert_ne!(rows(&[1, 2], &[-100, 2]), rows(&[1, 3], &[-100, 2]));
        assert_ne!(rows(&[1, 2], &[-100, 2]), rows(&[1, 2], &[1, 2]));
        let base = |norm: f32, weight: f32, rows: usize| {
            of_base(&Planted(vec![("norm", vec![4], norm), ("w", vec![rows, 2], weight), (POSITIONS, vec![8], 0.0)]))
                .unwrap()
        };
        assert_eq!(base(1.0, 2.0, 3), base(1.0, 2.0, 3));
        for other in [base(1.5, 2.0, 3), base(1.0, 2.5, 3), base(1.0, 2.0, 4)] {
            assert_ne!(other, base(1.0, 2.0, 3));
        }
        // A model that has only large matrices.
        assert_ne!(base(1.0, 2.0, MOST_ELEMENTS), base(1.0, 2.5, MOST_ELEMENTS));
    }

    #[test]
    fn a_base_of_which_one_kind_of_matrix_changed_in_the_last_layer_has_another_digest() {
        let names: Vec<String> = (0..12)
            .flat_map(|layer| ["q", "k", "v", "o", "gate", "up", "down"].map(|kind| format!("layers.{layer}.{kind}.weight")))
            .collect();
        let of = |changed: &str| {
            let value = |name: &str| if name == changed { 2.0 } else { 1.0 };
            of_base(&Planted(names.iter().map(|name| (name.as_str(), vec![2, 2], value(name))).collect())).unwrap()
        };
        for changed in names.iter().filter(|name| name.starts_with("layers.11.")) {
            assert_ne!(of(""), of(changed), "{changed}");
        }
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
        let model = ["the base model", "the adapter of the reference model"];
        assert_eq!(of("a", None, "b").changes(&other), [&["the training rows"][..], &model].concat());
        assert_eq!(of("a", None, "b").validation_changes(&other), [&["the validation rows"][..], &model].concat());
        // Rows that are held out decide nothing that is learned, and the others no validation loss.
        assert!(of("a", None, "b").changes(&of("a", Some("d"), "b")).is_empty());
        assert!(of("a", None, "b").validation_changes(&of("c", None, "b")).is_empty());
    }
}
