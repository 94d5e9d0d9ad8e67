//! The launch of a product.

use crate::runtime::KernelRuntime;
use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::packed::{EIGHT, OperandArgs, TABLE_BYTES, WordsLaunch};
use super::plan::{Extents, Fragment, PackedRoute, Route, has_registers, route, tiles};
use super::product::{More, Product};
use super::threads::{self, ThreadsPlan};
use super::tile::{Ragged, SizesLaunch, TilePlan};
use super::{fragments, library, mma, registers};
use crate::cube::launch::{contiguous, cubes, empty, greatest_common_divisor, vector_size};
use crate::packed::Planes;
use crate::packed::cube::dequantize;

/// Cubes below which a long sum is computed in parts.
const BUSY_CUBES: usize = 256;
/// The same where one side is so narrow that cubes are small.
const BUSY_NARROW_CUBES: usize = 512;
/// Fewest terms of a part.
const MIN_PART: usize = 512;

impl<R: KernelRuntime> Product<R> {
    /// The product; `None` where our kernels have no route for the dtype of `A` on this device, or none for packed words.
    pub fn multiply(self) -> Option<CubeTensor<R>> {
        let route = route(&self.a.client, self.a.dtype);
        let readable = self.planes.is_none_or(|planes| planes.on_device(&self.b));
        if route == Route::Stock || !readable {
            return None;
        }
        let a = contiguous(self.a);
        let b = contiguous(self.b);
        let more = self.more.map(|more| More { a: contiguous(more.a), b: contiguous(more.b) });
        let a_shape = a.shape();
        let b_shape = self.planes.map_or_else(|| [b.shape()[0], b.shape()[1]], |planes| planes.dims);
        let [m, k] = if self.transposed_a { [a_shape[1], a_shape[0]] } else { [a_shape[0], a_shape[1]] };
        let n = if self.transposed_b { b_shape[0] } else { b_shape[1] };
        let more_k = more.as_ref().map_or(0, |more| more.a.shape()[1]);
        let (product, extents) = (Self { a, b, more, ..self }, Extents { m, n, k });
        if let Some(found) = library::multiply(&product, extents) {
            return Some(found);
        }
        let call = Call { product, extents, more_k };
        Some(match route {
            Route::MatrixUnits(fragment) => call.on_matrix_units(fragment),
            Route::Threads | Route::Stock => call.on_threads(),
        })
    }
}

/// The product of `a` and a packed matrix whose words are given, `a · Wᵀ` where `transposed`, by one of the routes
/// that the plan chooses from, for measurements and tests. `None` if the device does not have that route.
pub fn multiply_packed<R: KernelRuntime>(
    a: CubeTensor<R>,
    planes: Planes,
    words: CubeTensor<R>,
    transposed: bool,
    route: PackedRoute,
) -> Option<CubeTensor<R>> {
    if !planes.on_device(&words) {
        return None;
    }
    let product = match route {
        PackedRoute::Tiles => Product::packed(a, planes, words),
        PackedRoute::Scratch => {
            let dense = dequantize(&planes, words, 0..planes.dims[0], a.dtype);
            Product::new(a, dense)
        }
    };
    Product { transposed_b: transposed, ..product }.multiply()
}

/// A product of contiguous operands.
struct Call<R: KernelRuntime> {
    product: Product<R>,
    extents: Extents,
    /// Terms of the second pair of operands.
    more_k: usize,
}

/// The parts of a sum, which different cubes compute.
#[derive(Debug, Clone, Copy)]
struct Parts {
    count: usize,
    /// Terms of each.
    depth: usize,
}

impl<R: KernelRuntime> Call<R> {
    /// The parts of the sum over `k`, in whole steps, where a result has so many cubes.
    fn parts(&self, cubes: usize, step: usize) -> Parts {
        let Extents { m, n, k } = self.extents;
        let busy = if m.min(n) <= 16 { BUSY_NARROW_CUBES } else { BUSY_CUBES };
        let count = match self.product.more {
            Some(_) => 1,
            None => (busy / cubes.max(1)).clamp(1, (k / MIN_PART).max(1)),
        };
        let depth = k.div_ceil(count).next_multiple_of(step);
        Parts { count: k.div_ceil(depth).max(1), depth }
    }

