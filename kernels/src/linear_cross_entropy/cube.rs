//! The GPU kernel: one cube for each token computes its loss, and replaces its logits by their gradient.

use crate::runtime::KernelRuntime;
use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::{Labels, Sum, chunks, joined, of_tokens, packed};
use crate::cube::BackendOn;
use crate::cube::launch::{all_f32, contiguous, cubes, empty, row_threads, same_float, vector_size};
use crate::cube::reduce::{Planes, cube_max, cube_sum, vector_sum};
use crate::matrix::{Product, has_registers};
use crate::packed::PackedTensor;
use crate::primitive::{cast, raw, typed};

/// Logits alive at a time, in bytes.
const CHUNK_BYTES: usize = 64_000_000;
/// Tokens of a tile of the matrix product.
const TILE: usize = 128;
/// Tokens from which chunks are whole tiles.
const WIDE: usize = 2 * TILE;
/// Tokens of a matrix unit's fragment: smaller chunks are whole fragments.
const FRAGMENT: usize = 16;

/// Vectors of a row from which an NVIDIA GPU takes more threads: the rows of a chunk are few, and all must be read at once.
const LONG: usize = 4096;
/// Threads of such a row.
const LONG_THREADS: usize = 512;

/// What the logits become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slopes {
    /// They stay as they are.
    None,
    /// The gradient of their token's loss.
    Plain,
    /// The same, times the factor of the token.
    WithFactors,
}

/// Tokens whose logits are computed together, in a dtype of that many bytes.
fn chunk_tokens(vocabulary: usize, element: usize) -> usize {
    let tokens = (CHUNK_BYTES / (vocabulary * element).max(1)).max(1);
    match tokens {
        0..FRAGMENT => tokens,
        FRAGMENT..WIDE => tokens / FRAGMENT * FRAGMENT,
        _ => tokens / TILE * TILE,
    }
}

#[cube(launch_unchecked)]
fn loss_kernel<F: Float, I: Int, N: Size>(
    logits: &mut Array<Vector<F, N>>,
    labels: &Array<I>,
    factors: &Array<f32>,
    losses: &mut Array<f32>,
    rows: u32,
    #[comptime] vectors: usize,
    #[comptime] threads: usize,
    #[comptime] planes: Planes,
    #[comptime] slopes: Slopes,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _labels: StorageType,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let start = row * vectors;
        let size = logits.vector_size().comptime();
        let label = u32::cast_from(labels[row]) as usize;
        // Each thread keeps the largest logit that it has seen, and the sum relative to it.
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
            at += threads;
        }
        let top = cube_max(largest, threads, planes);
        let total = cube_sum(sum * f32::exp(largest - top), threads, planes);
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
        if comptime!(slopes != Slopes::None) {
            // The first thread reads the label's logit before any thread writes.
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
                if comptime!(slopes == Slopes::WithFactors) {
                    slope *= Vector::new(factors[row]);
                }
                logits[start + at] = Vector::<F, N>::cast_from(slope);
                at += threads;
            }
        }
    }
}

/// Losses `[rows]`, f32, of logits `[rows, vocabulary]`.
fn losses<R: KernelRuntime>(logits: CubeTensor<R>, labels: CubeTensor<R>) -> CubeTensor<R> {
    launch(logits, labels, None, Slopes::None).0
}

/// The losses, and their gradients in place of the logits.
fn losses_and_slopes<R: KernelRuntime>(logits: CubeTensor<R>, labels: CubeTensor<R>) -> (CubeTensor<R>, CubeTensor<R>) {
    launch(logits, labels, None, Slopes::Plain)
}

/// The gradients in place of the logits, each row times its factor, which is f32.
fn scaled_slopes<R: KernelRuntime>(logits: CubeTensor<R>, labels: CubeTensor<R>, factors: CubeTensor<R>) -> CubeTensor<R> {
    launch(logits, labels, Some(factors), Slopes::WithFactors).1
}

