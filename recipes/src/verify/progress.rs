//! What `verify` is doing.

use super::check::Check;
use super::report::CheckReport;

/// What `verify` is doing.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// A check begins.
    Begins(Check),
    /// A part of it begins, such as an operation whose kernels may have to be compiled.
    Part(Check, &'a str),
    /// It has ended.
    Ended(&'a CheckReport),
}
