//! Writes an adapter as a folder that PEFT opens.

use std::path::{Path, PathBuf};

use burnish_kernels::FusedBackend;
use burnish_lora::{LoraConfig, save_adapter};
use burnish_models::LanguageModel;

use crate::error::Result;
use crate::target::write_folder;

/// Writes the adapters of a model as a PEFT folder; `inputs` are the files and folders that they were read from.
///
/// # Errors
/// If the target must not be replaced (see [`check_folder`](crate::target::check_folder)), the model has no adapter, or the
/// folder can't be written.
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
