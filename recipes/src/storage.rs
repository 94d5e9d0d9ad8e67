//! How the weights of a model are stored on a backend.

use anyhow::Result;
use burnish_models::{FloatType, LoadOptions, Pretrained, Quantization, Storage};

use crate::config::{FineTuneType, OptimizerKind, TrainConfig};
use crate::fit;

/// How a configuration asks for the weights, which compute in this type.
pub fn requested(config: &TrainConfig, dtype: FloatType) -> LoadOptions {
    match config.fine_tune_type {
        FineTuneType::Full => LoadOptions::trainable(),
        FineTuneType::Lora => LoadOptions {
            quantize_embedding: config.quantize_embedding,
            ..LoadOptions::frozen(dtype).quantized(config.storage())
        },
    }
}

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct StorageChoice {
    /// For the loader.
    pub options: LoadOptions,
    /// The kinds of the weights, with their bytes.
    pub storage: Storage,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl StorageChoice {
    /// Decides how each matrix is stored, and checks that all of them fit into memory, with the state of the optimizer
    /// where all are trained; nothing is loaded.
    ///
    /// # Errors
    /// When a matrix can't be stored as requested, with its name and file, or the weights are too large.
    pub fn new(backend: &str, model: &Pretrained, requested: LoadOptions, optimizer: OptimizerKind) -> Result<Self> {
        let backend = burnish_backends::choose(backend)?.0;
        let of = |options| Storage::of(&model.config, &*model.checkpoint, options);
        let (mut options, mut storage, mut notes) = (requested, of(requested)?, Vec::new());
        if storage.is_packed() && !burnish_backends::open(backend)?.computes_packed() {
            if options.quantization == Quantization::Auto {
                options.quantization = Quantization::None;
                storage = of(options)?;
                notes.push(format!(
                    "`{backend}` has no kernels for packed weights, so those of the file are loaded as {}",
                    options.dtype
                ));
            }
            if storage.is_packed() {
                notes.push(format!(
                    "`{backend}` has no kernels for packed weights: each product unpacks its matrix on the host, which is slow"
                ));
            }
        }
        fit::check(backend, &storage, options, optimizer)?;
        notes.extend(storage.notes());
        notes.extend(kept(&storage, options.quantization));
        Ok(Self { options, storage, notes })
    }

    /// The weights, for the user.
    pub fn line(&self) -> String {
        format!("weights {}", self.storage)
    }
}

/// A note if a file is packed in another way than requested.
fn kept(storage: &Storage, requested: Quantization) -> Option<String> {
    let floats = ["f32", "f16", "bf16"];
    let other = |kind: &&String| !floats.contains(&kind.as_str()) && **kind != requested.to_string();
    // Eight bits may be those of the embedding.
    let kind = storage.kinds.keys().filter(|_| requested.packs_floats()).filter(other).find(|kind| *kind != "int8")?;
    Some(format!("the file has weights in {kind}, which stay so: quantising them to {requested} would lose more"))
}
