//! The GPU kernel: each thread copies one vector of the gradient to its row.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use crate::cube::BackendOn;
use crate::cube::launch::{contiguous, cubes, same_float, vector_size};

const THREADS: usize = 256;

#[cube(launch_unchecked)]
fn scatter_kernel<F: Float, I: Int, N: Size>(
    grad: &Array<Vector<F, N>>,
    positions: &Array<I>,
    out: &mut Array<Vector<F, N>>,
    count: u32,
    vectors: u32,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _positions: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at < count as usize {
        let row = u32::cast_from(positions[at / vectors as usize]);
        out[(row * vectors) as usize + at % vectors as usize] = grad[at];
    }
}

/// Zeros, with the rows of `grad` at `positions`.
pub(crate) fn backward<R: CubeRuntime, B: BackendOn<R>>(
    grad: CubeTensor<R>,
    positions: CubeTensor<R>,
    rows: usize,
) -> CubeTensor<R> {
    if !same_float(&[&grad]) {
        return super::reference_backward::<B>(grad, positions, rows);
    }
    let zeros = B::float_zeros([rows, grad.shape()[1]].into(), &grad.device, grad.dtype.into());
    let (grad, positions, out) = (contiguous(grad), contiguous(positions), contiguous(zeros));
    let shape = grad.shape();
    let size = vector_size(&[&grad, &out], shape[1]);
    let (client, dtype, position_dtype) = (grad.client.clone(), grad.dtype, positions.dtype);
    let vectors = shape[1] / size;
    let count = shape[0] * vectors;
    // SAFETY: positions are below the rows of `out`, each occurs once, and a thread stays within `count`.
    unsafe {
        scatter_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(count.div_ceil(THREADS)),
            CubeDim::new_1d(THREADS as u32),
            size,
            grad.into_array_arg(),
            positions.into_array_arg(),
            out.clone().into_array_arg(),
            count as u32,
            vectors as u32,
            dtype.into(),
            position_dtype.into(),
        );
    }
    out
}
