#![doc = include_str!("../README.md")]
//!
//! [`entry`] lists the operations of a training step with the least that each must do ([`mod@work`]), [`action`] makes their inputs and
//! launches, [`kernels`] times them, [`step`] times a whole step, [`efficiency`] compares the two. Where the emulator is built in,
//! `counters` counts instead of timing, `predict` scales the counts to chips that were not measured, and `candidates` counts the ways to
//! compute a product. [`document`] is the result, [`render`] and [`plot`] show it.

pub mod action;
pub mod attempt;
#[cfg(feature = "emulator")]
pub mod candidates;
#[cfg(feature = "emulator")]
pub mod counters;
#[cfg(all(test, feature = "emulator"))]
mod counting;
pub mod document;
pub mod efficiency;
pub mod entry;
pub mod kernels;
pub mod layout;
pub mod machine;
pub mod peak;
pub mod plot;
#[cfg(feature = "emulator")]
pub mod predict;
pub mod random_model;
pub mod render;
pub mod setup;
pub mod shape;
pub mod sizes;
pub mod step;
pub mod stopwatch;
pub mod table;
pub mod work;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
#[cfg(feature = "emulator")]
use burn::tensor::DType;
use burnish_backends::{BackendJob, dtype};
use burnish_engine::guard::guarded;
use burnish_engine::{Checkpointing, MomentType};
use burnish_kernels::FusedBackend;
use burnish_models::{FloatType, Quantization};
use serde_json::{Value, json};

use self::attempt::attempt;
use self::document::{BackendResult, Document};
use self::entry::Kernel;
use self::setup::Setup;
use self::shape::Shape;
use self::sizes::Sizes;
use self::step::{StepOutcome, StepParts};
use self::stopwatch::Pace;

/// Receives lines that say how far the measurement is.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The backends, measured one after the other.
    pub backends: Vec<String>,
    /// Operations to time or count.
    pub kernels: Vec<Kernel>,
    /// Whether whole steps are timed too.
    pub step: bool,
    /// Whether the blocks of a step are checkpointed.
    pub grad_checkpoint: bool,
    /// How the matrices of a step's model are stored.
    pub quantization: Quantization,
    /// Whether its embedding and head are packed too.
    pub quantize_embedding: bool,
    /// Whether a step trains all weights, in f32, instead of adapters.
    pub full: bool,
    /// How the optimizer of a step stores moments.
    pub moments: MomentType,
    /// Dropout of a step's adapters.
    pub dropout: f64,
    /// The last blocks that have adapters in a step; `None` for all.
    pub num_layers: Option<usize>,
    /// The model whose sizes are used; see [`Shape::open`].
    pub model: String,
    /// Rows of a step.
    pub batch_size: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Rank of the adapters.
    pub rank: usize,
    /// `auto`, or a dtype's name.
    pub dtype: String,
    /// Samples of each row at most.
    pub repeats: usize,
    /// Launches or steps before the first sample.
    pub warmup: usize,
    /// Whether a step is predicted for Apple's chips.
    pub predict: bool,
    /// Whether the emulator counts at the model's own widths.
    pub full_widths: bool,
}

impl Default for Options {
    /// Every kernel on the CPU, with the sizes of Llama 3.2 1B.
    fn default() -> Self {
        Self {
            backends: vec!["cpu".to_owned()],
            kernels: Kernel::ALL.to_vec(),
            step: false,
            grad_checkpoint: false,
            quantization: Quantization::None,
            quantize_embedding: false,
            full: false,
            moments: MomentType::F32,
            dropout: 0.0,
            num_layers: None,
            model: "llama-3.2-1b".to_owned(),
            batch_size: 4,
            seq: 2048,
            rank: 16,
            dtype: "auto".to_owned(),
            repeats: 20,
            warmup: 3,
            predict: false,
            full_widths: false,
        }
    }
}

