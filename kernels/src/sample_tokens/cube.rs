//! The GPU kernels: each cube finds the best token of a part of a row, and one cube for each row the best of those.

use burn::tensor::{DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::{LARGEST, SMALL, TokenDraw};
use crate::cube::BackendOn;
use crate::cube::launch::{MAX_CUBES, contiguous, empty, same_float, vector_size};
use crate::dropout::philox::WORDS;
use crate::dropout::words::{Counter, CounterLaunch, draw_block};

const THREADS: usize = 256;

/// No finite score is above this.
const MOST: f32 = 3.0e38;
/// The score of a logit that is not finite: it wins.
const BAD: f32 = f32::MAX;
/// Below every score.
const NONE: f32 = f32::MIN;

/// The draw, as the kernel takes it.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Draw {
    counter: Counter,
    factor: f32,
}

/// The random words of the vector that begins at an element, counted over all rows.
#[cube]
fn words_at(words: &mut Array<u32>, element: u32, draw: &Draw, #[comptime] size: usize) {
    let blocks = comptime!(if size < WORDS { 1 } else { size / WORDS });
    let first = element / comptime!(WORDS as u32);
    #[unroll]
    for block in 0..blocks {
        draw_block(words, comptime!(block * WORDS), first + comptime!(block as u32), &draw.counter);
    }
}

/// A number of the standard Gumbel distribution, as on the host.
#[cube]
fn gumbel(word: u32) -> f32 {
    let u = (f32::cast_from(word) + 0.5) * comptime!(1.0f32 / 4_294_967_296.0);
    let series = u * (1.0 + u * (0.5 + u * comptime!(1.0f32 / 3.0)));
    let logarithm = -f32::ln(1.0f32 - min(u, LARGEST));
    let exponential = select(u < SMALL, series, logarithm);
    -f32::ln(exponential)
}

/// Leaves the best of all threads' scores, with the smaller id of equals, at the first.
#[cube]
fn best_of_cube(scores: &mut SharedMemory<f32>, ids: &mut SharedMemory<u32>) {
    sync_cube();
    let mut left = comptime!(THREADS as u32 / 2).runtime();
    while left > 0 {
        if UNIT_POS < left {
            let (own, other) = (UNIT_POS as usize, (UNIT_POS + left) as usize);
            let better = scores[other] > scores[own];
            let equal = scores[other] == scores[own] && ids[other] < ids[own];
            if better || equal {
                scores[own] = scores[other];
                ids[own] = ids[other];
            }
        }
        sync_cube();
        left /= 2;
    }
}

#[cube(launch_unchecked)]
fn parts_kernel<F: Float, N: Size>(
    logits: &Array<Vector<F, N>>,
    best_scores: &mut Array<f32>,
    best_ids: &mut Array<u32>,
    vectors: u32,
    each: u32,
    draw: &Draw,
    #[comptime] draws: bool,
    #[define(F)] _dtype: StorageType,
) {
    let size = logits.vector_size().comptime();
    let mut scores = SharedMemory::<f32>::new(THREADS);
    let mut ids = SharedMemory::<u32>::new(THREADS);
    let mut largest = f32::new(NONE);
    let mut best = 0u32;
    let start = CUBE_POS_X * each;
    let end = min(start + each, vectors);
    let mut at = start + UNIT_POS;
    while at < end {
        let position = CUBE_POS_Y * vectors + at;
        let values = Vector::<f32, N>::cast_from(logits[position as usize]);
        let mut words = Array::<u32>::new(comptime!(if size < WORDS { WORDS } else { size }));
        let element = position * comptime!(size as u32);
        if comptime!(draws) {
            words_at(&mut words, element, draw, size);
        }
        #[unroll]
        for lane in 0..size {
            let mut score = values[lane];
            if u32::reinterpret(score) & 0x7f80_0000 == 0x7f80_0000 {
                score = f32::new(BAD);
            } else {
                if comptime!(draws) {
                    let word = if comptime!(size < WORDS) {
                        words[(element % comptime!(WORDS as u32)) as usize + lane]
                    } else {
                        words[lane]
                    };
                    score = score * draw.factor + gumbel(word);
                }
                score = min(score, MOST);
            }
            if score > largest {
                largest = score;
                best = at * comptime!(size as u32) + comptime!(lane as u32);
            }
        }
        at += comptime!(THREADS as u32);
    }
    scores[UNIT_POS as usize] = largest;
    ids[UNIT_POS as usize] = best;
    best_of_cube(&mut scores, &mut ids);
    if UNIT_POS == 0 {
        let own = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize;
        best_scores[own] = scores[0];
        best_ids[own] = ids[0];
    }
}

#[cube(launch_unchecked)]
fn rows_kernel(part_scores: &Array<f32>, part_ids: &Array<u32>, out: &mut Array<i32>, parts: u32) {
    let mut scores = SharedMemory::<f32>::new(THREADS);
    let mut ids = SharedMemory::<u32>::new(THREADS);
    let mut largest = f32::new(NONE);
    let mut best = 0u32;
    let mut at = UNIT_POS;
    while at < parts {
        let own = (CUBE_POS_X * parts + at) as usize;
        if part_scores[own] > largest {
            largest = part_scores[own];
            best = part_ids[own];
        }
        at += comptime!(THREADS as u32);
    }
    scores[UNIT_POS as usize] = largest;
    ids[UNIT_POS as usize] = best;
    best_of_cube(&mut scores, &mut ids);
    if UNIT_POS == 0 {
        let id = i32::cast_from(ids[0]);
        out[CUBE_POS_X as usize] = select(scores[0] > MOST, i32::new(-1), id);
    }
}

/// One token for each row.
pub(crate) fn sample<R: CubeRuntime, B: BackendOn<R>>(logits: CubeTensor<R>, draw: TokenDraw) -> CubeTensor<R> {
    let shape = logits.shape();
    let (rows, columns) = (shape[0], shape[1]);
    if !same_float(&[&logits]) || rows > MAX_CUBES || columns == 0 || rows == 0 {
        return super::reference::<B>(logits, draw);
    }
    let logits = contiguous(logits);
    let size = vector_size(&[&logits], columns);
    let vectors = columns / size;
    let parts = vectors.div_ceil(THREADS).min(MAX_CUBES);
    let each = vectors.div_ceil(parts);
    let scores = empty(&logits, Shape::from([rows * parts]), DType::F32);
    let ids = empty(&logits, Shape::from([rows * parts]), DType::U32);
    let out = empty(&logits, Shape::from([rows]), DType::I32);
    let (client, dtype) = (logits.client.clone(), logits.dtype);
    // SAFETY: `logits` has `vectors` vectors for each row, and every cube writes one element of its own.
    unsafe {
        parts_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(parts as u32, rows as u32, 1),
            CubeDim::new_1d(THREADS as u32),
            size,
            logits.into_array_arg(),
            scores.clone().into_array_arg(),
            ids.clone().into_array_arg(),
            vectors as u32,
            each as u32,
            DrawLaunch::new(CounterLaunch::of(draw.key()), draw.factor().unwrap_or(1.0)),
            draw.factor().is_some(),
            dtype.into(),
        );
        rows_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d(THREADS as u32),
            scores.into_array_arg(),
            ids.into_array_arg(),
            out.clone().into_array_arg(),
            parts as u32,
        );
    }
    out
}
