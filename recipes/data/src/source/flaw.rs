//! What is wrong with a file of columns.

use std::fmt::Display;
use std::io;

/// Why a file of columns can't be read.
#[derive(Debug)]
pub(super) enum Flaw {
    /// The system can't read it.
    Io(io::Error),
    /// It contradicts its format.
    Damaged(String),
    /// It has something that is not supported, and how to convert it.
    Unsupported(String, String),
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Flaw {
    /// A part of the file that contradicts the format.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// A column whose type has no counterpart in rows of JSON.
    pub(super) fn of_type(column: &str, kind: impl Display) -> Self {
        let top = column.split('.').next().unwrap_or(column);
        Self::Unsupported(
            format!("the column `{column}` has the type {kind}, which is not supported"),
            format!("drop or convert the column, such as with datasets: load_dataset(…).remove_columns([\"{top}\"])"),
        )
    }

    /// The same, with the place where it is.
    pub(super) fn at(self, place: impl Display) -> Self {
        match self {
            Self::Damaged(what) => Self::Damaged(format!("{place}: {what}")),
            other => other,
        }
    }
}