impl Options {
    /// What [`Options::kernels_named`] takes: each kernel, and two words for all and none of them.
    pub fn kernel_names() -> Vec<&'static str> {
        [ALL, "none"].into_iter().chain(Kernel::ALL.map(Kernel::name)).collect()
    }

    /// The kernels of these names, in the order of the table.
    pub fn kernels_named(names: &[String]) -> Vec<Kernel> {
        let is_asked = |kernel: &Kernel| names.iter().any(|name| name == ALL || name == kernel.name());
        Kernel::ALL.into_iter().filter(is_asked).collect()
    }

    fn pace(&self, budget: Duration, settle: Duration) -> Pace {
        Pace { repeats: self.repeats, warmup: self.warmup, budget, settle }
    }
}

/// The name for all kernels.
const ALL: &str = "all";

/// Results for people and for programs.
#[derive(Debug)]
pub struct Report {
    /// The tables.
    pub text: String,
    /// Everything that was measured.
    pub json: Value,
    document: Document,
}

impl Report {
    /// Saves the results as a dated file in the folder `output`, and draws them into the file `chart`.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn write(&self, output: Option<&Path>, chart: Option<&Path>, say: Say<'_>) -> Result<()> {
        if let Some(folder) = output {
            say(&format!("wrote {}", self.document.save(folder)?.display()));
        }
        if let Some(file) = chart {
            std::fs::write(file, plot::svg(&self.document)).with_context(|| file.display().to_string())?;
            say(&format!("wrote {}", file.display()));
        }
        Ok(())
    }
}

/// Measures as [`run`] does, and reports: the function behind `burnish bench`.
///
/// # Errors
/// As [`run`].
pub fn report(options: &Options, say: Say<'_>) -> Result<Report> {
    let document = run(options, say)?;
    Ok(Report { text: render::text(&document), json: json!(document), document })
}

/// No further sample of a row begins after this long.
const ROW_BUDGET: Duration = Duration::from_secs(3);

/// How long launches go on before they are timed, on a GPU.
const SETTLE: Duration = Duration::from_millis(500);

/// No further step begins after this long.
const STEP_BUDGET: Duration = Duration::from_mins(1);

/// Measures. A backend that is missing or fails has a line that says so; the others go on.
///
/// # Errors
/// When the model's configuration can't be read, a backend is unknown, or a prediction was asked for that this build can't make.
pub fn run(options: &Options, say: Say<'_>) -> Result<Document> {
    let shape = Shape::open(&options.model)?;
    let sizes = Sizes::new(&shape.config, options.batch_size, options.seq, options.rank);
    let mut document = Document::new(&shape, &sizes);
    for name in &options.backends {
        let (name, why) = burnish_backends::choose(name)?;
        say(&format!("backend {name} ({why})"));
        if name == "emulator" {
            count(options, &shape, &sizes, &options.kernels, &mut document, say)?;
        } else {
            document.backends.push(on_backend(options, &shape, &sizes, name, say));
        }
    }
    if options.predict {
        predict(options, &shape, &sizes, &mut document, say)?;
    }
    Ok(document)
}

fn on_backend(options: &Options, shape: &Shape, sizes: &Sizes, name: &'static str, say: Say<'_>) -> BackendResult {
    let measured = guarded(|| {
        // Weights that are trained are f32.
        let asked = if options.full && options.dtype == "auto" { "f32" } else { &options.dtype };
        let dtype = dtype::choose(name, asked)?.dtype;
        dispatch(BenchJob { options, shape, sizes, name, dtype, say })
    });
    measured.unwrap_or_else(|error| BackendResult::failed(name, format!("{error:#}")))
}

#[cfg(not(test))]
fn dispatch(job: BenchJob) -> Result<BackendResult> {
    burnish_backends::run(job.name, job)
}

/// The unit tests measure on the CPU alone: compiling all of this for every backend once more would take minutes.
#[cfg(test)]
fn dispatch(job: BenchJob) -> Result<BackendResult> {
    anyhow::ensure!(job.name == "cpu", "{} is not measured here", job.name);
    job.run::<burn::backend::Flex>(Default::default())
}

