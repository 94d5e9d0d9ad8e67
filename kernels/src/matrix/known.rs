//! Products whose results are known: some rows of `A` and some columns of `B` are repeated all over.
//!
//! The periods are prime, so that a tile in the wrong position has other values.

use burn::tensor::DType;

use crate::flex::matrix::{Matrix, product};
use crate::tolerance::Tolerance;

/// Different rows of `A`.
pub(super) const ROWS: usize = 13;
/// Different columns of `B`.
pub(super) const COLUMNS: usize = 17;

/// Numbers within -1 and 1, of at most eight significant bits, so that every dtype has them.
pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as i32 % 128) as f32 / 128.0 * if state & 1 == 0 { 1.0 } else { -1.0 }
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The power of two for which sums of `terms` products of numbers with such a root mean square are about 1.
pub(super) fn scale(terms: usize, root_mean_square: f32) -> f32 {
    // That of `numbers` is about 0.58.
    let sum = 0.58 * root_mean_square * (terms.max(1) as f32).sqrt();
    if sum > 0.0 { 2.0f32.powi(-sum.log2().round() as i32) } else { 1.0 }
}

/// The bytes of an operand with `count` lines, which repeat those given, of `depth` elements each; line after line, or interleaved, as
/// columns of a matrix are.
pub(super) fn repeated(lines: &[u8], element: usize, depth: usize, count: usize, interleaved: bool) -> Vec<u8> {
    let period = lines.len() / (depth * element).max(1);
    let mut all = Vec::with_capacity(count * depth * element);
    if !interleaved {
        (0..count).for_each(|line| all.extend_from_slice(&lines[line % period * depth * element..][..depth * element]));
        return all;
    }
    for at in 0..depth {
        let first = all.len();
        let column = (0..period.min(count)).flat_map(|line| lines[(line * depth + at) * element..][..element].iter());
        all.extend(column);
        let end = first + count * element;
        while all.len() < end {
            // Whole periods, twice as many each time.
            let more = (all.len() - first).min(end - all.len());
            all.extend_from_within(first..first + more);
        }
    }
    all
}

/// A result whose rows and columns repeat.
pub(super) struct Known {
    /// `[ROWS, columns]`.
    pub values: Vec<f32>,
    pub columns: usize,
}

impl Known {
    /// `alpha · (A B + A₂ B₂)` of the first `terms` of the sums: `a` are the different rows of `A`, `b` the different columns of `B`.
    pub fn new(pairs: &[(&[f32], &[f32], usize)], alpha: f32, terms: usize) -> Self {
        let mut known = Self { values: Vec::new(), columns: 0 };
        for (a, b, depth) in pairs {
            let (rows, columns) = (a.len() / depth, b.len() / depth);
            let [a, b] = [Matrix::new(a, rows, *depth), Matrix::new(b, columns, *depth)];
            let used = terms.min(*depth);
            let [a, b] = [a, b].map(|matrix| Matrix { columns: used, ..matrix });
            let sums = product(a, b.transposed(), alpha);
            if known.values.is_empty() {
                known = Self { values: sums, columns };
            } else {
                // The columns of a packed `B` are not repeated, those of `B₂` are.
                let of_all = known.columns;
                let sum = |at: usize| sums[at / of_all * columns + at % of_all % columns];
                known.values.iter_mut().enumerate().for_each(|(at, value)| *value += sum(at));
            }
        }
        known
    }

    /// Compares a result of `n` columns.
    ///
    /// # Errors
    /// How many elements are wrong, and which most.
    pub fn check(&self, found: &[f32], n: usize, dtype: DType) -> Result<(), String> {
        let tolerance = Tolerance::of(dtype);
        let (mut wrong, mut worst) = (0usize, (0.0f64, 0, 0.0));
        for (at, value) in found.iter().enumerate() {
            let expected = self.values[at / n % ROWS * self.columns + at % n % self.columns];
            if !tolerance.accepts(f64::from(*value), f64::from(expected)) {
                wrong += 1;
                let distance = f64::from((value - expected).abs());
                if distance.is_nan() || distance > worst.0 {
                    worst = (distance, at, expected);
                }
            }
        }
        if wrong == 0 {
            return Ok(());
        }
        let (_, at, expected) = worst;
        let (row, column, value) = (at / n, at % n, found[at]);
        Err(format!(
            "{wrong} of {} elements are wrong, such as {value} at [{row}, {column}] instead of {expected}",
            found.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(terms: usize) -> (Known, Vec<f32>, Vec<f32>) {
        let (a, b) = (numbers(ROWS * terms, 1), numbers(COLUMNS * terms, 2));
        (Known::new(&[(&a, &b, terms)], 0.5, terms), a, b)
    }

    #[test]
    fn every_wrong_element_is_found() {
        let (m, n, terms) = (40, 50, 24);
        let (known, a, b) = known(terms);
        let element = |at: usize| {
            let (row, column) = (at / n % ROWS * terms, at % n % COLUMNS * terms);
            (0..terms).map(|term| 0.5 * a[row + term] * b[column + term]).sum::<f32>()
        };
        let right: Vec<f32> = (0..m * n).map(element).collect();
        known.check(&right, n, DType::F32).unwrap();
        for at in [0, n + 1, m * n - 1] {
            let mut wrong = right.clone();
            wrong[at] += 0.1;
            let reason = known.check(&wrong, n, DType::F32).unwrap_err();
            assert!(
                reason.starts_with("1 of 2000 elements") && reason.contains(&format!("[{}, {}]", at / n, at % n)),
                "{reason}"
            );
            wrong[at] = f32::NAN;
            known.check(&wrong, n, DType::F32).unwrap_err();
        }
        // A tile in the wrong position, eight rows below or beside its own.
        for shift in [8, 8 * n] {
            let moved: Vec<f32> = (0..m * n).map(|at| right[(at + shift) % (m * n)]).collect();
            known.check(&moved, n, DType::F32).unwrap_err();
        }
    }

    #[test]
    fn lines_are_repeated_in_both_layouts() {
        let lines: Vec<u8> = (0..12).collect();
        // Three lines of two elements of two bytes.
        assert_eq!(repeated(&lines, 2, 2, 4, false), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]);
        assert_eq!(repeated(&lines, 2, 2, 4, true), [0, 1, 4, 5, 8, 9, 0, 1, 2, 3, 6, 7, 10, 11, 2, 3]);
        assert_eq!(repeated(&lines, 2, 2, 2, true), [0, 1, 4, 5, 2, 3, 6, 7]);
        let many = repeated(&lines, 1, 4, 100, true);
        assert!((0..400).all(|at| many[at] == lines[at % 100 % 3 * 4 + at / 100]));
    }

    #[test]
    fn numbers_are_exact_in_every_dtype_and_sums_about_one() {
        let all = numbers(1000, 3);
        assert!(
            all.iter().all(|value| value.abs() < 1.0 && half::bf16::from_f32(*value).to_f32().to_bits() == value.to_bits())
        );
        let mean = (all.iter().map(|value| value * value).sum::<f32>() / 1000.0).sqrt();
        assert!((0.5..0.66).contains(&mean), "{mean}");
        assert!((1.0..=2.0).contains(&scale(4, 0.58)) && scale(1 << 20, 0.58) < 0.01 && scale(8, 0.0) >= 1.0);
    }
}
