//! The product of a few rows with packed weights, as decoding takes it: from the integers, without a dense weight, and with several
//! weights in one launch.
//!
//! Some lanes compute some outputs. They read the words of a row of weights side by side, eight elements each, and sum
//! `scale · Σ level x + bias · Σ x` in f32.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::launching;
use cubecl::prelude::*;

use crate::cube::launch::{MAX_CUBES, contiguous, empty, same_float, vector_size};
use crate::cube::reduce::{self, cube_sum};
use crate::cube::results;
use crate::glu::Activation;
use crate::glu::cube::gated_sums;
use crate::packed::Planes;
use crate::packed::cube::{Code, Integers, MOST, ScaleWords, Starts, integers, level, scale_words, scaling_from, table};

/// Most rows: with more, tiles read the weights less often.
pub(super) const MOST_ROWS: usize = 8;

/// Most weights of a launch.
const MOST_WEIGHTS: usize = 3;

/// Threads of a cube whose planes compute outputs of their own, and of one that computes them together.
const THREADS: usize = 128;
const THREADS_TOGETHER: usize = 64;

/// Most sums of a lane.
const MOST_SUMS: usize = 8;

/// Vectors of weights that a lane requests before it uses them.
const AHEAD: usize = 8;

/// Vectors of a lane from which on all planes of a cube sum an output together, on devices of many processors.
const LONG: usize = 4;

/// Of so many vectors of a lane, as many as leave it the fewest times to wait: those that are left over are requested one by one.
fn ahead(vectors: usize) -> usize {
    (1..=AHEAD).rev().min_by_key(|ahead| vectors / ahead + vectors % ahead).unwrap_or(1)
}

/// A packed matrix: its planes, and its words.
pub(super) type Operand<R> = (Planes, CubeTensor<R>);

/// The codes of up to [`MOST_WEIGHTS`] weights; those of weights that do not exist are the first's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Codes(Code, Code, Code);

impl Codes {
    fn new(weights: &[Planes]) -> Self {
        let code = |index: usize| weights.get(index).unwrap_or(&weights[0]).code();
        Self(code(0), code(1), code(2))
    }

    fn of(self, index: usize) -> Code {
        self.all()[index]
    }

    fn all(self) -> [Code; 3] {
        [self.0, self.1, self.2]
    }
}

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FewRowsPlan {
    codes: Codes,
    /// Weights of the launch.
    weights: usize,
    /// The weights that a lane multiplies with the same vector of `x`: all of the launch, or one.
    together: usize,
    /// Rows that are summed, of which the last may not exist.
    rows: usize,
    /// Outputs of a group of lanes, of each weight.
    outputs: usize,
    /// Vectors of each output's weights that a lane requests at a time.
    ahead: usize,
    /// Threads that sum an output together.
    lanes: usize,
    threads: usize,
    planes: reduce::Planes,
}

impl FewRowsPlan {
    fn new<R: CubeRuntime>(weights: &[Planes], together: usize, rows: usize, client: &ComputeClient<R>) -> Self {
        let (rows, planes) = (rows.next_power_of_two(), reduce::Planes::of(client));
        let (mut lanes, threads) = match planes.size() {
            Some(lanes) => (lanes as usize, THREADS.max(lanes as usize)),
            None => (THREADS_TOGETHER, THREADS_TOGETHER),
        };
        let vectors = weights[0].dims[1] / MOST;
        let (outputs, ahead) = if client.properties().hardware.num_streaming_multiprocessors.is_some() {
            // Many processors need many planes: while those wait for weights, to read x again costs nothing. Measured on an H200.
            if vectors >= LONG * threads {
                lanes = threads;
            }
            (1, ahead(vectors / lanes))
        } else {
            // An x that is read serves more outputs, where enough planes remain to keep the device busy.
            let outputs = match weights.iter().map(|planes| planes.dims[0]).max() {
                Some(8192..) => 4,
                Some(2048..) => 2,
                _ => 1,
            };
            let outputs = (outputs / together).min(MOST_SUMS / rows).max(1);
            (outputs, (AHEAD / outputs / together).max(1))
        };
        Self { codes: Codes::new(weights), weights: weights.len(), together, rows, outputs, ahead, lanes, threads, planes }
    }

    /// Outputs of a cube, of each weight.
    fn cube_outputs(&self) -> usize {
        self.threads / self.lanes * self.outputs
    }

    /// Whether a plane sums outputs of its own.
    fn is_by_plane(&self) -> bool {
        self.planes.size() == Some(self.lanes as u32)
    }

