//! Prepares the rows of a file on all cores.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::error::DataError;
use super::format::{Columns, Row};
use super::row_cache::{Inputs, RowCache, Version};
use super::row_file::RowWriter;
use super::source::{self, BadRows, Piece, Position};
use super::tokenize::RowTokenizer;
use super::tokenized_file::{Growing, TokenizedFile};

/// Rows, and bytes of them, that are in memory at once.
const ROWS: usize = 4096;
const BYTES: usize = 16 << 20;
/// Tokens of prepared rows that may be in memory, where they take 12 bytes each.
const TOKENS: usize = 32 << 20;

/// How far the preparation of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Whether the file is only compared with those that were prepared before.
    pub compares: bool,
    /// Rows prepared.
    pub rows: usize,
    /// Bytes read of the file.
    pub bytes: u64,
    /// Bytes of the file.
    pub of_bytes: u64,
}

/// How the rows of files are prepared.
#[derive(Default)]
pub struct Preparation<'a> {
    /// What to do with bad rows.
    pub bad_rows: BadRows,
    /// The names of columns.
    pub columns: Columns,
    /// Where prepared rows are kept for the next run, and are read from when they are needed. Without it, they are in memory, or in a
    /// temporary file if they are many.
    pub cache: Option<&'a RowCache>,
    /// The time that templates print, in seconds since 1970, if it is fixed.
    pub now: Option<i64>,
    /// Is called now and then.
    pub progress: Option<&'a dyn Fn(Progress)>,
}

/// Reads a file and tokenises its rows, on all cores. The examples are in the order of the file.
///
/// # Errors
/// When the file can't be read, has a bad row (unless `bad_rows` skips those), or has nothing to learn.
pub fn load(file: &Path, row_tokenizer: &RowTokenizer<'_>, bad_rows: BadRows) -> Result<TokenizedFile, DataError> {
    Preparation { bad_rows, ..Preparation::default() }.load(file, row_tokenizer)
}

/// Why no file of prepared rows was written.
enum Unkept {
    Data(DataError),
    Cache(io::Error),
}