    /// An uninitialised result, or its parts `[parts, m, n]` in f32.
    fn target(&self, parts: Parts) -> CubeTensor<R> {
        let Extents { m, n, .. } = self.extents;
        match parts.count {
            1 => empty(&self.product.a, [m, n], self.product.out),
            count => empty(&self.product.a, [count, m, n], DType::F32),
        }
    }

    /// The extents as the kernels take them.
    fn sizes(&self, parts: Parts) -> SizesLaunch<R> {
        let Extents { m, n, k } = self.extents;
        SizesLaunch::new(m as u32, n as u32, k as u32, self.more_k as u32, parts.depth as u32)
    }

    fn on_matrix_units(mut self, fragment: Fragment) -> CubeTensor<R> {
        let Extents { m, n, k } = self.extents;
        let client = self.product.a.client.clone();
        let Product { a, b, transposed_a, transposed_b, more, alpha, out: dtype, .. } = &self.product;
        let (transposed_a, transposed_b, alpha, dtype) = (*transposed_a, *transposed_b, *alpha as f32, *dtype);
        let mut operands = vec![a];
        operands.extend(self.product.planes.is_none().then_some(b));
        operands.extend(more.iter().flat_map(|more| [&more.a, &more.b]));
        // Each operand's rows are whole vectors.
        let inner_a = if transposed_a { m } else { k };
        let inner_b = match self.product.planes {
            Some(_) => EIGHT,
            None if transposed_b => k,
            None => n,
        };
        let inner = [inner_a, inner_b, self.more_k, fragment.k, fragment.n];
        let length = inner.into_iter().fold(0, greatest_common_divisor);
        let vector = vector_size(&operands, length);
        let operand_dtype = a.dtype;
        let in_registers = vector == registers::ROW && has_registers(&client, operand_dtype);
        if in_registers && self.product.planes.is_none() && b.dtype != operand_dtype {
            // A LoRA factor, which is small.
            self.product.b = contiguous(cast(self.product.b, operand_dtype));
        }
        let reserved = self.product.planes.map_or(0, |_| TABLE_BYTES);
        let tiles = tiles(&client, fragment, in_registers, operand_dtype.size(), self.extents, reserved);
        let cubes = m.div_ceil(tiles.m) * n.div_ceil(tiles.n);
        let parts = self.parts(cubes, tiles.k);
        let (out, sizes) = (self.target(parts), self.sizes(parts));
        let out_vector = match in_registers {
            // Whole rows pass through shared memory in the dtype of the operands.
            true if out.dtype == operand_dtype && n.is_multiple_of(registers::ROW) => registers::ROW,
            true => 2 - n % 2,
            false => vector_size(&[&out], greatest_common_divisor(n, fragment.n)),
        };
        let Product { a, b, planes, more, .. } = self.product;
        let plan = TilePlan {
            tiles,
            transposed_a,
            transposed_b,
            more: more.is_some(),
            ragged: Ragged { m: m % tiles.m != 0, n: n % tiles.n != 0, k: k % tiles.k != 0 },
            vector,
            out_vector,
        };
        let operands = Operands::new(a, b, planes, more);
        let dtypes = [operand_dtype, operands.b_dtype, operands.more_b.dtype, out.dtype];
        macro_rules! launch {
            ($kernel:ident, [$($vector:expr),*], [$($dtype:expr),*]) => {
                $kernel::product_kernel::launch_unchecked::<R>(
                    &client,
                    CubeCount::Static(cubes as u32, parts.count as u32, 1),
                    CubeDim::new_1d(tiles.threads() as u32),
                    $($vector,)*
                    operands.a.into_array_arg(),
                    operand(operands.b, planes),
                    operands.more_a.into_array_arg(),
                    operands.more_b.into_array_arg(),
                    out.clone().into_array_arg(),
                    sizes,
                    alpha,
                    plan,
                    $($dtype.into(),)*
                )
            };
        }
        // SAFETY: extents that are not whole tiles are marked ragged, and threads then check their bounds before they read or
        // write.
        unsafe {
            if in_registers {
                launch!(mma, [vector, 2, out_vector], [dtypes[0], dtypes[2], dtypes[3]]);
            } else {
                launch!(fragments, [vector, out_vector], [dtypes[0], dtypes[1], dtypes[2], dtypes[3]]);
            }
        }
        sum_of_parts(out, parts, dtype)
    }

