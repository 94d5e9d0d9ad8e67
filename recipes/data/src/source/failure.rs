//! Why reading stopped.

use std::io;

/// Why reading stopped.
pub(super) enum Failure<E> {
    /// The file can't be read.
    Io(io::Error),
    /// What is wrong with the columns of a table.
    Table(String),
    /// The unsupported format of the file, and how to convert it.
    Binary(&'static str, &'static str),
    /// The error of who takes the rows.
    Taking(E),
}

impl<E> From<io::Error> for Failure<E> {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<E> From<String> for Failure<E> {
    fn from(reason: String) -> Self {
        Self::Table(reason)
    }
}
