//! What `make_adapters.py` wrote. Tests of other crates include this file by its path.

use std::path::{Path, PathBuf};

use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, ModelConfig};

/// A case, and the checkpoint of `make_parity.py` that it is for.
pub struct Golden {
    /// The case's folder.
    pub folder: PathBuf,
    /// The model's configuration.
    pub config: ModelConfig,
    /// The model's weights.
    pub weights: SafetensorsFolder,
    /// Inputs and results.
    pub values: SafetensorsFolder,
}

impl Golden {
    /// Opens a case.
    pub fn open(base: &str, case: &str) -> Self {
        let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let fixtures = folders.map(|folder| folder.join("tests/fixtures")).find(|folder| folder.is_dir()).unwrap();
        let (base, folder) = (fixtures.join("parity").join(base), fixtures.join("adapters").join(case));
        let json = std::fs::read_to_string(base.join("config.json")).unwrap();
        Self {
            config: ModelConfig::from_json(&serde_json::from_str(&json).unwrap()).unwrap(),
            weights: SafetensorsFolder::open(&base).unwrap(),
            values: SafetensorsFolder::from_files(&[folder.join("golden.safetensors")]).unwrap(),
            folder,
        }
    }
}

/// Integers, `i32` in the file.
pub fn ints(values: &SafetensorsFolder, name: &str) -> Vec<i32> {
    let bytes = values.read_bytes(name).unwrap();
    bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
}
