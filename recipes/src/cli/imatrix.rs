//! `burnish imatrix`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use burnish_engine::Runner;
use burnish_export::{MeasuredInputs, target};
use burnish_models::Pretrained;
use serde_json::json;

use super::at_least;
use super::export::{clean_up_on_interrupt, way_out};
use super::leave::quoted;
use super::model::{Choice, ModelArgs};
use crate::data::{self, BadRows, BatchOptions, Batches, LengthPolicy, RowTokenizer, RowUse, Sources};
use crate::report::{OutputStyle, gib};

/// Arguments of `imatrix`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Your rows: a file, a hub id, or a folder, of which train.jsonl is used, else valid.jsonl or test.jsonl
    #[arg(short, long)]
    data: String,
    /// Importance matrix to write, a GGUF file: for --imatrix of `quantize` and `export`, and for llama-quantize
    #[arg(short, long, value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,
    /// Maximum length of an example in tokens; longer ones are truncated, shorter ones are packed
    #[arg(long, value_name = "N", default_value = "2048", value_parser = at_least::<2>)]
    max_seq_length: usize,
    /// Stop after about this many tokens; 0 reads all rows
    #[arg(long, value_name = "N", default_value = "200000", value_parser = at_least::<0>)]
    max_tokens: usize,
    /// Replace an existing GGUF file
    #[arg(long)]
    overwrite: bool,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        clean_up_on_interrupt();
        let pretrained = self.model.open()?;
        let inputs = target::inputs_of(&pretrained, &*pretrained.checkpoint);
        target::check_file(&self.output, self.overwrite, &inputs, b"GGUF").map_err(way_out)?;
        let limit = self.max_seq_length.min(pretrained.config.max_position_embeddings);
        let batches = self.batches(&pretrained, limit, style)?;
        let Choice { dtype, storage } = self.model.choose(&pretrained, style)?;
        style.say(format!("dtype {} ({}), {}", dtype.dtype, dtype.why, storage.line()));
        let measured = burnish_backends::enter(&self.model.backend, |device| {
            let Pretrained { config, checkpoint, .. } = &pretrained;
            let mut runner = device.run(config, &**checkpoint, storage.options, self.model.adapter())?;
            measure(&mut *runner, &batches, self.max_tokens, style)
        })?;
        let report = measured.write(&pretrained, &self.data, limit, &self.output, self.overwrite).map_err(way_out)?;
        let (path, tokens) = (report.path.display(), measured.tokens());
        let text = format!(
            "wrote {path} ({}, of {tokens} tokens)\nnote: for example: burnish quantize {} OUT.gguf --quant q4_k_m --imatrix {}",
            gib(report.bytes),
            quoted(&pretrained.source),
            quoted(&path.to_string())
        );
        let text = if style.quiet { text.lines().next().unwrap_or_default() } else { &text };
        style.result(text, &json!({ "path": report.path.to_string_lossy(), "bytes": report.bytes, "tokens": tokens }));
        Ok(ExitCode::SUCCESS)
    }

    /// The rows, several in a batch of one row without padding between them.
    fn batches(&self, pretrained: &Pretrained, limit: usize, style: OutputStyle) -> Result<Batches> {
        let sources = Sources::locate(&self.data)?;
        let Some(file) = sources.train.or(sources.valid).or(sources.test) else { bail!("{} has no rows", self.data) };
        let row_tokenizer = RowTokenizer {
            tokenizer: &pretrained.tokenizer,
            template: pretrained.chat_template.as_ref(),
            mask_prompt: false,
            rows: RowUse::Answers,
            max_seq_length: limit,
            length_policy: LengthPolicy::Truncate,
            vocab_size: pretrained.config.vocab_size,
        };
        let prepared = data::load(&file, &row_tokenizer, BadRows::Stop)?;
        for line in prepared.report.lines() {
            style.say(format!("{}: {line}", file.display()));
        }
        if let Some(warning) = prepared.report.warning() {
            style.say(format!("warning: {}: {warning}", file.display()));
        }
        let pad_token_id = pretrained.config.pad_token_id.unwrap_or(0);
        let options = BatchOptions { max_seq_length: limit, packing: true, pad_token_id, ..BatchOptions::default() };
        Ok(Batches::new(prepared.examples, options))
    }
}

