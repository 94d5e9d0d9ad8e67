//! The merges of a BPE vocabulary of SentencePiece, whose file has only the pieces.

use std::collections::HashMap;

/// The pairs of pieces that form another piece, those that form the first piece first.
///
/// # Source
/// `generate_merges` in `tokenization_utils_base.py` of transformers 5.23.
pub(super) fn merges<'a>(ids: &HashMap<&'a str, usize>) -> Vec<[&'a str; 2]> {
    let mut merges = Vec::new();
    for (piece, id) in ids {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                let lengths = [left.chars().count(), right.chars().count()];
                merges.push((*id, lengths, [*left_id, *right_id], [left, right]));
            }
        }
    }
    merges.sort_unstable_by_key(|(id, lengths, parts, _)| (*id, *lengths, *parts));
    merges.into_iter().map(|(_, _, _, pair)| pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_from_the_merges_of_their_parts() {
        let ids = ["a", "b", "ab", "ba", "aba", "c"].into_iter().enumerate().map(|(id, piece)| (piece, id)).collect();
        assert_eq!(merges(&ids), [["a", "b"], ["b", "a"], ["a", "ba"], ["ab", "a"]]);
    }
}
