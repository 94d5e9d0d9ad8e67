//! The launch of products with a thin operand, and which products these are.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::super::call::Call;
use super::super::candidate::{Candidate, Method};
use super::super::library::is_aligned;
use super::super::parts::{Parts, sum_of_parts};
use super::super::plan::{Extents, has_registers};
use super::super::product::Product;
use super::super::registers::{M, N, ROW};
use super::columns::{ColumnsPlan, column_kernel};
use super::plan::{BLOCK, ThinTiles};
use super::rows::{RowSizesLaunch, RowsPlan, row_kernel};
use crate::cube::launch::{MAX_CUBES, contiguous, empty};
use crate::runtime::KernelRuntime;

/// Columns, or rows, of thin operands.
const THIN: [usize; 4] = [8, 16, 32, 64];
/// Rows of a result, or terms of its sums, from which the plan takes these kernels.
const LEAST: usize = 1024;

/// Elements of a vector of a matrix that is cast meanwhile.
const CAST: usize = 4;

/// Which operand is thin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    /// `B`, and the result has a row for each row of `A`.
    Rows,
    /// `A` or `B`, and the sums are over the rows of both.
    Columns { thin_a: bool },
}

impl Form {
    fn of<R: KernelRuntime>(call: &Call<R>) -> Option<(Self, usize)> {
        let Extents { m, n, k } = call.extents;
        let Product { a, b, planes, transposed_a, transposed_b, more, .. } = &call.product;
        let plain =
            planes.is_none() && more.is_none() && has_registers(&a.client, a.dtype) && is_aligned(a) && is_aligned(b);
        let (same, castable) = (b.dtype == a.dtype, b.dtype == a.dtype || b.dtype == DType::F32);
        let is_thin = |extent: usize| THIN.contains(&extent);
        match (*transposed_a, *transposed_b) {
            _ if !plain || m * n * k == 0 => None,
            (false, _) => (castable && is_thin(n) && k.is_multiple_of(BLOCK)).then_some((Self::Rows, n)),
            (true, false) if same && is_thin(m) && n.is_multiple_of(BLOCK) => Some((Self::Columns { thin_a: true }, m)),
            (true, false) if same && is_thin(n) && m.is_multiple_of(BLOCK) => Some((Self::Columns { thin_a: false }, n)),
            (true, _) => None,
        }
    }
}

fn processors<R: KernelRuntime>(call: &Call<R>) -> usize {
    call.product.a.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(1) as usize
}

impl<R: KernelRuntime> Call<R> {
    /// Whether kernels for thin operands can compute this product.
    pub(in super::super) fn takes_thin(&self, tiles: ThinTiles) -> bool {
        let Extents { m, n, .. } = self.extents;
        let most = self.product.a.client.properties().hardware.max_shared_memory_size;
        let fits = |(form, thin): (Form, usize)| {
            let (cubes, sums) = match form {
                Form::Rows => (m.div_ceil(tiles.fragments * M), tiles.fragments * M * (thin + 1)),
                Form::Columns { .. } => (m.max(n) / BLOCK, M * (BLOCK + 1)),
            };
            let in_registers = form != Form::Rows || tiles.fragments * thin <= 64;
            in_registers && cubes <= MAX_CUBES && tiles.planes * sums * size_of::<f32>() <= most
        };
        Form::of(self).is_some_and(fits)
    }

    /// The tiles with which the plan computes this product, if it takes these kernels.
    pub(in super::super) fn planned_thin(&self) -> Option<ThinTiles> {
        let Extents { m, k, .. } = self.extents;
        let (form, thin) = Form::of(self)?;
        let tiles = match form {
            Form::Rows => {
                // One cube, or two, for each processor.
                let filled = |fragments: &usize| m >= fragments * M * processors(self) * 3 / 4;
                let fragments = [4, 2].into_iter().filter(|fragments| fragments * thin <= 64).find(filled).unwrap_or(1);
                ThinTiles { fragments, planes: if fragments > 1 { 16 } else { 8 } }
            }
            Form::Columns { .. } => ThinTiles { fragments: 4, planes: 8 },
        };
        let deep = if form == Form::Rows { m } else { k };
        (deep >= LEAST && self.takes_thin(tiles)).then_some(tiles)
    }

    /// The tiles that can be chosen, each with so many parts of the sum.
    pub(in super::super) fn thin_candidates(&self) -> Vec<(ThinTiles, Option<usize>)> {
        let tiles = |fragments, planes| ThinTiles { fragments, planes };
        let all = [tiles(1, 8), tiles(2, 4), tiles(2, 8), tiles(4, 8), tiles(2, 16), tiles(4, 16)];
        let takes = |tiles: &ThinTiles| self.takes_thin(*tiles);
        let mut found: Vec<_> = all.into_iter().filter(takes).map(|tiles| (tiles, None)).collect();
        if let (Some((Form::Columns { .. }, _)), Some(tiles)) = (Form::of(self), self.planned_thin()) {
            let planned = self.thin_parts(tiles, None).count;
            found
                .extend([planned / 2, 2 * planned].into_iter().filter(|parts| *parts > 0).map(|parts| (tiles, Some(parts))));
        }
        found
    }

