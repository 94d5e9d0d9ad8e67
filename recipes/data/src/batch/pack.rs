//! Packs several examples into a row.

use std::collections::BTreeSet;

/// Best fit: puts each example, in `order`, into the fullest row that has room for it, or else into a new row. An example longer than
/// `capacity` gets its own row.
pub(super) fn pack(lengths: &[usize], order: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows with room, by remaining room and then by age, so that the result is deterministic.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for example in order {
        let length = lengths[*example];
        let found = open.range((length, 0)..).next().copied();
        let (left, row) = found.unwrap_or_else(|| {
            rows.push(Vec::new());
            (capacity, rows.len() - 1)
        });
        open.remove(&(left, row));
        rows[row].push(*example);
        if left > length {
            open.insert((left - length, row));
        }
    }
    rows
}
