//! Writes what a run trains: into its checkpoints, and as its result.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use burnish_engine::Trainer;
use burnish_export::{FloatType, HuggingFaceOptions, export_hugging_face, write_safetensors};
use burnish_lora::{ADAPTER_FILES, LoraConfig, read_config};
use burnish_models::atomic::write_folder;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, Pretrained};

use super::checkpoint::RunCheckpoint;
use crate::config::{FineTuneType, TrainConfig};

/// What is written of a trainer.
#[derive(Debug, Clone)]
pub enum WeightWriter {
    /// A PEFT folder of this configuration, on this base.
    Adapter {
        /// What `adapter_config.json` says.
        lora: LoraConfig,
        /// The base model.
        base: String,
    },
    /// Every weight.
    Model,
}

impl WeightWriter {
    /// What a run writes. The adapter's configuration is that of the checkpoint or the folder it comes from, where it comes from one.
    ///
    /// # Errors
    /// When that folder's configuration can't be read.
    pub fn new(config: &TrainConfig, base: &str, resume: Option<&RunCheckpoint>) -> Result<Self> {
        if config.fine_tune_type == FineTuneType::Full {
            return Ok(Self::Model);
        }
        let folder = resume.map(|checkpoint| checkpoint.path.as_path()).or(config.adapter.as_deref().map(Path::new));
        let found = folder.map(read_config).transpose()?;
        let lora = found.map_or_else(|| config.lora(), |found| LoraConfig { dropout: config.dropout, ..found });
        Ok(Self::Adapter { lora, base: base.to_owned() })
    }

    /// Writes what trains into a checkpoint's folder.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, trainer: &dyn Trainer, folder: &Path) -> Result<()> {
        match self {
            Self::Adapter { lora, base } => trainer.save_adapter(lora, base, folder),
            Self::Model => write_safetensors(&*trainer.weights(), folder, FloatType::F32).map_err(|error| anyhow!(error)),
        }
    }

    /// Writes what the run is for, from the trainer or from the best checkpoint.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_result(
        &self,
        run: &Path,
        pretrained: &Pretrained,
        trainer: &dyn Trainer,
        best: Option<&RunCheckpoint>,
    ) -> Result<PathBuf> {
        match self {
            Self::Adapter { .. } => {
                let target = run.join("adapter");
                write_folder(&target, |folder| match best {
                    Some(best) => copy_adapter(&best.path, folder),
                    None => self.write(trainer, folder),
                })?;
                Ok(target)
            }
            Self::Model => {
                let target = run.join("model");
                let weights: Box<dyn Checkpoint + '_> = match best {
                    Some(best) => Box::new(SafetensorsFolder::open(&best.path)?),
                    None => trainer.weights(),
                };
                let options = HuggingFaceOptions { overwrite: true, ..Default::default() };
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
