//! `burnish quantize`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use burnish_export::{GgufOptions, GgufType, ImportanceMatrix, Mixture, export_gguf, quantize_gguf};
use burnish_models::Pretrained;
use burnish_models::gguf::{GgufFile, is_gguf_name};
use clap::builder::NonEmptyStringValueParser;
use serde_json::json;

use super::export::{clean_up_on_interrupt, describe, remove_stale_beside, way_out};
use super::shard_size::shard_size;
use crate::report::OutputStyle;

/// Arguments of `quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// .gguf file, Hugging Face folder, or hub id
    #[arg(value_name = "IN", value_parser = NonEmptyStringValueParser::new())]
    input: String,
    /// GGUF file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Mixture of types: q8_0, q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s, q3_k_l, q3_k_m, q3_k_s, q2_k, iq4_nl, iq4_xs, q5_1, q5_0, q4_1
    /// or q4_0
    #[arg(long, value_name = "MIXTURE")]
    quant: Mixture,
    /// Importance matrix: a file that `burnish imatrix` or llama-imatrix wrote
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Write parts of at most this size, such as 5GB, called OUT-00001-of-00003.gguf and so on
    #[arg(long, value_name = "SIZE", value_parser = shard_size)]
    max_shard_size: Option<u64>,
    /// Quantise quantised weights again, although that adds to their errors
    #[arg(long, alias = "allow-requantize")]
    requantize: bool,
    /// Replace an existing GGUF file
    #[arg(long)]
    overwrite: bool,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        clean_up_on_interrupt();
        let importance = self.imatrix.as_deref().map(ImportanceMatrix::open).transpose()?;
        let options = GgufOptions {
            kind: GgufType::Quantized(self.quant),
            importance: importance.as_ref(),
            shard_bytes: self.max_shard_size,
            requantize: self.requantize,
            overwrite: self.overwrite,
        };
        let path = Path::new(&self.input);
        let report = if is_gguf_name(path) && !path.is_dir() {
            quantize_gguf(&GgufFile::open(path)?, &self.output, &options)
        } else {
            let model = Pretrained::open(&self.input)?;
            export_gguf(&model, &*model.checkpoint, &self.output, &options)
        };
        let report = report.map_err(way_out)?;
        remove_stale_beside(&self.output, style);
        style.result(describe(&report, style), &json!(report));
        Ok(ExitCode::SUCCESS)
    }
}