impl From<DataError> for Unkept {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

impl Preparation<'_> {
    /// Reads a file and tokenises its rows, on all cores, unless they are in the cache. The examples are in the order of the file.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(&self, file: &Path, row_tokenizer: &RowTokenizer<'_>) -> Result<TokenizedFile, DataError> {
        let refuse = |source| DataError::Io { file: file.to_owned(), source };
        let version = Version::of(file).map_err(refuse)?;
        if let Some(cache) = self.cache.filter(|cache| version.bytes >= cache.smallest) {
            let position = Position::default();
            self.tell(true, 0, &position, version);
            let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs() as i64);
            let Self { columns, bad_rows, .. } = self;
            let inputs = Inputs { file, row_tokenizer, columns, bad_rows: *bad_rows, now: self.now.unwrap_or_else(now) };
            let key = inputs.key(&position)?;
            if let Some(kept) = cache.find(&key) {
                return Ok(TokenizedFile::of_kept(file, kept));
            }
            match self.keep(file, row_tokenizer, cache, &key, version) {
                Ok(prepared) => return Ok(prepared),
                Err(Unkept::Data(error)) => return Err(error),
                Err(Unkept::Cache(error)) => {
                    let mut prepared = self.in_memory(file, row_tokenizer, version, TOKENS)?;
                    prepared.report.unkept = Some(format!("{}: {error}", cache.folder().display()));
                    return Ok(prepared);
                }
            }
        }
        self.in_memory(file, row_tokenizer, version, TOKENS)
    }

    fn in_memory(
        &self,
        file: &Path,
        row_tokenizer: &RowTokenizer<'_>,
        version: Version,
        most: usize,
    ) -> Result<TokenizedFile, DataError> {
        let mut growing = Growing::in_memory(file, most);
        self.fill(&mut growing, file, row_tokenizer, version).map_err(|error| match error {
            Unkept::Data(error) => error,
            Unkept::Cache(source) => DataError::Io { file: file.to_owned(), source },
        })?;
        growing.finish().map_err(|source| DataError::Io { file: file.to_owned(), source })
    }

    /// Prepares the rows in a file of the cache.
    fn keep(
        &self,
        file: &Path,
        row_tokenizer: &RowTokenizer<'_>,
        cache: &RowCache,
        key: &str,
        version: Version,
    ) -> Result<TokenizedFile, Unkept> {
        let unfinished = cache.begin().map_err(Unkept::Cache)?;
        let writer = unfinished.handle().and_then(RowWriter::new).map_err(Unkept::Cache)?;
        let mut growing = Growing::on_disk(file, writer);
        self.fill(&mut growing, file, row_tokenizer, version)?;
        let prepared = growing.finish().map_err(Unkept::Cache)?;
        // A file that was written meanwhile is not the one that the key is of.
        if Version::of(file).is_ok_and(|now| now == version) {
            unfinished.keep(cache, key);
        }
        Ok(prepared)
    }

    fn fill(
        &self,
        growing: &mut Growing,
        file: &Path,
        row_tokenizer: &RowTokenizer<'_>,
        version: Version,
    ) -> Result<(), Unkept> {
        let tokenize = |row: Row| row_tokenizer.tokenize(&row);
        self.visit(file, version, tokenize, |line, outcome| match (outcome, self.bad_rows) {
            (Ok(made), _) => growing.take(line, made).map_err(Unkept::Cache),
            (Err(reason), BadRows::Skip) => {
                growing.skip(line, reason);
                Ok(())
            }
            (Err(reason), BadRows::Stop) => Err(DataError::Row { file: file.to_owned(), line, reason }.into()),
        })?;
        Ok(growing.check()?)
    }

    /// Calls `of_row` for each row of a file, on all cores, and `take` with the line of each row and the result, or with what is wrong
    /// with the row, in the order of the file.
    ///
    /// # Errors
    /// When the file can't be read or has no rows, and those of `take`.
    pub fn rows<T: Send, E: From<DataError>>(
        &self,
        file: &Path,
        of_row: impl Fn(Row) -> Result<T, String> + Sync,
        take: impl FnMut(usize, Result<T, String>) -> Result<(), E>,
    ) -> Result<(), E> {
        let version = Version::of(file).map_err(|source| DataError::Io { file: file.to_owned(), source })?;
        self.visit(file, version, of_row, take)
    }

    fn visit<T: Send, E: From<DataError>>(
        &self,
        file: &Path,
        version: Version,
        of_row: impl Fn(Row) -> Result<T, String> + Sync,
        mut take: impl FnMut(usize, Result<T, String>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (position, columns) = (Position::default(), &self.columns);
        let (mut pieces, mut bytes, mut rows) = (Vec::with_capacity(ROWS), 0, 0);
        let mut prepare = |pieces: &mut Vec<Piece>| -> Result<(), E> {
            rows += pieces.len();
            let one = |piece: Piece| (piece.line, piece.row(columns).and_then(&of_row));
            let made: Vec<_> = std::mem::take(pieces).into_par_iter().map(one).collect();
            made.into_iter().try_for_each(|(line, outcome)| take(line, outcome))?;
            self.tell(false, rows, &position, version);
            Ok(())
        };
        source::pieces(file, &position, &mut |piece| {
            bytes += piece.size();
            pieces.push(piece);
            if pieces.len() < ROWS && bytes < BYTES {
                return Ok(());
            }
            bytes = 0;
            prepare(&mut pieces)
        })?;
        prepare(&mut pieces)
    }

    fn tell(&self, compares: bool, rows: usize, position: &Position, version: Version) {
        if let Some(progress) = self.progress {
            progress(Progress { compares, rows, bytes: position.get(), of_bytes: version.bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use burnish_models::Pretrained;

    use super::*;
    use crate::Example;

    fn model() -> Pretrained {
        Pretrained::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/quickstart/model")).unwrap()
    }

    fn of(model: &Pretrained) -> RowTokenizer<'_> {
        RowTokenizer::of(model)
    }

    fn cache_in(folder: &Path) -> RowCache {
        let mut cache = RowCache::new(folder.to_owned());
        cache.smallest = 0;
        cache
    }

    fn written(folder: &Path, rows: usize) -> PathBuf {
        let row = |row: usize| {
            if row % 97 == 13 {
                return "{\"text\": 7}\n".to_owned();
            }
            format!(
                "{{\"messages\": [{{\"role\": \"user\", \"content\": \"What is {row} + 1?\"}}, \
                 {{\"role\": \"assistant\", \"content\": \"{} {}\"}}]}}\n",
                row + 1,
                "so ".repeat(row % 41)
            )
        };
        let file = folder.join("rows.jsonl");
        fs::write(&file, (0..rows).map(row).collect::<String>()).unwrap();
        file
    }

    #[test]
    fn rows_prepared_on_all_cores_are_those_of_one_core() {
        let (folder, model) = (tempfile::tempdir().unwrap(), model());
        let row_tokenizer = RowTokenizer { max_seq_length: 48, ..RowTokenizer::of(&model) };
        let file = written(folder.path(), 2 * ROWS + 77);
        let (mut expected, mut bad) = (Vec::<Example>::new(), Vec::new());
        source::read_rows(&file, |line, row: Result<Row, String>| {
            match row.and_then(|row| row_tokenizer.tokenize(&row)) {
                Ok(made) => expected.extend(made.examples),
                Err(_) => bad.push(line),
            }
            Ok(())
        })
        .unwrap();
        let cache = cache_in(&folder.path().join("cache"));
        for cache in [None, Some(&cache), Some(&cache)] {
            let preparation = Preparation { bad_rows: BadRows::Skip, cache, ..Preparation::default() };
            let prepared = preparation.load(&file, &row_tokenizer).unwrap();
            assert!(prepared.examples.to_vec() == expected && prepared.examples.are_on_disk() == cache.is_some());
            assert_eq!((prepared.report.rows, prepared.report.skipped), (2 * ROWS + 77, bad.len()));
            assert_eq!(prepared.report.first_skipped.as_ref().map(|(line, _)| *line), bad.first().copied());
            let [train, valid] = crate::Mixture::from(prepared).split(100, 3);
            assert_eq!((train.len(), valid.len()), (expected.len() - 100, 100));
        }
        // The first bad row is named, not the first that a core happens to see.
        let error = load(&file, &row_tokenizer, BadRows::Stop).unwrap_err();
        assert!(matches!(error, DataError::Row { line: 14, .. }), "{error}");
    }

    #[test]
    fn rows_that_are_too_many_for_memory_are_in_a_temporary_file() {
        let (folder, model) = (tempfile::tempdir().unwrap(), model());
        let file = written(folder.path(), 300);
        let version = Version::of(&file).unwrap();
        let preparation = Preparation { bad_rows: BadRows::Skip, ..Preparation::default() };
        let limited = |most| preparation.in_memory(&file, &of(&model), version, most).unwrap();
        let expected = limited(TOKENS);
        assert!(!expected.examples.are_on_disk());
        let order = |prepared: &TokenizedFile, epoch: usize| -> Vec<crate::Batch> {
            let options = crate::BatchOptions { batch_size: 3, shuffle_seed: Some(7), ..crate::BatchOptions::default() };
            crate::Batches::new(prepared.examples.clone(), options).epoch(epoch).iter().skip(40).collect()
        };
        for most in [0, 1000, expected.report.tokens - 1] {
            let spilled = limited(most);
            assert!(spilled.examples.are_on_disk() && spilled.examples == expected.examples);
            assert!(spilled.report == expected.report && spilled.rows().eq(expected.rows()));
            // A run that was killed and is resumed, with other limits, gets the batches that it would have had.
            assert!(order(&spilled, 2) == order(&expected, 2));
        }
        assert!(!limited(expected.report.tokens).examples.are_on_disk());
    }

    #[test]
    fn rows_are_prepared_again_when_anything_that_they_follow_from_changes() {
        let (folder, mut model) = (tempfile::tempdir().unwrap(), model());
        let file = written(folder.path(), 12);
        let cache = cache_in(&folder.path().join("cache"));
        let base = Preparation { cache: Some(&cache), now: Some(0), ..Preparation::default() };
        let was_kept = |preparation: &Preparation<'_>, file: &Path, row_tokenizer: &RowTokenizer<'_>| {
            let first = preparation.load(file, row_tokenizer).unwrap();
            let second = preparation.load(file, row_tokenizer).unwrap();
            assert!(second.was_kept && second.examples.to_vec() == first.examples.to_vec());
            assert_eq!(second.report, first.report);
            assert!(second.rows().eq(first.rows()) && first.rows().next() == Some((1, 0..1)));
            first.was_kept
        };
        assert!(!was_kept(&base, &file, &of(&model)));
        assert!(was_kept(&base, &file, &of(&model)));
        for changed in [
            RowTokenizer { max_seq_length: 40, ..of(&model) },
            RowTokenizer { mask_prompt: false, ..of(&model) },
            RowTokenizer { vocab_size: 100_000, ..of(&model) },
        ] {
            assert!(!was_kept(&base, &file, &changed), "{changed:?}");
        }
        let skipping = Preparation { bad_rows: BadRows::Skip, cache: Some(&cache), ..Preparation::default() };
        assert!(!was_kept(&skipping, &file, &of(&model)));
        // The same rows in another place.
        let copy = folder.path().join("copy.jsonl");
        fs::copy(&file, &copy).unwrap();
        assert!(was_kept(&base, &copy, &of(&model)));
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replacen("What is 3", "What is 4", 1)).unwrap();
        assert!(!was_kept(&base, &file, &of(&model)));
        let template = model.chat_template.take().unwrap();
        let source = format!("{} ", template.source());
        model.chat_template = Some(burnish_models::ChatTemplate::new(source, model.tokenizer.special()).unwrap());
        assert!(!was_kept(&base, &file, &of(&model)));
        model.tokenizer.set_end_of_text(3);
        let inner = model.tokenizer.inner().clone();
        let special = burnish_models::SpecialTokens { add_bos: false, ..model.tokenizer.special().clone() };
        model.tokenizer = burnish_models::Tokenizer::new(inner, burnish_models::SpecialTokens { eos: None, ..special });
        assert!(!was_kept(&base, &file, &of(&model)));
    }

    #[test]
    fn where_rows_cannot_be_kept_they_are_in_memory_and_the_report_says_so() {
        let (folder, model) = (tempfile::tempdir().unwrap(), model());
        let file = written(folder.path(), 12);
        fs::write(folder.path().join("occupied"), "").unwrap();
        let cache = cache_in(&folder.path().join("occupied"));
        let preparation = Preparation { cache: Some(&cache), ..Preparation::default() };
        let prepared = preparation.load(&file, &RowTokenizer::of(&model)).unwrap();
        assert!(!prepared.examples.are_on_disk() && prepared.examples.len() == 12);
        assert!(prepared.report.lines().iter().any(|line| line.contains("occupied")), "{:?}", prepared.report);
    }
}
