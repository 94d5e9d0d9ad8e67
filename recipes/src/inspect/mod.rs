//! What `burnish data` finds in a data set: the tokens of its rows, their lengths, and what is odd.

mod lengths;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::TrainConfig;
use crate::data::{
    BatchOptions, Batches, DataError, Example, Examples, IGNORE, Oddity, Part, Preparation, Row, RowTokenizer,
};

pub use lengths::Lengths;
pub use text::Colours;

/// What a data set holds.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Its files: training, validation and test rows.
    pub files: Vec<FileInspection>,
}

/// What a file holds.
#[derive(Debug, Serialize)]
pub struct FileInspection {
    /// The file.
    pub file: PathBuf,
    /// Rows, with bad ones.
    pub rows: usize,
    /// Examples made of them.
    pub examples: usize,
    /// Tokens of the examples.
    pub tokens: usize,
    /// Tokens that are learned.
    pub target_tokens: usize,
    /// The first rows.
    pub shown: Vec<Shown>,
    /// Rows that can't be used.
    pub bad: Bad,
    /// What is odd, with the number of rows and the line of the first.
    pub odd: Vec<Odd>,
    /// Rows whose tokens are those of another one.
    pub duplicates: Duplicates,
    /// Lengths of the examples.
    pub lengths: Lengths,
    /// What packing would gain; `None` if it does not apply.
    pub packing: Option<Packing>,
}

/// A row that is shown.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Its first line, from 1.
    pub line: usize,
    /// Its examples.
    pub examples: Vec<Vec<Part>>,
}

/// Rows that can't be used.
#[derive(Debug, Default, Serialize)]
pub struct Bad {
    /// Their number.
    pub rows: usize,
    /// Lines and reasons of the first.
    pub first: Vec<(usize, String)>,
}

/// Something odd.
#[derive(Debug, Serialize)]
pub struct Odd {
    /// What it is.
    pub what: Oddity,
    /// In words.
    pub words: String,
    /// The number of rows.
    pub rows: usize,
    /// The line of the first.
    pub first_line: usize,
}

/// Rows whose tokens and labels are those of an earlier one.
#[derive(Debug, Default, Serialize)]
pub struct Duplicates {
    /// Rows that are the same as an earlier row of the file.
    pub within: usize,
    /// Lines of the first such row, and of the one that it repeats.
    pub first: Option<(usize, usize)>,
    /// Rows that are also in an earlier file: what is validated should not be trained on.
    pub in_earlier_files: usize,
    /// Line of the first such row.
    pub first_in_earlier: Option<usize>,
}

/// Micro-batches with and without packing.
#[derive(Debug, Serialize)]
pub struct Packing {
    /// Examples in a micro-batch without packing.
    pub batch_size: usize,
    /// Tokens that are computed if short rows are padded.
    pub padded_tokens: usize,
    /// Micro-batches of an epoch.
    pub micro_batches: usize,
    /// Rows of `max_seq_length` tokens that hold all examples.
    pub packed_rows: usize,
    /// Micro-batches of an epoch if each has `batch_size` packed rows.
    pub packed_micro_batches: usize,
    /// Share of the tokens of packed rows that belong to an example.
    pub filled: f64,
}

/// Digests of rows, with their file and line, in few bytes: there is one for each row.
type Seen = HashMap<[u8; 16], (u32, u32)>;

/// Inspects the rows of files as `train` would prepare them, and shows the first `shown` of each.
///
/// # Errors
/// When a file can't be read or has no rows.
pub fn inspect(
    files: &[PathBuf],
    preparation: &Preparation<'_>,
    row_tokenizer: &RowTokenizer<'_>,
    config: &TrainConfig,
    shown: usize,
) -> Result<Inspection> {
    let mut seen = Seen::new();
    let mut inspected = Vec::new();
    for (number, file) in files.iter().enumerate() {
        inspected.push(of_file(number, file, preparation, row_tokenizer, config, shown, &mut seen)?);
    }
    Ok(Inspection { files: inspected })
}

/// What is known of a row.
struct Found {
    lengths: Vec<usize>,
    target_tokens: usize,
    odd: Vec<Oddity>,
    digest: Option<[u8; 16]>,
    /// Its parts, if it is one of the first.
    shown: Vec<Vec<Part>>,
}

