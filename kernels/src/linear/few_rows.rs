//! The product of a few rows with weights of floats, as decoding takes it: several weights in one launch, each read once.
//!
//! A plane computes some outputs. Its lanes read a row of weights side by side and sum in f32.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use crate::cube::launch::{MAX_CUBES, contiguous, empty, same_float, vector_size};
use crate::cube::reduce::{Planes, cube_sum, vector_sum};
use crate::cube::results;
use crate::glu::Activation;
use crate::glu::cube::gated_sums;

/// Most rows: with more, tiles read the weights less often.
pub(crate) const MOST_ROWS: usize = 8;

/// Most weights of a launch.
const MOST_WEIGHTS: usize = 3;

/// Threads of a cube whose planes compute outputs of their own, and of one that computes them together.
const THREADS: usize = 128;
const THREADS_TOGETHER: usize = 64;

/// Most sums of a lane.
const MOST_SUMS: usize = 8;

/// Vectors of weights that a lane requests before it uses them: memory answers late, and a device has few planes for a small weight.
const AHEAD: usize = 8;

/// The extents of `x`, its columns in vectors.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Extents {
    rows: u32,
    vectors: u32,
}

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FewRowsPlan {
    /// Weights of the launch.
    weights: usize,
    /// Rows that are summed, of which the last may not exist.
    rows: usize,
    /// Outputs of a plane.
    outputs: usize,
    /// Vectors of each output's weights that a lane requests at a time.
    ahead: usize,
    /// Threads that sum an output together.
    lanes: usize,
    threads: usize,
    planes: Planes,
}

impl FewRowsPlan {
    fn new(weights: usize, rows: usize, outputs: usize, planes: Planes) -> Self {
        let rows = rows.next_power_of_two();
        // An x that is read serves more outputs, where enough planes remain to keep the device busy.
        let of_plane = match outputs {
            32768.. => 4,
            8192.. => 2,
            _ => 1,
        };
        let (lanes, threads) = match planes.size() {
            Some(lanes) => (lanes as usize, THREADS.max(lanes as usize)),
            None => (THREADS_TOGETHER, THREADS_TOGETHER),
        };
        let outputs = of_plane.min(MOST_SUMS / rows).max(1);
        Self { weights, rows, outputs, ahead: (AHEAD / outputs).max(1), lanes, threads, planes }
    }

    /// Outputs of a cube.
    fn cube_outputs(&self) -> usize {
        self.threads / self.lanes * self.outputs
    }
}

/// Adds the products of this lane's share of each row with `plan.outputs` outputs of a weight, from `first` on, to `sums`.
#[cube]
fn add_products<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<F, N>>,
    sums: &mut Array<Vector<f32, N>>,
    first: u32,
    extents: &Extents,
    outputs: u32,
    #[comptime] plan: FewRowsPlan,
) {
    let lanes = comptime!(plan.lanes as u32);
    #[unroll]
    for i in 0..comptime!(plan.outputs * plan.rows) {
        sums[i] = Vector::<f32, N>::new(0.0f32);
    }
    let mut own = Share { first, outputs, at: UNIT_POS % lanes };
    if comptime!(plan.ahead > 1) {
        while own.at + comptime!((plan.ahead as u32 - 1) * plan.lanes as u32) < extents.vectors {
            add_vectors::<F, N>(x, weight, sums, &own, extents, plan);
            own.at += comptime!(plan.ahead as u32 * plan.lanes as u32);
        }
    }
    while own.at < extents.vectors {
        add_vectors::<F, N>(x, weight, sums, &own, extents, comptime!(FewRowsPlan { ahead: 1, ..plan }));
        own.at += lanes;
    }
}

/// What a lane reads of a weight.
#[derive(CubeType, Clone, Copy)]
struct Share {
    /// The first output.
    first: u32,
    /// The outputs of the weight.
    outputs: u32,
    /// The first vector.
    at: u32,
}

