//! Decompositions of a weight on the host, in f64: its largest singular vectors, and its first orthogonal columns.

mod eigen;
mod matrix;
mod qr;
mod svd;

pub(crate) use matrix::Matrix;
pub(crate) use qr::first_columns;
pub(crate) use svd::{Singular, approximate, largest};

#[cfg(test)]
mod tests;
