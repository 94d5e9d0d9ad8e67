//! Several examples in a row.

use std::collections::BTreeSet;

/// Puts each example, in `order`, into the fullest row that still has room for it, or into a new one. An example longer
/// than `capacity` has a row of its own.
pub(super) fn pack(lengths: &[usize], order: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows with room, by what is left and then by age: what is found does not depend on chance.
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