/// [`add_products`] of `plan.ahead` vectors of each row. All weights are requested before the first is used.
#[cube]
fn add_vectors<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<F, N>>,
    sums: &mut Array<Vector<f32, N>>,
    own: &Share,
    extents: &Extents,
    #[comptime] plan: FewRowsPlan,
) {
    let count = comptime!(plan.ahead);
    let mut weights = Array::<Vector<F, N>>::new(comptime!(count * plan.outputs));
    #[unroll]
    for output in 0..plan.outputs {
        // Rows and outputs that do not exist are the last ones again, and are not written.
        let from = min(own.first + output as u32, own.outputs - 1) * extents.vectors + own.at;
        #[unroll]
        for i in 0..count {
            weights[comptime!(output * count + i)] = weight[(from + comptime!((i * plan.lanes) as u32)) as usize];
        }
    }
    #[unroll]
    for row in 0..plan.rows {
        let from = min(row as u32, extents.rows - 1) * extents.vectors + own.at;
        #[unroll]
        for i in 0..count {
            let value = Vector::<f32, N>::cast_from(x[(from + comptime!((i * plan.lanes) as u32)) as usize]);
            #[unroll]
            for output in 0..plan.outputs {
                sums[comptime!(output * plan.rows + row)] +=
                    value * Vector::<f32, N>::cast_from(weights[comptime!(output * count + i)]);
            }
        }
    }
}

/// The sum over the lanes, returned to each of them. All threads of the cube must call it.
#[cube]
fn lane_sum<N: Size>(sum: Vector<f32, N>, #[comptime] plan: FewRowsPlan) -> f32 {
    let sum = vector_sum::<N>(sum);
    if comptime!(plan.planes.size().is_some()) { plane_sum(sum) } else { cube_sum(sum, plan.threads, plan.planes) }
}

/// Outputs of one weight, `[rows, outputs]` in `y` from `start` on, for as many cubes as there are along x.
#[cube]
fn products<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<F, N>>,
    y: &mut Array<F>,
    start: u32,
    outputs: u32,
    extents: &Extents,
    #[comptime] plan: FewRowsPlan,
) {
    let lanes = comptime!(plan.lanes as u32);
    let cube_outputs = comptime!(plan.cube_outputs() as u32);
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(plan.outputs * plan.rows));
    let mut cube = CUBE_POS_X * cube_outputs;
    // The bound is the same for all threads of a cube, which may synchronise in `lane_sum`.
    while cube < outputs {
        let first = cube + UNIT_POS / lanes * comptime!(plan.outputs as u32);
        add_products::<F, N>(x, weight, &mut sums, first, extents, outputs, plan);
        #[unroll]
        for output in 0..plan.outputs {
            #[unroll]
            for row in 0..plan.rows {
                let total = lane_sum::<N>(sums[comptime!(output * plan.rows + row)], plan);
                let to = first + output as u32;
                if UNIT_POS % lanes == 0 && to < outputs && (row as u32) < extents.rows {
                    y[(start + row as u32 * outputs + to) as usize] = F::cast_from(total);
                }
            }
        }
        cube += CUBE_COUNT_X * cube_outputs;
    }
}

#[cube(launch_unchecked)]
fn few_rows_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weights: &Sequence<Array<Vector<F, N>>>,
    y: &mut Array<F>,
    outputs: &Sequence<u32>,
    starts: &Sequence<u32>,
    extents: Extents,
    #[comptime] plan: FewRowsPlan,
    #[define(F)] _dtype: StorageType,
) {
    #[unroll]
    for index in 0..plan.weights {
        if CUBE_POS_Y == index as u32 {
            let (outputs, start) = (*outputs.index(index), *starts.index(index));
            products::<F, N>(x, weights.index(index), y, start, outputs, &extents, plan);
        }
    }
}

#[cube(launch_unchecked)]
fn glu_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    gate: &Array<Vector<F, N>>,
    up: &Array<Vector<F, N>>,
    y: &mut Array<F>,
    outputs: u32,
    extents: Extents,
    #[comptime] kind: Activation,
    #[comptime] plan: FewRowsPlan,
    #[define(F)] _dtype: StorageType,
) {
    let lanes = comptime!(plan.lanes as u32);
    let cube_outputs = comptime!(plan.cube_outputs() as u32);
    let mut gates = Array::<Vector<f32, N>>::new(comptime!(plan.outputs * plan.rows));
    let mut ups = Array::<Vector<f32, N>>::new(comptime!(plan.outputs * plan.rows));
    let mut cube = CUBE_POS_X * cube_outputs;
    while cube < outputs {
        let first = cube + UNIT_POS / lanes * comptime!(plan.outputs as u32);
        add_products::<F, N>(x, gate, &mut gates, first, &extents, outputs, plan);
        add_products::<F, N>(x, up, &mut ups, first, &extents, outputs, plan);
        #[unroll]
        for output in 0..plan.outputs {
            #[unroll]
            for row in 0..plan.rows {
                let at = comptime!(output * plan.rows + row);
                let (gate, up) = (lane_sum::<N>(gates[at], plan), lane_sum::<N>(ups[at], plan));
                let to = first + output as u32;
                if UNIT_POS % lanes == 0 && to < outputs && (row as u32) < extents.rows {
                    y[(row as u32 * outputs + to) as usize] = gated_sums::<F>(gate, up, kind);
                }
            }
        }
        cube += CUBE_COUNT_X * cube_outputs;
    }
}

