//! The generator of [`philox`](super::philox), in kernels.

use cubecl::prelude::*;

use super::DropoutKey;
use super::philox::{KEY_STEPS, MULTIPLIERS, ROUNDS};

/// A key, as kernels take it.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub(crate) struct Counter {
    key_low: u32,
    key_high: u32,
    step: u32,
    micro_batch: u32,
}

impl<R: Runtime> CounterLaunch<R> {
    /// The argument of a launch.
    pub fn of(key: DropoutKey) -> Self {
        let [key_low, key_high] = key.words();
        Self::new(key_low, key_high, key.step, key.micro_batch)
    }
}

/// Writes the random words of a block at `start`.
#[cube]
pub(crate) fn draw_block(words: &mut Array<u32>, #[comptime] start: usize, block: u32, counter: &Counter) {
    let first_multiplier = comptime!(MULTIPLIERS[0]).runtime();
    let second_multiplier = comptime!(MULTIPLIERS[1]).runtime();
    let mut word0 = block;
    // A tensor has fewer than 2³² blocks.
    let mut word1 = 0u32;
    let mut word2 = counter.step;
    let mut word3 = counter.micro_batch;
    let mut key0 = counter.key_low;
    let mut key1 = counter.key_high;
    #[unroll]
    for _round in 0..comptime!(ROUNDS) {
        let first_high = u32::mul_hi(word0, first_multiplier);
        let first_low = word0 * first_multiplier;
        let second_high = u32::mul_hi(word2, second_multiplier);
        let second_low = word2 * second_multiplier;
        word0 = second_high ^ word1 ^ key0;
        word1 = second_low;
        word2 = first_high ^ word3 ^ key1;
        word3 = first_low;
        key0 += comptime!(KEY_STEPS[0]);
        key1 += comptime!(KEY_STEPS[1]);
    }
    words[start] = word0;
    words[comptime!(start + 1)] = word1;
    words[comptime!(start + 2)] = word2;
    words[comptime!(start + 3)] = word3;
}