    /// The code of a table, where a weight has one.
    fn table(&self) -> Code {
        self.codes.all().into_iter().find(|code| code.has_table()).unwrap_or(self.codes.0)
    }

    /// Whether sums of `x` are needed.
    fn has_bias(&self) -> bool {
        self.codes.all().into_iter().any(Code::has_bias)
    }

    /// Which of a lane's sums.
    fn sum(&self, weight: usize, output: usize, row: usize) -> usize {
        (weight * self.outputs + output) * self.rows + row
    }

    fn sums(&self) -> usize {
        self.together * self.outputs * self.rows
    }
}

/// The extents of the product.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Extents {
    rows: u32,
    inputs: u32,
}

/// Packed matrices, and where their planes begin.
#[derive(CubeType)]
struct Weights {
    words: Sequence<Array<u32>>,
    starts: Sequence<Starts>,
    table: SharedMemory<f32>,
}

/// What a lane reads. Rows and outputs that do not exist are the last ones again, and are not written.
#[derive(CubeType)]
struct Share {
    /// Where the rows of `x` begin, in vectors of [`MOST`] elements.
    rows: Array<u32>,
    /// Where the outputs of weights begin, in elements.
    outputs: Array<u32>,
    /// The first vector.
    at: u32,
}

/// Adds the products of `plan.ahead` vectors of each row of the weights from number `of` on. All words are requested before the first
/// is used: memory answers late, and a device has few planes for a small weight.
#[cube]
fn add_vectors<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weights: &Weights,
    sums: &mut Array<f32>,
    share: &Share,
    #[comptime] of: usize,
    #[comptime] plan: FewRowsPlan,
) {
    let size = x.vector_size().comptime();
    let parts = comptime!(MOST / size);
    let mut scales = Sequence::<ScaleWords>::new();
    let mut levels = Sequence::<Integers>::new();
    #[unroll]
    for weight in 0..plan.together {
        let code = comptime!(plan.codes.of(of + weight));
        let (words, starts) = (weights.words.index(comptime!(of + weight)), weights.starts.index(comptime!(of + weight)));
        #[unroll]
        for output in 0..plan.outputs {
            #[unroll]
            for i in 0..plan.ahead {
                let element =
                    share.outputs[output] + (share.at + comptime!((i * plan.lanes) as u32)) * comptime!(MOST as u32);
                scales.push(scale_words(words, element / comptime!(code.group as u32), starts, code));
                levels.push(integers(words, element, starts, code, MOST));
            }
        }
    }
    let mut own = Array::<f32>::new(comptime!(plan.rows * MOST));
    let mut own_sums = Array::<f32>::new(plan.rows);
    let mut products = Array::<f32>::new(plan.rows);
    #[unroll]
    for i in 0..plan.ahead {
        let at = share.at + comptime!((i * plan.lanes) as u32);
        #[unroll]
        for row in 0..plan.rows {
            let from = (share.rows[row] + at) * comptime!(parts as u32);
            own_sums[row] = 0.0f32;
            #[unroll]
            for part in 0..parts {
                let vector = Vector::<f32, N>::cast_from(x[(from + part as u32) as usize]);
                #[unroll]
                for e in 0..size {
                    own[comptime!(row * MOST + part * size + e)] = vector[e];
                    if comptime!(plan.has_bias()) {
                        own_sums[row] += vector[e];
                    }
                }
            }
        }
        #[unroll]
        for weight in 0..plan.together {
            let code = comptime!(plan.codes.of(of + weight));
            let (words, starts) =
                (weights.words.index(comptime!(of + weight)), weights.starts.index(comptime!(of + weight)));
            #[unroll]
            for output in 0..plan.outputs {
                let request = comptime!((weight * plan.outputs + output) * plan.ahead + i);
                let element = share.outputs[output] + at * comptime!(MOST as u32);
                let group = element / comptime!(code.group as u32);
                let scaling = scaling_from(words, scales.index(request), group, starts, code);
                let integers = levels.index(request);
                #[unroll]
                for row in 0..plan.rows {
                    products[row] = 0.0f32;
                }
                #[unroll]
                for number in 0..MOST {
                    let level = level(integers, &weights.table, number, code);
                    #[unroll]
                    for row in 0..plan.rows {
                        products[row] += level * own[comptime!(row * MOST + number)];
                    }
                }
                #[unroll]
                for row in 0..plan.rows {
                    let to = comptime!(plan.sum(weight, output, row));
                    sums[to] += products[row] * scaling.scale;
                    if comptime!(code.has_bias()) {
                        sums[to] += own_sums[row] * scaling.bias;
                    }
                }
            }
        }
    }
}

