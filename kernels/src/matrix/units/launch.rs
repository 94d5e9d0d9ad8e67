//! The launch of a product by tensor operations.

use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::super::call::Call;
use super::super::candidate::BAND;
use super::super::operands::Operands;
use super::super::packed::WordsLaunch;
use super::super::parts::sum_of_parts;
use super::super::plan::{Extents, Fragment};
use super::super::product::{More, Product};
use super::super::tile::Ragged;
use super::plan::{UNIT_STEP, UnitPlan, UnitTiles};
use super::{dense, packed};
use crate::cube::launch::contiguous;
use crate::runtime::KernelRuntime;

impl<R: KernelRuntime> Call<R> {
    /// By tensor operations on tiles of that shape, whether or not they were checked.
    pub(in crate::matrix) fn on_units(mut self, tiles: UnitTiles, parts: Option<usize>) -> CubeTensor<R> {
        let Extents { m, n, k } = self.extents;
        let client = self.product.a.client.clone();
        let operand_dtype = self.product.a.dtype;
        let packed = self.product.planes.is_some();
        // Those of the plan's fragments divide all rows.
        let vector = if packed { self.vector(Fragment { m: 8, n: 8, k: 8 }) } else { 1 };
        if !packed {
            // LoRA factors, which are small.
            let same = |b: CubeTensor<R>| if b.dtype == operand_dtype { b } else { contiguous(cast(b, operand_dtype)) };
            self.product.b = same(self.product.b);
            self.product.more = self.product.more.map(|more| More { b: same(more.b), ..more });
        }
        let cubes = tiles.cubes(m, n);
        let parts = self.parts(cubes, UNIT_STEP, if packed { Some(1) } else { parts });
        let (out, sizes) = (self.target(parts), self.sizes(parts));
        let alpha = self.product.alpha as f32;
        let Product { a, b, planes, transposed_a, transposed_b, more, out: dtype, .. } = self.product;
        let ragged = Ragged { m: false, n: packed && n % tiles.n != 0, k: packed && k % UNIT_STEP != 0 };
        let plan = UnitPlan { tiles, transposed_a, transposed_b, more: more.is_some(), band: BAND, vector, ragged };
        let operands = Operands::new(a, b, planes, more);
        let more_dtype = operands.more_b.dtype;
        let (count, dim) = (CubeCount::Static(cubes as u32, parts.count as u32, 1), CubeDim::new_1d(tiles.threads() as u32));
        // SAFETY: operations read what is within the extents that they are given, and threads write within those of the result.
        unsafe {
            match planes {
                None => dense::product_kernel::launch_unchecked::<R>(
                    &launching(&client),
                    count,
                    dim,
                    operands.a.into_array_arg(),
                    operands.b.into_array_arg(),
                    operands.more_a.into_array_arg(),
                    operands.more_b.into_array_arg(),
                    out.clone().into_array_arg(),
                    sizes,
                    alpha,
                    plan,
                    operand_dtype.into(),
                    out.dtype.into(),
                ),
                Some(planes) => packed::product_kernel::launch_unchecked::<R>(
                    &launching(&client),
                    count,
                    dim,
                    vector,
                    operands.a.into_array_arg(),
                    WordsLaunch::new(operands.b.into_array_arg(), planes.starts(), planes.code()),
                    operands.more_a.into_array_arg(),
                    operands.more_b.into_array_arg(),
                    out.clone().into_array_arg(),
                    sizes,
                    alpha,
                    plan,
                    operand_dtype.into(),
                    more_dtype.into(),
                    out.dtype.into(),
                ),
            }
        }
        sum_of_parts(out, parts, dtype)
    }
}
