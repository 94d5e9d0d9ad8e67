//! The GPU kernels: partial sums of many tensors in one launch, and one cube that adds them.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use crate::cube::BackendOn;
use crate::cube::launch::{all_f32, bindings, contiguous, groups, vectors};
use crate::cube::reduce::{Planes, cube_sum, vector_sum};

const THREADS: usize = 256;
/// Vectors that a thread adds; more where a tensor has reached its limit of cubes.
const HELD: usize = 8;
/// Most cubes of a tensor.
const MAX_CUBES: usize = 256;

#[cube(launch_unchecked)]
fn squares_kernel<N: Size>(
    tensors: &Sequence<Array<Vector<f32, N>>>,
    partial: &mut Array<f32>,
    counts: &Sequence<u32>,
    start: u32,
    #[comptime] number: usize,
    #[comptime] planes: Planes,
) {
    let mut squares = 0.0f32;
    #[unroll]
    for index in 0..number {
        if CUBE_POS_Y == index as u32 {
            let mut at = ABSOLUTE_POS_X;
            while at < *counts.index(index) {
                let value = tensors.index(index)[at as usize];
                squares += vector_sum::<N>(value * value);
                at += CUBE_COUNT_X * CUBE_DIM_X;
            }
        }
    }
    let total = cube_sum(squares, THREADS, planes);
    if UNIT_POS == 0 {
        partial[(start + CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize] = total;
    }
}

#[cube(launch_unchecked)]
fn total_kernel(partial: &Array<f32>, out: &mut Array<f32>, count: u32, #[comptime] planes: Planes) {
    let mut sum = 0.0f32;
    let mut at = UNIT_POS;
    while at < count {
        sum += partial[at as usize];
        at += comptime!(THREADS as u32);
    }
    let total = cube_sum(sum, THREADS, planes);
    if UNIT_POS == 0 {
        out[0] = total;
    }
}

/// The sum of all squares, `[1]`.
pub(crate) fn sum<R: CubeRuntime, B: BackendOn<R>>(tensors: Vec<CubeTensor<R>>, device: &R::Device) -> CubeTensor<R> {
    if !all_f32(&tensors.iter().collect::<Vec<_>>()) {
        return super::reference::<B>(tensors, device);
    }
    let client = R::client(device);
    let planes = Planes::of(&client);
    let groups = groups(tensors.into_iter().map(contiguous).collect(), bindings(&client) - 1, |_| 1);
    let groups: Vec<_> = groups.into_iter().map(Group::new).collect();
    let cubes: usize = groups.iter().map(Group::cubes).sum();
    let filled = |elements: usize| {
        let handle = client.empty(elements.max(1) * size_of::<f32>());
        CubeTensor::new_contiguous(client.clone(), device.clone(), Shape::from([elements]), handle, DType::F32)
    };
    let (partial, out) = (filled(cubes), filled(1));
    let mut start = 0;
    for group in groups {
        let (cubes, each, number) = (group.cubes(), group.each, group.tensors.len());
        // SAFETY: a tensor holds as many vectors as its count says, and every cube writes an element of its own.
        unsafe {
            squares_kernel::launch_unchecked::<R>(
                &launching(&client),
                CubeCount::Static(each as u32, number as u32, 1),
                CubeDim::new_1d(THREADS as u32),
                group.size,
                group.tensors.into_iter().map(CubeTensor::into_array_arg).collect(),
                partial.clone().into_array_arg(),
                group.counts.into_iter().collect(),
                start as u32,
                number,
                planes,
            );
        }
        start += cubes;
    }
    // SAFETY: `partial` holds one sum for each cube.
    unsafe {
        total_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(THREADS as u32),
            partial.into_array_arg(),
            out.clone().into_array_arg(),
            cubes as u32,
            planes,
        );
    }
    out
}

/// Tensors of one launch.
struct Group<R: CubeRuntime> {
    tensors: Vec<CubeTensor<R>>,
    /// Elements of a vector.
    size: usize,
    /// Vectors of each tensor.
    counts: Vec<u32>,
    /// Cubes of each tensor.
    each: usize,
}

impl<R: CubeRuntime> Group<R> {
    fn new(tensors: Vec<CubeTensor<R>>) -> Self {
        let (size, counts) = vectors(&tensors.iter().collect::<Vec<_>>());
        let most = counts.iter().copied().max().unwrap_or(0) as usize;
        Self { tensors, size, counts, each: most.div_ceil(THREADS * HELD).clamp(1, MAX_CUBES) }
    }

    fn cubes(&self) -> usize {
        self.each * self.tensors.len()
    }
}
