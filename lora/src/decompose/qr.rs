//! Orthogonal bases.

use rand_chacha::ChaCha8Rng;

use burnish_models::loader::normal;

use super::matrix::{Matrix, add_scaled, dot};

/// The first columns of `Q` and rows of `R` in `W = Q R`, as the rows of `[count, rows]` and `[count, columns]`.
///
/// # Source
/// Householder's reflections with the signs of LAPACK's `geqrf`, which `torch.linalg.qr` calls: the diagonal of `R` has the
/// opposite sign of the column that is reflected.
pub(crate) fn first_columns(weight: &Matrix, count: usize) -> [Matrix; 2] {
    let height = weight.rows;
    // Columns as rows, so that each lies in one piece.
    let mut columns: Vec<Vec<f64>> =
        (0..count).map(|column| (0..height).map(|row| weight.row(row)[column]).collect()).collect();
    let mut reflections: Vec<Vec<f64>> = Vec::with_capacity(count);
    for index in 0..count {
        let column = &columns[index];
        let length = dot(&column[index..], &column[index..]).sqrt();
        let diagonal = if column[index] > 0.0 { -length } else { length };
        let mut vector = column.clone();
        vector[..index].fill(0.0);
        vector[index] -= diagonal;
        // As in LAPACK, a column without anything below its diagonal is kept as it is.
        if column[index + 1..].iter().all(|value| *value == 0.0) {
            vector.fill(0.0);
        }
        normalize(&mut vector);
        for column in &mut columns[index..] {
            reflect(column, &vector);
        }
        reflections.push(vector);
    }
    let mut q = Matrix::new(count, height, vec![0.0; count * height]);
    for index in 0..count {
        let row = q.row_mut(index);
        row[index] = 1.0;
        for vector in reflections.iter().rev() {
            reflect(row, vector);
        }
    }
    let r = q.times(weight);
    [q, r]
}

/// `x - 2 v vᵀ x`.
fn reflect(x: &mut [f64], vector: &[f64]) {
    let along = dot(x, vector);
    add_scaled(x, -2.0 * along, vector);
}

fn normalize(x: &mut [f64]) -> f64 {
    let length = dot(x, x).sqrt();
    if length > 0.0 {
        for value in x.iter_mut() {
            *value /= length;
        }
    }
    length
}

/// Makes the rows orthonormal, by Gram and Schmidt, twice over. A row that depends on those before it is drawn again.
///
/// # Panics
/// If there are more rows than columns.
pub(crate) fn orthonormalize(mut rows: Matrix, random: &mut ChaCha8Rng) -> Matrix {
    assert!(rows.rows <= rows.columns, "{} orthogonal rows of {} columns", rows.rows, rows.columns);
    let width = rows.columns;
    for index in 0..rows.rows {
        let (done, rest) = rows.values.split_at_mut(index * width);
        let row = &mut rest[..width];
        loop {
            let before = normalize(row);
            let mut left = 1.0;
            for _ in 0..2 {
                for other in done.chunks_exact(width) {
                    let along = dot(row, other);
                    add_scaled(row, -along, other);
                }
                left *= normalize(row);
            }
            // What is left of a dependent row is rounding.
            if before > 0.0 && left > 1e-12 {
                break;
            }
            row.fill_with(|| normal(random));
        }
    }
    rows
}
