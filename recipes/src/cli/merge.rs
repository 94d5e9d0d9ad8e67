//! `burnish merge`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use burnish_export::safetensors::SHARD_BYTES;
use burnish_export::{FloatType, HuggingFaceOptions, export_hugging_face};
use burnish_lora::MergedCheckpoint;
use burnish_models::Pretrained;
use serde_json::json;

use super::change;
use super::export::{card, clean_up_on_interrupt, describe, remove_stale_beside, way_out};
use super::push::PushArgs;
use super::shard_size::shard_size;
use crate::report::OutputStyle;

/// Arguments of `merge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face folder, hub id, or a file of weights (.gguf; .safetensors, .bin or .pt with its configuration beside it)
    #[arg(short, long)]
    model: String,
    /// Adapter: a PEFT or MLX folder, or a .gguf file
    #[arg(short, long, value_name = "PATH")]
    adapter: PathBuf,
    /// Folder to write
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Data type of the weights: f32, f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    dtype: FloatType,
    /// Write shards of at most this size, such as 500MB [default: 5GB]
    #[arg(long, value_name = "SIZE", value_parser = shard_size)]
    max_shard_size: Option<u64>,
    /// Replace an earlier export
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    push: PushArgs,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        clean_up_on_interrupt();
        let target = self.push.open(style)?;
        let pretrained = Pretrained::open(&self.model)?;
        let merged = MergedCheckpoint::of(&pretrained, &self.adapter).context("the adapter can't be merged")?;
        let card = card(&pretrained, "transformers", Some(&self.adapter))?;
        let shard_bytes = self.max_shard_size.unwrap_or(SHARD_BYTES);
        let options = HuggingFaceOptions { float: self.dtype, shard_bytes, card, overwrite: self.overwrite };
        let note = change::note(&merged, self.dtype.name(), false, false)?;
        let mut report = export_hugging_face(&pretrained, &merged, &self.output, &options).map_err(way_out)?;
        report.notes.extend(note);
        remove_stale_beside(&self.output, style);
        if let Some(target) = target {
            report.notes.push(target.after(&report.path, style)?);
        }
        style.result(describe(&report, style), &json!(report));
        Ok(ExitCode::SUCCESS)
    }
}