fn launch<R: KernelRuntime>(
    logits: CubeTensor<R>,
    labels: CubeTensor<R>,
    factors: Option<CubeTensor<R>>,
    slopes: Slopes,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let (logits, labels) = (contiguous(logits), contiguous(labels));
    let shape = logits.shape();
    let (rows, vocabulary) = (shape[0], shape[1]);
    let size = vector_size(&[&logits], vocabulary);
    let vectors = vocabulary / size;
    let has_warps = has_registers(&logits.client, logits.dtype);
    let threads = if has_warps && vectors >= LONG { LONG_THREADS } else { row_threads(vectors) };
    let losses = empty(&logits, [rows], DType::F32);
    // A kernel's bindings are fixed: it never reads what is bound in place of absent factors.
    let factors = factors.map_or_else(|| empty(&logits, [1], DType::F32), contiguous);
    let (client, dtype, label_dtype) = (logits.client.clone(), logits.dtype, labels.dtype);
    let planes = Planes::of(&logits.client);
    // SAFETY: a cube stays within its row, and labels are below the vocabulary.
    unsafe {
        loss_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(rows),
            CubeDim::new_1d(threads as u32),
            size,
            logits.clone().into_array_arg(),
            labels.into_array_arg(),
            factors.into_array_arg(),
            losses.clone().into_array_arg(),
            rows as u32,
            vectors,
            threads,
            planes,
            slopes,
            dtype.into(),
            label_dtype.into(),
        );
    }
    (losses, logits)
}

/// The losses, `[tokens]`.
pub(crate) fn forward<R: KernelRuntime, B: BackendOn<R>>(
    hidden: CubeTensor<R>,
    weight: CubeTensor<R>,
    labels: CubeTensor<R>,
) -> CubeTensor<R> {
    if !same_float(&[&hidden, &weight]) {
        return super::reference::<B>(hidden, weight, labels);
    }
    in_chunks::<R, B>(hidden, labels, weight.shape()[0], |hidden| B::dense_linear(hidden, weight.clone()))
}

/// The losses with a packed head.
pub(crate) fn packed_forward<R: KernelRuntime, B: BackendOn<R>>(
    hidden: CubeTensor<R>,
    weight: PackedTensor<B>,
    labels: CubeTensor<R>,
) -> CubeTensor<R> {
    if !same_float(&[&hidden]) {
        return packed::reference::<B>(hidden, weight, labels);
    }
    in_chunks::<R, B>(hidden, labels, weight.dims()[0], |hidden| B::packed_linear(hidden, weight.clone()))
}

fn in_chunks<R: KernelRuntime, B: BackendOn<R>>(
    hidden: CubeTensor<R>,
    labels: CubeTensor<R>,
    vocabulary: usize,
    logits: impl Fn(CubeTensor<R>) -> CubeTensor<R>,
) -> CubeTensor<R> {
    let (hidden, labels) = (typed::<B, 2>(hidden), Labels::<B>::from_primitive(labels));
    let chunks = chunks(hidden.dims()[0], chunk_tokens(vocabulary, hidden.dtype().size()));
    let losses = chunks.map(|at| {
        let logits = logits(raw(of_tokens(&hidden, &at)));
        typed::<B, 1>(losses(logits, of_tokens(&labels, &at).into_primitive()))
    });
    joined(losses.collect())
}

/// The losses, and the gradient of each for its row of `hidden`.
pub(crate) fn forward_with_gradient<R: KernelRuntime, B: BackendOn<R>>(
    hidden: CubeTensor<R>,
    weight: CubeTensor<R>,
    labels: CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    if !same_float(&[&hidden, &weight]) {
        return super::reference_with_gradient::<B>(hidden, weight, labels);
    }
    let logits = |hidden| B::dense_linear(hidden, weight.clone());
    let input = |slopes| B::linear_backward_input(slopes, weight.clone());
    in_chunks_with_gradient::<R, B>(hidden, labels, weight.shape()[0], logits, input)
}

