#![doc = include_str!("../README.md")]
//!
//! [`source`] finds and reads the files, [`mod@format`] tells rows apart, [`tokenize`] turns them into [`Example`]s with
//! labels, and [`batch`] lays those out. [`load`] does the first three.

#![warn(missing_docs)]

pub mod batch;
pub mod error;
pub mod format;
mod hub;
pub mod prepared;
pub mod source;
mod spans;
pub mod tokenize;

use std::path::Path;

pub use batch::{BatchOptions, Batches, Epoch};
pub use burnish_engine::{Batch, IGNORE};
pub use error::DataError;
pub use format::Row;
pub use prepared::{Prepared, Report};
pub use source::{BadRows, Sources};
pub use tokenize::{Example, Preparation};

/// Reads a file and tokenises its rows.
///
/// # Errors
/// [`DataError`] when the file can't be read, holds a row that is wrong (and `bad_rows` says to stop), or holds nothing
/// to learn.
pub fn load(file: &Path, preparation: &Preparation<'_>, bad_rows: BadRows) -> Result<Prepared, DataError> {
    let mut prepared = Prepared::new(file);
    source::read_rows(file, |line, row| {
        let outcome = row.and_then(|row| preparation.prepare(&row));
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
