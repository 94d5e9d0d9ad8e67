//! The GPU kernel: a thread draws whole blocks of random words for the vectors that it reads.
//!
//! The key is passed as arguments of the launch, so that one kernel is compiled for each dtype, not for every step.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::Dropout;
use super::philox::WORDS;
use super::words::{Counter, CounterLaunch, draw_block};
use crate::cube::BackendOn;
use crate::cube::launch::{contiguous, cubes, result_like, same_float, vector_size};

const THREADS: usize = 256;

/// The parameters of a mask, as the kernel takes them.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Draw {
    counter: Counter,
    first_block: u32,
    threshold: u32,
    factor: f32,
}

#[cube(launch_unchecked)]
fn dropout_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    added: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    count: u32,
    draw: &Draw,
    #[comptime] adds: bool,
    #[define(F)] _dtype: StorageType,
) {
    let size = x.vector_size().comptime();
    // A thread reads one vector, or as many as a block has words for.
    let blocks = comptime!(if size < WORDS { 1 } else { size / WORDS });
    let vectors = comptime!(if size < WORDS { WORDS / size } else { 1 });
    let first = ABSOLUTE_POS * vectors;
    if first < count as usize {
        let mut words = Array::<u32>::new(comptime!(blocks * WORDS));
        #[unroll]
        for block in 0..blocks {
            let number = draw.first_block + ABSOLUTE_POS as u32 * comptime!(blocks as u32) + comptime!(block as u32);
            draw_block(&mut words, comptime!(block * WORDS), number, &draw.counter);
        }
        #[unroll]
        for i in 0..vectors {
            let at = first + i;
            if at < count as usize {
                let mut value = Vector::<f32, N>::cast_from(x[at]) * Vector::new(draw.factor);
                #[unroll]
                for lane in 0..size {
                    if words[comptime!(i * size + lane)] < draw.threshold {
                        value[lane] = 0.0f32;
                    }
                }
                if comptime!(adds) {
                    value += Vector::<f32, N>::cast_from(added[at]);
                }
                y[at] = Vector::<F, N>::cast_from(value);
            }
        }
    }
}

/// `x` with elements dropped.
pub(crate) fn forward<R: CubeRuntime, B: BackendOn<R>>(x: CubeTensor<R>, dropout: Dropout) -> CubeTensor<R> {
    if !same_float(&[&x]) {
        return super::reference::<B>(x, dropout);
    }
    launch(x, None, dropout)
}

/// `x` with elements dropped, plus `added`, in one pass.
pub(crate) fn add<R: CubeRuntime>(x: CubeTensor<R>, added: CubeTensor<R>, dropout: Dropout) -> CubeTensor<R> {
    launch(x, Some(added), dropout)
}

fn launch<R: CubeRuntime>(x: CubeTensor<R>, added: Option<CubeTensor<R>>, dropout: Dropout) -> CubeTensor<R> {
    let (x, added) = (contiguous(x), added.map(contiguous));
    let elements = x.shape().num_elements();
    let mut tensors = vec![&x];
    tensors.extend(added.as_ref());
    let size = vector_size(&tensors, elements);
    // A sum is written over its first term if nothing else holds that.
    let (y, target) = result_like(&x, 0, added.is_some() && x.can_mut());
    let (client, dtype, count, adds) = (x.client.clone(), x.dtype, elements / size, added.is_some());
    // A kernel always has the same bindings, so another tensor replaces an absent one.
    let added = added.unwrap_or_else(|| x.clone());
    let counter = CounterLaunch::of(dropout.key);
    let draw = DrawLaunch::new(counter, dropout.first_block() as u32, dropout.threshold(), dropout.factor());
    // SAFETY: all three hold `count` vectors, no thread goes beyond, and each reads its own before it writes them.
    unsafe {
        dropout_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(elements.div_ceil(size.max(WORDS)).div_ceil(THREADS)),
            CubeDim::new_1d(THREADS as u32),
            size,
            x.into_array_arg(),
            added.into_array_arg(),
            target,
            count as u32,
            draw,
            adds,
            dtype.into(),
        );
    }
    y
}
