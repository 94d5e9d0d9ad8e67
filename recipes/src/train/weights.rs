//! Writes the trained weights, into checkpoints and as the result of the run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use burnish_engine::Trainer;
use burnish_export::{FloatType, HuggingFaceOptions, ModelCard, export_hugging_face, write_safetensors};
use burnish_lora::{ADAPTER_FILES, LoraConfig, read_config};
use burnish_models::atomic::write_folder;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, Pretrained};

use super::checkpoint::RunCheckpoint;
use crate::config::{FineTuneType, TrainConfig};

/// Which weights of the trainer are written.
#[derive(Debug, Clone)]
pub enum WeightWriter {
    /// The adapter, as a PEFT folder.
    Adapter {
        /// Written to `adapter_config.json`.
        lora: LoraConfig,
        /// The base model.
        base: String,
    },
    /// Every weight.
    Model,
}

impl WeightWriter {
    /// The writer of a run. An adapter from a checkpoint or a folder keeps the configuration that it has there.
    ///
    /// # Errors
    /// When that folder's configuration can't be read.
    pub fn new(config: &TrainConfig, base: &str, resume: Option<&RunCheckpoint>) -> Result<Self> {
        if config.fine_tune_type == FineTuneType::Full {
            return Ok(Self::Model);
        }
        let folder = resume.map(|checkpoint| checkpoint.path.as_path()).or(config.adapter.as_deref().map(Path::new));
        let lora = match folder {
            // A checkpoint of such a run has the initial factors too, and says so by its doubled rank.
            Some(folder) if !config.lora().init.changes_base() => {
                LoraConfig { dropout: config.dropout, ..read_config(folder)? }
            }
            _ => config.lora(),
        };
        Ok(Self::Adapter { lora, base: base.to_owned() })
    }

    /// Writes the trained weights into the folder of a checkpoint.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn write(&self, trainer: &dyn Trainer, folder: &Path) -> Result<()> {
        match self {
            Self::Adapter { lora, base } => trainer.save_adapter(lora, base, folder),
            Self::Model => write_safetensors(&*trainer.weights(), folder, FloatType::F32).map_err(|error| anyhow!(error)),
        }
    }

    /// Writes the result of the run, from the best checkpoint if given, else from the trainer.
    ///
    /// # Errors
    /// When a file can't be read or written.
    pub fn write_result(
        &self,
        run: &Path,
        pretrained: &Pretrained,
        trainer: &dyn Trainer,
        best: Option<&RunCheckpoint>,
        card: ModelCard,
    ) -> Result<PathBuf> {
        match self {
            Self::Adapter { .. } => {
                let target = run.join("adapter");
                write_folder(&target, |folder| -> Result<()> {
                    match best {
                        Some(best) => copy_adapter(&best.path, folder)?,
                        None => self.write(trainer, folder)?,
                    }
                    card.write(folder)?;
                    Ok(())
                })?;
                Ok(target)
            }
            Self::Model => {
                let target = run.join("model");
                let weights: Box<dyn Checkpoint + '_> = match best {
                    Some(best) => Box::new(SafetensorsFolder::open(&best.path)?),
                    None => trainer.weights(),
                };
                let options = HuggingFaceOptions { card: Some(card), overwrite: true, ..Default::default() };
                export_hugging_face(pretrained, &*weights, &target, &options)
                    .with_context(|| target.display().to_string())?;
                Ok(target)
            }
        }
    }
}

fn copy_adapter(from: &Path, to: &Path) -> Result<()> {
    for name in ADAPTER_FILES {
        let file = from.join(name);
        std::fs::copy(&file, to.join(name)).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
