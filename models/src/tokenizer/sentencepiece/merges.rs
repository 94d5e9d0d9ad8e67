//! The merges of a BPE vocabulary of SentencePiece, whose file has only the pieces.

use std::collections::HashMap;

/// The bytes of all pieces that merges form may be this many times those of the vocabulary, whose pieces are mostly formed by few.
const TIMES: usize = 32;
/// What small vocabularies may have beyond that.
const FLOOR: usize = 1 << 20;

/// How much merges may still form.
pub(crate) struct Room(usize);

impl Room {
    pub(crate) fn of<'a>(pieces: impl Iterator<Item = &'a str>) -> Self {
        Self(pieces.map(str::len).sum::<usize>().saturating_mul(TIMES).saturating_add(FLOOR))
    }

    /// Takes what a merge forms.
    ///
    /// # Errors
    /// If there is not enough.
    pub(crate) fn take(&mut self, piece: &str) -> Result<(), String> {
        let refused = || "its pieces are formed by too many pairs of others".to_owned();
        self.0 = self.0.checked_sub(piece.len()).ok_or_else(refused)?;
        Ok(())
    }
}

/// The pairs of pieces that form another piece, those that form the first piece first.
///
/// # Errors
/// If there are too many.
///
/// # Source
/// `generate_merges` in `tokenization_utils_base.py` of transformers 5.23.
pub(super) fn merges<'a>(ids: &HashMap<&'a str, usize>) -> Result<Vec<[&'a str; 2]>, String> {
    let (mut merges, mut room) = (Vec::new(), Room::of(ids.keys().copied()));
    for (piece, id) in ids {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                room.take(piece)?;
                let lengths = [left.chars().count(), right.chars().count()];
                merges.push((*id, lengths, [*left_id, *right_id], [left, right]));
            }
        }
    }
    merges.sort_unstable_by_key(|(id, lengths, parts, _)| (*id, *lengths, *parts));
    Ok(merges.into_iter().map(|(_, _, _, pair)| pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_from_the_merges_of_their_parts() {
        let ids = ["a", "b", "ab", "ba", "aba", "c"].into_iter().enumerate().map(|(id, piece)| (piece, id)).collect();
        assert_eq!(merges(&ids).unwrap(), [["a", "b"], ["b", "a"], ["a", "ba"], ["ab", "a"]]);
    }

    #[test]
    fn vocabularies_whose_pieces_are_formed_by_too_many_others_are_refused() {
        let pieces: Vec<String> = (1..1000).map(|length| "a".repeat(length)).collect();
        let ids = |count: usize| pieces.iter().take(count).enumerate().map(|(id, piece)| (piece.as_str(), id)).collect();
        assert_eq!(merges(&ids(32)).unwrap().len(), 31 * 32 / 2);
        assert!(merges(&ids(999)).is_err());
    }
}
