//! The model of a plan: a configuration, and what a checkpoint's headers say.

use std::path::Path;

use anyhow::Result;
use burnish_bench::shape::Shape;
use burnish_models::{Checkpoint, FloatType, ModelConfig, Pretrained};

use crate::config::TrainConfig;

/// A model of which only headers are read.
pub struct Header {
    /// Its name or path.
    pub name: String,
    /// Its configuration.
    pub config: ModelConfig,
    /// Its checkpoint.
    pub checkpoint: Box<dyn Checkpoint>,
}

impl Header {
    /// The model that a configuration trains: a folder, a `.gguf` file or a hub id; or without weights a `config.json`, or a shape that
    /// the program knows by name, such as `llama-3.1-8b`.
    ///
    /// # Errors
    /// When the model can't be read.
    pub fn open(config: &TrainConfig) -> Result<Self> {
        if let Some(folder) = &config.model_config {
            let Pretrained { config, checkpoint, .. } = Pretrained::without_weights(Path::new(folder))?;
            return Ok(Self { name: folder.clone(), config, checkpoint });
        }
        let path = Path::new(&config.model);
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        if is_json || (!path.exists() && Shape::NAMES.contains(&config.model.as_str())) {
            let Shape { name, config } = Shape::open(&config.model)?;
            return Ok(Self { name, config, checkpoint: Box::new(Unread) });
        }
        let Pretrained { config, checkpoint, source, .. } = Pretrained::open(path)?;
        Ok(Self { name: source, config, checkpoint })
    }
}

/// The checkpoint of a model that has only a configuration: floats, as models are published.
struct Unread;

impl Checkpoint for Unread {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
        Err(burnish_models::ModelError::Mismatch { problems: vec![format!("{name}: missing, the model has no weights")] })
    }

    fn float_type(&self, _name: &str) -> Option<FloatType> {
        Some(FloatType::BF16)
    }
}
