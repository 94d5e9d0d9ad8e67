//! The launch of a product.

use burn::tensor::DType;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::call::Call;
use super::candidate::{BAND, Candidate, Method, Tiled};
use super::direct::{self, DirectPlan, DirectTiles};
use super::operands::{Operands, operand};
use super::parts::{Parts, sum_of_parts};
use super::plan::{Extents, Fragment, PackedRoute, Route, route};
use super::product::{More, Product};
use super::threads::{self, ThreadsPlan};
use super::tile::{Ragged, SizesLaunch, TilePlan, Writes};
use super::units::trusted;
use super::{chosen, fragments, library, mma, registers};
use crate::cube::launch::{contiguous, empty, greatest_common_divisor, vector_size};
use crate::packed::Planes;
use crate::packed::cube::dequantize;
use crate::runtime::KernelRuntime;

impl<R: KernelRuntime> Product<R> {
    /// The route of the product; `None` where [`Product::multiply`] returns that.
    pub(super) fn route(&self) -> Option<Route> {
        let route = route(&self.a.client, self.a.dtype);
        let is_readable = self.planes.is_none_or(|planes| planes.on_device(&self.b));
        (route != Route::Stock && is_readable).then_some(route)
    }

    /// Whether [`Product::multiply`] computes the product, which depends on the dtype of `A` and on packed words only.
    pub fn has_route(&self) -> bool {
        self.route().is_some()
    }

    /// The product; `None` where our kernels have no route for the dtype of `A` on this device, or none for packed words.
    pub fn multiply(self) -> Option<CubeTensor<R>> {
        let call = Call::new(self)?;
        let candidate = chosen::candidate(&call);
        Some(call.by(candidate))
    }

    /// The product, and `other`, an adapter's factor that the next product takes: cast to the dtype of `A`, if the same kernel can do
    /// that, which saves a launch.
    pub fn multiply_beside(self, other: CubeTensor<R>) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
        let call = Call::new(self)?;
        let candidate = chosen::candidate(&call);
        Some(call.by_beside(candidate, other))
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

impl<R: KernelRuntime> Call<R> {
    /// The product by a candidate, or by the plan if the candidate does not take it.
    pub fn by(self, candidate: Candidate) -> CubeTensor<R> {
        if !self.takes(candidate) {
            return self.by_plan();
        }
        let Candidate { method, parts } = candidate;
        match (method, self.route) {
            (Method::Library, _) => match library::multiply(&self.product, self.extents) {
                Some(found) => found,
                None => self.by_plan(),
            },
            (Method::Scratch, _) => self.through_scratch(),
            (Method::Tiled(tiled), Route::MatrixUnits(fragment)) => self.on_matrix_units(fragment, Some(tiled), parts),
            (Method::Direct(tiles), _) => self.on_operands(tiles, parts),
            (Method::Units(tiles), _) if trusted::<R>(&self.product.a.device, tiles) => self.on_units(tiles, parts),
            (Method::Thin(tiles), _) => self.on_thin(tiles, parts).unwrap_or_else(Self::by_plan),
            (Method::Threads, _) => self.on_threads(parts),
            (Method::Default | Method::Tiled(_) | Method::Units(_), _) => self.by_plan(),
        }
    }

    /// The product as it is computed where nothing was chosen.
    fn by_plan(self) -> CubeTensor<R> {
        if let Some(found) = library::multiply(&self.product, self.extents) {
            return found;
        }
        match self.planned_thin() {
            Some(tiles) => self.on_thin(tiles, None).unwrap_or_else(Self::on_route),
            None => self.on_route(),
        }
    }

    /// The product by the kernels for any operands.
    fn on_route(self) -> CubeTensor<R> {
        match self.route {
            Route::MatrixUnits(fragment) => self.on_matrix_units(fragment, None, None),
            Route::Threads | Route::Stock => self.on_threads(None),
        }
    }

    /// An uninitialised result, or its parts `[parts, m, n]` in f32.
    pub(super) fn target(&self, parts: Parts) -> CubeTensor<R> {
        let Extents { m, n, .. } = self.extents;
        match parts.count {
            1 => empty(&self.product.a, [m, n], self.product.out),
            count => empty(&self.product.a, [count, m, n], DType::F32),
        }
    }

    /// The extents as the kernels take them.
    pub(super) fn sizes(&self, parts: Parts) -> SizesLaunch<R> {
        let Extents { m, n, k } = self.extents;
        SizesLaunch::new(m as u32, n as u32, k as u32, self.more_k as u32, parts.depth as u32)
    }

    /// From a dense copy.
    fn through_scratch(mut self) -> CubeTensor<R> {
        let Some(planes) = self.product.planes.take() else { return self.by_plan() };
        let dense = dequantize(&planes, self.product.b, 0..planes.dims[0], self.product.a.dtype);
        let call = Self { product: Product { b: dense, ..self.product }, ..self };
        let candidate = chosen::candidate(&call);
        call.by(candidate)
    }

