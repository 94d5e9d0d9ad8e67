//! `burnish export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use burnish_engine::{AdamWConfig, Adapter, TrainedPart, with_hint};
use burnish_export::safetensors::SHARD_BYTES;
use burnish_export::{
    ExportError, ExportReport, GgufLoraOptions, GgufOptions, GgufType, Holds, HuggingFaceOptions, ImportanceMatrix,
    MlxAdapterOptions, MlxOptions, MlxQuantisation, MlxType, ModelCard, check_modelfile, export_gguf, export_gguf_lora,
    export_hugging_face, export_mlx, export_mlx_adapter, target, write_modelfile,
};
use burnish_lora::{HostAdapter, MergedCheckpoint, read_config};
use burnish_models::{Checkpoint, FloatType, LoadOptions, Pretrained, Quantization, atomic};
use clap::ValueEnum;
use serde_json::json;

use super::change;
use super::leave::quoted;
use super::push::{PushArgs, Target};
use super::shard_size::shard_size;
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
    /// GGUF file with only the adapter, which llama.cpp and Ollama apply to the model
    GgufLora,
    /// Folder for mlx-lm and LM Studio, with the adapter merged in
    Mlx,
    /// Folder for mlx-lm with only the adapter
    MlxAdapter,
}

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face folder, hub id, or a file of weights (.gguf; .safetensors, .bin or .pt with its configuration beside it)
    #[arg(short, long)]
    model: String,
    /// Adapter for the model: a PEFT or MLX folder, or a .gguf file
    #[arg(short, long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Format to write
    #[arg(long, value_enum)]
    format: Format,
    /// Data type of the weights: f32, f16, bf16; for gguf also a mixture of `quantize`, such as q4_k_m, for mlx int4 and int8
    /// [default: hf and mlx bf16, gguf f16, gguf-lora f32]
    #[arg(long, value_name = "TYPE")]
    quant: Option<String>,
    /// Number of weights that share a scale, for mlx with int4 and int8: 32, 64 or 128 [default: 64]
    #[arg(long, value_name = "N", value_parser = group_size)]
    group_size: Option<usize>,
    /// Importance matrix for gguf with a mixture: a file that `burnish imatrix` or llama-imatrix wrote
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Write files of at most this size, such as 5GB: shards of hf and mlx, parts of gguf [default: hf and mlx 5GB, gguf one file]
    #[arg(long, value_name = "SIZE", value_parser = shard_size)]
    max_shard_size: Option<u64>,
    /// File or folder to write
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Quantise quantised weights again, although that adds to their errors and loses part of an adapter's change
    #[arg(long, alias = "allow-requantize")]
    requantize: bool,
    /// Write no Modelfile for Ollama beside a GGUF file
    #[arg(long)]
    no_modelfile: bool,
    /// Replace an earlier export
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    push: PushArgs,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        clean_up_on_interrupt();
        let hub = self.push.open(style)?;
        let pretrained = Pretrained::open(&self.model)?;
        if self.writes_modelfile() {
            let inputs = target::inputs_of(&pretrained, &*pretrained.checkpoint);
            check_modelfile(&self.output, self.overwrite, &inputs).map_err(modelfile_way_out)?;
        }
        match self.format {
            Format::Peft => return self.peft(&pretrained, hub, style),
            Format::GgufLora | Format::MlxAdapter => return self.adapter_alone(&pretrained, hub, style),
            Format::Hf | Format::Gguf | Format::Mlx => {}
        }
        let merged = self.adapter.as_deref().map(|adapter| MergedCheckpoint::of(&pretrained, adapter));
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
                let importance = self.imatrix.as_deref().map(ImportanceMatrix::open).transpose()?;
                let options = GgufOptions {
                    kind,
                    importance: importance.as_ref(),
                    shard_bytes: self.max_shard_size,
                    requantize: self.requantize,
                    overwrite: self.overwrite,
                };
                (export_gguf(&pretrained, weights, &self.output, &options), note)
            }
            Format::Mlx => {
                let (float, quantisation) = match parse(self.quant.as_deref(), MlxType::Float(FloatType::BF16))? {
                    MlxType::Float(float) => (float, None),
                    MlxType::Integer(bits) => {
                        (FloatType::BF16, Some(MlxQuantisation { bits, group: self.group_size.unwrap_or(64) }))
                    }
                };
                let note = note(self.quant.as_deref().unwrap_or(float.name()), quantisation.is_some())?;
                let card = card(&pretrained, "mlx", self.adapter.as_deref())?;
                let (requantize, overwrite) = (self.requantize, self.overwrite);
                let shard_bytes = self.max_shard_size.unwrap_or(MlxOptions::default().shard_bytes);
                let options = MlxOptions { float, quantisation, requantize, shard_bytes, card, overwrite };
                (export_mlx(&pretrained, weights, &self.output, &options), note)
            }
            _ => {
                let float: FloatType = parse(self.quant.as_deref(), FloatType::BF16)?;
                let card = card(&pretrained, "transformers", self.adapter.as_deref())?;
                let shard_bytes = self.max_shard_size.unwrap_or(SHARD_BYTES);
                let options = HuggingFaceOptions { float, shard_bytes, card, overwrite: self.overwrite };
                let note = note(float.name(), false)?;
                (export_hugging_face(&pretrained, weights, &self.output, &options), note)
            }
        };
        let mut report = report.map_err(way_out)?;
        report.notes.extend(note);
        self.finish(&pretrained, report, hub, style)
    }

    /// A flag without effect on the format, as an error of usage.
    pub(super) fn misuse(&self) -> Option<String> {
        let format = self.format.to_possible_value()?;
        let format = format.get_name();
        let has_groups = self.format == Format::Mlx && matches!(self.quant.as_deref(), Some("int4" | "int8"));
        if self.group_size.is_some() && !has_groups {
            let got = self.quant.as_ref().map(|quant| format!(" --quant {quant}")).unwrap_or_default();
            return Some(format!("--group-size needs --format mlx with --quant int4 or int8, got --format {format}{got}"));
        }
        if self.max_shard_size.is_some() && !matches!(self.format, Format::Hf | Format::Gguf | Format::Mlx) {
            return Some(format!("--max-shard-size needs --format hf, gguf or mlx, got --format {format}"));
        }
        let is_float = self.quant.as_deref().is_none_or(|quant| quant.parse::<FloatType>().is_ok());
        if self.imatrix.is_some() && (self.format != Format::Gguf || is_float) {
            let got = self.quant.as_ref().map(|quant| format!(" --quant {quant}")).unwrap_or_default();
            return Some(format!("--imatrix needs --format gguf with --quant MIXTURE, got --format {format}{got}"));
        }
        if self.format == Format::Peft && self.quant.is_some() {
            return Some("--quant has no effect with --format peft: an adapter is always stored in f32".to_owned());
        }
        (self.no_modelfile && !self.is_gguf()).then(|| {
            format!("--no-modelfile needs --format gguf or gguf-lora, got --format {format}, which has no Modelfile")
        })
    }

    fn is_gguf(&self) -> bool {
        matches!(self.format, Format::Gguf | Format::GgufLora)
    }

    fn writes_modelfile(&self) -> bool {
        self.is_gguf() && !self.no_modelfile
    }

    /// Writes the Modelfile of a GGUF file, uploads what was written if that is asked for, and prints the report.
    fn finish(
        &self,
        pretrained: &Pretrained,
        mut report: ExportReport,
        hub: Option<Target>,
        style: OutputStyle,
    ) -> Result<ExitCode> {
        // The first of several parts has a name of its own.
        if report.path != self.output {
            report.notes.push("Ollama reads no model in parts, so there is no Modelfile".to_owned());
        } else if self.writes_modelfile() {
            let holds = if self.format == Format::Gguf { Holds::Model } else { Holds::Adapter };
            let path = write_modelfile(pretrained, &self.output, holds, self.overwrite).map_err(modelfile_way_out)?;
            let path = quoted(&path.display().to_string());
            report.notes.push(format!("to import it into Ollama: ollama create NAME -f {path}"));
        }
        remove_stale_beside(&self.output, style);
        if let Some(hub) = hub {
            report.notes.push(hub.after(&report.path, style)?);
        }
        style.result(describe(&report, style), &json!(report));
        Ok(ExitCode::SUCCESS)
    }

    /// Writes the adapter for programs that apply it without merging.
    fn adapter_alone(&self, pretrained: &Pretrained, hub: Option<Target>, style: OutputStyle) -> Result<ExitCode> {
        let Some(adapter) = &self.adapter else {
            let format = if self.format == Format::GgufLora { "gguf-lora" } else { "mlx-adapter" };
            bail!("--format {format} needs --adapter")
        };
        let adapter = HostAdapter::of(pretrained, adapter)?;
        let report = match self.format {
            Format::GgufLora => {
                let float = parse(self.quant.as_deref(), FloatType::F32)?;
                export_gguf_lora(pretrained, &adapter, &self.output, &GgufLoraOptions { float, overwrite: self.overwrite })
            }
            _ if self.quant.is_some() => bail!("--quant: an mlx-adapter is always stored in f32"),
            _ => {
                let card = card(pretrained, "mlx-adapter", self.adapter.as_deref())?;
                let options = MlxAdapterOptions { card, overwrite: self.overwrite };
                export_mlx_adapter(pretrained, &adapter, &self.output, &options)
            }
        };
        self.finish(pretrained, report.map_err(way_out)?, hub, style)
    }

    /// Loads the adapter onto the model, which checks it, and writes it.
    fn peft(&self, pretrained: &Pretrained, hub: Option<Target>, style: OutputStyle) -> Result<ExitCode> {
        let Some(adapter) = &self.adapter else { bail!("--format peft needs --adapter") };
        let mut inputs = target::inputs_of(pretrained, &*pretrained.checkpoint);
        inputs.push(adapter.clone());
        target::check_folder(&self.output, self.overwrite, &inputs).map_err(way_out)?;
        let config = read_config(adapter)?;
        let card = ModelCard::of(pretrained, "peft", Some((&config, adapter)));
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
                model.save_adapter(&config, &pretrained.source, folder)?;
                card.write(folder)?;
                Ok(())
            })
        })?;
        remove_stale_beside(&self.output, style);
        let mut text = format!("wrote {}", self.output.display());
        if let Some(hub) = hub {
            text = format!("{text}\nnote: {}", hub.after(&self.output, style)?);
        }
        style.result(text, &json!({ "path": self.output.to_string_lossy() }));
        Ok(ExitCode::SUCCESS)
    }
}

