//! Opens adapters on disk: PEFT and MLX folders, and GGUF files.

use std::path::{Path, PathBuf};

use burnish_models::encoding::text_of;
use burnish_models::gguf::is_gguf_name;
use burnish_models::json::{MOST_OF_CONFIG, check_size};
use burnish_models::recognise::is_mlx_adapter;
use serde_json::Value;

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use crate::file::{AdapterFile, ModelLayout};
use crate::peft::{self, CONFIG};
use crate::{gguf, mlx};

/// The format of an adapter.
enum Format {
    Peft,
    /// With its `adapter_config.json`.
    Mlx(Value),
    Gguf,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        if path.is_file() {
            let reason = "expected the folder of an adapter, or a .gguf file; got another file";
            return if is_gguf_name(path) { Ok(Self::Gguf) } else { Err(LoraError::format(path, reason)) };
        }
        // A damaged configuration is PEFT's to refuse.
        let bytes = std::fs::read(path.join(CONFIG)).unwrap_or_default();
        let json = text_of(&bytes).ok().filter(|text| check_size(text, MOST_OF_CONFIG).is_ok());
        let json: Option<Value> = json.and_then(|text| serde_json::from_str(text).ok());
        Ok(json.filter(is_mlx_adapter).map_or(Self::Peft, Self::Mlx))
    }
}

/// Reads the configuration of an adapter: a PEFT folder, a folder of mlx-lm, or a GGUF file. `num_layers` stays `None`: the tensors
/// say which blocks have adapters.
///
/// Every key of PEFT's `LoraConfig` is read, is known to have no effect, or is refused by name if it asks for anything but
/// the LoRA that is computed here. [`config_notes`] returns a note on each unknown key.
///
/// An adapter whose initial factors were taken out of its base, such as one of PiSSA, is read as one on the base as it was:
/// the initial factors, computed again, stand beside the trained ones, so the rank is doubled.
///
/// # Errors
/// If a file is missing or malformed, or asks for anything but the LoRA that is computed here.
pub fn read_config(adapter: &Path) -> Result<LoraConfig> {
    Ok(read_stored(adapter)?.converted())
}

/// Reads the configuration of an adapter, and returns a note on each key that is unknown and ignored.
///
/// # Errors
/// As [`read_config`].
pub fn config_notes(adapter: &Path) -> Result<Vec<String>> {
    match Format::of(adapter)? {
        Format::Peft => peft::config_notes(adapter),
        Format::Mlx(_) | Format::Gguf => read_stored(adapter).map(|_| Vec::new()),
    }
}

/// The files of an adapter.
///
/// # Errors
/// If it is a file of another format.
pub fn adapter_files(adapter: &Path) -> Result<Vec<PathBuf>> {
    Ok(match Format::of(adapter)? {
        Format::Peft => peft::adapter_files(adapter).to_vec(),
        Format::Mlx(_) => vec![adapter.join(CONFIG), mlx::weights(adapter)],
        Format::Gguf => vec![adapter.to_owned()],
    })
}

/// The configuration as the file has it: [`Init::changes_base`](crate::Init::changes_base) if the tensors are those of an
/// adapter on a base without its initial factors.
pub(crate) fn read_stored(adapter: &Path) -> Result<LoraConfig> {
    match Format::of(adapter)? {
        Format::Peft => peft::read_stored(adapter),
        Format::Mlx(json) => mlx::config(adapter, &json),
        Format::Gguf => gguf::config(adapter),
    }
}

/// Opens the tensors of an adapter with the configuration `stored`; some files need the layout of the model.
///
/// # Errors
/// If the file can't be read.
pub(crate) fn open_weights(adapter: &Path, stored: &LoraConfig, layout: Option<&ModelLayout>) -> Result<AdapterFile> {
    match Format::of(adapter)? {
        Format::Peft => peft::open_weights(adapter, stored, layout),
        Format::Mlx(_) => mlx::open_weights(adapter, layout),
        Format::Gguf => gguf::open_weights(adapter, layout),
    }
}
