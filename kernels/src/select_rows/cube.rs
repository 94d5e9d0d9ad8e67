//! The GPU kernel: a unit copies a vector of the gradient to its row.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cube::launch::{contiguous, cubes, vector_size};

const UNITS: usize = 256;

#[cube(launch_unchecked)]
fn spread_kernel<F: Float, I: Int, N: Size>(
    grad: &Array<Vector<F, N>>,
    places: &Array<I>,
    out: &mut Array<Vector<F, N>>,
    count: u32,
    vectors: u32,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _places: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at < count as usize {
        let row = u32::cast_from(places[at / vectors as usize]);
        out[(row * vectors) as usize + at % vectors as usize] = grad[at];
    }
}

/// `zeros`, with the rows of `grad` at `places`.
pub(crate) fn spread<R: CubeRuntime>(grad: CubeTensor<R>, places: CubeTensor<R>, zeros: CubeTensor<R>) -> CubeTensor<R> {
    let (grad, places, out) = (contiguous(grad), contiguous(places), contiguous(zeros));
    let shape = grad.shape();
    let size = vector_size(&[&grad, &out], shape[1]);
    let (client, dtype, place_dtype) = (grad.client.clone(), grad.dtype, places.dtype);
    let vectors = shape[1] / size;
    let count = shape[0] * vectors;
    // SAFETY: places are below the rows of `out`, none comes twice, and a unit stays within `count`.
    unsafe {
        spread_kernel::launch_unchecked::<R>(
            &client,
            cubes(count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            size,
            grad.into_array_arg(),
            places.into_array_arg(),
            out.clone().into_array_arg(),
            count as u32,
            vectors as u32,
            dtype.into(),
            place_dtype.into(),
        );
    }
    out
}
