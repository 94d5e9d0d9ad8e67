//! The order of rows in files of the architecture `llama`.
//!
//! Source: `conversion/llama.py` of llama.cpp.

/// The `rows` rows of a query or key weight in the order of checkpoints, the two halves of each head one after the other, from
/// interleaved rows. `None` if the rows can't be divided among the heads.
pub fn halves_apart<T: Copy + Default>(values: &[T], rows: usize, heads: usize) -> Option<Vec<T>> {
    reorder(values, rows, heads, |row, half| row / 2 + (row % 2) * half)
}

/// The `rows` rows of a query or key weight in the order of a `llama` file, the two halves of each head interleaved. `None` if the
/// rows can't be divided among the heads.
pub fn halves_interleaved<T: Copy + Default>(values: &[T], rows: usize, heads: usize) -> Option<Vec<T>> {
    reorder(values, rows, heads, |row, half| if row < half { 2 * row } else { 2 * (row - half) + 1 })
}

/// Moves row `r` of every head to row `to(r, head_dim / 2)`.
fn reorder<T: Copy + Default>(
    values: &[T],
    rows: usize,
    heads: usize,
    to: impl Fn(usize, usize) -> usize,
) -> Option<Vec<T>> {
    if heads == 0 || rows == 0 || !rows.is_multiple_of(2 * heads) {
        return None;
    }
    let (columns, head_dim) = (values.len() / rows, rows / heads);
    if columns == 0 {
        return Some(Vec::new());
    }
    let mut moved = vec![T::default(); values.len()];
    for (row, source) in values.chunks_exact(columns).enumerate() {
        let target = row / head_dim * head_dim + to(row % head_dim, head_dim / 2);
        moved[target * columns..(target + 1) * columns].copy_from_slice(source);
    }
    Some(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_reordered_in_both_directions() {
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let interleaved = halves_interleaved(&values, 8, 2).unwrap();
        assert_eq!(interleaved[3..6], values[6..9]);
        assert_eq!(halves_apart(&interleaved, 8, 2).unwrap(), values);
        assert!(halves_apart(&values, 8, 3).is_none());
        assert_eq!(halves_apart::<f32>(&[], 8, 2), Some(Vec::new()));
    }
}
