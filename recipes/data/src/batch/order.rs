//! Random orders that depend only on seed and epoch.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Used in place of an epoch for the order in which examples are packed.
pub(super) const PACKING: u64 = u64::MAX;
/// The same, for the choice of rows for validation.
pub(crate) const VALIDATION: u64 = u64::MAX - 1;

/// The same, for the rows of the first of several files that are seen once more in each epoch; the next file has the number below.
pub(crate) const MIXTURE: u64 = u64::MAX - 2;

/// The numbers below `count`, shuffled by `seed` and `epoch`; in order when there is no seed.
///
/// Implemented here because a library may change its shuffle between versions, and resumed runs need the same order.
pub(crate) fn order(count: usize, seed: Option<u64>, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let Some(seed) = seed else { return order };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    for last in (1..count).rev() {
        // The high half of the product is nearly uniform: the bias is below count / 2^64.
        let chosen = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}
