//! Checks the replacements of characters that a SentencePiece model has, since the crate that applies them trusts their positions.
//!
//! They are a trie in a double array, whose values are positions of texts in what follows it.
//!
//! Source: `normalizer.cc` and `darts.h` of SentencePiece 0.2.

use tokenizers::normalizers::Precompiled;

/// The normalizer that replaces them.
///
/// # Errors
/// If a text could lead outside of the trie or of the replacements.
pub(super) fn normalizer(bytes: &[u8]) -> Result<Precompiled, String> {
    let refuse = || "the normalization of the SentencePiece model is damaged".to_owned();
    let (length, rest) = bytes.split_first_chunk().ok_or_else(refuse)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| refuse())?;
    let (trie, texts) = rest.split_at_checked(length / 4 * 4).ok_or_else(refuse)?;
    let units: Vec<Unit> = trie.as_chunks().0.iter().map(|bytes| Unit(u32::from_le_bytes(*bytes))).collect();
    let texts = std::str::from_utf8(texts).map_err(|_| refuse())?;
    if !is_sound(&units, texts) {
        return Err(refuse());
    }
    Precompiled::from(bytes).map_err(|_| refuse())
}

/// A node of the trie, or the value of one.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn has_value(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(self) -> usize {
        (self.0 & 0x7fff_ffff) as usize
    }

    /// The byte that leads to it; values have none.
    fn label(self) -> usize {
        (self.0 & (1 << 31 | 0xff)) as usize
    }

    fn offset(self) -> usize {
        ((self.0 >> 10) as usize) << ((self.0 & 1 << 9) >> 6)
    }
}

/// Whether every step from the root stays in the trie, and every value is the beginning of a text.
fn is_sound(units: &[Unit], texts: &str) -> bool {
    let Some(root) = units.first() else { return false };
    let mut seen = vec![false; units.len()];
    let mut bases = vec![root.offset()];
    while let Some(base) = bases.pop() {
        // All bytes are tried, so that all positions must exist.
        if base | 0xff >= units.len() {
            return false;
        }
        for label in 1..=255 {
            let at = base ^ label;
            if units[at].label() != label || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let next = at ^ units[at].offset();
            let value = || units.get(next).map(|unit| unit.value());
            if units[at].has_value() && !value().is_some_and(|value| texts.is_char_boundary(value)) {
                return false;
            }
            bases.push(next);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A charsmap that replaces `a` by `é`: the root, its child at `a`, and the value of that.
    fn map(offset: u32, value: u32, texts: &[u8]) -> Vec<u8> {
        let mut units = [0u32; 512];
        units[0] = 256 << 10;
        units[256 ^ 0x61] = offset << 10 | 1 << 8 | 0x61;
        units[(256 ^ 0x61 ^ offset as usize) % 512] = 1 << 31 | value;
        let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(trie.len() as u32).to_le_bytes(), &trie[..], texts].concat()
    }

    #[test]
    fn replacements_are_applied() {
        let map = normalizer(&map(1, 0, "é\0".as_bytes())).unwrap();
        assert_eq!(map.normalize_string("bab"), "béb");
    }

    #[test]
    fn positions_outside_are_refused() {
        for damaged in [
            map(1, 9, "é\0".as_bytes()),
            map(1, 1, "é\0".as_bytes()),
            map(1, 0, b"\xff"),
            map(1 << 15 | 1, 0, "é\0".as_bytes()),
            map(1, 0, b"")[..100].to_vec(),
            vec![0, 0, 0, 0],
            vec![0xff; 8],
            vec![],
        ] {
            assert!(normalizer(&damaged).is_err());
        }
    }
}
