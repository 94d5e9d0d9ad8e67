//! Planes on a GPU: what a kernel reads of a packed matrix, vector by vector, and the matrix dequantised.
//!
//! [`Planes`] documents the layout, and is the oracle of these functions.

// Of `#[cube]` functions, whose operators are those of the kernel.
#![allow(clippy::assign_op_pattern, clippy::needless_range_loop, clippy::neg_multiply)]

use std::ops::Range;

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::codebook::NF4;
use super::planes::{Planes, Scales};
use crate::cube::launch::{MAX_CUBES, contiguous, empty, vector_size};

/// Most elements of a vector that [`read`] returns: a word of four bits, and a part of every group.
pub(crate) const MOST: usize = 8;

const THREADS: usize = 256;

/// Vectors that a thread dequantises, so that a table is filled for more than one.
const VECTORS: usize = 4;

/// The values of the codes of doubly quantised scales, and their offset.
pub(crate) const MAP: usize = 257;

/// What a kernel that reads a packed matrix is compiled for: widths and the shape of its scales, neither a format nor sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Code {
    /// Lower bits of an integer, in its word.
    pub low: usize,
    /// Upper bits of an integer.
    pub high: usize,
    /// Elements that share a scale, a multiple of [`MOST`].
    pub group: usize,
    /// What gives it.
    pub scales: Scales,
}

impl Code {
    /// Whether integers are codes of a table.
    pub fn has_table(self) -> bool {
        matches!(self.scales, Scales::Table | Scales::DoubleTable)
    }

    /// Whether weights are more than multiples of their levels.
    pub fn has_bias(self) -> bool {
        matches!(self.scales, Scales::HalfPair | Scales::BrainPair | Scales::FloatPair | Scales::SixBits)
    }

    /// Whether a group's scale is in more than a word.
    pub fn has_second(self) -> bool {
        matches!(self.scales, Scales::FloatPair | Scales::DoubleTable | Scales::SixBits | Scales::SignedBytes)
    }

    /// Whether it may be in three.
    pub fn has_third(self) -> bool {
        self.scales == Scales::SixBits
    }

    /// Whether scales are quantised again.
    pub fn has_map(self) -> bool {
        self.scales == Scales::DoubleTable
    }

    /// The integer that stands for 0, of those without a bias.
    pub fn zero(self) -> f32 {
        match self.scales {
            Scales::Half { zero } => zero as f32,
            Scales::SignedBytes => 32.0,
            _ => 0.0,
        }
    }
}

/// The words at which planes begin; the lower bits begin at 0.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Starts {
    pub high: u32,
    pub scales: u32,
    pub coarse: u32,
    /// The values of the codes of doubly quantised scales, which their offset follows.
    pub map: u32,
}

impl Planes {
    /// What kernels are compiled for.
    pub(crate) fn code(&self) -> Code {
        Code { low: self.low, high: self.high, group: self.group, scales: self.scales }
    }

    /// Where the planes begin, as kernels take it.
    pub(crate) fn starts<R: CubeRuntime>(&self) -> StartsLaunch<R> {
        let map = self.words().saturating_sub(MAP);
        let [high, scales, coarse, map] = [self.high_at(), self.scales_at(), self.coarse_at(), map].map(|at| at as u32);
        StartsLaunch::new(high, scales, coarse, map)
    }

    /// Whether kernels read the matrix: they count elements in 32 bits, and take words as they are.
    pub(crate) fn on_device<R: CubeRuntime>(&self, words: &CubeTensor<R>) -> bool {
        let elements = self.dims[0] * self.dims[1];
        matches!(words.dtype, DType::I32 | DType::U32) && elements > 0 && u32::try_from(elements).is_ok()
    }
}

/// The values of a code's table in shared memory, written by the first threads of the cube, which must all call it; it ends with a
/// barrier. Other codes have none, and get a placeholder.
#[cube]
pub(crate) fn table(#[comptime] code: Code) -> SharedMemory<f32> {
    let mut table = SharedMemory::<f32>::new(comptime!(if code.has_table() { NF4.len() } else { 1 }));
    if comptime!(code.has_table()) {
        let mut value = f32::new(0.0);
        #[unroll]
        for i in 0..comptime!(NF4.len()) {
            value = select(UNIT_POS == comptime!(i as u32), f32::new(comptime!(NF4[i])), value);
        }
        if UNIT_POS < comptime!(NF4.len() as u32) {
            table[UNIT_POS as usize] = value;
        }
        sync_cube();
    }
    table
}

