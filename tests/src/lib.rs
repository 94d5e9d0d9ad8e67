//! Shared by the workspace tests: golden files, and running the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use burnish_engine::{Batch, IGNORE};
use burnish_models::checkpoint::{SafetensorsFolder, experts_apart};
use burnish_models::{Checkpoint, ModelConfig};

/// The folder of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A tiny checkpoint, with the results of transformers and PEFT.
pub struct Golden {
    /// Its folder.
    pub folder: PathBuf,
    /// Its configuration.
    pub config: ModelConfig,
    /// Its weights.
    pub weights: Box<dyn Checkpoint>,
    values: SafetensorsFolder,
}

impl Golden {
    /// Opens a case of `make_parity.py`.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn open(name: &str) -> Result<Self> {
        let folder = fixture("parity").join(name);
        Self::of(folder.clone(), &folder)
    }

    /// Opens a case of `make_expert_adapters.py`, which has the name of its base where PEFT has it.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn of_experts(name: &str) -> Result<Self> {
        let folder = fixture("experts").join(name);
        let text = std::fs::read_to_string(folder.join("adapter/adapter_config.json"))?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let base = json["base_model_name_or_path"].as_str().context("no name of a base")?;
        Self::of(folder, &fixture("parity").join(base))
    }

    fn of(folder: PathBuf, base: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(base.join("config.json"))?;
        let config = ModelConfig::from_json(&serde_json::from_str(&text)?)?;
        Ok(Self {
            weights: experts_apart(Box::new(SafetensorsFolder::open(base)?), &config),
            config,
            values: SafetensorsFolder::from_files(&[folder.join("golden.safetensors")])?,
            folder,
        })
    }

    /// A float tensor of the golden file.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        self.values.read_f32(name).with_context(|| name.to_owned())
    }

    /// Names of the golden tensors with a prefix, without the prefix.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.values.names().iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    /// An integer tensor of the golden file.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn ints(&self, name: &str) -> Result<Vec<i64>> {
        let bytes = std::fs::read(self.folder.join("golden.safetensors"))?;
        let file = safetensors::SafeTensors::deserialize(&bytes)?;
        let view = file.tensor(name)?;
        Ok(view.data().chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect())
    }

    /// The batch: two rows, padded on the right, with masked prompts.
    ///
    /// # Errors
    /// When the golden file is incomplete.
    pub fn batch(&self) -> Result<Batch> {
        let (ids, mask, labels) = (self.ints("input_ids")?, self.ints("attention_mask")?, self.ints("labels")?);
        let (rows, length) = (2, ids.len() / 2);
        Ok(Batch {
            input_ids: ids.iter().map(|id| *id as u32).collect(),
            position_ids: (0..rows * length).map(|index| (index % length) as u32).collect(),
            segment_ids: mask.iter().map(|mask| *mask as u32).collect(),
            tokens: mask.iter().sum::<i64>() as usize,
            target_tokens: labels.iter().filter(|label| **label != IGNORE).count(),
            labels,
            rows,
            length,
            desirable: Vec::new(),
        })
    }
}

/// A command for the program at `path`, in tests `env!("CARGO_BIN_EXE_burnish-under-test")`.
pub fn burnish(path: &str) -> Command {
    let mut command = Command::new(path);
    command.env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1");
    // These would override the `HF_HOME` that a test sets.
    for key in
        ["TRACKIO_DIR", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"]
    {
        command.env_remove(key);
    }
    command
}

/// Both streams of a finished program as text.
pub fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}