/// The same with a packed head.
pub(crate) fn packed_forward_with_gradient<R: KernelRuntime, B: BackendOn<R>>(
    hidden: CubeTensor<R>,
    weight: PackedTensor<B>,
    labels: CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    if !same_float(&[&hidden]) {
        return packed::reference_with_gradient::<B>(hidden, weight, labels);
    }
    let logits = |hidden| B::packed_linear(hidden, weight.clone());
    let input = |slopes| B::packed_linear_backward_input(slopes, weight.clone());
    in_chunks_with_gradient::<R, B>(hidden, labels, weight.dims()[0], logits, input)
}

fn in_chunks_with_gradient<R: KernelRuntime, B: BackendOn<R>>(
    hidden: CubeTensor<R>,
    labels: CubeTensor<R>,
    vocabulary: usize,
    logits: impl Fn(CubeTensor<R>) -> CubeTensor<R>,
    input: impl Fn(CubeTensor<R>) -> CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let (hidden, labels) = (typed::<B, 2>(hidden), Labels::<B>::from_primitive(labels));
    let chunks = chunks(hidden.dims()[0], chunk_tokens(vocabulary, hidden.dtype().size()));
    let (losses, d_hidden) = chunks
        .map(|at| {
            let logits = logits(raw(of_tokens(&hidden, &at)));
            let (losses, slopes) = losses_and_slopes(logits, of_tokens(&labels, &at).into_primitive());
            (typed::<B, 1>(losses), typed::<B, 2>(input(slopes)))
        })
        .unzip();
    (joined(losses), joined(d_hidden))
}

/// The gradient of `Σ factorᵢ lossᵢ` for `weight`.
pub(crate) fn backward_weight<R: KernelRuntime, B: BackendOn<R>>(
    hidden: CubeTensor<R>,
    weight: CubeTensor<R>,
    labels: CubeTensor<R>,
    factors: CubeTensor<R>,
) -> CubeTensor<R> {
    if !same_float(&[&hidden, &weight]) || !all_f32(&[&factors]) {
        return super::reference_backward_weight::<B>(hidden, weight, labels, factors);
    }
    let (hidden, labels) = (typed::<B, 2>(hidden), Labels::<B>::from_primitive(labels));
    let factors = typed::<B, 1>(factors);
    // Relative to the largest one, so that a 16-bit dtype holds the factors' products.
    let largest = factors.clone().abs().max().clamp_min(f32::MIN_POSITIVE);
    let relative = factors / largest.clone();
    let mut sum = Sum::<B>::default();
    for at in chunks(hidden.dims()[0], chunk_tokens(weight.shape()[0], weight.dtype.size())) {
        let hidden = raw(of_tokens(&hidden, &at));
        let logits = B::dense_linear(hidden.clone(), weight.clone());
        let slopes = scaled_slopes(logits, of_tokens(&labels, &at).into_primitive(), raw(of_tokens(&relative, &at)));
        sum.add(typed(over_tokens::<R, B>(slopes, hidden)));
    }
    sum.finish(&typed(weight), Some(largest))
}

/// `slopesᵀ · hidden`, f32.
fn over_tokens<R: KernelRuntime, B: BackendOn<R>>(slopes: CubeTensor<R>, hidden: CubeTensor<R>) -> CubeTensor<R> {
    let product = Product::new(slopes.clone(), hidden.clone()).transposed_a().in_f32();
    product.multiply().unwrap_or_else(|| {
        let [slopes, hidden] = [slopes, hidden].map(|tensor| cast::<B>(tensor, DType::F32));
        B::linear_backward_weight(hidden, slopes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_of_a_chunk_take_at_most_64_megabytes() {
        for vocabulary in [32, 999, 32_000, 49_152, 128_256, 151_936, 262_144, 8_000_000] {
            for element in [2, 4] {
                let tokens = chunk_tokens(vocabulary, element);
                let bytes = tokens * vocabulary * element;
                assert!(bytes <= 64_000_000 && bytes > 30_000_000 || tokens == 1, "{tokens} tokens of {vocabulary}");
            }
        }
        assert_eq!((chunk_tokens(128_256, 2), chunk_tokens(49_152, 2), chunk_tokens(262_144, 4)), (240, 640, 48));
    }
}
