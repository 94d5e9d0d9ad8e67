//! What both kernels do with fragments and with the sums of planes.

use cubecl::prelude::*;

/// Two elements of a fragment.
#[cube]
pub(super) fn pair<F: Float, V: Size>(one: F, other: F) -> Vector<F, V> {
    let mut pair = Vector::<F, V>::new(one);
    pair[1] = other;
    pair
}

/// The sum of an element over the planes of a cube, in their order. Each has written `all` elements, the first this one at `from`.
#[cube]
pub(super) fn sum_of_planes(
    written: &SharedMemory<f32>,
    from: u32,
    #[comptime] planes: usize,
    #[comptime] all: usize,
) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for plane in 0..planes {
        sum += written[(from + comptime!((plane * all) as u32)) as usize];
    }
    sum
}
