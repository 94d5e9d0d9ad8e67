//! The model that a command runs, and where it computes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burnish_backends::dtype::{self, DtypeChoice};
use burnish_models::Pretrained;

use super::quantization::QuantizationArgs;
use crate::config::OptimizerKind;
use crate::report::OutputStyle;
use crate::storage::StorageChoice;

/// Arguments of commands that run a model.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Hugging Face folder, hub id, or a file of weights (.gguf; .safetensors, .bin or .pt with its configuration beside it)
    #[arg(short, long, help_heading = "Model")]
    model: String,
    /// Adapter for the model: a PEFT or MLX folder, or a .gguf file
    #[arg(short, long, value_name = "PATH", help_heading = "Model")]
    adapter: Option<PathBuf>,
    /// Backend: auto, cpu, wgpu, metal (macOS), vulkan (Linux, Windows), cuda; if built in: candle, emulator
    #[arg(long, default_value = "auto", value_parser = burnish_backends::NAMES.to_vec(), hide_possible_values = true, help_heading = "Model")]
    pub backend: String,
    /// Data type of the model: auto (fastest on the device), f32, f16 or bf16
    #[arg(long, default_value = "auto", value_parser = dtype::NAMES.to_vec(), hide_possible_values = true, help_heading = "Model")]
    dtype: String,
    #[command(flatten)]
    quantization: QuantizationArgs,
}

/// Where a model computes, and how its weights are stored.
pub struct Choice {
    /// The dtype.
    pub dtype: DtypeChoice,
    /// The weights.
    pub storage: StorageChoice,
}

impl ModelArgs {
    /// Opens the model; its weights are not loaded yet.
    ///
    /// # Errors
    /// When the model can't be read.
    pub fn open(&self) -> Result<Pretrained> {
        Ok(Pretrained::open(&self.model)?)
    }

    /// Sets the model, where another flag names it.
    pub fn set_model(&mut self, model: String) {
        self.model = model;
    }

    /// The adapter.
    pub fn adapter(&self) -> Option<&Path> {
        self.adapter.as_deref()
    }

    /// Chooses dtype and storage, checks that the model fits into memory, and says what there is to know.
    ///
    /// # Errors
    /// When the device does not support the dtype, a matrix can't be stored as requested, or the model is too large.
    pub fn choose(&self, model: &Pretrained, style: OutputStyle) -> Result<Choice> {
        let dtype = dtype::choose(&self.backend, &self.dtype)?;
        let requested = self.quantization.options(dtype.dtype)?;
        let storage = StorageChoice::new(&self.backend, model, requested, OptimizerKind::Adamw)?;
        for note in &storage.notes {
            style.say(note);
        }
        Ok(Choice { dtype, storage })
    }
}
