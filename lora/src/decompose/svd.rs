//! The largest singular values of a matrix, with their vectors.

use burnish_models::loader::normal;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::eigen::eigen;
use super::matrix::{Matrix, add_scaled};
use super::qr::orthonormalize;

/// Vectors that are iterated beside those asked for, so that a small gap behind the last of them does not matter.
const SPARE: usize = 10;
/// The largest factor by which one filter amplifies: more would drown the smaller vectors in the rounding of the largest.
const AMPLIFICATION: f64 = 1e10;
/// Most products of one filter, so that a wrong estimate of the spectrum is corrected.
const MAX_DEGREE: usize = 60;
/// The error of an eigenvector that counts as none, against the largest eigenvalue.
const CONVERGED: f64 = 1e-11;
const MAX_ROUNDS: usize = 400;

/// The largest singular values of `W` and their vectors: `W ≈ Uᵀ diag(values) V`.
pub(crate) struct Singular {
    /// From the largest.
    pub(crate) values: Vec<f64>,
    /// Left vectors as rows, `[count, rows of W]`.
    pub(crate) left: Matrix,
    /// Right vectors as rows, `[count, columns of W]`.
    pub(crate) right: Matrix,
}

/// The `count` largest singular values, to the precision of f64 where the gaps between them allow it.
///
/// # Panics
/// If `count` is more than the smaller side.
///
/// # Source
/// Subspace iteration filtered by Chebyshev polynomials (Zhou and Saad 2007) on `W Wᵀ` or `Wᵀ W`, whichever is smaller.
pub(crate) fn largest(weight: &Matrix, count: usize, seed: u64) -> Singular {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let side = Side::smaller(weight);
    let block = side.length().min(2 * count + SPARE);
    let mut basis = orthonormalize(draw(block, side.length(), &mut random), &mut random);
    for _ in 0..MAX_ROUNDS {
        let Ritz { values, vectors, images } = side.ritz(&basis);
        let largest = values[0];
        let residual = |index: usize| -> f64 {
            let mut error = images.row(index).to_vec();
            add_scaled(&mut error, -values[index], vectors.row(index));
            error.iter().map(|value| value * value).sum::<f64>().sqrt()
        };
        let found = block == side.length() || largest == 0.0 || (0..count).all(|i| residual(i) <= CONVERGED * largest);
        basis = vectors;
        if found {
            break;
        }
        // Eigenvalues below the smallest of the block are damped, those above it grow.
        let cut = values[block - 1].max(largest * 1e-14);
        basis = orthonormalize(filter(&side, basis, cut, largest), &mut random);
    }
    side.singular(&side.ritz(&basis).vectors, count)
}

/// An approximation of the `count` largest singular values by `iterations` rounds from random vectors.
///
/// # Panics
/// If `count` is more than the smaller side.
///
/// # Source
/// Halko et al. 2009, algorithms 4.4 and 5.1, as `torch.svd_lowrank(q=count, niter=iterations)` computes it.
pub(crate) fn approximate(weight: &Matrix, count: usize, iterations: usize, seed: u64) -> Singular {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let side = Side::larger(weight);
    let start = draw(count, side.other_length(), &mut random);
    let mut basis = orthonormalize(side.of_other(&start), &mut random);
    for _ in 0..iterations {
        let other = orthonormalize(side.to_other(&basis), &mut random);
        basis = orthonormalize(side.of_other(&other), &mut random);
    }
    side.singular(&side.ritz(&basis).vectors, count)
}

fn draw(rows: usize, columns: usize, random: &mut ChaCha8Rng) -> Matrix {
    Matrix::new(rows, columns, (0..rows * columns).map(|_| normal(random)).collect())
}

/// `T_d(2 G / cut - 1)` of the rows, with the degree that amplifies the largest eigenvalue by [`AMPLIFICATION`].
fn filter(side: &Side, rows: Matrix, cut: f64, largest: f64) -> Matrix {
    let growth = (2.0 * largest / cut - 1.0).acosh();
    let degree = (((2.0 * AMPLIFICATION).ln() / growth) as usize).clamp(1, MAX_DEGREE);
    let shifted = |rows: &Matrix| {
        let mut image = side.square(rows);
        for (image, row) in image.values.iter_mut().zip(&rows.values) {
            *image = 2.0 / cut * *image - row;
        }
        image
    };
    let mut before = rows;
    let mut now = shifted(&before);
    for _ in 1..degree {
        let mut next = shifted(&now);
        for (next, before) in next.values.iter_mut().zip(&before.values) {
            *next = 2.0 * *next - before;
        }
        before = std::mem::replace(&mut now, next);
    }
    now
}

/// Estimates of eigenvectors within a subspace.
struct Ritz {
    values: Vec<f64>,
    vectors: Matrix,
    /// `G` of the vectors.
    images: Matrix,
}

/// One side of a matrix: its left or its right singular vectors, which are the eigenvectors of `G = W Wᵀ` or `G = Wᵀ W`.
struct Side<'a> {
    weight: &'a Matrix,
    left: bool,
}

impl<'a> Side<'a> {
    fn smaller(weight: &'a Matrix) -> Self {
        Self { weight, left: weight.rows <= weight.columns }
    }

    fn larger(weight: &'a Matrix) -> Self {
        Self { weight, left: weight.rows >= weight.columns }
    }

    fn length(&self) -> usize {
        if self.left { self.weight.rows } else { self.weight.columns }
    }

    fn other_length(&self) -> usize {
        if self.left { self.weight.columns } else { self.weight.rows }
    }

    /// The images on the other side of vectors on this one.
    fn to_other(&self, rows: &Matrix) -> Matrix {
        if self.left { rows.times(self.weight) } else { rows.times_transposed(self.weight) }
    }

    /// The images on this side of vectors on the other one.
    fn of_other(&self, rows: &Matrix) -> Matrix {
        if self.left { rows.times_transposed(self.weight) } else { rows.times(self.weight) }
    }

    /// `G` of the rows.
    fn square(&self, rows: &Matrix) -> Matrix {
        self.of_other(&self.to_other(rows))
    }

    /// The best estimates within the subspace of orthonormal rows (Rayleigh and Ritz).
    fn ritz(&self, basis: &Matrix) -> Ritz {
        let other = self.to_other(basis);
        let (values, rotation) = eigen(&other.times_transposed(&other));
        Ritz { values, vectors: rotation.times(basis), images: rotation.times(&self.of_other(&other)) }
    }

    /// The first singular values of vectors on this side.
    fn singular(&self, vectors: &Matrix, count: usize) -> Singular {
        let own = vectors.clone().top(count);
        let mut other = self.to_other(&own);
        let mut values = Vec::with_capacity(count);
        for index in 0..count {
            let row = other.row_mut(index);
            let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            if length > 0.0 {
                for value in row.iter_mut() {
                    *value /= length;
                }
            }
            values.push(length);
        }
        let (left, right) = if self.left { (own, other) } else { (other, own) };
        Singular { values, left, right }
    }
}
