//! Held-out rows, and the losses of their tokens.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burnish_engine::{Runner, with_hint};

use crate::data::{BatchOptions, Batches, Preparation, RowTokenizer};

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOutRow {
    /// Its first line, from 1.
    pub line: usize,
    /// Its examples in the batches.
    pub examples: Range<usize>,
    /// Its predicted tokens.
    pub tokens: usize,
}

/// The rows of a file as tokens, in the order of the file.
#[derive(Debug, Clone)]
pub struct HeldOut {
    /// The file.
    pub file: PathBuf,
    /// Its rows that predict a token.
    pub rows: Vec<HeldOutRow>,
    /// Their tokens.
    pub batches: Batches,
    /// What there is to say of the rows.
    pub notes: Vec<String>,
}

impl HeldOut {
    /// Reads and tokenises a file. Its examples are neither shuffled nor packed.
    ///
    /// # Errors
    /// When the file can't be read, or has a bad row.
    pub fn read(
        file: &Path,
        preparation: &Preparation<'_>,
        row_tokenizer: &RowTokenizer<'_>,
        options: BatchOptions,
    ) -> Result<Self> {
        let read = preparation.load(file, row_tokenizer)?;
        let tokens = |range: &Range<usize>| range.clone().map(|index| read.examples.get(index).target_tokens()).sum();
        let rows = read.rows().map(|(line, examples)| HeldOutRow { line, tokens: tokens(&examples), examples }).collect();
        let warning = read.report.warning().map(|warning| format!("warning: {warning}"));
        let notes = read.report.lines().into_iter().chain(warning).collect();
        let options = BatchOptions { packing: false, shuffle_seed: None, ..options };
        Ok(Self { file: file.to_owned(), rows, batches: Batches::new(read.examples, options), notes })
    }

    /// The predicted tokens of each row.
    pub fn weights(&self) -> Vec<f64> {
        self.rows.iter().map(|row| row.tokens as f64).collect()
    }

    /// The predicted tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.tokens).sum()
    }

    /// The summed loss of each row.
    ///
    /// # Errors
    /// When the device fails.
    pub fn losses(&self, runner: &mut dyn Runner, on_batch: &mut dyn FnMut(usize, usize)) -> Result<Vec<f64>> {
        let losses = example_losses(runner, &self.batches, on_batch)?;
        Ok(self.rows.iter().map(|row| losses[row.examples.clone()].iter().sum()).collect())
    }

    /// Checks that another tokenizer gives the same tokens, since losses of other tokens can't be compared; `name` and `base` are the
    /// models that they belong to.
    ///
    /// # Errors
    /// When a row has other tokens.
    pub fn check_tokens(
        &self,
        preparation: &Preparation<'_>,
        other: &RowTokenizer<'_>,
        name: &str,
        base: &str,
    ) -> Result<()> {
        let (theirs, ours) = (preparation.load(&self.file, other)?.examples, self.batches.examples());
        let same = |index: usize| index < theirs.len() && theirs.get(index) == ours.get(index);
        let differs = self.rows.iter().find(|row| !row.examples.clone().all(same)).map(|row| row.line);
        let Some(line) = differs.or((theirs.len() != ours.len()).then_some(1)) else {
            return Ok(());
        };
        Err(with_hint(
            format!("{name} has another tokenizer than {base}: {}:{line} becomes other tokens", self.file.display()),
            "losses can be compared only between models with the same tokens; --task compares answers instead",
        ))
    }
}

/// The summed loss of each example, in order.
///
/// # Errors
/// When the device fails.
pub fn example_losses(
    runner: &mut dyn Runner,
    batches: &Batches,
    on_batch: &mut dyn FnMut(usize, usize),
) -> Result<Vec<f64>> {
    let (epoch, count) = (batches.epoch(0), batches.per_epoch());
    let mut all = Vec::with_capacity(batches.examples().len());
    for index in 0..count {
        let batch = epoch.batch(index);
        let start = all.len();
        all.resize(start + epoch.examples(index).count(), 0.0);
        if batch.target_tokens > 0 {
            let (losses, examples) = (runner.token_losses(&batch)?, batch.target_examples());
            if losses.len() != examples.len() {
                bail!("expected the losses of {} tokens, got {}", examples.len(), losses.len());
            }
            for (example, loss) in examples.into_iter().zip(losses) {
                all[start + example] += loss;
            }
        }
        on_batch(index + 1, count);
    }
    Ok(all)
}