/// The sum over the lanes, returned to each of them. All threads of the cube must call it.
#[cube]
fn lane_sum(sum: f32, #[comptime] plan: FewRowsPlan) -> f32 {
    if comptime!(plan.is_by_plane()) { plane_sum(sum) } else { cube_sum(sum, plan.threads, plan.planes) }
}

/// Where results lie in a buffer: `[rows, outputs]` from `start` on.
#[derive(CubeType, Clone, Copy)]
struct Results {
    start: u32,
    outputs: u32,
}

/// Outputs of the weights from number `of` on, as `results` in `y`, for as many cubes as there are along x: the products with one, or
/// with a `glu` those with two, of which one activates the other.
#[cube]
fn products<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weights: &Weights,
    y: &mut Array<F>,
    results: Results,
    extents: &Extents,
    #[comptime] of: usize,
    #[comptime] glu: Option<Activation>,
    #[comptime] plan: FewRowsPlan,
) {
    let (start, outputs) = (results.start, results.outputs);
    let lanes = comptime!(plan.lanes as u32);
    let cube_outputs = comptime!(plan.cube_outputs() as u32);
    let vectors = extents.inputs / comptime!(MOST as u32);
    let mut sums = Array::<f32>::new(comptime!(plan.sums()));
    let mut cube = CUBE_POS_X * cube_outputs;
    // The bound is the same for all threads of a cube, which may synchronise in `lane_sum`.
    while cube < outputs {
        let first = cube + UNIT_POS / lanes * comptime!(plan.outputs as u32);
        #[unroll]
        for i in 0..comptime!(plan.sums()) {
            sums[i] = 0.0f32;
        }
        let mut rows = Array::<u32>::new(plan.rows);
        #[unroll]
        for row in 0..plan.rows {
            rows[row] = min(row as u32, extents.rows - 1) * vectors;
        }
        let mut starts = Array::<u32>::new(plan.outputs);
        #[unroll]
        for output in 0..plan.outputs {
            starts[output] = min(first + output as u32, outputs - 1) * extents.inputs;
        }
        let mut share = Share { rows, outputs: starts, at: UNIT_POS % lanes };
        if comptime!(plan.ahead > 1) {
            while share.at + comptime!((plan.ahead as u32 - 1) * plan.lanes as u32) < vectors {
                add_vectors::<F, N>(x, weights, &mut sums, &share, of, plan);
                share.at += comptime!(plan.ahead as u32 * plan.lanes as u32);
            }
        }
        while share.at < vectors {
            add_vectors::<F, N>(x, weights, &mut sums, &share, of, comptime!(FewRowsPlan { ahead: 1, ..plan }));
            share.at += lanes;
        }
        #[unroll]
        for output in 0..plan.outputs {
            #[unroll]
            for row in 0..plan.rows {
                let total = lane_sum(sums[comptime!(plan.sum(0, output, row))], plan);
                let mut value = F::cast_from(total);
                if comptime!(glu.is_some()) {
                    let up = lane_sum(sums[comptime!(plan.sum(plan.together - 1, output, row))], plan);
                    value = gated_sums::<F>(total, up, comptime!(glu.unwrap_or(Activation::Silu)));
                }
                let to = first + output as u32;
                if UNIT_POS % lanes == 0 && to < outputs && (row as u32) < extents.rows {
                    y[(start + row as u32 * outputs + to) as usize] = value;
                }
            }
        }
        cube += CUBE_COUNT_X * cube_outputs;
    }
}

#[cube(launch_unchecked)]
fn few_rows_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    words: Sequence<Array<u32>>,
    y: &mut Array<F>,
    outputs: &Sequence<u32>,
    begins: &Sequence<u32>,
    starts: Sequence<Starts>,
    extents: Extents,
    #[comptime] plan: FewRowsPlan,
    #[define(F)] _dtype: StorageType,
) {
    let weights = Weights { words, starts, table: table(comptime!(plan.table())) };
    #[unroll]
    for index in 0..plan.weights {
        if CUBE_POS_Y == index as u32 {
            let (outputs, begin) = (*outputs.index(index), *begins.index(index));
            products::<F, N>(x, &weights, y, Results { start: begin, outputs }, &extents, index, comptime!(None), plan);
        }
    }
}

