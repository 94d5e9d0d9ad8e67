//! `Q3_K`: 16 groups of 16 integers of three bits, with scales of six bits.

use multiversion::multiversion;

use super::k::{SMALL, SMALL_GROUPS, integers, mean_square, put_two_bits, sums, weigh};
use super::lanes::{LANES, Lanes, nearest, one_by_one, side_by_side};
use super::search::{descent, symmetric};
use super::{BLOCK_K, each_block, extreme, half, put_half};

/// Integers are centred on this.
const CENTRE: f32 = 4.0;
/// Scales are centred on this.
const SCALES_CENTRE: f32 = 32.0;
/// Elements of the groups that are searched together.
const TOGETHER: usize = SMALL * LANES;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (mask, qs, packed, d) = (&b[..32], &b[32..96], &b[96..108], half(b, 108));
    for (group, values) in y.chunks_exact_mut(16).enumerate() {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
        let scale = d * (f32::from(low | (high << 4)) - 32.0);
        let (n, shift, side) = (group / 8, group % 8 / 2 * 2, group % 2);
        let bit = 1u8 << (group / 2);
        for (l, value) in values.iter_mut().enumerate() {
            let q = f32::from((qs[32 * n + 16 * side + l] >> shift) & 3);
            let below = if mask[16 * side + l] & bit == 0 { 4.0 } else { 0.0 };
            *value = scale * (q - below);
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    each_block::<BLOCK_K, 110>(row, importance, blocks, |x, importance, b| {
        let groups = [0, 1].map(|part| side_by_side::<SMALL, LANES>(&x[TOGETHER * part..]));
        let (mut scales, mut weights) = ([0.0; SMALL_GROUPS], [0.0; SMALL_GROUPS]);
        let square = importance.map_or(0.0, |_| 2.0 * mean_square(x));
        let mut fits = [0, 1].map(|part| {
            let (x, range) = (&groups[part], LANES * part..LANES * (part + 1));
            let fit = match importance {
                Some(importance) => {
                    let w = weigh(x, &importance[TOGETHER * part..], square);
                    weights[range.clone()].copy_from_slice(&sums(&w));
                    symmetric(x, &w, CENTRE)
                }
                None => descent(x, CENTRE),
            };
            scales[range].copy_from_slice(&fit.scale.0);
            fit
        });
        let (scale, scales) = if importance.is_some() {
            let fit = symmetric::<SMALL_GROUPS, 1>(&scales.map(Lanes::all), &weights.map(Lanes::all), SCALES_CENTRE);
            (fit.scale.0[0], fit.q.map(|q| q.0[0]))
        } else {
            six_bits(&scales)
        };
        let d = put_half(b, 108, scale);
        put_scales(&scales.map(|scale| scale as u8), &mut b[96..108]);
        let mut q = [0; BLOCK_K];
        for (part, fit) in fits.iter_mut().enumerate() {
            let d = Lanes::<LANES>(std::array::from_fn(|g| d * (scales[LANES * part + g] - SCALES_CENTRE)));
            integers(&groups[part], fit, [d, Lanes::ZERO], [-CENTRE, CENTRE - 1.0]);
            one_by_one(&fit.q, &mut q[TOGETHER * part..]);
        }
        for (at, mask) in b[..32].iter_mut().enumerate() {
            *mask = (0..8).fold(0, |mask, bit| mask | ((q[32 * bit + at] >> 2) << bit));
        }
        put_two_bits(&q, &mut b[32..96]);
    });
}

/// A scale of scales, and their integers from 0 on: the one of largest magnitude is 0. Without any, all bytes are 0.
#[inline(always)]
fn six_bits(scales: &[f32; SMALL_GROUPS]) -> (f32, [f32; SMALL_GROUPS]) {
    let extreme = extreme(scales);
    if extreme == 0.0 {
        return (0.0, [0.0; SMALL_GROUPS]);
    }
    let inverse = -SCALES_CENTRE / extreme;
    let integer = |x: f32| nearest(inverse * x).clamp(-SCALES_CENTRE, SCALES_CENTRE - 1.0) + SCALES_CENTRE;
    (1.0 / inverse, scales.map(integer))
}

/// Scales of six bits: four lower ones in the nibbles of eight bytes, two upper ones in four more.
#[inline(always)]
fn put_scales(scales: &[u8; SMALL_GROUPS], packed: &mut [u8]) {
    packed.fill(0);
    for (group, scale) in scales.iter().enumerate() {
        packed[group % 8] |= (scale & 15) << (group / 8 * 4);
        packed[8 + group % 4] |= (scale >> 4) << (2 * (group / 4));
    }
}
