//! A product that is ready to be computed, and which candidates take it.

use burn::tensor::{DType, TensorMetadata};

use super::candidate::{BAND, Candidate, Method, Tiled};
use super::class::ProductClass;
use super::library;
use super::packed::{EIGHT, table_bytes};
use super::parts::Parts;
use super::plan::{Extents, Fragment, Route, has_registers, tiles};
use super::product::{More, Product};
use super::registers::ROW;
use crate::cube::launch::{MAX_CUBES, contiguous, greatest_common_divisor, vector_size};
use crate::runtime::KernelRuntime;

/// Cubes below which a long sum is computed in parts.
const BUSY_CUBES: usize = 256;
/// The same where one side is so narrow that cubes are small.
const BUSY_NARROW_CUBES: usize = 512;
/// Fewest terms of a part.
const MIN_PART: usize = 512;

/// Most bytes of a dense copy of a packed matrix.
pub(super) const SCRATCH: usize = 128 << 20;

/// A product of contiguous operands.
pub(super) struct Call<R: KernelRuntime> {
    pub product: Product<R>,
    pub extents: Extents,
    /// Terms of the second pair of operands.
    pub more_k: usize,
    pub route: Route,
}

impl<R: KernelRuntime> Call<R> {
    /// A product that is ready to be computed; `None` where our kernels have no route for it.
    pub fn new(product: Product<R>) -> Option<Self> {
        let route = product.route()?;
        let a = contiguous(product.a);
        let b = contiguous(product.b);
        let more = product.more.map(|more| More { a: contiguous(more.a), b: contiguous(more.b) });
        let a_shape = a.shape();
        let b_shape = product.planes.map_or_else(|| [b.shape()[0], b.shape()[1]], |planes| planes.dims);
        let [m, k] = if product.transposed_a { [a_shape[1], a_shape[0]] } else { [a_shape[0], a_shape[1]] };
        let n = if product.transposed_b { b_shape[0] } else { b_shape[1] };
        let more_k = more.as_ref().map_or(0, |more| more.a.shape()[1]);
        Some(Self { product: Product { a, b, more, ..product }, extents: Extents { m, n, k }, more_k, route })
    }

    /// The class of this product.
    pub fn class(&self) -> ProductClass {
        let Product { a, b, planes, transposed_a, transposed_b, out, .. } = &self.product;
        let (transposed_a, transposed_b) = (*transposed_a, *transposed_b);
        let b = if planes.is_some() { a.dtype } else { b.dtype };
        ProductClass {
            transposed_a,
            transposed_b,
            extents: ProductClass::round(transposed_a, self.extents),
            more_k: self.more_k,
            dtypes: [a.dtype, b, *out],
            code: planes.map(|planes| planes.code()),
        }
    }

    /// Whether a candidate can compute this product.
    pub fn takes(&self, candidate: Candidate) -> bool {
        let Extents { m, n, k } = self.extents;
        let Product { planes, more, alpha, transposed_a, transposed_b, .. } = &self.product;
        let unscaled = (alpha - 1.0).abs() <= 0.0;
        let fragment = match self.route {
            Route::MatrixUnits(fragment) => Some(fragment),
            Route::Threads | Route::Stock => None,
        };
        (more.is_none() || candidate.parts.is_none())
            && match candidate.method {
                Method::Default | Method::Threads => true,
                Method::Library => library::takes(&self.product, self.extents),
                Method::Scratch => planes.is_some() && n * k * self.product.a.dtype.size() <= SCRATCH,
                Method::Tiled(Tiled { tiles, in_registers, lanes, .. }) => {
                    let whole = m.is_multiple_of(tiles.fragment.m) && n.is_multiple_of(tiles.fragment.n);
                    fragment == Some(tiles.fragment)
                        && in_registers == self.in_registers(tiles.fragment)
                        && (!lanes || (unscaled && whole))
                }
                Method::Units(tiles) => {
                    self.product.a.dtype == DType::F16
                        && !(*transposed_a && (*transposed_b || more.is_some() || planes.is_some()))
                        && tiles.cubes(m, n) <= MAX_CUBES
                        && R::has_tensor_operations(&self.product.a.device)
                }
                Method::Thin(tiles) => self.takes_thin(tiles),
                Method::Direct(tiles) => {
                    let whole = k.is_multiple_of(tiles.fragment.k) && self.more_k.is_multiple_of(tiles.fragment.k);
                    fragment == Some(tiles.fragment)
                        && whole
                        && unscaled
                        && planes.is_none()
                        && !(*transposed_a && more.is_some())
                        && m >= tiles.m
                        && n >= tiles.n
                        && tiles.cubes(m, n) <= MAX_CUBES
                }
            }
    }

    /// Elements of the vectors in which kernels on fragments read operands.
    pub fn vector(&self, fragment: Fragment) -> usize {
        let Extents { m, n, k } = self.extents;
        let Product { a, b, planes, transposed_a, transposed_b, more, .. } = &self.product;
        let mut operands = vec![a];
        operands.extend(planes.is_none().then_some(b));
        operands.extend(more.iter().flat_map(|more| [&more.a, &more.b]));
        // Each operand's rows are whole vectors.
        let inner_a = if *transposed_a { m } else { k };
        let inner_b = match planes {
            Some(_) => EIGHT,
            None if *transposed_b => k,
            None => n,
        };
        let inner = [inner_a, inner_b, self.more_k, fragment.k, fragment.n];
        let length = inner.into_iter().fold(0, greatest_common_divisor);
        vector_size(&operands, length)
    }

    /// Whether kernels access the registers of matrix units.
    pub fn in_registers(&self, fragment: Fragment) -> bool {
        let a = &self.product.a;
        has_registers(&a.client, a.dtype) && self.vector(fragment) == ROW
    }

    /// The tiles of the plan.
    pub fn tiles(&self, fragment: Fragment) -> Tiled {
        let Product { a, planes, .. } = &self.product;
        let in_registers = self.in_registers(fragment);
        let reserved = planes.map_or(0, |planes| table_bytes(planes.code()));
        let tiles = tiles(&a.client, fragment, in_registers, a.dtype.size(), self.extents, reserved);
        Tiled { tiles, in_registers, band: BAND, lanes: false }
    }

    /// The parts of the sum over `k`, in whole steps, where a result has so many cubes; as many as `chosen`, if that is given.
    pub fn parts(&self, cubes: usize, step: usize, chosen: Option<usize>) -> Parts {
        let Extents { m, n, k } = self.extents;
        let busy = if m.min(n) <= 16 { BUSY_NARROW_CUBES } else { BUSY_CUBES };
        let count = match (&self.product.more, chosen) {
            (Some(_), _) => 1,
            (None, Some(chosen)) => chosen.clamp(1, k.div_ceil(step).max(1)),
            (None, None) => (busy / cubes.max(1)).clamp(1, (k / MIN_PART).max(1)),
        };
        let depth = k.div_ceil(count).next_multiple_of(step);
        Parts { count: k.div_ceil(depth).max(1), depth }
    }
}
