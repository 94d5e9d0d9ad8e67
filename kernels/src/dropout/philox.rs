//! Philox4x32-10: turns a counter of four words and a key of two into four random words, with 32-bit integers only.
//!
//! Source: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"; `philox.h` of Random123 1.14.

use std::array;

use multiversion::multiversion;

use super::DropoutKey;

/// Words of a block.
pub(crate) const WORDS: usize = 4;
/// Rounds of the generator.
pub(crate) const ROUNDS: usize = 10;
/// The factors on words 0 and 2 in every round.
pub(crate) const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// The terms added to the words of the key between rounds.
pub(crate) const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// Blocks side by side: the compiler can keep one word of each in a vector register.
const LANES: usize = 16;

impl DropoutKey {
    /// The generator's key.
    pub(crate) fn words(self) -> [u32; 2] {
        let key = self.seed ^ self.layer;
        [key as u32, (key >> 32) as u32]
    }
}

/// All rounds, for as many blocks as there are lanes.
#[allow(clippy::inline_always, reason = "only what is inlined is compiled for the vector units of its caller")]
#[allow(clippy::needless_range_loop, reason = "a lane is that of all four words")]
#[inline(always)]
fn rounds<const LANES: usize>(mut counter: [[u32; LANES]; WORDS], mut key: [u32; 2]) -> [[u32; LANES]; WORDS] {
    for _ in 0..ROUNDS {
        for lane in 0..LANES {
            let first = u64::from(counter[0][lane]) * u64::from(MULTIPLIERS[0]);
            let second = u64::from(counter[2][lane]) * u64::from(MULTIPLIERS[1]);
            counter[0][lane] = (second >> 32) as u32 ^ counter[1][lane] ^ key[0];
            counter[1][lane] = second as u32;
            counter[2][lane] = (first >> 32) as u32 ^ counter[3][lane] ^ key[1];
            counter[3][lane] = first as u32;
        }
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// Writes the random words of the elements from number `first` on, which must begin a block.
#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn fill(words: &mut [u32], first: u64, key: DropoutKey) {
    let mut block = first / WORDS as u64;
    for words in words.chunks_mut(WORDS * LANES) {
        let blocks: [u64; LANES] = array::from_fn(|lane| block + lane as u64);
        let counter = [
            blocks.map(|block| block as u32),
            blocks.map(|block| (block >> 32) as u32),
            [key.step; LANES],
            [key.micro_batch; LANES],
        ];
        let drawn = rounds(counter, key.words());
        for (index, word) in words.iter_mut().enumerate() {
            *word = drawn[index % WORDS][index / WORDS];
        }
        block += LANES as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kat_vectors` of Random123 1.14: counter, key, result.
    const PUBLISHED: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];

    #[test]
    fn blocks_equal_the_published_vectors() {
        for (counter, key, expected) in PUBLISHED {
            let found = rounds(counter.map(|word| [word]), key).map(|[word]| word);
            assert_eq!(found, expected, "counter {counter:x?}, key {key:x?}");
        }
    }

    #[test]
    fn words_are_those_of_their_blocks() {
        // Including block numbers beyond 32 bits.
        for first in [0, 4, 60, 64, 500, 20 << 32] {
            let mut words = [0; 77];
            fill(&mut words, first, DropoutKey { seed: 0x11_0000_0003, step: 5, micro_batch: 7, layer: 0x22_0000_0004 });
            for (index, words) in words.chunks(WORDS).enumerate() {
                let block = first / 4 + index as u64;
                let counter = [block as u32, (block >> 32) as u32, 5, 7];
                let expected = rounds(counter.map(|word| [word]), [7, 0x33]).map(|[word]| word);
                assert_eq!(words, &expected[..words.len()], "block {block}");
            }
        }
    }
}