/// The finite f16 in the lowest bits, by integer operations: not all devices have f16, and some flush its subnormal numbers once they
/// are f32.
#[cube]
fn half(bits: u32) -> f32 {
    let magnitude = bits & 0x7FFFu32;
    // The exponent of an f32 is 112 more.
    let normal = f32::reinterpret((magnitude << 13u32) + 0x3800_0000u32);
    let subnormal = f32::cast_from(magnitude) * comptime!(1.0 / 16_777_216.0f32);
    let value = select(magnitude < 0x0400u32, subnormal, normal);
    f32::reinterpret(u32::reinterpret(value) | ((bits & 0x8000u32) << 16u32))
}

/// A small integer as f32: the lowest bits of a float of 2²³ and more, which takes no conversion.
#[cube]
pub(crate) fn float(integer: u32, #[comptime] zero: f32) -> f32 {
    f32::reinterpret(integer | 0x4B00_0000u32) - comptime!(8_388_608.0 + zero)
}

/// What the weights of a group have in common: `w = level · scale + bias`.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Scaling {
    pub scale: f32,
    pub bias: f32,
}

/// The words that give a group its scale.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct ScaleWords {
    pub first: u32,
    /// 0 where there is one.
    pub second: u32,
    /// The upper bits of what begins in the second; else 0.
    pub third: u32,
}

/// Where the first of a group's [`ScaleWords`] lies.
#[cube]
pub(crate) fn first_at(group: u32, starts: &Starts, #[comptime] code: Code) -> u32 {
    let groups = match comptime!(code.scales) {
        Scales::Half { .. } => group / 2,
        Scales::HalfPair | Scales::BrainPair | Scales::Table => group,
        Scales::FloatPair => 2 * group,
        Scales::DoubleTable => group / 4,
        Scales::SixBits => group / 8,
        Scales::SignedBytes => group / 32,
    };
    starts.scales + groups
}

/// Where the second lies, of a code with [`Code::has_second`].
#[cube]
pub(crate) fn second_at(group: u32, starts: &Starts, #[comptime] code: Code) -> u32 {
    match comptime!(code.scales) {
        Scales::FloatPair => starts.scales + 2 * group + 1,
        Scales::DoubleTable => starts.coarse + group / 256,
        Scales::SixBits => starts.coarse + group * 3 / 8,
        _ => starts.coarse + group / 4,
    }
}

/// Whether there is a third, which follows the second: where the twelve bits of a group end in the next word.
#[cube]
pub(crate) fn has_third(group: u32) -> bool {
    group * 12 % 32 > 20
}

/// The code of a group's doubly quantised scale, in the first of its words.
#[cube]
pub(crate) fn scale_code(first: u32, group: u32) -> u32 {
    (first >> (8 * (group % 4))) & 255u32
}

/// Scale and bias of a group from its words. Of `words`, only the values of codes are read.
#[cube]
pub(crate) fn scaling_from(
    words: &Array<u32>,
    read: &ScaleWords,
    group: u32,
    starts: &Starts,
    #[comptime] code: Code,
) -> Scaling {
    let none = f32::new(0.0);
    let (first, second) = (read.first, read.second);
    match comptime!(code.scales) {
        Scales::Half { .. } => Scaling { scale: half(first >> (16 * (group % 2))), bias: none },
        Scales::HalfPair => Scaling { scale: half(first), bias: half(first >> 16u32) },
        Scales::BrainPair => {
            Scaling { scale: f32::reinterpret(first << 16u32), bias: f32::reinterpret(first & 0xFFFF_0000u32) }
        }
        Scales::FloatPair => Scaling { scale: f32::reinterpret(first), bias: f32::reinterpret(second) },
        Scales::Table => Scaling { scale: f32::reinterpret(first), bias: none },
        Scales::DoubleTable => {
            let value = f32::reinterpret(words[(starts.map + scale_code(first, group)) as usize]);
            let offset = f32::reinterpret(words[(starts.map + comptime!((MAP - 1) as u32)) as usize]);
            Scaling { scale: value * f32::reinterpret(second) + offset, bias: none }
        }
        Scales::SixBits => {
            let shift = group * 12 % 32;
            let bits = (second >> shift) | (read.third << ((32 - shift) % 32));
            let bias = half(first >> 16u32) * float((bits >> 6u32) & 63u32, 0.0) * -1.0f32;
            Scaling { scale: half(first) * float(bits & 63u32, 0.0), bias }
        }
        Scales::SignedBytes => {
            let pair = first >> (16 * (group / 16 % 2));
            let byte = second >> (8 * (group % 4));
            // The sign bit counts -128; turned around, it counts 128 from -128 on.
            let scale = half(pair) * float((byte & 255u32) ^ 128u32, 128.0);
            Scaling { scale, bias: none }
        }
    }
}

