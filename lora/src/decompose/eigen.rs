//! The eigenvectors of a small symmetric matrix.

use super::matrix::Matrix;

/// Sweeps over all pairs; some ten reach the precision of f64.
const MAX_SWEEPS: usize = 60;

/// The eigenvalues of a symmetric matrix from the largest, and its eigenvectors as rows.
///
/// # Source
/// Jacobi's rotations, cyclic by rows (Golub and Van Loan, "Matrix Computations", 8.5).
pub(crate) fn eigen(symmetric: &Matrix) -> (Vec<f64>, Matrix) {
    let size = symmetric.rows;
    let mut matrix = symmetric.clone();
    let mut vectors = Matrix::new(size, size, vec![0.0; size * size]);
    for index in 0..size {
        vectors.row_mut(index)[index] = 1.0;
    }
    let total: f64 = matrix.values.iter().map(|value| value * value).sum();
    for _ in 0..MAX_SWEEPS {
        let mut outside = 0.0;
        for p in 0..size {
            for q in p + 1..size {
                let off = matrix.row(p)[q];
                outside += off * off;
                if off * off > total * 1e-36 {
                    rotate(&mut matrix, &mut vectors, p, q);
                }
            }
        }
        if outside <= total * 1e-32 {
            break;
        }
    }
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|a, b| matrix.row(*b)[*b].total_cmp(&matrix.row(*a)[*a]));
    let values = order.iter().map(|index| matrix.row(*index)[*index]).collect();
    let rows = order.iter().flat_map(|index| vectors.row(*index).to_vec()).collect();
    (values, Matrix::new(size, size, rows))
}

/// Makes the elements `[p, q]` and `[q, p]` zero.
fn rotate(matrix: &mut Matrix, vectors: &mut Matrix, p: usize, q: usize) {
    let (at_p, at_q, off) = (matrix.row(p)[p], matrix.row(q)[q], matrix.row(p)[q]);
    let theta = (at_q - at_p) / (2.0 * off);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    rotate_rows(matrix, p, q, cosine, sine);
    // The columns, which are as the rows were.
    let size = matrix.columns;
    for row in matrix.values.chunks_exact_mut(size) {
        let (x, y) = (row[p], row[q]);
        row[p] = cosine * x - sine * y;
        row[q] = sine * x + cosine * y;
    }
    rotate_rows(vectors, p, q, cosine, sine);
}

fn rotate_rows(matrix: &mut Matrix, p: usize, q: usize, cosine: f64, sine: f64) {
    let width = matrix.columns;
    let (head, tail) = matrix.values.split_at_mut(q * width);
    for (x, y) in head[p * width..(p + 1) * width].iter_mut().zip(&mut tail[..width]) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}
