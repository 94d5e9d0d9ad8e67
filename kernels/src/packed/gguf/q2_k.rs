//! `Q2_K`: 16 groups of 16 integers of two bits, with scales and minima of four bits.

use multiversion::multiversion;

use super::k::{SMALL, SMALL_GROUPS, integers, largest, mean_square, put_two_bits, sums, weigh};
use super::lanes::{LANES, Lanes, one_by_one, side_by_side};
use super::search::{Search, positive};
use super::{BLOCK_K, each_block, half, put_half};

const SEARCH: Search = Search { most: 3.0, first: -0.5, step: 0.1, steps: 15, absolute: true };
/// Elements of the groups that are searched together.
const TOGETHER: usize = SMALL * LANES;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, minimum) = (half(b, 80), half(b, 82));
    for (group, values) in y.chunks_exact_mut(16).enumerate() {
        let scale = scales[group];
        let (dl, ml) = (d * f32::from(scale & 15), minimum * f32::from(scale >> 4));
        let (n, shift, side) = (group / 8, group % 8 / 2 * 2, group % 2);
        let q = &qs[32 * n + 16 * side..][..16];
        for (value, q) in values.iter_mut().zip(q) {
            *value = dl * f32::from((q >> shift) & 3) - ml;
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    each_block::<BLOCK_K, 84>(row, importance, blocks, |x, importance, b| {
        let groups = [0, 1].map(|part| side_by_side::<SMALL, LANES>(&x[TOGETHER * part..]));
        let (mut scales, mut minima, mut weights) = ([0.0; SMALL_GROUPS], [0.0; SMALL_GROUPS], [0.0; SMALL_GROUPS]);
        let square = importance.map_or(0.0, |_| mean_square(x));
        let mut fits = [0, 1].map(|part| {
            let x = &groups[part];
            let (w, search) = match importance {
                Some(importance) => (weigh(x, &importance[TOGETHER * part..], square), Search::weighted(SEARCH.most)),
                None => (x.map(Lanes::abs), SEARCH),
            };
            let fit = search.fit(x, &w);
            let range = LANES * part..LANES * (part + 1);
            scales[range.clone()].copy_from_slice(&fit.scale.0);
            minima[range.clone()].copy_from_slice(&fit.below.0);
            weights[range].copy_from_slice(&sums(&w));
            fit
        });
        let four_bits = |x: &[f32; SMALL_GROUPS]| {
            if importance.is_some() {
                return positive(x, &weights, 15.0);
            }
            let most = largest(x);
            let inverse = if most > 0.0 { 15.0 / most } else { 0.0 };
            (most / 15.0, x.map(|x| super::lanes::nearest(inverse * x).clamp(0.0, 15.0) as u8))
        };
        let ((scale, scales), (below, minima)) = (four_bits(&scales), four_bits(&minima));
        for ((byte, scale), minimum) in b[..16].iter_mut().zip(scales).zip(minima) {
            *byte = scale | (minimum << 4);
        }
        let (d, m) = (put_half(b, 80, scale), put_half(b, 82, below));
        let mut q = [0; BLOCK_K];
        for (part, fit) in fits.iter_mut().enumerate() {
            let of =
                |all: &[u8], times: f32| Lanes::<LANES>(std::array::from_fn(|g| times * f32::from(all[LANES * part + g])));
            integers(&groups[part], fit, [of(&scales, d), of(&minima, m)], [0.0, SEARCH.most]);
            one_by_one(&fit.q, &mut q[TOGETHER * part..]);
        }
        put_two_bits(&q, &mut b[16..80]);
    });
}