struct BenchJob<'a> {
    options: &'a Options,
    shape: &'a Shape,
    sizes: &'a Sizes,
    name: &'static str,
    dtype: FloatType,
    say: Say<'a>,
}

impl BackendJob for BenchJob<'_> {
    type Output = BackendResult;

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<BackendResult> {
        let Self { options, shape, sizes, name, dtype, say } = self;
        let mut result = BackendResult::new(name, B::name(&device), dtype);
        // Steps come first: pools keep what they once took, and the memory of the step must be its own.
        if options.step {
            say(&format!("{name}: training steps"));
            let pace = options.pace(STEP_BUDGET, Duration::ZERO);
            let attention = options.kernels.contains(&Kernel::Attention);
            let Options { grad_checkpoint, quantization, quantize_embedding, full, moments, dropout, num_layers, .. } =
                *options;
            let parts = StepParts {
                attention,
                checkpointing: grad_checkpoint.then(|| Checkpointing::of(name)),
                quantization,
                quantize_embedding,
                full,
                moments,
                dropout,
                num_layers,
            };
            let measured =
                attempt::<B, _>(&device, || step::measure::<B>(&shape.config, sizes, dtype, &device, &pace, parts));
            result.step = Some(match measured {
                Ok(row) => StepOutcome::Measured(Box::new(row)),
                Err(error) => StepOutcome::Failed { error },
            });
        }
        let mut kernels = options.kernels.clone();
        // The products of a step of adapters are those that are measured.
        let is_compared = result.step_row().is_some() && !options.full;
        if is_compared && !kernels.contains(&Kernel::Linear) {
            // The step is compared with its matrix products.
            kernels.push(Kernel::Linear);
        }
        let (rotation, settle) = if is_cpu(name) { (128e6, Duration::ZERO) } else { (256e6, SETTLE) };
        let pace = options.pace(ROW_BUDGET, settle);
        let setup = Setup::<B> { sizes: sizes.clone(), dtype: dtype.into(), device: device.clone(), rotation };
        if !kernels.is_empty() {
            match copy(name, &setup, &pace) {
                Ok(rate) => result.copy_gb_per_second = Some(rate),
                Err(error) => result.copy_error = Some(error),
            }
        }
        for kernel in &kernels {
            say(&format!("{name}: {}", kernel.name()));
            result.kernels.extend(kernels::measure(*kernel, &setup, &pace, result.copy_gb_per_second));
        }
        result.memory = kernels.into_iter().map(|kernel| kernels::footprint(kernel, &setup)).collect();
        if let Some(StepOutcome::Measured(step)) = result.step.as_mut().filter(|_| is_compared) {
            step.efficiency = efficiency::efficiency(sizes, &result.kernels, step.ms);
        }
        B::memory_cleanup(&device);
        Ok(result)
    }
}

fn is_cpu(backend: &str) -> bool {
    matches!(backend, "cpu" | "candle" | "ndarray" | "tch")
}

/// Bandwidth of a copy of a gibibyte, or of less where the device does not allocate that much at once.
fn copy<B: FusedBackend>(name: &str, setup: &Setup<B>, pace: &Pace) -> Result<f64, String> {
    let [most, less] = if is_cpu(name) { [256 << 20; 2] } else { [1 << 30, 128 << 20] };
    kernels::copy_bandwidth(setup, most, pace).or_else(|_| kernels::copy_bandwidth(setup, less, pace))
}

#[cfg(feature = "emulator")]
fn count(
    options: &Options,
    shape: &Shape,
    sizes: &Sizes,
    kernels: &[Kernel],
    document: &mut Document,
    say: Say<'_>,
) -> Result<()> {
    // The dtype on Metal.
    let dtype = if options.dtype == "auto" { "f16" } else { options.dtype.as_str() };
    let dtype = dtype.parse().map_err(anyhow::Error::msg)?;
    let say = |line: &str| say(&format!("emulator: {line}"));
    let widths = if options.full_widths { shape::Widths::Full } else { shape::Widths::Shrunk };
    let counted = counters::count(shape, sizes, kernels, dtype, widths, &say);
    match counted.is_missing() {
        Some(error) => document.backends.push(BackendResult::failed("emulator", error.to_owned())),
        None => document.counters = Some(counted),
    }
    Ok(())
}

