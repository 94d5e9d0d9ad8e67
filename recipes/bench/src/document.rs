//! What a comparison found, as it is printed and kept.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burnish_models::FloatType;
use serde::Serialize;

#[cfg(feature = "emulator")]
use super::counters::Counters;
use super::kernels::{KernelMemory, KernelRow};
use super::layout::layout;
use super::machine::{Machine, VERSIONS, Versions, command_line, today};
#[cfg(feature = "emulator")]
use super::predict::Prediction;
use super::shape::Shape;
use super::sizes::Sizes;
use super::step::StepRow;

/// Everything that one call found.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Year, month and day.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// With what.
    pub versions: Versions,
    /// How.
    pub command: String,
    /// Of which model.
    pub model: String,
    /// At which sizes.
    pub sizes: Sizes,
    /// Times, by backend.
    pub backends: Vec<BackendResult>,
    /// Counts of the emulator.
    #[cfg(feature = "emulator")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// What was not measured.
    #[cfg(feature = "emulator")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
}

/// What was found on a backend.
#[derive(Debug, Clone, Serialize)]
pub struct BackendResult {
    /// As users name it.
    pub backend: &'static str,
    /// As burn names it.
    pub device: String,
    /// What was computed in.
    pub dtype: &'static str,
    /// What did not work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Bandwidth of a copy: reads and writes together.
    pub copy_gb_per_second: Option<f64>,
    /// A training step.
    pub step: Option<StepRow>,
    /// Operations.
    pub kernels: Vec<KernelRow>,
    /// Device memory around them.
    pub memory: Vec<KernelMemory>,
}

impl BackendResult {
    /// A backend that has yet to show what it can.
    pub fn new(backend: &'static str, device: String, dtype: FloatType) -> Self {
        Self {
            backend,
            device,
            dtype: dtype.name(),
            problems: Vec::new(),
            copy_gb_per_second: None,
            step: None,
            kernels: Vec::new(),
            memory: Vec::new(),
        }
    }

    /// A backend that could not, and why.
    pub fn failed(backend: &'static str, problem: String) -> Self {
        let problems = vec![problem];
        Self { problems, dtype: "", ..Self::new(backend, String::new(), FloatType::F32) }
    }
}

impl Document {
    /// Nothing found yet.
    pub fn new(shape: &Shape, sizes: &Sizes) -> Self {
        Self {
            date: today(),
            machine: Machine::this(),
            versions: VERSIONS,
            command: command_line(),
            model: shape.name.clone(),
            sizes: sizes.clone(),
            backends: Vec::new(),
            #[cfg(feature = "emulator")]
            counters: None,
            #[cfg(feature = "emulator")]
            prediction: None,
        }
    }

    /// Writes a file of what was found; its name says when, on which backends, and of which model. Nothing is overwritten.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let names: Vec<&str> = self.backends.iter().map(|result| result.backend).collect();
        let names = if names.is_empty() { "emulator".to_owned() } else { names.join("-") };
        let stem = format!("{}-{names}-{}", self.date, self.model);
        let numbered = |number: usize| match number {
            1 => folder.join(format!("{stem}.json")),
            number => folder.join(format!("{stem}-{number}.json")),
        };
        let path = (1..10_000).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(1));
        std::fs::write(&path, layout(&serde_json::to_value(self)?)).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_dated_and_never_overwritten() {
        let shape = Shape::open("llama-3.2-1b").unwrap();
        let mut document = Document::new(&shape, &Sizes::new(&shape.config, 1, 8, 16));
        document.backends.push(BackendResult::failed("vulkan", "no GPU".to_owned()));
        let folder = tempfile::tempdir().unwrap();
        let paths = [document.save(folder.path()).unwrap(), document.save(folder.path()).unwrap()];
        let names = paths.each_ref().map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
        let date = today();
        assert_eq!(names, [format!("{date}-vulkan-llama-3.2-1b.json"), format!("{date}-vulkan-llama-3.2-1b-2.json")]);
        let read: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&paths[0]).unwrap()).unwrap();
        assert_eq!((&read["backends"][0]["problems"][0], &read["sizes"]["layers"]), (&"no GPU".into(), &16.into()));
    }
}