    fn on_matrix_units(mut self, fragment: Fragment, tiled: Option<Tiled>, parts: Option<usize>) -> CubeTensor<R> {
        let Extents { m, n, k } = self.extents;
        let client = self.product.a.client.clone();
        let vector = self.vector(fragment);
        let Tiled { tiles, in_registers, band, lanes } = tiled.unwrap_or_else(|| self.tiles(fragment));
        let Product { a, b, transposed_a, transposed_b, alpha, out: dtype, .. } = &self.product;
        let (transposed_a, transposed_b, alpha, dtype) = (*transposed_a, *transposed_b, *alpha as f32, *dtype);
        let operand_dtype = a.dtype;
        if in_registers && self.product.planes.is_none() && b.dtype != operand_dtype {
            // A LoRA factor, which is small.
            self.product.b = contiguous(cast(self.product.b, operand_dtype));
        }
        let cubes = m.div_ceil(tiles.m) * n.div_ceil(tiles.n);
        let parts = self.parts(cubes, tiles.k, parts);
        let (out, sizes) = (self.target(parts), self.sizes(parts));
        let out_vector = match in_registers {
            // Whole rows pass through shared memory in the dtype of the operands.
            true if out.dtype == operand_dtype && n.is_multiple_of(registers::ROW) => registers::ROW,
            true => 2 - n % 2,
            false if lanes => 1,
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
            band,
            writes: if lanes { Writes::Lanes { cast: out.dtype != DType::F32 } } else { Writes::Scratch },
        };
        let operands = Operands::new(a, b, planes, more);
        let dtypes = [operand_dtype, operands.b_dtype, operands.more_b.dtype, out.dtype];
        macro_rules! launch {
            ($kernel:ident, [$($vector:expr),*], [$($dtype:expr),*]) => {
                $kernel::product_kernel::launch_unchecked::<R>(
                    &launching(&client),
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

    /// On matrix units, from the operands where they are.
    fn on_operands(mut self, tiles: DirectTiles, parts: Option<usize>) -> CubeTensor<R> {
        let Extents { m, n, .. } = self.extents;
        let client = self.product.a.client.clone();
        let operand_dtype = self.product.a.dtype;
        // LoRA factors, which are small.
        let same = |b: CubeTensor<R>| if b.dtype == operand_dtype { b } else { contiguous(cast(b, operand_dtype)) };
        self.product.b = same(self.product.b);
        self.product.more = self.product.more.map(|more| More { b: same(more.b), ..more });
        let cubes = tiles.cubes(m, n);
        let parts = self.parts(cubes, tiles.fragment.k, parts);
        let (out, sizes) = (self.target(parts), self.sizes(parts));
        let Product { a, b, transposed_a, transposed_b, more, out: dtype, .. } = self.product;
        let (more_k, cast) = (more.is_some(), out.dtype != DType::F32);
        let plan = DirectPlan { tiles, transposed_a, transposed_b, more: more_k, band: BAND, cast };
        let operands = Operands::new(a, b, None, more);
        // SAFETY: tiles lie within the result, and depths are whole fragments.
        unsafe {
            direct::product_kernel::launch_unchecked::<R>(
                &launching(&client),
                CubeCount::Static(cubes as u32, parts.count as u32, 1),
                CubeDim::new_1d(tiles.threads() as u32),
                1,
                operands.a.into_array_arg(),
                operands.b.into_array_arg(),
                operands.more_a.into_array_arg(),
                operands.more_b.into_array_arg(),
                out.clone().into_array_arg(),
                sizes,
                plan,
                operand_dtype.into(),
                out.dtype.into(),
            );
        }
        sum_of_parts(out, parts, dtype)
    }

    fn on_threads(self, parts: Option<usize>) -> CubeTensor<R> {
        let Extents { m, n, .. } = self.extents;
        let client = self.product.a.client.clone();
        let cubes = m.div_ceil(threads::TILE) * n.div_ceil(threads::TILE);
        let parts = self.parts(cubes, threads::TILE, parts);
        let (out, sizes) = (self.target(parts), self.sizes(parts));
        let Product { a, b, planes, transposed_a, transposed_b, more, alpha, out: dtype } = self.product;
        let plan = ThreadsPlan { transposed_a, transposed_b, more: more.is_some() };
        let operands = Operands::new(a, b, planes, more);
        let dtypes = [operands.a.dtype, operands.b_dtype, operands.more_b.dtype, out.dtype];
        // SAFETY: threads check their bounds before they read or write.
        unsafe {
            threads::product_kernel::launch_unchecked::<R>(
                &launching(&client),
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
