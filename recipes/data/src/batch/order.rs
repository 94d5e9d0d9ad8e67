//! Orders that depend on nothing but a seed and an epoch.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Stands in for an epoch when examples are ordered to be packed.
pub(super) const PACKING: u64 = u64::MAX;

/// The numbers below `count`, shuffled by `seed` and `epoch`; in order when there is no seed.
///
/// Written out, for a library may change its shuffle between versions, and a run must resume as it was.
pub(super) fn order(count: usize, seed: Option<u64>, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let Some(seed) = seed else { return order };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    for last in (1..count).rev() {
        // The high half of a product is uniform enough: the bias is below count / 2^64.
        let chosen = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}