fn of_file(
    number: usize,
    file: &Path,
    preparation: &Preparation<'_>,
    row_tokenizer: &RowTokenizer<'_>,
    config: &TrainConfig,
    shown: usize,
    seen: &mut Seen,
) -> Result<FileInspection> {
    let mut inspection = FileInspection {
        file: file.to_owned(),
        rows: 0,
        examples: 0,
        tokens: 0,
        target_tokens: 0,
        shown: Vec::new(),
        bad: Bad::default(),
        odd: Vec::new(),
        duplicates: Duplicates::default(),
        lengths: Lengths::default(),
        packing: None,
    };
    let mut odd: BTreeMap<Oddity, (usize, usize)> = BTreeMap::new();
    let mut lengths = Vec::new();
    // Few rows are shown, and which they are is known only in the order of the file.
    let begun = std::sync::atomic::AtomicUsize::new(0);
    let of_row = |row: Row| {
        let made = row_tokenizer.tokenize(&row)?;
        let may_be_shown = begun.load(std::sync::atomic::Ordering::Relaxed) < shown;
        Ok(Found {
            lengths: made.examples.iter().map(|example| example.input_ids.len()).collect(),
            target_tokens: made.examples.iter().map(Example::target_tokens).sum(),
            odd: row_tokenizer.oddities(&row, &made),
            digest: (!made.examples.is_empty()).then(|| digest(&made.examples)),
            shown: if may_be_shown { row_tokenizer.shown(&row, &made) } else { Vec::new() },
        })
    };
    preparation.rows(file, of_row, |line, outcome| -> Result<(), DataError> {
        inspection.rows += 1;
        let found = match outcome {
            Ok(found) => found,
            Err(reason) => {
                inspection.bad.rows += 1;
                if inspection.bad.first.len() < 3 {
                    inspection.bad.first.push((line, reason));
                }
                return Ok(());
            }
        };
        inspection.examples += found.lengths.len();
        inspection.tokens += found.lengths.iter().sum::<usize>();
        inspection.target_tokens += found.target_tokens;
        lengths.extend(found.lengths);
        for oddity in found.odd {
            odd.entry(oddity).or_insert((0, line)).0 += 1;
        }
        if let Some(digest) = found.digest {
            inspection.duplicates.take(seen, digest, number, line);
        }
        if inspection.shown.len() < shown {
            inspection.shown.push(Shown { line, examples: found.shown });
            begun.store(inspection.shown.len(), std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    })?;
    let odd = odd.into_iter();
    inspection.odd = odd.map(|(what, (rows, first_line))| Odd { what, words: what.to_string(), rows, first_line }).collect();
    let packs = !config.recipe.has_pairs() && !lengths.is_empty();
    inspection.packing = packs.then(|| packing(&lengths, config, row_tokenizer.max_seq_length));
    inspection.lengths = Lengths::of(lengths);
    Ok(inspection)
}

impl Duplicates {
    fn take(&mut self, seen: &mut Seen, digest: [u8; 16], file: usize, line: usize) {
        let short = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        match seen.get(&digest) {
            None => {
                seen.insert(digest, (short(file), short(line)));
            }
            Some((first_file, first_line)) if *first_file == short(file) => {
                self.within += 1;
                self.first.get_or_insert((line, *first_line as usize));
            }
            Some(_) => {
                self.in_earlier_files += 1;
                self.first_in_earlier.get_or_insert(line);
            }
        }
    }
}

/// Of tokens and labels.
fn digest(examples: &[Example]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for example in examples {
        hasher.update((example.input_ids.len() as u64).to_le_bytes());
        example.input_ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        example.labels.iter().for_each(|label| hasher.update([u8::from(*label == IGNORE), u8::from(example.desirable)]));
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize()[..16]);
    digest
}

fn packing(lengths: &[usize], config: &TrainConfig, max_seq_length: usize) -> Packing {
    // Only lengths matter.
    let examples = Examples::of_lengths(lengths.iter().copied());
    let options = BatchOptions {
        batch_size: config.batch_size,
        max_seq_length,
        padding_free: false,
        shuffle_seed: config.shuffle.then_some(config.seed),
        ..BatchOptions::default()
    };
    let padded = Batches::new(examples.clone(), options);
    let epoch = padded.epoch(0);
    let padded_tokens = (0..padded.per_epoch()).map(|index| epoch.shape(index).size()).sum();
    let packed = Batches::new(examples, BatchOptions { packing: true, batch_size: 1, ..options });
    let packed_rows = packed.per_epoch();
    let tokens: usize = lengths.iter().sum();
    Packing {
        batch_size: config.batch_size,
        padded_tokens,
        micro_batches: padded.per_epoch(),
        packed_rows,
        packed_micro_batches: packed_rows.div_ceil(config.batch_size.max(1)),
        filled: tokens as f64 / (packed_rows * max_seq_length).max(1) as f64,
    }
}
