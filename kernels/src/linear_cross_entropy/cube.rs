//! The GPU kernel: a cube a token turns its logits, in place, into their gradient, and gives the loss.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cube::launch::{contiguous, cubes, empty, row_units, vector_size};
use crate::cube::reduce::{Planes, cube_max, cube_sum, vector_sum};

/// Elements of logits alive at a time: 64 Mi are 128 MiB of a 16-bit dtype.
const CHUNK_ELEMENTS: usize = 64 << 20;
/// Chunks are whole tiles of the matrix product, where there are as many tokens.
const TILE: usize = 128;

/// Tokens whose logits are computed together.
pub(crate) fn chunk_tokens(vocabulary: usize) -> usize {
    let tokens = (CHUNK_ELEMENTS / vocabulary.max(1)).max(1);
    if tokens > TILE { tokens / TILE * TILE } else { tokens }
}

#[cube(launch_unchecked)]
fn loss_kernel<F: Float, I: Int, N: Size>(
    logits: &mut Array<Vector<F, N>>,
    labels: &Array<I>,
    losses: &mut Array<f32>,
    rows: u32,
    #[comptime] vectors: usize,
    #[comptime] units: usize,
    #[comptime] planes: Planes,
    #[comptime] gradient: bool,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _labels: StorageType,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let start = row * vectors;
        let size = logits.vector_size().comptime();
        let label = u32::cast_from(labels[row]) as usize;
        // Each unit keeps the largest logit that it has seen, and the sum relative to it.
        let mut largest = f32::new(-1e30f32);
        let mut sum = 0.0f32;
        let mut at = UNIT_POS as usize;
        while at < vectors {
            let value = Vector::<f32, N>::cast_from(logits[start + at]);
            let mut top = value[0];
            #[unroll]
            for i in 1..size {
                top = max(top, value[i]);
            }
            if top > largest {
                sum *= f32::exp(largest - top);
                largest = top;
            }
            sum += vector_sum::<N>(Vector::exp(value - Vector::new(largest)));
            at += units;
        }
        let top = cube_max(largest, units, planes);
        let total = cube_sum(sum * f32::exp(largest - top), units, planes);
        let log_sum = top + f32::ln(total);
        if UNIT_POS == 0 {
            let vector = Vector::<f32, N>::cast_from(logits[start + label / size]);
            let mut own = 0.0f32;
            #[unroll]
            for i in 0..size {
                if i == label % size {
                    own = vector[i];
                }
            }
            losses[row] = log_sum - own;
        }
        if comptime!(gradient) {
            // The label's logit is read by the first unit before anyone writes.
            sync_cube();
            let mut at = UNIT_POS as usize;
            while at < vectors {
                let value = Vector::<f32, N>::cast_from(logits[start + at]);
                let mut slope = Vector::exp(value - Vector::new(log_sum));
                #[unroll]
                for i in 0..size {
                    if at * size + i == label {
                        slope[i] = slope[i] - 1.0f32;
                    }
                }
                logits[start + at] = Vector::<F, N>::cast_from(slope);
                at += units;
            }
        }
    }
}

/// Losses `[rows]`, f32, of logits `[rows, vocabulary]`; with `gradient` the logits become their gradients.
pub(crate) fn losses<R: CubeRuntime>(
    logits: CubeTensor<R>,
    labels: CubeTensor<R>,
    gradient: bool,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let (logits, labels) = (contiguous(logits), contiguous(labels));
    let shape = logits.shape();
    let (rows, vocabulary) = (shape[0], shape[1]);
    let size = vector_size(&[&logits], vocabulary);
    let vectors = vocabulary / size;
    let units = row_units(vectors);
    let losses = empty(&logits, [rows], DType::F32);
    let (client, dtype, label_dtype) = (logits.client.clone(), logits.dtype, labels.dtype);
    let planes = Planes::of(&logits.client);
    // SAFETY: a cube stays within its row, and labels are below the vocabulary.
    unsafe {
        loss_kernel::launch_unchecked::<R>(
            &client,
            cubes(rows),
            CubeDim::new_1d(units as u32),
            size,
            logits.clone().into_array_arg(),
            labels.into_array_arg(),
            losses.clone().into_array_arg(),
            rows as u32,
            vectors,
            units,
            planes,
            gradient,
            dtype.into(),
            label_dtype.into(),
        );
    }
    (losses, logits)
}