#[cube(launch_unchecked)]
fn few_rows_glu_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    words: Sequence<Array<u32>>,
    y: &mut Array<F>,
    outputs: u32,
    starts: Sequence<Starts>,
    extents: Extents,
    #[comptime] kind: Activation,
    #[comptime] plan: FewRowsPlan,
    #[define(F)] _dtype: StorageType,
) {
    let weights = Weights { words, starts, table: table(comptime!(plan.table())) };
    products::<F, N>(
        x,
        &weights,
        y,
        Results { start: 0u32.runtime(), outputs },
        &extents,
        0usize,
        comptime!(Some(kind)),
        plan,
    );
}

/// Whether a launch takes these.
pub(super) fn fits<R: CubeRuntime>(x: &CubeTensor<R>, weights: &[Operand<R>]) -> bool {
    (1..=MOST_ROWS).contains(&x.meta.shape()[0])
        && (1..=MOST_WEIGHTS).contains(&weights.len())
        && same_float(&[x])
        && weights.iter().all(|(planes, words)| planes.on_device(words))
}

/// The cubes of a launch for so many outputs of each weight.
fn count(outputs: usize, plan: &FewRowsPlan) -> CubeCount {
    let along_y = plan.weights / plan.together;
    CubeCount::Static(outputs.div_ceil(plan.cube_outputs()).clamp(1, MAX_CUBES) as u32, along_y as u32, 1)
}

/// `f(x · Gᵀ) · (x · Uᵀ)` of the weights `[G, U]`, of one shape, which must fit.
pub(super) fn glu<R: CubeRuntime>(x: CubeTensor<R>, weights: [Operand<R>; 2], kind: Activation) -> CubeTensor<R> {
    let x = contiguous(x);
    let (rows, [outputs, inputs]) = (x.meta.shape()[0], weights[0].0.dims);
    let y = empty(&x, [rows, outputs], x.dtype);
    let size = vector_size(&[&x], MOST);
    let (client, dtype) = (x.client.clone(), x.dtype);
    let plan = FewRowsPlan::new(&weights.each_ref().map(|weight| weight.0), 2, rows, &client);
    let starts = weights.iter().map(|weight| weight.0.starts()).collect();
    // SAFETY: rows and outputs that are read exist, and no others are written.
    unsafe {
        few_rows_glu_kernel::launch_unchecked::<R>(
            &launching(&client),
            count(outputs, &plan),
            CubeDim::new_1d(plan.threads as u32),
            size,
            x.into_array_arg(),
            weights.into_iter().map(|weight| contiguous(weight.1).into_array_arg()).collect(),
            y.clone().into_array_arg(),
            outputs as u32,
            starts,
            ExtentsLaunch::new(rows as u32, inputs as u32),
            kind,
            plan,
            dtype.into(),
        );
    }
    y
}

/// `x · Wᵀ` of each weight, which must fit. The results share a buffer.
pub(super) fn products_of<R: CubeRuntime>(x: CubeTensor<R>, weights: Vec<Operand<R>>) -> Vec<CubeTensor<R>> {
    let x = contiguous(x);
    let rows = x.meta.shape()[0];
    let planes: Vec<Planes> = weights.iter().map(|weight| weight.0).collect();
    let outputs: Vec<usize> = planes.iter().map(|planes| planes.dims[0]).collect();
    let size = vector_size(&[&x], MOST);
    let (client, dtype) = (x.client.clone(), x.dtype);
    let (y, begins) = results::empty(&x, rows, &outputs);
    let plan = FewRowsPlan::new(&planes, 1, rows, &client);
    // SAFETY: rows and outputs that are read exist, and each result is written within its part of `y`.
    unsafe {
        few_rows_kernel::launch_unchecked::<R>(
            &launching(&client),
            count(outputs.iter().copied().max().unwrap_or(0), &plan),
            CubeDim::new_1d(plan.threads as u32),
            size,
            x.into_array_arg(),
            weights.into_iter().map(|weight| contiguous(weight.1).into_array_arg()).collect(),
            y.clone().into_array_arg(),
            outputs.iter().map(|count| *count as u32).collect(),
            begins.iter().map(|begin| *begin as u32).collect(),
            planes.iter().map(Planes::starts).collect(),
            ExtentsLaunch::new(rows as u32, planes[0].dims[1] as u32),
            plan,
            dtype.into(),
        );
    }
    results::split(&y, rows, &outputs, &begins)
}
