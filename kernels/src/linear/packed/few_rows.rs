//! The product of a few rows with a packed weight, as decoding takes it: from the integers, without a dense weight.
//!
//! A plane computes some outputs. Its lanes read the words of a row of weights side by side, eight elements each, and sum
//! `scale · Σ level x + bias · Σ x` in f32.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cube::launch::{contiguous, cubes, empty, vector_size};
use crate::cube::reduce::{self, cube_sum};
use crate::packed::Planes;
use crate::packed::cube::{Code, Integers, MOST, Scaling, Starts, integers, level, scaling, table};

/// Most rows: with more, tiles read the weights less often.
pub(super) const MOST_ROWS: usize = 8;

/// Threads of a cube whose planes compute outputs of their own, and of one that computes them together.
const THREADS: usize = 128;
const THREADS_TOGETHER: usize = 64;

/// Most sums of a lane.
const MOST_SUMS: usize = 8;

/// Vectors of weights that a lane requests before it uses them.
const AHEAD: usize = 8;

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FewRowsPlan {
    code: Code,
    /// Rows that are summed, of which the last may not exist.
    rows: usize,
    /// Outputs of a plane.
    outputs: usize,
    /// Vectors of each output's weights that a lane requests at a time.
    ahead: usize,
    /// Threads that sum an output together.
    lanes: usize,
    threads: usize,
    planes: reduce::Planes,
}

impl FewRowsPlan {
    fn new(planes: &Planes, rows: usize, device: reduce::Planes) -> Self {
        let rows = rows.next_power_of_two();
        // An x that is read serves more outputs, where enough planes remain to keep the device busy.
        let outputs = match planes.dims[0] {
            8192.. => 4,
            2048.. => 2,
            _ => 1,
        };
        let outputs = outputs.min(MOST_SUMS / rows).max(1);
        let (lanes, threads) = match device.size() {
            Some(lanes) => (lanes as usize, THREADS.max(lanes as usize)),
            None => (THREADS_TOGETHER, THREADS_TOGETHER),
        };
        Self { code: planes.code(), rows, outputs, ahead: (AHEAD / outputs).max(1), lanes, threads, planes: device }
    }

    /// Outputs of a cube.
    fn cube_outputs(&self) -> usize {
        self.threads / self.lanes * self.outputs
    }
}

/// The extents of the product.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Extents {
    rows: u32,
    inputs: u32,
    outputs: u32,
}

/// What a lane reads.
#[derive(CubeType)]
struct Share {
    /// Where the rows of `x` begin, in vectors of [`MOST`] elements.
    rows: Array<u32>,
    /// Where the rows of weights begin, in elements.
    weights: Array<u32>,
    table: SharedMemory<f32>,
    starts: Starts,
    /// The first vector.
    at: u32,
}

/// Adds the products of `plan.ahead` vectors of each row of weights. All words are requested before the first is used: memory answers
/// late, and a device has few planes for a small weight.
#[cube]
fn add_vectors<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    words: &Array<u32>,
    sums: &mut Array<f32>,
    share: &Share,
    #[comptime] plan: FewRowsPlan,
) {
    let size = x.vector_size().comptime();
    let parts = comptime!(MOST / size);
    let mut scalings = Sequence::<Scaling>::new();
    let mut levels = Sequence::<Integers>::new();
    #[unroll]
    for i in 0..plan.ahead {
        #[unroll]
        for output in 0..plan.outputs {
            let at = share.at + comptime!((i * plan.lanes) as u32);
            let element = share.weights[output] + at * comptime!(MOST as u32);
            scalings.push(scaling(words, element / comptime!(plan.code.group as u32), &share.starts, plan.code));
            levels.push(integers(words, element, &share.starts, plan.code, MOST));
        }
    }
    let mut own = Array::<f32>::new(comptime!(plan.rows * MOST));
    let mut own_sums = Array::<f32>::new(plan.rows);
    let mut products = Array::<f32>::new(plan.rows);
    #[unroll]
    for i in 0..plan.ahead {
        #[unroll]
        for row in 0..plan.rows {
            let from = (share.rows[row] + share.at + comptime!((i * plan.lanes) as u32)) * comptime!(parts as u32);
            own_sums[row] = 0.0f32;
            #[unroll]
            for part in 0..parts {
                let vector = Vector::<f32, N>::cast_from(x[(from + part as u32) as usize]);
                #[unroll]
                for i in 0..size {
                    own[comptime!(row * MOST + part * size + i)] = vector[i];
                    if comptime!(plan.code.has_bias()) {
                        own_sums[row] += vector[i];
                    }
                }
            }
        }
        #[unroll]
        for output in 0..plan.outputs {
            let (scaling, integers) =
                (scalings.index(comptime!(i * plan.outputs + output)), levels.index(comptime!(i * plan.outputs + output)));
            #[unroll]
            for row in 0..plan.rows {
                products[row] = 0.0f32;
            }
            #[unroll]
            for number in 0..MOST {
                let level = level(integers, &share.table, number, plan.code);
                #[unroll]
                for row in 0..plan.rows {
                    products[row] += level * own[comptime!(row * MOST + number)];
                }
            }
            #[unroll]
            for row in 0..plan.rows {
                let to = comptime!(output * plan.rows + row);
                sums[to] += products[row] * scaling.scale;
                if comptime!(plan.code.has_bias()) {
                    sums[to] += own_sums[row] * scaling.bias;
                }
            }
        }
    }
}