/// Whether a launch takes these, which must have one float dtype; otherwise, other products are faster.
pub(crate) fn fits<R: CubeRuntime>(x: &CubeTensor<R>, weights: &[CubeTensor<R>]) -> bool {
    let tensors: Vec<&CubeTensor<R>> = weights.iter().chain([x]).collect();
    (1..=MOST_ROWS).contains(&x.meta.shape()[0])
        && (1..=MOST_WEIGHTS).contains(&weights.len())
        && x.meta.shape()[1] > 0
        && same_float(&tensors)
}

/// `f(x · Gᵀ) · (x · Uᵀ)` of the weights `[G, U]`, which must fit.
pub(crate) fn glu<R: CubeRuntime>(x: CubeTensor<R>, weights: [CubeTensor<R>; 2], kind: Activation) -> CubeTensor<R> {
    let [rows, inputs, outputs] = [x.meta.shape()[0], x.meta.shape()[1], weights[0].meta.shape()[0]];
    let (x, [gate, up]) = (contiguous(x), weights.map(contiguous));
    let (client, dtype) = (x.client.clone(), x.dtype);
    let size = vector_size(&[&x, &gate, &up], inputs);
    let y = empty(&x, [rows, outputs], dtype);
    let plan = FewRowsPlan::new(1, rows, outputs, Planes::of(&client));
    // SAFETY: rows and outputs that are read exist, and no others are written.
    unsafe {
        glu_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(outputs.div_ceil(plan.cube_outputs()).clamp(1, MAX_CUBES) as u32, 1, 1),
            CubeDim::new_1d(plan.threads as u32),
            size,
            x.into_array_arg(),
            gate.into_array_arg(),
            up.into_array_arg(),
            y.clone().into_array_arg(),
            outputs as u32,
            ExtentsLaunch::new(rows as u32, (inputs / size) as u32),
            kind,
            plan,
            dtype.into(),
        );
    }
    y
}

/// `x · Wᵀ` of each weight, which must fit. The results share a buffer.
pub(crate) fn product<R: CubeRuntime>(x: CubeTensor<R>, weights: Vec<CubeTensor<R>>) -> Vec<CubeTensor<R>> {
    let (rows, inputs) = (x.meta.shape()[0], x.meta.shape()[1]);
    let (x, weights) = (contiguous(x), weights.into_iter().map(contiguous).collect::<Vec<_>>());
    let (client, dtype) = (x.client.clone(), x.dtype);
    let size = vector_size(&weights.iter().chain([&x]).collect::<Vec<_>>(), inputs);
    let outputs: Vec<usize> = weights.iter().map(|weight| weight.meta.shape()[0]).collect();
    let (y, starts) = results::empty(&x, rows, &outputs);
    let (most, total) = (outputs.iter().copied().max().unwrap_or(0), outputs.iter().sum());
    let plan = FewRowsPlan::new(weights.len(), rows, total, Planes::of(&client));
    let number = weights.len() as u32;
    // SAFETY: rows and outputs that are read exist, and each result is written within its part of `y`.
    unsafe {
        few_rows_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(most.div_ceil(plan.cube_outputs()).clamp(1, MAX_CUBES) as u32, number, 1),
            CubeDim::new_1d(plan.threads as u32),
            size,
            x.into_array_arg(),
            weights.into_iter().map(CubeTensor::into_array_arg).collect(),
            y.clone().into_array_arg(),
            outputs.iter().map(|count| *count as u32).collect(),
            starts.iter().map(|start| *start as u32).collect(),
            ExtentsLaunch::new(rows as u32, (inputs / size) as u32),
            plan,
            dtype.into(),
        );
    }
    results::split(&y, rows, &outputs, &starts)
}
