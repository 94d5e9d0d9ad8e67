//! Packs several examples into a row.

/// First-fit decreasing: puts each example, from the longest to the shortest and those of equal length in `order`, into the first row
/// that has room for it, or else into a new row. An example longer than `capacity` gets its own row.
pub(super) fn pack(lengths: &[usize], order: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order = order.to_vec();
    order.sort_by_key(|example| std::cmp::Reverse(lengths[*example]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut room = Room::new(order.len(), capacity);
    for example in order {
        let length = lengths[example];
        let row = room.first(length).unwrap_or(rows.len());
        if row >= rows.len() {
            rows.push(vec![example]);
            room.take(rows.len() - 1, length);
        } else {
            rows[row].push(example);
            room.take(row, length);
        }
    }
    rows
}

/// The room left in each row, in a binary tree: a node has the larger of its children's rooms, so a search visits one branch.
struct Room {
    /// The root is at 1, the children of a node at twice its index, and the rows at `leaves`.
    nodes: Vec<usize>,
    leaves: usize,
}

impl Room {
    fn new(rows: usize, capacity: usize) -> Self {
        let leaves = rows.next_power_of_two();
        Self { nodes: vec![capacity; 2 * leaves], leaves }
    }

    /// The first row with room for `length`, if any row has.
    fn first(&self, length: usize) -> Option<usize> {
        if self.nodes[1] < length {
            return None;
        }
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            node += usize::from(self.nodes[node] < length);
        }
        Some(node - self.leaves)
    }

    fn take(&mut self, row: usize, length: usize) {
        let mut node = row + self.leaves;
        self.nodes[node] = self.nodes[node].saturating_sub(length);
        while node > 1 {
            node /= 2;
            self.nodes[node] = self.nodes[2 * node].max(self.nodes[2 * node + 1]);
        }
    }
}