/// The words of a group's scale, counted over all rows.
#[cube]
pub(crate) fn scale_words(words: &Array<u32>, group: u32, starts: &Starts, #[comptime] code: Code) -> ScaleWords {
    let first = words[first_at(group, starts, code) as usize];
    let mut second = 0u32;
    let mut third = 0u32;
    if comptime!(code.has_second()) {
        let at = second_at(group, starts, code);
        second = words[at as usize];
        if comptime!(code.has_third()) {
            if has_third(group) {
                third = words[(at + 1) as usize];
            }
        }
    }
    ScaleWords { first, second, third }
}

/// Scale and bias of a group.
#[cube]
pub(crate) fn scaling(words: &Array<u32>, group: u32, starts: &Starts, #[comptime] code: Code) -> Scaling {
    let read = scale_words(words, group, starts, code);
    scaling_from(words, &read, group, starts, code)
}

/// The words in which up to [`MOST`] integers lie, the first in the lowest bits.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Integers {
    low: u32,
    /// What does not fit the first word.
    next: u32,
    high: u32,
}

/// Reads the integers of `size` elements from one on, a multiple of `size`, counted over all rows.
#[cube]
pub(crate) fn integers(
    words: &Array<u32>,
    element: u32,
    starts: &Starts,
    #[comptime] code: Code,
    #[comptime] size: usize,
) -> Integers {
    let each = comptime!(32 / code.low);
    let at = element / comptime!(each as u32);
    let mut low = words[at as usize];
    let mut next = 0u32;
    let mut high = 0u32;
    if comptime!(size < each) {
        low = low >> (element % comptime!(each as u32) * comptime!(code.low as u32));
    }
    if comptime!(size > each) {
        next = words[(at + 1) as usize];
    }
    if comptime!(code.high > 0) {
        let each_high = comptime!((32 / code.high.max(1)) as u32);
        let word = words[(starts.high + element / each_high) as usize];
        high = word >> (element % each_high * comptime!(code.high as u32));
    }
    Integers { low, next, high }
}

/// What an integer stands for before its scale: itself, its distance from the one that stands for 0, or a value of the table.
#[cube]
pub(crate) fn level(
    integers: &Integers,
    table: &SharedMemory<f32>,
    #[comptime] number: usize,
    #[comptime] code: Code,
) -> f32 {
    let each = comptime!(32 / code.low);
    let shift = comptime!((number % each * code.low) as u32);
    let mask = comptime!((1u32 << code.low) - 1);
    let mut integer =
        if comptime!(number < each) { (integers.low >> shift) & mask } else { (integers.next >> shift) & mask };
    if comptime!(code.high > 0) {
        let upper = (integers.high >> comptime!((number * code.high) as u32)) & comptime!((1u32 << code.high) - 1);
        integer = integer | (upper << comptime!(code.low as u32));
    }
    if comptime!(code.has_table()) { table[integer as usize] } else { float(integer, comptime!(code.zero())) }
}

/// The `N` elements of a packed matrix from one on, computed in f32 and rounded once.
///
/// `N` is at most [`MOST`], and `element`, counted in row-major order over all rows, a multiple of it: such a vector lies within a
/// group. `table` is what [`table`] returned.
#[cube]
pub(crate) fn read<F: Float, N: Size>(
    words: &Array<u32>,
    table: &SharedMemory<f32>,
    element: u32,
    starts: &Starts,
    #[comptime] code: Code,
) -> Vector<F, N> {
    let scaling = scaling(words, element / comptime!(code.group as u32), starts, code);
    let mut weights = Vector::<f32, N>::new(0.0f32);
    let size = weights.size().comptime();
    let integers = integers(words, element, starts, code, size);
    #[unroll]
    for lane in 0..size {
        weights[lane] = level(&integers, table, lane, code);
    }
    weights = weights * Vector::new(scaling.scale);
    if comptime!(code.has_bias()) {
        weights += Vector::new(scaling.bias);
    }
    Vector::<F, N>::cast_from(weights)
}

