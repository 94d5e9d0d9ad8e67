//! The rows of a run: from its configuration to batches.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use burnish_engine::with_hint;
use burnish_models::Pretrained;

use super::facts::RowFacts;
use super::mixture::{DataPart, data_parts};
use super::validation::{is_split, validation_rows};
use crate::config::TrainConfig;
use crate::data::{
    BadRows, BatchOptions, Batches, Examples, Mixture, Preparation, Progress, RowCache, RowTokenizer, TokenizedFile,
};
use crate::recipe;

/// How the rows of a run are prepared.
#[derive(Default)]
pub struct RowAccess<'a> {
    /// Where prepared rows are kept for the next run. Without it, they are in memory.
    pub cache: Option<RowCache>,
    /// Is called now and then while they are prepared.
    pub progress: Option<&'a dyn Fn(Progress)>,
}

/// The rows of a run, before they are prepared.
pub(super) struct RunRows<'a> {
    pub(super) config: &'a TrainConfig,
    pub(super) pretrained: &'a Pretrained,
    /// Maximum length of an example in tokens.
    pub(super) limit: usize,
    /// The time that templates print, in seconds since 1970.
    pub(super) now: i64,
    pub(super) access: &'a RowAccess<'a>,
}

/// The batches of a run.
pub(super) struct Rows {
    pub(super) train: Arc<Batches>,
    pub(super) valid: Option<Arc<Batches>>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
    /// What the user should change.
    pub(super) warnings: Vec<String>,
    /// What was found in each file.
    pub(super) facts: Vec<RowFacts>,
}

impl RunRows<'_> {
    /// Prepares the rows.
    ///
    /// # Errors
    /// When they are missing or wrong.
    pub(super) fn prepare(&self) -> Result<Rows> {
        let Self { config, .. } = self;
        let parts = data_parts(&config.data)?;
        if let Some(file) = parts.iter().find_map(|part| part.sources.valid.as_ref()).filter(|_| is_split(config)) {
            return Err(with_hint(
                format!(
                    "`val_split` takes validation rows from the training rows, but there are others: {}",
                    file.display()
                ),
                "remove val_split, or move that file away",
            ));
        }
        let (mut notes, mut warnings, mut facts) = (Vec::new(), Vec::new(), Vec::new());
        let mut load = |file: &Path| -> Result<TokenizedFile> {
            let prepared = self.load(file)?;
            notes.extend(prepared.lines());
            warnings.extend(prepared.warning());
            facts.push(RowFacts::of(file, &prepared.report));
            Ok(prepared)
        };
        let (mut train, mut valid) = (Vec::new(), Vec::new());
        for DataPart { sources, weight } in parts {
            if let Some(file) = sources.train {
                train.push((load(&file)?, weight));
            }
            if let Some(file) = sources.valid {
                valid.push((load(&file)?, 1.0));
            }
        }
        if train.is_empty() {
            return Err(with_hint(
                format!("{} has no training rows", config.data),
                "name the file with the rows train.jsonl, or pass its path as --data",
            ));
        }
        let train = Mixture::from(train);
        let (train, valid) = if is_split(config) {
            let count = validation_rows(config.val_split, train.used_rows())?;
            let [train, valid] = train.split(count, config.seed);
            (train, Some(valid))
        } else {
            let valid = (!valid.is_empty()).then(|| Mixture::from(valid).examples(config.seed));
            (train.examples(config.seed), valid)
        };
        if train.is_empty() {
            return Err(with_hint(
                format!("{} leaves no rows to train on: weights and val_split take all of them", config.data),
                "raise the weight after the colon, or lower val_split",
            ));
        }
        recipe::check_rows(config, &train)?;
        let train = self.batches(train, config.shuffle.then_some(config.seed));
        Ok(Rows { train, valid: valid.map(|valid| self.batches(valid, None)), notes, warnings, facts })
    }

    fn load(&self, file: &Path) -> Result<TokenizedFile> {
        let Self { config, pretrained, access, .. } = self;
        let row_tokenizer = RowTokenizer {
            tokenizer: &pretrained.tokenizer,
            template: pretrained.chat_template.as_ref(),
            mask_prompt: config.mask_prompt,
            rows: config.recipe.rows(),
            max_seq_length: self.limit,
            length_policy: config.length_policy,
            vocab_size: pretrained.config.vocab_size,
        };
        let preparation = Preparation {
            bad_rows: if config.skip_bad_rows { BadRows::Skip } else { BadRows::Stop },
            columns: config.columns(),
            cache: access.cache.as_ref(),
            now: Some(self.now),
            progress: access.progress,
        };
        Ok(preparation.load(file, &row_tokenizer)?)
    }

    fn batches(&self, examples: Examples, shuffle_seed: Option<u64>) -> Arc<Batches> {
        let Self { config, pretrained, .. } = self;
        let options = BatchOptions {
            batch_size: config.batch_size,
            max_seq_length: self.limit,
            packing: config.packing,
            padding_free: config.padding_free,
            shuffle_seed,
            preference_pairs: config.recipe.has_pairs(),
            granule: burnish_backends::granule(&config.backend),
            pad_token_id: pretrained.config.pad_token_id.unwrap_or(0),
        };
        Arc::new(Batches::new(examples, options))
    }
}
