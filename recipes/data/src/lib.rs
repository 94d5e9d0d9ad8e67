#![doc = include_str!("../README.md")]
//!
//! [`source`] finds and reads the files, [`mod@format`] recognises the kinds of rows, [`tokenize`] turns them into [`Example`]s with
//! labels, and [`batch`] lays those out. [`Preparation`] and [`load`] do the first three, on all cores.

#![warn(missing_docs)]

pub mod batch;
mod content;
pub mod error;
mod examples;
pub mod format;
mod hub;
mod inspect;
mod length_policy;
mod mixture;
mod parts;
mod passage;
mod prepare;
mod report;
mod row_cache;
mod row_file;
mod shards;
pub mod source;
mod spans;
pub mod tokenize;
pub mod tokenized_file;

pub use batch::{BatchOptions, Batches, Epoch, Shape};
pub use burnish_engine::{Batch, IGNORE};
pub use error::DataError;
pub use examples::Examples;
pub use format::{Columns, Row};
pub use inspect::{Oddity, Part};
pub use length_policy::LengthPolicy;
pub use mixture::Mixture;
pub use parts::Sources;
pub use prepare::{Preparation, Progress, load};
pub use report::DataReport;
pub use row_cache::RowCache;
pub use source::BadRows;
pub use tokenize::{Example, RowTokenizer, RowUse};
pub use tokenized_file::TokenizedFile;

#[cfg(test)]
mod tests;
