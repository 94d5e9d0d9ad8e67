#![doc = include_str!("../README.md")]
//!
//! [`source`] finds and reads the files, [`mod@format`] recognises the kinds of rows, [`tokenize`] turns them into [`Example`]s with
//! labels, and [`batch`] lays those out. [`load`] does the first three.

#![warn(missing_docs)]

pub mod batch;
mod content;
pub mod error;
pub mod format;
mod hub;
mod parts;
pub mod source;
mod spans;
pub mod tokenize;
pub mod tokenized_file;

use std::path::Path;

pub use batch::{BatchOptions, Batches, Epoch, Shape};
pub use burnish_engine::{Batch, IGNORE};
pub use error::DataError;
pub use format::Row;
pub use parts::Sources;
pub use source::BadRows;
pub use tokenize::{Example, RowTokenizer, RowUse};
pub use tokenized_file::{DataReport, TokenizedFile};

/// Reads a file and tokenises its rows.
///
/// # Errors
/// When the file can't be read, has a bad row (unless `bad_rows` skips those), or has nothing to learn.
pub fn load(file: &Path, row_tokenizer: &RowTokenizer<'_>, bad_rows: BadRows) -> Result<TokenizedFile, DataError> {
    let mut prepared = TokenizedFile::new(file);
    source::read_rows(file, |line, row| {
        let outcome = row.and_then(|row| row_tokenizer.tokenize(&row));
        match (outcome, bad_rows) {
            (Ok(made), _) => prepared.take(line, made),
            (Err(reason), BadRows::Skip) => prepared.skip(line, reason),
            (Err(reason), BadRows::Stop) => return Err(DataError::Row { file: file.to_owned(), line, reason }),
        }
        Ok(())
    })?;
    prepared.finish()
}

#[cfg(test)]
mod tests;
