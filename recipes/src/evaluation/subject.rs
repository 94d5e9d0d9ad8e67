//! What is compared with a base model: its adapters, and other models.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burnish_lora::{HostAdapter, HostLayer};
use burnish_models::{ModelError, Pretrained, Tokenizer};

/// An adapter or a model that is compared with a base model.
pub struct Subject {
    /// As the user gave it.
    pub name: String,
    /// What it is.
    pub weights: SubjectWeights,
}

/// The weights of a [`Subject`].
pub enum SubjectWeights {
    /// An adapter of the base model.
    Adapter {
        /// Its folder or file.
        path: PathBuf,
        /// Whether its update of every matrix is zero.
        is_zero: bool,
    },
    /// A model of its own.
    Model(Box<Pretrained>),
}

impl Subject {
    /// Opens an adapter (a PEFT or MLX folder, or a `.gguf` file), a model, or the result of a run by the run's folder.
    ///
    /// # Errors
    /// When it can't be read, or does not fit the base.
    pub fn open(name: &str, base: &Pretrained) -> Result<Self> {
        let path = result_of(Path::new(name));
        let weights = match Pretrained::open(&path) {
            Ok(model) => SubjectWeights::Model(Box::new(model)),
            Err(ModelError::IsAdapter { .. }) => {
                let is_zero = is_zero(&HostAdapter::of(base, &path)?)?;
                SubjectWeights::Adapter { path, is_zero }
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { name: name.to_owned(), weights })
    }

    /// Whether it is an adapter that is zero; `None` if it is a model.
    pub fn is_zero(&self) -> Option<bool> {
        match self.weights {
            SubjectWeights::Adapter { is_zero, .. } => Some(is_zero),
            SubjectWeights::Model(_) => None,
        }
    }

    /// The tokenizer that lies beside an adapter, as PEFT folders of other programs often have one.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn tokenizer_of_adapter(&self) -> Result<Option<Tokenizer>> {
        match &self.weights {
            SubjectWeights::Adapter { path, .. } if path.join("tokenizer.json").is_file() => {
                Ok(Some(Tokenizer::from_folder(path)?))
            }
            _ => Ok(None),
        }
    }
}

/// The adapter or model inside a run folder; any other path as it is.
fn result_of(path: &Path) -> PathBuf {
    let is_run = path.join("config.toml").is_file() && !path.join("config.json").exists();
    let results = ["adapter", "model"].map(|name| path.join(name));
    results.into_iter().find(|result| is_run && result.is_dir()).unwrap_or_else(|| path.to_owned())
}

/// Whether an adapter leaves every matrix as it is: a factor of each layer is zero, and nothing else was trained.
fn is_zero(adapter: &HostAdapter<'_>) -> Result<bool> {
    if adapter.modules().next().is_some() {
        return Ok(false);
    }
    for name in adapter.layers() {
        if adapter.layer(name)?.is_some_and(|layer| !leaves_as_is(&layer)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A trained length of rows (DoRA) changes a matrix even if the factors don't.
fn leaves_as_is(layer: &HostLayer) -> bool {
    let zero = |values: &[f32]| values.iter().all(|value| value.abs() <= 0.0);
    layer.magnitude.is_none() && (layer.scale.abs() <= 0.0 || zero(&layer.lora_a) || zero(&layer.lora_b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_as_it_was_if_a_factor_is_zero() {
        let layer = HostLayer { scale: 2.0, rank: 1, lora_a: vec![1.0, 2.0], lora_b: vec![0.0, -0.0], magnitude: None };
        assert!(leaves_as_is(&layer));
        assert!(leaves_as_is(&HostLayer { lora_a: vec![0.0; 2], lora_b: vec![1.0; 2], ..layer.clone() }));
        assert!(leaves_as_is(&HostLayer { scale: 0.0, lora_b: vec![1.0; 2], ..layer.clone() }));
        assert!(!leaves_as_is(&HostLayer { lora_b: vec![0.0, 1e-30], ..layer.clone() }));
        assert!(!leaves_as_is(&HostLayer { lora_b: vec![0.0, f32::NAN], ..layer.clone() }));
        assert!(!leaves_as_is(&HostLayer { magnitude: Some(vec![1.0; 2]), ..layer }));
    }

    #[test]
    fn a_run_folder_stands_for_its_result() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(result_of(folder.path()), folder.path());
        std::fs::create_dir(folder.path().join("adapter")).unwrap();
        assert_eq!(result_of(folder.path()), folder.path());
        std::fs::write(folder.path().join("config.toml"), "").unwrap();
        assert_eq!(result_of(folder.path()), folder.path().join("adapter"));
    }
}
