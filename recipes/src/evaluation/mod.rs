//! Compares models on held-out rows, and scores them on multiple-choice questions.
//!
//! Everything is paired: each model gets the same tokens in the same batches, and intervals of differences resample the rows of all
//! models together.

pub mod answer;
pub mod bootstrap;
pub mod compare;
pub mod question;
pub mod subject;
pub mod table;
pub mod task;
pub mod tokens;
