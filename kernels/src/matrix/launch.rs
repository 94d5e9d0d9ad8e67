//! The launch of a product.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::lanes::{self, LanesPlan};
use super::plan::{Fragment, Route, has_registers, route, tiles};
use super::tile::TilePlan;
use super::{mma, registers, units};
use crate::cube::launch::{contiguous, cubes, empty, greatest_common_divisor, vector_size};

/// Cubes below which a long sum is taken in parts.
const BUSY_CUBES: usize = 256;
/// The same where one side is so narrow that cubes are small.
const BUSY_NARROW_CUBES: usize = 512;
/// Least depth of a part.
const LEAST_PART: usize = 512;

/// A second pair of operands: `A₂` `[m, k₂]`, and `B₂` as `B` lies.
pub(crate) struct More<R: CubeRuntime> {
    /// Of the dtype of `A`.
    pub a: CubeTensor<R>,
    /// Of any float dtype; it is cast to that of `A`.
    pub b: CubeTensor<R>,
}

/// A product to take: `alpha · (A B + A₂ B₂)`.
pub(crate) struct Product<R: CubeRuntime> {
    /// `[m, k]`, or `[k, m]` where transposed.
    pub a: CubeTensor<R>,
    /// `[k, n]`, or `[n, k]` where transposed; of any float dtype.
    pub b: CubeTensor<R>,
    /// Whether `A` lies as `[k, m]`.
    pub transposed_a: bool,
    /// Whether `B` lies as `[n, k]`.
    pub transposed_b: bool,
    /// A second pair.
    pub more: Option<More<R>>,
    /// Factor on the result.
    pub alpha: f64,
    /// Dtype of the result.
    pub out: DType,
}

/// Takes a product; `None` where the device has no route of ours for the dtype of `A`.
pub(crate) fn multiply<R: CubeRuntime>(product: Product<R>) -> Option<CubeTensor<R>> {
    let route = route(&product.a.client, product.a.dtype);
    let fragment = match route {
        Route::MatrixUnits(fragment) => Some(fragment),
        Route::Lanes => None,
        Route::Stock => return None,
    };
    let a = contiguous(product.a);
    let b = contiguous(product.b);
    let more = product.more.map(|more| More { a: contiguous(more.a), b: contiguous(more.b) });
    let (m, k) = sides(&a, product.transposed_a);
    let (_, n) = sides(&b, product.transposed_b);
    let more_k = more.as_ref().map_or(0, |more| more.a.shape()[1]);
    let call = Call { a, b, more, sizes: [m, n, k], more_k, alpha: product.alpha, out: product.out };
    let (transposed_a, transposed_b) = (product.transposed_a, product.transposed_b);
    let parted = match fragment {
        Some(fragment) => call.on_units(fragment, transposed_a, transposed_b),
        None => call.on_lanes(transposed_a, transposed_b),
    };
    Some(parted)
}

/// Rows and columns of an operand as the product sees it: `B` transposed has its `n` first in memory, too.
fn sides<R: CubeRuntime>(operand: &CubeTensor<R>, transposed: bool) -> (usize, usize) {
    let shape = operand.shape();
    if transposed { (shape[1], shape[0]) } else { (shape[0], shape[1]) }
}

struct Call<R: CubeRuntime> {
    a: CubeTensor<R>,
    b: CubeTensor<R>,
    more: Option<More<R>>,
    sizes: [usize; 3],
    more_k: usize,
    alpha: f64,
    out: DType,
}

impl<R: CubeRuntime> Call<R> {
    /// In how many parts the sum over `k` is taken, and their depth.
    fn parts(&self, cubes: usize, depth: usize) -> (usize, usize) {
        let [m, n, k] = self.sizes;
        let busy = if m.min(n) <= 16 { BUSY_NARROW_CUBES } else { BUSY_CUBES };
        let wanted = if self.more.is_some() { 1 } else { (busy / cubes.max(1)).clamp(1, (k / LEAST_PART).max(1)) };
        let part = k.div_ceil(wanted).next_multiple_of(depth);
        (k.div_ceil(part).max(1), part)
    }

    /// The result, or its parts `[parts, m, n]` in f32.
    fn target(&self, parts: usize) -> CubeTensor<R> {
        let [m, n, _] = self.sizes;
        if parts == 1 { empty(&self.a, [m, n], self.out) } else { empty(&self.a, [parts, m, n], DType::F32) }
    }