    fn on_threads(self) -> CubeTensor<R> {
        let Extents { m, n, .. } = self.extents;
        let client = self.product.a.client.clone();
        let cubes = m.div_ceil(threads::TILE) * n.div_ceil(threads::TILE);
        let parts = self.parts(cubes, threads::TILE);
        let (out, sizes) = (self.target(parts), self.sizes(parts));
        let Product { a, b, planes, transposed_a, transposed_b, more, alpha, out: dtype } = self.product;
        let plan = ThreadsPlan { transposed_a, transposed_b, more: more.is_some() };
        let operands = Operands::new(a, b, planes, more);
        let dtypes = [operands.a.dtype, operands.b_dtype, operands.more_b.dtype, out.dtype];
        // SAFETY: threads check their bounds before they read or write.
        unsafe {
            threads::product_kernel::launch_unchecked::<R>(
                &client,
                CubeCount::Static(cubes as u32, parts.count as u32, 1),
                CubeDim::new_1d(threads::THREADS as u32),
                operands.a.into_array_arg(),
                operand(operands.b, planes),
                operands.more_a.into_array_arg(),
                operands.more_b.into_array_arg(),
                out.clone().into_array_arg(),
                sizes,
                alpha as f32,
                plan,
                dtypes[0].into(),
                dtypes[1].into(),
                dtypes[2].into(),
                dtypes[3].into(),
            );
        }
        sum_of_parts(out, parts, dtype)
    }
}

/// The bindings of a kernel. They are always the same, so another tensor replaces an absent one.
struct Operands<R: KernelRuntime> {
    a: CubeTensor<R>,
    b: CubeTensor<R>,
    /// That of `A`, where `B` is packed.
    b_dtype: DType,
    more_a: CubeTensor<R>,
    more_b: CubeTensor<R>,
}

impl<R: KernelRuntime> Operands<R> {
    fn new(a: CubeTensor<R>, b: CubeTensor<R>, planes: Option<Planes>, more: Option<More<R>>) -> Self {
        let dense = if planes.is_some() { &a } else { &b };
        let (b_dtype, absent) = (dense.dtype, (a.clone(), dense.clone()));
        let (more_a, more_b) = more.map_or(absent, |more| (more.a, more.b));
        Self { a, b, b_dtype, more_a, more_b }
    }
}

/// `B` as a kernel binds it.
fn operand<E: CubePrimitive, R: KernelRuntime>(b: CubeTensor<R>, planes: Option<Planes>) -> OperandArgs<E, R> {
    match planes {
        None => OperandArgs::Dense(b.into_array_arg()),
        Some(planes) => OperandArgs::Packed(WordsLaunch::new(b.into_array_arg(), planes.starts(), planes.code())),
    }
}

const SUM_THREADS: usize = 256;

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
        let mut sum = parts[at];
        for part in 1..number {
            sum += parts[at + (part * count) as usize];
        }
        out[at] = Vector::<O, N>::cast_from(sum);
    }
}

/// Adds the parts of a product, in their order.
fn sum_of_parts<R: KernelRuntime>(out: CubeTensor<R>, parts: Parts, dtype: DType) -> CubeTensor<R> {
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
            &client,
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
