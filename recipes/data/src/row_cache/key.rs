//! A digest of all that prepared rows follow from.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use burnish_models::{ChatTemplate, ModelError, Tokenizer};
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::format::Columns;
use crate::shards;
use crate::source::{BadRows, Position};
use crate::tokenize::RowTokenizer;

/// All that the prepared rows of a file follow from.
pub(crate) struct Inputs<'a> {
    pub(crate) file: &'a Path,
    pub(crate) row_tokenizer: &'a RowTokenizer<'a>,
    pub(crate) columns: &'a Columns,
    pub(crate) bad_rows: BadRows,
    /// The time that templates print, in seconds since 1970.
    pub(crate) now: i64,
}

/// Size and time of a file, which change if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) bytes: u64,
    modified: Option<SystemTime>,
}

impl Version {
    pub(crate) fn of(file: &Path) -> io::Result<Self> {
        let mut all = Self { bytes: 0, modified: None };
        for file in shards::files(file)? {
            let metadata = file.metadata()?;
            all = Self { bytes: all.bytes + metadata.len(), modified: all.modified.max(metadata.modified().ok()) };
        }
        Ok(all)
    }
}

/// Digests values, each with its length.
struct Key(Sha256);

impl Key {
    fn add(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

impl Inputs<'_> {
    /// The key of the rows, in hexadecimal.
    ///
    /// # Errors
    /// When the file can't be read, or the tokenizer can't be written.
    pub(crate) fn key(&self, position: &Position) -> Result<String, DataError> {
        let mut key = Key(Sha256::new());
        key.add(this_program());
        let failed = |error: &dyn std::fmt::Display| DataError::Row {
            file: self.file.to_owned(),
            line: 1,
            reason: format!("the tokenizer can't be written: {error}"),
        };
        let RowTokenizer { tokenizer, template, mask_prompt, rows, max_seq_length, length_policy, vocab_size } =
            self.row_tokenizer;
        key.add(tokenizer.inner().to_string(false).map_err(|error| failed(&error))?);
        key.add(added(tokenizer).map_err(|error| failed(&error))?);
        for (name, source) in template.iter().flat_map(|template| template.sources()) {
            key.add(name);
            key.add(source);
            for time in times(source, self.now) {
                key.add(time);
            }
        }
        let Self { columns, bad_rows, .. } = self;
        key.add(format!("{mask_prompt} {rows:?} {max_seq_length} {length_policy:?} {vocab_size} {columns:?} {bad_rows:?}"));
        // A table is told by its name.
        key.add(self.file.extension().unwrap_or_default().as_encoded_bytes());
        let name = self.file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        key.add(name.split('.').skip(1).collect::<Vec<_>>().join("."));
        let files = shards::files(self.file).map_err(|source| DataError::Io { file: self.file.to_owned(), source })?;
        for file in files {
            digest(&file, &mut key.0, position).map_err(|source| DataError::Io { file, source })?;
        }
        Ok(key.0.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
    }
}

/// The version of the program, and size and time of its file, so that another build prepares rows itself.
fn this_program() -> String {
    let file = std::env::current_exe().and_then(|path| Version::of(&path));
    let file = file.map(|Version { bytes, modified }| {
        (bytes, modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_nanos()))
    });
    format!("{} {:?}", env!("CARGO_PKG_VERSION"), file.ok())
}

/// The tokens that a tokenizer adds to texts, and those that end one.
fn added(tokenizer: &Tokenizer) -> Result<String, ModelError> {
    let special = tokenizer.special();
    Ok(format!("{special:?} {:?} {:?}", tokenizer.end_of_text(), tokenizer.encode("a", true)?))
}

/// What a template prints of the current time: the date for most templates that print it, so that their rows are the same for a day. Where
/// this can't be told, the time in seconds.
fn times(source: &str, now: i64) -> Vec<String> {
    const FUNCTION: &str = "strftime_now";
    let mut times = Vec::new();
    for (at, _) in source.match_indices(FUNCTION) {
        let rest = source[at + FUNCTION.len()..].trim_start();
        // A test for the function prints nothing.
        if !rest.starts_with('(') && rest.split_whitespace().next() == Some("is") {
            continue;
        }
        times.push(literal(rest).and_then(|format| printed(format, now)).unwrap_or_else(|| now.to_string()));
    }
    times
}

/// The argument of a call, with its quotes, if it is a plain string.
fn literal(call: &str) -> Option<&str> {
    let text = call.strip_prefix('(')?.trim_start();
    let quote = text.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let end = 1 + text[1..].find(quote)?;
    let (literal, rest) = text.split_at(end + 1);
    (!literal.contains('\\') && rest.trim_start().starts_with(')')).then_some(literal)
}

/// The time in a format, as templates print it.
fn printed(format: &str, now: i64) -> Option<String> {
    let source = format!("{{{{ strftime_now({format}) }}}}");
    let mut template = ChatTemplate::new(source, &burnish_models::SpecialTokens::default()).ok()?;
    template.fix_now(now);
    template.render(&[], None, false).ok()
}

fn digest(file: &Path, hasher: &mut Sha256, position: &Position) -> io::Result<()> {
    let mut file = File::open(file)?;
    let mut block = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok(());
        }
        hasher.update(&block[..count]);
        position.add(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn a_template_that_prints_the_date_gives_the_same_rows_for_a_day() {
        let noon = 20_000 * DAY + DAY / 2;
        let date = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}";
        assert_eq!(times(date, noon), ["04 Oct 2024"]);
        assert_eq!(times(date, noon), times(date, noon + 60));
        assert_ne!(times(date, noon), times(date, noon + DAY));
        let minute = "{{ strftime_now(\"%H:%M\") }}";
        assert_ne!(times(minute, noon), times(minute, noon + 60));
        // A format that is computed may be of seconds.
        for computed in ["{{ strftime_now(format) }}", "{% set now = strftime_now %}", "{{ strftime_now('a' ~ b) }}"] {
            assert_eq!(times(computed, noon), [noon.to_string()], "{computed}");
        }
        assert!(times("{{ messages[0].content }}", noon).is_empty());
    }
}