    fn on_units(mut self, fragment: Fragment, transposed_a: bool, transposed_b: bool) -> CubeTensor<R> {
        let [m, n, k] = self.sizes;
        let client = self.a.client.clone();
        let mut operands = vec![&self.a, &self.b];
        if let Some(more) = &self.more {
            operands.extend([&more.a, &more.b]);
        }
        // Each operand's rows are whole vectors.
        let inner_a = if transposed_a { m } else { k };
        let inner_b = if transposed_b { k } else { n };
        let inner = [inner_a, inner_b, self.more_k, fragment.k, fragment.n];
        let length = inner.into_iter().fold(0, greatest_common_divisor);
        let vector = vector_size(&operands, length);
        let in_registers = vector == registers::ROW && has_registers(&client, self.a.dtype);
        if in_registers && self.b.dtype != self.a.dtype {
            // An adapter's factor, which is small.
            self.b = contiguous(cast(self.b, self.a.dtype));
        }
        let tiles = tiles(&client, fragment, in_registers, self.a.dtype.size(), [m, n, k]);
        let cubes = m.div_ceil(tiles.m) * n.div_ceil(tiles.n);
        let (parts, part) = self.parts(cubes, tiles.k);
        let out = self.target(parts);
        let out_vector = match in_registers {
            // What goes through shared memory on its way has the dtype of the operands there.
            true if out.dtype == self.a.dtype && n.is_multiple_of(registers::ROW) => registers::ROW,
            true => 2 - n % 2,
            false => vector_size(&[&out], greatest_common_divisor(n, fragment.n)),
        };
        let plan = TilePlan {
            tiles,
            transposed_a,
            transposed_b,
            more: self.more.is_some(),
            ragged: [m % tiles.m != 0, n % tiles.n != 0, k % tiles.k != 0],
            vector,
            out_vector,
        };
        let dtypes = [self.a.dtype, self.b.dtype, self.more.as_ref().map_or(self.b.dtype, |more| more.b.dtype), out.dtype];
        let (more_a, more_b) = match self.more {
            Some(more) => (more.a, more.b),
            None => (self.a.clone(), self.b.clone()),
        };
        macro_rules! launch {
            ($kernel:ident, [$($vector:expr),*], [$($dtype:expr),*]) => {
                $kernel::product_kernel::launch_unchecked::<R>(
                    &client,
                    CubeCount::Static(cubes as u32, parts as u32, 1),
                    CubeDim::new_1d(tiles.units() as u32),
                    $($vector,)*
                    self.a.into_array_arg(),
                    self.b.into_array_arg(),
                    more_a.into_array_arg(),
                    more_b.into_array_arg(),
                    out.clone().into_array_arg(),
                    m as u32,
                    n as u32,
                    k as u32,
                    self.more_k as u32,
                    part as u32,
                    self.alpha as f32,
                    plan,
                    $($dtype.into(),)*
                )
            };
        }
        // SAFETY: tiles that reach beyond a matrix are marked ragged, and their units compare before they read or write.
        unsafe {
            if in_registers {
                launch!(mma, [vector, 2, out_vector], [dtypes[0], dtypes[2], dtypes[3]]);
            } else {
                launch!(units, [vector, out_vector], [dtypes[0], dtypes[1], dtypes[2], dtypes[3]]);
            }
        }
        summed(out, parts, self.out)
    }

    fn on_lanes(self, transposed_a: bool, transposed_b: bool) -> CubeTensor<R> {
        let [m, n, k] = self.sizes;
        let client = self.a.client.clone();
        let cubes = m.div_ceil(lanes::TILE) * n.div_ceil(lanes::TILE);
        let (parts, part) = self.parts(cubes, lanes::TILE);
        let out = self.target(parts);
        let plan = LanesPlan { transposed_a, transposed_b, more: self.more.is_some() };
        let dtypes = [self.a.dtype, self.b.dtype, self.more.as_ref().map_or(self.b.dtype, |more| more.b.dtype), out.dtype];
        let (more_a, more_b) = match self.more {
            Some(more) => (more.a, more.b),
            None => (self.a.clone(), self.b.clone()),
        };
        // SAFETY: units compare with the sizes before they read or write.
        unsafe {
            lanes::product_kernel::launch_unchecked::<R>(
                &client,
                CubeCount::Static(cubes as u32, parts as u32, 1),
                CubeDim::new_1d(lanes::UNITS as u32),
                self.a.into_array_arg(),
                self.b.into_array_arg(),
                more_a.into_array_arg(),
                more_b.into_array_arg(),
                out.clone().into_array_arg(),
                m as u32,
                n as u32,
                k as u32,
                self.more_k as u32,
                part as u32,
                self.alpha as f32,
                plan,
                dtypes[0].into(),
                dtypes[1].into(),
                dtypes[2].into(),
                dtypes[3].into(),
            );
        }
        summed(out, parts, self.out)
    }
}

const SUM_UNITS: usize = 256;

#[cube(launch_unchecked)]
fn sum_kernel<O: Float, N: Size>(
    parts: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<O, N>>,
    count: u32,
    #[comptime] number: usize,
    #[define(O)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at < count as usize {
        let mut sum = parts[at];
        #[unroll]
        for part in 1..number {
            sum += parts[at + part * count as usize];
        }
        out[at] = Vector::<O, N>::cast_from(sum);
    }
}

/// Adds up the parts of a product, in their order.
fn summed<R: CubeRuntime>(out: CubeTensor<R>, parts: usize, dtype: DType) -> CubeTensor<R> {
    if parts == 1 {
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
            &client,
            cubes(count.div_ceil(SUM_UNITS)),
            CubeDim::new_1d(SUM_UNITS as u32),
            size,
            out.into_array_arg(),
            sum.clone().into_array_arg(),
            count as u32,
            parts,
            dtype.into(),
        );
    }
    sum
}