#[cube(launch_unchecked)]
fn few_rows_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    words: &Array<u32>,
    y: &mut Array<F>,
    extents: Extents,
    starts: Starts,
    #[comptime] plan: FewRowsPlan,
    #[define(F)] _dtype: StorageType,
) {
    let table = table(plan.code);
    let lanes = comptime!(plan.lanes as u32);
    let lane = UNIT_POS % lanes;
    let plane = CUBE_POS as u32 * comptime!((plan.threads / plan.lanes) as u32) + UNIT_POS / lanes;
    let first = plane * comptime!(plan.outputs as u32);

    let mut sums = Array::<f32>::new(comptime!(plan.outputs * plan.rows));
    #[unroll]
    for i in 0..comptime!(plan.outputs * plan.rows) {
        sums[i] = 0.0f32;
    }
    let vectors = extents.inputs / comptime!(MOST as u32);
    // Rows and outputs that do not exist are the last ones again, and are not written.
    let mut rows = Array::<u32>::new(plan.rows);
    #[unroll]
    for row in 0..plan.rows {
        rows[row] = min(row as u32, extents.rows - 1) * vectors;
    }
    let mut weights = Array::<u32>::new(plan.outputs);
    #[unroll]
    for output in 0..plan.outputs {
        weights[output] = min(first + output as u32, extents.outputs - 1) * extents.inputs;
    }
    let mut own = Share { rows, weights, table, starts, at: lane };
    if comptime!(plan.ahead > 1) {
        while own.at + comptime!((plan.ahead as u32 - 1) * plan.lanes as u32) < vectors {
            add_vectors::<F, N>(x, words, &mut sums, &own, plan);
            own.at += comptime!(plan.ahead as u32 * plan.lanes as u32);
        }
    }
    while own.at < vectors {
        add_vectors::<F, N>(x, words, &mut sums, &own, comptime!(FewRowsPlan { ahead: 1, ..plan }));
        own.at += lanes;
    }
    #[unroll]
    for output in 0..plan.outputs {
        #[unroll]
        for row in 0..plan.rows {
            let sum = sums[comptime!(output * plan.rows + row)];
            let total = if comptime!(plan.planes.size().is_some()) {
                plane_sum(sum)
            } else {
                cube_sum(sum, plan.threads, plan.planes)
            };
            let to = first + output as u32;
            if lane == 0 && to < extents.outputs && (row as u32) < extents.rows {
                y[(row as u32 * extents.outputs + to) as usize] = F::cast_from(total);
            }
        }
    }
}

/// `x · Wᵀ` of at most [`MOST_ROWS`] rows.
pub(super) fn product<R: CubeRuntime>(x: CubeTensor<R>, planes: &Planes, words: CubeTensor<R>) -> CubeTensor<R> {
    let (x, words) = (contiguous(x), contiguous(words));
    let (rows, [outputs, inputs]) = (x.shape()[0], planes.dims);
    let y = empty(&x, [rows, outputs], x.dtype);
    let size = vector_size(&[&x], MOST);
    let (client, dtype) = (x.client.clone(), x.dtype);
    let plan = FewRowsPlan::new(planes, rows, reduce::Planes::of(&client));
    // SAFETY: rows and outputs that are read exist, and no others are written.
    unsafe {
        few_rows_kernel::launch_unchecked::<R>(
            &client,
            cubes(outputs.div_ceil(plan.cube_outputs())),
            CubeDim::new_1d(plan.threads as u32),
            size,
            x.into_array_arg(),
            words.into_array_arg(),
            y.clone().into_array_arg(),
            ExtentsLaunch::new(rows as u32, inputs as u32, outputs as u32),
            planes.starts(),
            plan,
            dtype.into(),
        );
    }
    y
}