    /// The parts of a sum over rows: two cubes for each processor.
    fn thin_parts(&self, tiles: ThinTiles, chosen: Option<usize>) -> Parts {
        let Extents { m, n, k } = self.extents;
        let step = tiles.planes * tiles.fragments * M;
        let planned = (2 * processors(self) / (m.max(n) / BLOCK)).clamp(1, k.div_ceil(step));
        self.parts(m.max(n) / BLOCK, step, Some(chosen.unwrap_or(planned)))
    }

    /// The product, if its form is right.
    pub(in super::super) fn on_thin(self, tiles: ThinTiles, parts: Option<usize>) -> Result<CubeTensor<R>, Self> {
        match Form::of(&self) {
            Some((Form::Rows, _)) => Ok(self.thin_rows(tiles, None).0),
            Some((Form::Columns { thin_a }, thin)) => Ok(self.thin_columns(tiles, thin_a, thin, parts)),
            None => Err(self),
        }
    }

    /// The tiles with which a candidate computes this product, if that has a row for each of the wide operand's.
    fn thin_rows_of(&self, candidate: Candidate) -> Option<ThinTiles> {
        if !matches!(Form::of(self), Some((Form::Rows, _))) {
            return None;
        }
        match candidate.method {
            Method::Default if !self.takes(Candidate::new(Method::Library)) => self.planned_thin(),
            Method::Thin(tiles) if self.takes_thin(tiles) => Some(tiles),
            _ => None,
        }
    }

    /// The product by a candidate, and a matrix in f32, which becomes one of the dtype of `A` if the same kernel can do that.
    pub(in super::super) fn by_beside(self, candidate: Candidate, other: CubeTensor<R>) -> (CubeTensor<R>, CubeTensor<R>) {
        let other = contiguous(other);
        let whole = other.dtype == DType::F32 && is_aligned(&other) && other.shape().num_elements().is_multiple_of(CAST);
        match self.thin_rows_of(candidate).filter(|_| whole) {
            Some(tiles) => self.thin_rows(tiles, Some(other)),
            None => (self.by(candidate), other),
        }
    }

    /// The product, and the matrix `cast`, if there is one, in the dtype of `A`; else the product twice.
    fn thin_rows(self, tiles: ThinTiles, cast: Option<CubeTensor<R>>) -> (CubeTensor<R>, CubeTensor<R>) {
        let Extents { m, n, k } = self.extents;
        let out = self.target(Parts { count: 1, depth: k });
        let copy = cast.as_ref().map_or_else(|| out.clone(), |other| empty(other, other.shape(), self.product.a.dtype));
        let count = cast.as_ref().map_or(0, |other| other.shape().num_elements() / CAST);
        let Product { a, b, transposed_b, alpha, .. } = self.product;
        let (client, dtypes) = (a.client.clone(), [a.dtype, b.dtype, out.dtype]);
        // A kernel always has the same bindings, so another tensor replaces an absent one.
        let other = cast.unwrap_or_else(|| b.clone());
        let plan = RowsPlan { thin: n, transposed: transposed_b, casts: count > 0, tiles };
        let thin_vector = if transposed_b { 16 / b.dtype.size() } else { (n / N).min(4) };
        // SAFETY: rows beyond the operand are replaced by its last, and not written; `k` is in whole blocks.
        unsafe {
            row_kernel::launch_unchecked::<R>(
                &launching(&client),
                CubeCount::Static(m.div_ceil(tiles.fragments * M) as u32, 1, 1),
                CubeDim::new_1d(tiles.threads() as u32),
                ROW,
                thin_vector,
                CAST,
                a.into_array_arg(),
                b.into_array_arg(),
                out.clone().into_array_arg(),
                other.into_array_arg(),
                copy.clone().into_array_arg(),
                RowSizesLaunch::new(m as u32, k as u32, count as u32),
                alpha as f32,
                plan,
                dtypes[0].into(),
                dtypes[1].into(),
                dtypes[2].into(),
            );
        }
        (out, copy)
    }

    fn thin_columns(self, tiles: ThinTiles, thin_a: bool, thin: usize, parts: Option<usize>) -> CubeTensor<R> {
        let Extents { m, n, k } = self.extents;
        let width = if thin_a { n } else { m };
        let parts = self.thin_parts(tiles, parts);
        let out = self.target(parts);
        let Product { a, b, alpha, out: dtype, .. } = self.product;
        let (client, operands, written) = (a.client.clone(), a.dtype, out.dtype);
        let [wide_operand, thin_operand] = if thin_a { [b, a] } else { [a, b] };
        let plan = ColumnsPlan { thin, across: thin_a, tiles };
        // SAFETY: rows beyond the operands are replaced by the last, times zero; the width is in whole blocks.
        unsafe {
            column_kernel::launch_unchecked::<R>(
                &launching(&client),
                CubeCount::Static((width / BLOCK) as u32, parts.count as u32, 1),
                CubeDim::new_1d(tiles.threads() as u32),
                ROW,
                2,
                wide_operand.into_array_arg(),
                thin_operand.into_array_arg(),
                out.clone().into_array_arg(),
                k as u32,
                width as u32,
                parts.depth as u32,
                alpha as f32,
                plan,
                operands.into(),
                written.into(),
            );
        }
        sum_of_parts(out, parts, dtype)
    }
}
