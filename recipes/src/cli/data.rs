//! `burnish data`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use burnish_engine::with_hint;
use burnish_models::Pretrained;
use serde_json::json;

use super::flags::DataFlags;
use super::row_cache;
use crate::config::{Recipe, load};
use crate::data::{Preparation, RowTokenizer, Sources};
use crate::inspect::{Colours, inspect};
use crate::report::{OutputStyle, RowsReport, gib};
use crate::train::data_parts;

/// Arguments of `data`. Keys of `train` are flags here too.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, after_help = "The other flags of `train` work here too.")]
pub struct Args {
    /// A file of rows, a folder with train.jsonl, or a hub id
    #[arg(id = "data_argument", value_name = "FILE")]
    file: Option<String>,
    /// Recipe that the rows are for [default: sft]
    #[arg(id = "recipe_argument", long = "for", value_name = "RECIPE", value_parser = Recipe::NAMES)]
    recipe: Option<String>,
    /// Configuration of `train`, overridden by flags
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Rows of each file that are shown as tokens
    #[arg(long, value_name = "N", default_value_t = 3)]
    rows: usize,
    /// Delete the prepared rows that are kept for later runs, and exit
    #[arg(long)]
    clear_cache: bool,
    #[command(flatten)]
    flags: DataFlags,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        if self.clear_cache {
            return clear(style);
        }
        let mut flags = self.flags.0;
        let arguments = [("data", self.file), ("recipe", self.recipe)];
        flags.extend(arguments.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))));
        if !flags.contains_key("data") && self.config.is_none() {
            return Err(with_hint("no data is named", "burnish data FILE --model MODEL"));
        }
        let loaded = load(self.config.as_deref(), flags)?;
        loaded.notes.iter().for_each(|note| style.say(note));
        let config = loaded.config;
        let pretrained = match &config.model_config {
            Some(folder) => Pretrained::without_weights(Path::new(folder))?,
            None => Pretrained::open(&config.model)?,
        };
        let row_tokenizer = RowTokenizer {
            mask_prompt: config.mask_prompt,
            rows: config.recipe.rows(),
            max_seq_length: config.max_seq_length.min(pretrained.config.max_position_embeddings),
            length_policy: config.length_policy,
            ..RowTokenizer::of(&pretrained)
        };
        // Training rows first: others that repeat them are told.
        let sources: Vec<Sources> = data_parts(&config.data)?.into_iter().map(|part| part.sources).collect();
        let of = |file: fn(&Sources) -> &Option<PathBuf>| -> Vec<PathBuf> {
            sources.iter().filter_map(|sources| file(sources).clone()).collect()
        };
        let files = [of(|s| &s.train), of(|s| &s.valid), of(|s| &s.test)].concat();
        let report = RowsReport::new(style);
        let progress = |progress| report.take(progress);
        let preparation = Preparation { columns: config.columns(), progress: Some(&progress), ..Preparation::default() };
        let found = inspect(&files, &preparation, &row_tokenizer, &config, self.rows)?;
        report.finish();
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        style.result(found.text(Colours(colours)).trim_end(), &json!(found));
        Ok(ExitCode::SUCCESS)
    }
}

fn clear(style: OutputStyle) -> Result<ExitCode> {
    let Some(cache) = row_cache() else {
        return Err(with_hint("this system has no cache folder", "nothing is kept, so there is nothing to delete"));
    };
    let (files, bytes) = cache.clear()?;
    let line = format!("deleted {files} files of prepared rows, {}, from {}", gib(bytes), cache.folder().display());
    style.result(line, &json!({ "files": files, "bytes": bytes }));
    Ok(ExitCode::SUCCESS)
}
