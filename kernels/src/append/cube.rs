//! The GPU kernel: one launch writes the rows of both buffers in place.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::zspace::metadata::Metadata;

use crate::cube::BackendOn;
use crate::cube::launch::{contiguous, cubes, same_float, vector_size};

const THREADS: usize = 128;

#[cube(launch_unchecked)]
fn append_kernel<F: Float, N: Size>(
    new_first: &Array<Vector<F, N>>,
    new_second: &Array<Vector<F, N>>,
    first: &mut Array<Vector<F, N>>,
    second: &mut Array<Vector<F, N>>,
    batch: u32,
    // Vectors of the new rows of one text, of a whole buffer's text, and before the new rows.
    rows: u32,
    capacity: u32,
    start: u32,
    #[define(F)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS as u32;
    let count = batch * rows;
    if at < count {
        first[(at / rows * capacity + start + at % rows) as usize] = new_first[at as usize];
    } else if at < count * 2 {
        let at = at - count;
        second[(at / rows * capacity + start + at % rows) as usize] = new_second[at as usize];
    }
}

/// The buffers with the new rows.
pub(crate) fn append<R: CubeRuntime, B: BackendOn<R>>(
    buffers: [CubeTensor<R>; 2],
    new: [CubeTensor<R>; 2],
    start: usize,
) -> [CubeTensor<R>; 2] {
    let new = new.map(contiguous);
    let [[first, second], [new_first, new_second]] = [&buffers, &new];
    let in_place = buffers.iter().all(|buffer| buffer.can_mut() && buffer.is_contiguous());
    if !in_place || first.shape() != second.shape() || !same_float(&[first, second, new_first, new_second]) {
        return super::reference::<B>(buffers, new, start);
    }
    let (shape, rows) = (first.shape(), new_first.shape()[1]);
    let row = shape[2] * shape[3];
    let size = vector_size(&[first, second, new_first, new_second], row);
    let vectors = |rows: usize| (rows * row / size) as u32;
    let (client, dtype, batch) = (first.client.clone(), first.dtype, shape[0]);
    let written = buffers.clone();
    let [first, second] = buffers.map(CubeTensor::into_array_arg);
    let [new_first, new_second] = new.map(CubeTensor::into_array_arg);
    // SAFETY: a thread copies one vector of the new rows, which the caller has checked to fit in the buffer.
    unsafe {
        append_kernel::launch_unchecked::<R>(
            &client,
            cubes((2 * batch * vectors(rows) as usize).div_ceil(THREADS)),
            CubeDim::new_1d(THREADS as u32),
            size,
            new_first,
            new_second,
            first,
            second,
            batch as u32,
            vectors(rows),
            vectors(shape[1]),
            vectors(start),
            dtype.into(),
        );
    }
    written
}

/// The first rows: the same memory, described with another shape.
pub(crate) fn prefix<R: CubeRuntime, B: BackendOn<R>>(buffer: CubeTensor<R>, length: usize) -> CubeTensor<R> {
    let (mut shape, strides) = (buffer.shape(), buffer.meta.strides().clone());
    shape[1] = length;
    CubeTensor::new(buffer.client, buffer.handle, Metadata::new(shape, strides), buffer.device, buffer.dtype)
}
