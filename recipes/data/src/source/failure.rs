//! Why reading stopped.

use std::io;

use super::flaw::Flaw;

/// Why reading stopped.
pub(super) enum Failure<E> {
    /// The file can't be read.
    Io(io::Error),
    /// What is wrong with the columns of a table.
    Table(String),
    /// What is wrong with a file of columns.
    Columns(Flaw),
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

impl<E> From<Flaw> for Failure<E> {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Io(error) => Self::Io(error),
            other => Self::Columns(other),
        }
    }
}
