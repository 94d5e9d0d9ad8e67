//! The weights of a folder, in whichever format it has them.

use std::path::{Path, PathBuf};

use super::Checkpoint;
use super::index::shard_paths;
use super::names::{ALL, Format, none_found};
use super::pytorch::PytorchFiles;
use super::safetensors::SafetensorsFolder;
use crate::error::{ModelError, Result};

/// Opens the weights of a folder: safetensors, or else what `torch.save` wrote, in one file or in the shards of an index.
///
/// # Errors
/// If there are none, a file is malformed, a shard is missing, or the index names a file outside the folder.
pub fn open_folder(folder: &Path) -> Result<Box<dyn Checkpoint>> {
    for names in ALL {
        let (single, index) = (folder.join(names.single), folder.join(names.index));
        if single.exists() {
            return open_files(&[single]);
        }
        if index.exists() {
            return open_files(&shard_paths(folder, &index)?);
        }
    }
    Err(ModelError::format(folder, none_found()))
}

/// Opens the named files as one checkpoint. Files named `.bin`, `.pt` or `.pth` are PyTorch's, others are safetensors.
///
/// # Errors
/// If a file has another format than its name says, or two of them have a tensor of the same name.
pub fn open_files(paths: &[PathBuf]) -> Result<Box<dyn Checkpoint>> {
    let is_pytorch = paths.iter().any(|path| Format::of(path) == Some(Format::Pytorch));
    Ok(if is_pytorch { Box::new(PytorchFiles::open(paths)?) } else { Box::new(SafetensorsFolder::from_files(paths)?) })
}

/// Whether a file has the name of weights that [`open_files`] reads.
pub fn is_weights(path: &Path) -> bool {
    Format::of(path).is_some()
}
