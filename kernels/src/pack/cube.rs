//! The GPU kernel: copies as many tensors as a launch can bind, one after the other.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::packed_elements;
use crate::cube::BackendOn;
use crate::cube::launch::{MAX_CUBES, all_f32, bindings, contiguous, empty, groups, vectors};

const THREADS: usize = 256;

#[cube(launch_unchecked)]
fn pack_kernel<N: Size>(
    tensors: &Sequence<Array<Vector<f32, N>>>,
    packed: &mut Array<Vector<f32, N>>,
    counts: &Sequence<u32>,
    starts: &Sequence<u32>,
    #[comptime] number: usize,
) {
    #[unroll]
    for index in 0..number {
        if CUBE_POS_Y == index as u32 {
            let (count, start) = (*counts.index(index), *starts.index(index));
            let room = *starts.index(index + 1) - start;
            let mut at = ABSOLUTE_POS_X;
            while at < room {
                let mut value = Vector::<f32, N>::new(0.0);
                if at < count {
                    value = tensors.index(index)[at as usize];
                }
                packed[(start + at) as usize] = value;
                at += CUBE_COUNT_X * CUBE_DIM_X;
            }
        }
    }
}

/// The packed tensor.
pub(crate) fn pack<R: CubeRuntime, B: BackendOn<R>>(tensors: Vec<CubeTensor<R>>) -> CubeTensor<R> {
    if !all_f32(&tensors.iter().collect::<Vec<_>>()) {
        return super::reference::<B>(tensors);
    }
    let tensors: Vec<_> = tensors.into_iter().map(contiguous).collect();
    let elements = |tensor: &CubeTensor<R>| packed_elements(tensor.meta.shape().num_elements());
    let (client, first) = (tensors[0].client.clone(), &tensors[0]);
    let packed = empty(first, [tensors.iter().map(elements).sum::<usize>()], first.dtype);
    let mut start = 0;
    for group in groups(tensors, bindings(&client) - 1, |_| 1) {
        let (size, counts) = vectors(&group.iter().collect::<Vec<_>>());
        let mut starts = vec![(start / size) as u32];
        for tensor in &group {
            start += elements(tensor);
            starts.push((start / size) as u32);
        }
        let (number, most) = (group.len(), counts.iter().copied().max().unwrap_or(0) as usize);
        // SAFETY: a tensor holds as many vectors as its count says, and `packed` has room for each.
        unsafe {
            pack_kernel::launch_unchecked::<R>(
                &launching(&client),
                CubeCount::Static(most.div_ceil(THREADS).clamp(1, MAX_CUBES) as u32, number as u32, 1),
                CubeDim::new_1d(THREADS as u32),
                size,
                group.into_iter().map(CubeTensor::into_array_arg).collect(),
                packed.clone().into_array_arg(),
                counts.into_iter().collect(),
                starts.into_iter().collect(),
                number,
            );
        }
    }
    packed
}
