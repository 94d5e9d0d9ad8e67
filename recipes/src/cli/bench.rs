//! `burnish bench`, also the program `burnish-bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use burnish_backends::{WGPU_STOCK, dtype};
use burnish_bench::Options;
use burnish_engine::MomentType;

use super::at_least;
use super::quantization::QuantizationArgs;
use crate::report::OutputStyle;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Backends to compare, separated by commas. `wgpu-stock` is burn's own kernels (no autotune, no fusion), `emulator` counts instead of timing
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = backend_names(), default_value = "auto", default_value_if("predict", "true", None))]
    backends: Vec<String>,
    /// Operations to measure, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = Options::kernel_names(), default_value = "all")]
    kernels: Vec<String>,
    /// Also measure whole training steps, and attention's share if attention is measured
    #[arg(long)]
    step: bool,
    /// Checkpoint the blocks of these steps, as `train --grad-checkpoint` does
    #[arg(long, requires = "step", alias = "gradient-checkpointing")]
    grad_checkpoint: bool,
    /// Train all weights in these steps, in f32, instead of adapters
    #[arg(long, requires = "step")]
    full: bool,
    /// Optimizer of these steps: adamw, or adamw8bit with moments in eight bits
    #[arg(long, requires = "step", default_value = "adamw", value_parser = ["adamw", "adamw8bit"], hide_possible_values = true)]
    optimizer: String,
    /// Dropout of the adapters of these steps
    #[arg(long, requires = "step", value_name = "P", default_value_t = 0.0, value_parser = below_one)]
    dropout: f64,
    /// Number of blocks to adapt in these steps, counted from the last
    #[arg(long, requires = "step", value_name = "N", value_parser = at_least::<1>)]
    num_layers: Option<usize>,
    /// Model whose sizes are used: llama-3.2-1b, llama-3.1-8b, a config.json, Hugging Face folder, hub id or .gguf file. Weights are random
    #[arg(short, long, default_value = "llama-3.2-1b")]
    model: String,
    /// Rows in a step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least::<1>)]
    batch_size: usize,
    /// Tokens in a row
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = at_least::<2>, alias = "max-seq-length")]
    seq: usize,
    /// Rank of the adapters
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least::<1>)]
    rank: usize,
    /// Data type of the model: auto (fastest on the device), f32, f16 or bf16
    #[arg(long, default_value = "auto", value_parser = dtype::NAMES.to_vec(), hide_possible_values = true)]
    dtype: String,
    #[command(flatten)]
    weights: QuantizationArgs,
    /// Maximum number of samples of each measurement
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = at_least::<1>)]
    repeats: usize,
    /// Launches or steps before the first sample
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// Write the results to a dated file in this folder
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Draw a bar chart into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Predict the time of a step on Apple's chips from what the emulator counts; needs no such chip
    #[arg(long)]
    predict: bool,
    /// Let the emulator count at the model's real widths, with at most 32 tokens; takes many minutes
    #[arg(long)]
    full_widths: bool,
}

fn below_one(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("expected a number, got {text:?}"))?;
    if (0.0..1.0).contains(&value) { Ok(value) } else { Err(format!("expected at least 0 and below 1, got {value}")) }
}

fn backend_names() -> Vec<&'static str> {
    burnish_backends::NAMES.iter().copied().chain([WGPU_STOCK]).collect()
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let say = |line: &str| style.say(line);
        let report = burnish_bench::report(&self.options()?, &say)?;
        style.result(&report.text, &report.json);
        report.write(self.output.as_deref(), self.plot.as_deref(), &say)?;
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self) -> Result<Options> {
        Ok(Options {
            backends: self.backends.clone(),
            kernels: Options::kernels_named(&self.kernels),
            step: self.step,
            grad_checkpoint: self.grad_checkpoint,
            quantization: self.weights.storage()?,
            quantize_embedding: self.weights.quantize_embedding,
            full: self.full,
            dropout: self.dropout,
            num_layers: self.num_layers,
            moments: if self.optimizer == "adamw8bit" { MomentType::EightBit } else { MomentType::F32 },
            model: self.model.clone(),
            batch_size: self.batch_size,
            seq: self.seq,
            rank: self.rank,
            dtype: self.dtype.clone(),
            repeats: self.repeats,
            warmup: self.warmup,
            predict: self.predict,
            full_widths: self.full_widths,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn options(arguments: &[&str]) -> Options {
        Line::try_parse_from(std::iter::once("bench").chain(arguments.iter().copied())).unwrap().args.options().unwrap()
    }

    fn names(options: &Options) -> Vec<&'static str> {
        options.kernels.iter().map(|kernel| kernel.name()).collect()
    }

    #[test]
    fn lists_are_split_at_commas() {
        let found = options(&["--backends", "cpu,wgpu", "--kernels", "rms_norm,attention", "--step"]);
        assert_eq!(found.backends, ["cpu", "wgpu"]);
        assert_eq!(names(&found), ["rms_norm", "attention"]);
        assert!(found.step && !found.predict && !found.grad_checkpoint);
        assert!(options(&["--step", "--grad-checkpoint"]).grad_checkpoint);
        let adapted = options(&["--step", "--dropout", "0.05", "--num-layers", "16"]);
        assert_eq!((adapted.dropout.to_bits(), adapted.num_layers), (0.05f64.to_bits(), Some(16)));
        assert!(Line::try_parse_from(["bench", "--step", "--dropout", "1"]).is_err());
        let full = options(&["--step", "--full", "--optimizer", "adamw8bit"]);
        assert!(full.full && full.moments == MomentType::EightBit);
        assert!(!found.full && found.moments == MomentType::F32);
        assert!(Line::try_parse_from(["bench", "--grad-checkpoint"]).is_err());
        assert_eq!(options(&["--step", "--quantization", "int4"]).quantization, burnish_models::Quantization::Int4);
    }

    #[test]
    fn predict_alone_measures_nothing() {
        assert_eq!(options(&[]).backends, ["auto"]);
        assert_eq!(names(&options(&[])), Options::kernel_names()[2..]);
        assert!(options(&["--predict"]).backends.is_empty());
        assert_eq!(options(&["--predict", "--backends", "cpu"]).backends, ["cpu"]);
        assert!(options(&["--kernels", "none"]).kernels.is_empty());
    }

    #[test]
    fn wrong_values_are_refused() {
        for wrong in [["--backends", "gpu"], ["--kernels", "gemm"], ["--seq", "1"], ["--batch-size", "0"], ["--dtype", "f8"]]
        {
            assert!(Line::try_parse_from(std::iter::once("bench").chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