/// The model card of an export.
pub(super) fn card(pretrained: &Pretrained, library: &'static str, adapter: Option<&Path>) -> Result<Option<ModelCard>> {
    let config = adapter.map(read_config).transpose()?;
    Ok(Some(ModelCard::of(pretrained, library, config.as_ref().zip(adapter))))
}

/// Parses a group size that MLX has.
fn group_size(text: &str) -> Result<usize, String> {
    let group = text.parse::<usize>().ok().filter(|group| matches!(group, 32 | 64 | 128));
    group.ok_or_else(|| "expected 32, 64 or 128".to_owned())
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

/// What was written, as text for the user, with the notes unless they are to be quiet.
pub(super) fn describe(report: &ExportReport, style: OutputStyle) -> String {
    let tensors: Vec<String> = report.tensors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let mut text = format!("wrote {} ({}, {} tensors)", report.path.display(), gib(report.bytes), tensors.join(" + "));
    for note in report.notes.iter().filter(|_| !style.quiet) {
        text.push_str("\nnote: ");
        text.push_str(note);
    }
    text
}

/// As [`way_out`], for the Modelfile.
fn modelfile_way_out(error: ExportError) -> anyhow::Error {
    match &error {
        ExportError::Occupied { .. } => with_hint(error.to_string(), "--no-modelfile writes none"),
        _ => way_out(error),
    }
}

/// Adds a hint if a flag is the way out.
pub(super) fn way_out(error: ExportError) -> anyhow::Error {
    let hint = match &error {
        ExportError::Exists { .. } => "--overwrite replaces it",
        ExportError::Requantizes { .. } => "start from a 16-bit model, or write it all the same with --requantize",
        _ => return error.into(),
    };
    with_hint(error.to_string(), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_silent_if_quiet() {
        let report = ExportReport { notes: vec!["of a tensor".to_owned()], ..ExportReport::default() };
        let text = |quiet| describe(&report, OutputStyle { json: false, quiet });
        assert!(text(false).ends_with("\nnote: of a tensor") && !text(true).contains("note"), "{}", text(true));
    }

    #[test]
    fn a_foreign_modelfile_can_be_left_alone() {
        let path = PathBuf::from("m.Modelfile");
        let hint = |error: ExportError| crate::hint::hint(&modelfile_way_out(error)).unwrap_or_default();
        assert!(hint(ExportError::Occupied { path: path.clone(), reason: "is".into() }).contains("--no-modelfile"));
        assert!(hint(ExportError::Exists { path }).contains("--overwrite"));
    }
}
