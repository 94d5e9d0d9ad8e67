//! `Q6_K`: sixteen groups of 16 integers of six bits, with scales of eight bits.

use super::k::{LEAST, nearest, symmetric_fit};
use super::{BLOCK_K, extreme, half, put_half};

const GROUP: usize = 16;
/// Integers are centred on this.
const CENTRE: i32 = 32;

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

pub(super) fn quantize(x: &[f32], b: &mut [u8]) {
    let mut q = [0u8; BLOCK_K];
    let mut scales = [0.0f32; BLOCK_K / GROUP];
    for ((scale, x), q) in scales.iter_mut().zip(x.chunks_exact(GROUP)).zip(q.chunks_exact_mut(GROUP)) {
        *scale = symmetric_fit(x, CENTRE, q);
    }
    let extreme = extreme(&scales);
    if extreme.abs() < LEAST {
        b.fill(0);
        return;
    }
    let inverse = -128.0 / extreme;
    let d = put_half(b, 208, 1.0 / inverse);
    for ((byte, scale), (x, q)) in
        b[192..208].iter_mut().zip(scales).zip(x.chunks_exact(GROUP).zip(q.chunks_exact_mut(GROUP)))
    {
        let scale = nearest(inverse * scale).min(127) as i8;
        *byte = scale as u8;
        let d = d * f32::from(scale);
        if d != 0.0 {
            for (q, x) in q.iter_mut().zip(x) {
                *q = (nearest(x / d).clamp(-CENTRE, CENTRE - 1) + CENTRE) as u8;
            }
        }
    }
    let (low, high) = b[..192].split_at_mut(128);
    for (half, q) in q.chunks_exact(BLOCK_K / 2).enumerate() {
        for at in 0..32 {
            let [q1, q2, q3, q4] = [q[at], q[at + 32], q[at + 64], q[at + 96]];
            low[64 * half + at] = (q1 & 15) | ((q3 & 15) << 4);
            low[64 * half + at + 32] = (q2 & 15) | ((q4 & 15) << 4);
            high[32 * half + at] = (q1 >> 4) | ((q2 >> 4) << 2) | ((q3 >> 4) << 4) | ((q4 >> 4) << 6);
        }
    }
}
