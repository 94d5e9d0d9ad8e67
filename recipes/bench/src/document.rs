//! The result of a comparison, as it is printed and kept.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burnish_backends::WGPU_STOCK;
use burnish_models::FloatType;
use serde::Serialize;

#[cfg(feature = "emulator")]
use super::counters::Counters;
use super::kernels::{KernelMemory, KernelRow};
use super::layout::layout;
use super::machine::{Machine, VERSIONS, Versions, command_line, slug, today};
#[cfg(feature = "emulator")]
use super::predict::Prediction;
use super::shape::Shape;
use super::sizes::Sizes;
use super::step::{StepOutcome, StepRow};

/// The result of one call.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Year, month and day.
    pub date: String,
    /// The machine that it was measured on.
    pub machine: Machine,
    /// Versions of what computed.
    pub versions: Versions,
    /// The command line.
    pub command: String,
    /// The model's name.
    pub model: String,
    /// The sizes that were measured.
    pub sizes: Sizes,
    /// Times, by backend.
    pub backends: Vec<BackendResult>,
    /// Counts of the emulator.
    #[cfg(feature = "emulator")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// A prediction from the counts; not measured.
    #[cfg(feature = "emulator")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
}

/// The results on a backend.
#[derive(Debug, Clone, Serialize)]
pub struct BackendResult {
    /// As users name it.
    pub backend: &'static str,
    /// As burn names it.
    pub device: String,
    /// Dtype of weights and activations.
    pub dtype: &'static str,
    /// A description, where the name says too little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Why nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Bandwidth of a copy: reads and writes together.
    pub copy_gb_per_second: Option<f64>,
    /// Why there is no bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_error: Option<String>,
    /// A training step.
    pub step: Option<StepOutcome>,
    /// Operations.
    pub kernels: Vec<KernelRow>,
    /// Device memory around them.
    pub memory: Vec<KernelMemory>,
}

impl BackendResult {
    /// A backend on which nothing was measured yet.
    pub fn new(backend: &'static str, device: String, dtype: FloatType) -> Self {
        Self {
            backend,
            device,
            dtype: dtype.name(),
            about: about(backend),
            error: None,
            copy_gb_per_second: None,
            copy_error: None,
            step: None,
            kernels: Vec::new(),
            memory: Vec::new(),
        }
    }

    /// A backend on which nothing could be measured.
    pub fn failed(backend: &'static str, error: String) -> Self {
        Self { error: Some(error), dtype: "", ..Self::new(backend, String::new(), FloatType::F32) }
    }

    /// What was measured of a step.
    pub fn step_row(&self) -> Option<&StepRow> {
        self.step.as_ref()?.row()
    }
}

/// burn alone does not run at burn's defaults, which a comparison must say.
fn about(backend: &str) -> Option<String> {
    let on = |is_on| if is_on { "on" } else { "off" };
    (backend == WGPU_STOCK).then(|| {
        format!(
            "burn alone, its own kernels and gradients; autotune {}, fusion {}",
            on(VERSIONS.autotune),
            on(VERSIONS.fusion)
        )
    })
}

impl Document {
    /// An empty result.
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

    /// Writes the result to a file named `<date>-<backends>-<model>-<rows>x<tokens>-<machine>.json`. Nothing is overwritten.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let names: Vec<&str> = self.backends.iter().map(|result| result.backend).collect();
        let names = if names.is_empty() { "emulator".to_owned() } else { names.join("-") };
        let Sizes { batch, length, .. } = self.sizes;
        let stem = format!("{}-{names}-{}-{batch}x{length}-{}", self.date, slug(&self.model), self.machine.slug());
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
        let stem = format!("{}-vulkan-llama-3.2-1b-1x8-{}", today(), Machine::this().slug());
        assert_eq!(names, [format!("{stem}.json"), format!("{stem}-2.json")]);
        let read: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&paths[0]).unwrap()).unwrap();
        assert_eq!((&read["backends"][0]["error"], &read["sizes"]["layers"]), (&"no GPU".into(), &16.into()));
    }

    #[test]
    fn a_step_that_failed_says_why_and_burn_alone_what_it_is() {
        let mut result = BackendResult::new(WGPU_STOCK, "wgpu".to_owned(), FloatType::F16);
        result.step = Some(StepOutcome::Failed { error: "out of memory".to_owned() });
        let value = serde_json::to_value(&result).unwrap();
        assert_eq!(value["step"], serde_json::json!({ "error": "out of memory" }));
        let about = value["about"].as_str().unwrap();
        assert!(about.starts_with("burn alone") && about.ends_with("fusion off") && about.contains("autotune o"), "{about}");
        assert_eq!(BackendResult::new("vulkan", String::new(), FloatType::F16).about, None);
    }
}
