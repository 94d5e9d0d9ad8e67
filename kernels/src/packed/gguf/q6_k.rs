//! `Q6_K`: sixteen groups of 16 integers of six bits, with scales of eight bits.

use multiversion::multiversion;

use super::k::{SMALL, SMALL_GROUPS, integers};
use super::lanes::{LANES, Lanes, nearest, one_by_one, side_by_side};
use super::search::{LEAST, symmetric};
use super::{BLOCK_K, each_block, extreme, half, put_half};

/// Integers are centred on this.
const CENTRE: f32 = 32.0;
/// Elements of the groups that are searched together.
const TOGETHER: usize = SMALL * LANES;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half(b, 208));
    for (group, values) in y.chunks_exact_mut(32).enumerate() {
        let (n, quarter) = (group / 4, group % 4);
        for (l, value) in values.iter_mut().enumerate() {
            let byte = low[64 * n + 32 * (quarter % 2) + l];
            let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
            let top = (high[32 * n + l] >> (2 * quarter)) & 3;
            let scale = f32::from(scales[8 * n + 2 * quarter + l / 16] as i8);
            *value = d * scale * (f32::from(nibble | (top << 4)) - 32.0);
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    each_block::<BLOCK_K, 210>(row, importance, blocks, |x, importance, b| {
        let groups = [0, 1].map(|part| side_by_side::<SMALL, LANES>(&x[TOGETHER * part..]));
        let mut scales = [0.0; SMALL_GROUPS];
        let mut fits = [0, 1].map(|part| {
            let x = &groups[part];
            let weights = match importance {
                Some(importance) => side_by_side(&importance[TOGETHER * part..]),
                None => x.map(|x| x * x),
            };
            let fit = symmetric(x, &weights, CENTRE);
            scales[LANES * part..LANES * (part + 1)].copy_from_slice(&fit.scale.0);
            fit
        });
        let extreme = extreme(&scales);
        if extreme.abs() < LEAST {
            b.fill(0);
            return;
        }
        let inverse = -128.0 / extreme;
        let d = put_half(b, 208, 1.0 / inverse);
        let scales = scales.map(|scale| nearest(inverse * scale).min(127.0));
        for (byte, scale) in b[192..208].iter_mut().zip(scales) {
            *byte = scale as i8 as u8;
        }
        let mut q = [0; BLOCK_K];
        for (part, fit) in fits.iter_mut().enumerate() {
            let d = Lanes::<LANES>(std::array::from_fn(|g| d * scales[LANES * part + g]));
            integers(&groups[part], fit, [d, Lanes::ZERO], [-CENTRE, CENTRE - 1.0]);
            one_by_one(&fit.q, &mut q[TOGETHER * part..]);
        }
        put_six_bits(&q, &mut b[..192]);
    });
}

/// Lower nibbles two by two, then upper pairs of bits four by four, for each half of a block.
#[inline(always)]
fn put_six_bits(q: &[u8; BLOCK_K], bytes: &mut [u8]) {
    let (low, high) = bytes.split_at_mut(BLOCK_K / 2);
    for (half, q) in q.chunks_exact(BLOCK_K / 2).enumerate() {
        for at in 0..32 {
            let [q1, q2, q3, q4] = [q[at], q[at + 32], q[at + 64], q[at + 96]];
            low[64 * half + at] = (q1 & 15) | ((q3 & 15) << 4);
            low[64 * half + at + 32] = (q2 & 15) | ((q4 & 15) << 4);
            high[32 * half + at] = (q1 >> 4) | ((q2 >> 4) << 2) | ((q3 >> 4) << 4) | ((q4 >> 4) << 6);
        }
    }
}
