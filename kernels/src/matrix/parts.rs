//! Products whose sums are computed in parts by different cubes.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use crate::cube::launch::{cubes, empty, vector_size};
use crate::runtime::KernelRuntime;

/// The parts of a sum, which different cubes compute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    pub count: usize,
    /// Terms of each.
    pub depth: usize,
}

const SUM_THREADS: usize = 256;
/// Parts that a thread reads before it adds them.
const AHEAD: usize = 4;

#[cube(launch_unchecked)]
fn sum_kernel<O: Float, N: Size>(
    parts: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<O, N>>,
    count: u32,
    number: u32,
    #[define(O)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at < count as usize {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut part = 0u32;
        while part < number {
            let mut held = Array::<Vector<f32, N>>::new(AHEAD);
            #[unroll]
            for i in 0..AHEAD {
                let next = part + comptime!(i as u32);
                held[i] = Vector::<f32, N>::new(0.0f32);
                if next < number {
                    held[i] = parts[at + (next * count) as usize];
                }
            }
            #[unroll]
            for i in 0..AHEAD {
                sum += held[i];
            }
            part += comptime!(AHEAD as u32);
        }
        out[at] = Vector::<O, N>::cast_from(sum);
    }
}

/// Adds the parts of a product, in their order.
pub(super) fn sum_of_parts<R: KernelRuntime>(out: CubeTensor<R>, parts: Parts, dtype: DType) -> CubeTensor<R> {
    if parts.count == 1 {
        return out;
    }
    let shape = out.shape();
    let sum = empty(&out, [shape[1], shape[2]], dtype);
    let elements = shape[1] * shape[2];
    let size = vector_size(&[&out], elements);
    let (client, count) = (out.client.clone(), elements / size);
    // SAFETY: each part holds `count` vectors.
    unsafe {
        sum_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(count.div_ceil(SUM_THREADS)),
            CubeDim::new_1d(SUM_THREADS as u32),
            size,
            out.into_array_arg(),
            sum.clone().into_array_arg(),
            count as u32,
            parts.count as u32,
            dtype.into(),
        );
    }
    sum
}