#[cube(launch_unchecked)]
fn dequantize_kernel<F: Float, N: Size>(
    words: &Array<u32>,
    out: &mut Array<Vector<F, N>>,
    first: u32,
    count: u32,
    starts: Starts,
    #[comptime] code: Code,
    #[define(F)] _dtype: StorageType,
) {
    let table = table(code);
    let size = comptime!(out.vector_size() as u32);
    let mut at = ABSOLUTE_POS_X;
    while at < count {
        out[at as usize] = read::<F, N>(words, &table, first + at * size, &starts, code);
        at += CUBE_COUNT_X * CUBE_DIM_X;
    }
}

/// Rows of a packed matrix as a dense one, `[rows, in]`: the scratch of a product.
pub(crate) fn dequantize<R: CubeRuntime>(
    planes: &Planes,
    words: CubeTensor<R>,
    rows: Range<usize>,
    dtype: DType,
) -> CubeTensor<R> {
    let words = contiguous(words);
    let inputs = planes.dims[1];
    let out = empty(&words, [rows.len(), inputs], dtype);
    let size = vector_size(&[&out], MOST);
    let count = rows.len() * inputs / size;
    let client = words.client.clone();
    // SAFETY: the rows are those of the matrix, and `out` holds `count` vectors.
    unsafe {
        dequantize_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(count.div_ceil(THREADS * VECTORS).clamp(1, MAX_CUBES) as u32, 1, 1),
            CubeDim::new_1d(THREADS as u32),
            size,
            words.into_array_arg(),
            out.clone().into_array_arg(),
            (rows.start * inputs) as u32,
            count as u32,
            planes.starts(),
            planes.code(),
            dtype.into(),
        );
    }
    out
}

#[cube(launch_unchecked)]
fn rows_kernel<F: Float, I: Int, N: Size>(
    words: &Array<u32>,
    rows: &Array<I>,
    out: &mut Array<Vector<F, N>>,
    outputs: u32,
    count: u32,
    starts: Starts,
    vectors: u32,
    #[comptime] code: Code,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _rows: StorageType,
) {
    let table = table(code);
    let size = comptime!(out.vector_size() as u32);
    let mut at = ABSOLUTE_POS_X;
    while at < count {
        let row = u32::cast_from(rows[(at / vectors) as usize]);
        if row < outputs {
            let element = (row * vectors + at % vectors) * size;
            out[at as usize] = read::<F, N>(words, &table, element, &starts, code);
        } else {
            // From a variable: bits of a literal can't be taken in MSL.
            let nan = f32::reinterpret((row | 0x7FC0_0000u32) & 0x7FC0_0000u32);
            out[at as usize] = Vector::new(F::cast_from(nan));
        }
        at += CUBE_COUNT_X * CUBE_DIM_X;
    }
}

/// Rows of a packed matrix by their numbers, `[count, in]`; NaN for a row outside the matrix.
pub(crate) fn rows<R: CubeRuntime>(
    planes: &Planes,
    words: CubeTensor<R>,
    rows: CubeTensor<R>,
    dtype: DType,
) -> CubeTensor<R> {
    let (words, rows) = (contiguous(words), contiguous(rows));
    let [outputs, inputs] = planes.dims;
    let numbers = rows.meta.shape().num_elements();
    let out = empty(&words, [numbers, inputs], dtype);
    let size = vector_size(&[&out], MOST);
    let count = numbers * inputs / size;
    let (client, row_dtype) = (words.client.clone(), rows.dtype);
    // SAFETY: `out` holds `count` vectors, and a row beyond the last one is not read.
    unsafe {
        rows_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(count.div_ceil(THREADS).clamp(1, MAX_CUBES) as u32, 1, 1),
            CubeDim::new_1d(THREADS as u32),
            size,
            words.into_array_arg(),
            rows.into_array_arg(),
            out.clone().into_array_arg(),
            outputs as u32,
            count as u32,
            planes.starts(),
            (inputs / size) as u32,
            planes.code(),
            dtype.into(),
            row_dtype.into(),
        );
    }
    out
}
