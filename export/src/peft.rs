//! An adapter alone, as a folder that PEFT opens.

use std::path::{Path, PathBuf};

use burnish_kernels::FusedBackend;
use burnish_lora::{LoraConfig, save_adapter};
use burnish_models::LanguageModel;

use crate::error::Result;
use crate::place::write_folder;

/// Writes the adapters of a model as a PEFT folder; `inputs` are the files and folders that they were read from.
///
/// # Errors
/// When the target may not be replaced ([`crate::place::check_folder`]), the model has no adapter, or the disk refuses.
pub fn export_adapter<B: FusedBackend>(
    model: &LanguageModel<B>,
    config: &LoraConfig,
    base_model: &str,
    target: &Path,
    overwrite: bool,
    inputs: &[PathBuf],
) -> Result<()> {
    write_folder(target, overwrite, inputs, |folder| Ok(save_adapter(model, config, base_model, folder)?))
}
