//! `burnish export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use burnish_engine::{AdamWConfig, Adapter, TrainedPart, with_hint};
use burnish_export::{
    ExportError, ExportReport, GgufOptions, GgufType, HuggingFaceOptions, export_gguf, export_hugging_face, target,
};
use burnish_lora::{MergedCheckpoint, read_config};
use burnish_models::{Checkpoint, FloatType, LoadOptions, Pretrained, Quantization, atomic};
use clap::ValueEnum;
use serde_json::json;

use super::change;
use crate::report::{OutputStyle, gib};

/// The format to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Hugging Face folder, with the adapter merged in
    Hf,
    /// PEFT folder, with only the adapter
    Peft,
    /// GGUF file for llama.cpp and Ollama, with the adapter merged in
    Gguf,
}

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face folder, hub id, or .gguf file
    #[arg(short, long)]
    model: String,
    /// PEFT folder of an adapter for the model
    #[arg(short, long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Format to write
    #[arg(long, value_enum)]
    format: Format,
    /// Data type of the weights: f32, f16, bf16 or, for gguf, a mixture of `quantize`, such as q4_k_m [default: hf bf16, gguf f16]
    #[arg(long, value_name = "TYPE")]
    quant: Option<String>,
    /// File or folder to write
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Quantise quantised weights again, although that adds to their errors and loses part of an adapter's change
    #[arg(long, alias = "allow-requantize")]
    requantize: bool,
    /// Replace an earlier export
    #[arg(long)]
    overwrite: bool,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        clean_up_on_interrupt();
        let pretrained = Pretrained::open(&self.model)?;
        if self.format == Format::Peft {
            return self.peft(&pretrained, style);
        }
        let merged = self.adapter.as_deref().map(|folder| MergedCheckpoint::open(&*pretrained.checkpoint, folder));
        let merged = merged.transpose().context("the adapter can't be merged")?;
        let weights: &dyn Checkpoint = match &merged {
            Some(merged) => merged,
            None => &*pretrained.checkpoint,
        };
        let note = |written: &str, rounds: bool| match &merged {
            Some(merged) => change::note(merged, written, rounds, self.requantize),
            None => Ok(None),
        };
        let (report, note) = match self.format {
            Format::Gguf => {
                let kind: GgufType = parse(self.quant.as_deref(), GgufType::Float(FloatType::F16))?;
                let note = note(&kind.to_string(), matches!(kind, GgufType::Quantized(_)))?;
                let options = GgufOptions { kind, importance: None, requantize: self.requantize, overwrite: self.overwrite };
                (export_gguf(&pretrained, weights, &self.output, &options), note)
            }
            Format::Hf | Format::Peft => {
                let float: FloatType = parse(self.quant.as_deref(), FloatType::BF16)?;
                let options = HuggingFaceOptions { float, overwrite: self.overwrite, ..Default::default() };
                let note = note(float.name(), false)?;
                (export_hugging_face(&pretrained, weights, &self.output, &options), note)
            }
        };
        let mut report = report.map_err(way_out)?;
        report.notes.extend(note);
        remove_stale_beside(&self.output, style);
        style.result(describe(&report), &json!(report));
        Ok(ExitCode::SUCCESS)
    }

    /// Loads the adapter onto the model, which checks it, and writes it.
    fn peft(&self, pretrained: &Pretrained, style: OutputStyle) -> Result<ExitCode> {
        let Some(adapter) = &self.adapter else { bail!("--format peft needs --adapter") };
        let mut inputs = target::inputs_of(pretrained, &*pretrained.checkpoint);
        inputs.push(adapter.clone());
        target::check_folder(&self.output, self.overwrite, &inputs).map_err(way_out)?;
        let config = read_config(adapter)?;
        burnish_backends::enter("cpu", |device| {
            let adapter = Adapter::Folder { path: adapter, dropout: config.dropout };
            let part = TrainedPart::Adapters {
                base: &*pretrained.checkpoint,
                options: LoadOptions::default().quantized(Quantization::Auto),
                adapter,
                reference: None,
            };
            let model = device.train(&pretrained.config, part, AdamWConfig::default())?;
            target::write_folder(&self.output, self.overwrite, &inputs, |folder| -> Result<()> {
                model.save_adapter(&config, &pretrained.source, folder)
            })
        })?;
        remove_stale_beside(&self.output, style);
        style.result(format!("wrote {}", self.output.display()), &json!({ "path": self.output }));
        Ok(ExitCode::SUCCESS)
    }
}

fn parse<T: std::str::FromStr<Err = String>>(quant: Option<&str>, default: T) -> Result<T> {
    quant.map_or(Ok(default), |name| name.parse().map_err(|reason| anyhow!("--quant: {reason}")))
}

/// Makes Ctrl-C delete unfinished files before it ends the program.
pub(super) fn clean_up_on_interrupt() {
    // Without a handler, Ctrl-C still ends the program.
    ctrlc::set_handler(|| {
        atomic::abandon();
        std::process::exit(130)
    })
    .ok();
}

/// Deletes files that killed exports left beside the target, and prints that.
pub(super) fn remove_stale_beside(target: &Path, style: OutputStyle) {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for path in target::remove_stale(parent) {
        style.say(format!("deleted {}, left by a killed export", path.display()));
    }
}

/// What was written, as text for the user.
pub(super) fn describe(report: &ExportReport) -> String {
    let tensors: Vec<String> = report.tensors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let mut text = format!("wrote {} ({}, {} tensors)", report.path.display(), gib(report.bytes), tensors.join(" + "));
    for note in &report.notes {
        text.push_str("\nnote: ");
        text.push_str(note);
    }
    text
}

/// Adds a hint if a flag is the way out.
pub(super) fn way_out(error: ExportError) -> anyhow::Error {
    let hint = match &error {
        ExportError::Exists { .. } => "--overwrite replaces it",
        ExportError::Requantizes { .. } => "begin with a model in 16 bits, or write it all the same with --allow-requantize",
        _ => return error.into(),
    };
    with_hint(error.to_string(), hint)
}