#[cfg(feature = "emulator")]
fn predict(options: &Options, shape: &Shape, sizes: &Sizes, document: &mut Document, say: Say<'_>) -> Result<()> {
    let is_counted = Kernel::ALL.iter().all(|kernel| options.kernels.contains(kernel)) && document.counters.is_some();
    if !is_counted {
        count(options, shape, sizes, &Kernel::ALL, document, say)?;
    }
    if let Some(counted) = &document.counters {
        if let Some(failed) = counted.failed.first() {
            anyhow::bail!("no prediction without the counts of {}: {}", failed.kernel.name(), failed.error);
        }
        let element = if counted.dtype == "f32" { 4 } else { 2 };
        let mut prediction = predict::predict(counted, sizes, element);
        say("emulator: the ways to compute a product");
        prediction.candidates = candidates::costs(if element == 4 { DType::F32 } else { DType::F16 })?;
        document.prediction = Some(prediction);
    }
    Ok(())
}

#[cfg(not(feature = "emulator"))]
#[allow(clippy::unnecessary_wraps, reason = "it counts where the emulator is built in, which can fail")]
fn count(_: &Options, _: &Shape, _: &Sizes, _: &[Kernel], document: &mut Document, _: Say<'_>) -> Result<()> {
    let reason = "it is not built in; rebuild with --features emulator".to_owned();
    document.backends.push(BackendResult::failed("emulator", reason));
    Ok(())
}

#[cfg(not(feature = "emulator"))]
fn predict(_: &Options, _: &Shape, _: &Sizes, _: &mut Document, _: Say<'_>) -> Result<()> {
    anyhow::bail!("a prediction needs the emulator's counts; rebuild with --features emulator")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small shape on disk.
    fn small(folder: &std::path::Path) -> String {
        let json = r#"{ "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64, "tie_word_embeddings": true }"#;
        let path = folder.join("tiny.json");
        std::fs::write(&path, json).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_backend_that_is_not_there_is_a_line_and_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let other = if cfg!(target_os = "macos") { "vulkan" } else { "metal" };
        let options = Options {
            backends: vec!["cpu".to_owned(), other.to_owned()],
            kernels: vec![Kernel::RmsNorm, Kernel::Linear],
            step: true,
            grad_checkpoint: true,
            quantization: Quantization::Int8,
            quantize_embedding: true,
            full: false,
            moments: MomentType::EightBit,
            dropout: 0.1,
            num_layers: Some(1),
            model: small(folder.path()),
            batch_size: 1,
            seq: 8,
            rank: 2,
            dtype: "auto".to_owned(),
            repeats: 3,
            warmup: 1,
            predict: false,
            full_widths: false,
        };
        let document = run(&options, &|_| {}).unwrap();
        let [cpu, missing] = document.backends.as_slice() else { panic!("{document:?}") };
        assert_eq!((cpu.backend, cpu.dtype, cpu.kernels.len()), ("cpu", "f32", 4 + 10));
        let step = cpu.step_row().unwrap();
        assert!(step.efficiency.unwrap().step_efficiency > 0.0, "{step:?}");
        assert!(missing.kernels.is_empty() && missing.error.is_some());
        let text = render::text(&document);
        assert!(
            text.contains(
                "step with checkpointing, moments in eight bits, dropout 0.1, adapters in the last 1 on weights of"
            ) && text.contains("in int8")
                && text.contains("rms_norm")
                && text.contains(other)
                && text.contains("tok/s"),
            "{text}"
        );
        assert!(plot::svg(&document).starts_with("<svg"));
    }
}