/// Runs the batches, until there were that many tokens if that is not 0, and sums the squares of what each layer takes in.
fn measure(runner: &mut dyn Runner, batches: &Batches, most: usize, style: OutputStyle) -> Result<MeasuredInputs> {
    let mut measured = MeasuredInputs::default();
    for (at, batch) in batches.epoch(0).iter().enumerate() {
        if most > 0 && measured.tokens() >= most {
            let (read, all) = (measured.tokens(), batches.per_epoch());
            style.say(format!("stopped after {read} tokens, {at} of {all} batches; --max-tokens 0 reads all"));
            break;
        }
        measured.add(batch.tokens, runner.input_squares(&batch)?);
        if (at + 1) % 20 == 0 {
            style.say(format!("batch {} of {}", at + 1, batches.per_epoch()));
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burnish_engine::Batch;
    use burnish_export::ImportanceMatrix;
    use burnish_models::checkpoint::SafetensorsFolder;
    use burnish_models::{Checkpoint, LoadOptions, ModelConfig};

    use super::*;

    /// Two texts of the golden files of the families in one row, with padding after them.
    fn batch(ids: &[f32], length: usize) -> Batch {
        let rows = ids.len() / length;
        let padding = 5;
        let padded = |values: Vec<u32>, with: u32| [values, vec![with; padding]].concat();
        Batch {
            input_ids: padded(ids.iter().map(|id| *id as u32).collect(), 7),
            labels: vec![-100; ids.len() + padding],
            position_ids: padded((0..rows).flat_map(|_| 0..length as u32).collect(), 0),
            segment_ids: padded((0..ids.len()).map(|at| (at / length + 1) as u32).collect(), 0),
            rows: 1,
            length: ids.len() + padding,
            tokens: ids.len(),
            target_tokens: 0,
            desirable: Vec::new(),
        }
    }

    /// The golden values are written by `tests/scripts/make_imatrix.py`.
    #[test]
    fn the_squares_are_those_of_hooks_in_transformers() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let golden = SafetensorsFolder::from_files(&[fixtures.join("imatrix.safetensors")]).unwrap();
        let mut families: Vec<String> =
            golden.names().iter().filter_map(|name| Some(name.split_once('/')?.0.to_owned())).collect();
        families.dedup();
        assert!(families.len() >= 4, "{families:?}");
        for family in families {
            let folder = fixtures.join("parity").join(&family);
            let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
            let config = ModelConfig::from_json(&serde_json::from_str(&config).unwrap()).unwrap();
            let weights = SafetensorsFolder::open(&folder).unwrap();
            let ids = golden.read_f32(&format!("{family}/input_ids")).unwrap();
            let length = golden.shape(&format!("{family}/input_ids")).unwrap()[1];
            let batch = batch(&ids, length);
            let layers = burnish_backends::enter("cpu", |device| {
                let mut runner = device.run(&config, &weights, LoadOptions::default(), None)?;
                let before = runner.input_squares(&batch)?;
                // A second pass is independent of the first.
                assert_eq!(runner.input_squares(&batch)?, before);
                Ok(before)
            });
            let layers = layers.unwrap();
            let expected = golden.names().iter().filter(|name| name.starts_with(&format!("{family}/model."))).count();
            assert_eq!(layers.len(), expected, "{family}");
            for (layer, sums) in layers {
                let means: Vec<f32> = sums.iter().map(|sum| sum / ids.len() as f32).collect();
                let expected = golden.read_f32(&format!("{family}/{layer}")).unwrap();
                assert_eq!(means.len(), expected.len(), "{family}: {layer}");
                for (mean, expected) in means.iter().zip(&expected) {
                    assert!(
                        (mean - expected).abs() <= 2e-5 * expected.abs() + 1e-9,
                        "{family}: {layer}: {mean}, {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_are_measured_and_the_file_is_read_again() {
        let work = tempfile::tempdir().unwrap();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart/model");
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart/data/valid.jsonl");
        let output = work.path().join("i.gguf");
        let target = output.display().to_string();
        let run = |more: &[&str]| {
            let words = ["imatrix", "--model", model, "--data", data, "--output", &target, "--backend", "cpu"];
            let words = words.into_iter().chain(["--max-seq-length", "64"]).chain(more.iter().copied());
            let command = <Args as clap::Args>::augment_args(clap::Command::new("imatrix"));
            let args = <Args as clap::FromArgMatches>::from_arg_matches(&command.get_matches_from(words)).unwrap();
            args.run(OutputStyle { json: false, quiet: true })
        };
        run(&["--max-tokens", "100"]).unwrap();
        let matrix = ImportanceMatrix::open(&output).unwrap();
        assert!(matrix.matrices() > 8, "{}", matrix.matrices());
        assert!(run(&[]).unwrap_err().to_string().contains("already exists"));
        run(&["--overwrite", "--max-tokens", "100"]).unwrap();
    }
}
