//! Loops over a row of planes, compiled for the vector units that the machine may have and chosen when it runs.

use multiversion::multiversion;

/// Integers that are decoded side by side.
const LANES: usize = 8;

/// A row: its words of lower bits, a word of upper bits a group where there are any, and scale and bias a group.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub low: &'a [u32],
    pub high: &'a [u32],
    pub scales: &'a [[f32; 2]],
    /// Elements of a group.
    pub group: usize,
    /// What stands for 0, where that is not the bias's doing.
    pub zero: f32,
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "only what is inlined is compiled for the vector units of its caller")]
fn four(low: &[u32], _high: u32, part: usize) -> [u32; LANES] {
    let word = low[part];
    std::array::from_fn(|lane| (word >> (4 * lane)) & 15)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "as above")]
fn five(low: &[u32], high: u32, part: usize) -> [u32; LANES] {
    let (word, bits) = (low[part], high >> (LANES * part));
    std::array::from_fn(|lane| ((word >> (4 * lane)) & 15) | (((bits >> lane) & 1) << 4))
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "as above")]
fn six(low: &[u32], high: u32, part: usize) -> [u32; LANES] {
    let (word, pairs) = (low[part], high >> (2 * LANES * part));
    std::array::from_fn(|lane| ((word >> (4 * lane)) & 15) | (((pairs >> (2 * lane)) & 3) << 4))
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "as above")]
fn eight(low: &[u32], _high: u32, part: usize) -> [u32; LANES] {
    let words = [low[2 * part], low[2 * part + 1]];
    std::array::from_fn(|lane| (words[lane / 4] >> (8 * (lane % 4))) & 255)
}

macro_rules! rows {
    ($integers:ident, $bits:literal, $dot:ident, $centred:ident, $biased:ident) => {
        /// `Σ scale · Σ q x` of a row.
        #[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
        pub(super) fn $dot(row: Row, x: &[f32]) -> f32 {
            let mut total = [0.0f32; LANES];
            let lows = row.low.chunks_exact(row.group * $bits / 32);
            for (group, ((low, x), scale)) in lows.zip(x.chunks_exact(row.group)).zip(row.scales).enumerate() {
                let high = row.high.get(group).copied().unwrap_or(0);
                let mut sums = [0.0f32; LANES];
                for (part, x) in x.as_chunks::<LANES>().0.iter().enumerate() {
                    let q = $integers(low, high, part);
                    for lane in 0..LANES {
                        sums[lane] += q[lane] as i32 as f32 * x[lane];
                    }
                }
                for lane in 0..LANES {
                    total[lane] += scale[0] * sums[lane];
                }
            }
            total.iter().sum()
        }

        /// `(q - zero) · scale`.
        #[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
        pub(super) fn $centred(row: Row, values: &mut [f32]) {
            let lows = row.low.chunks_exact(row.group * $bits / 32);
            for (group, ((low, values), scale)) in lows.zip(values.chunks_exact_mut(row.group)).zip(row.scales).enumerate() {
                let high = row.high.get(group).copied().unwrap_or(0);
                for (part, values) in values.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    let q = $integers(low, high, part);
                    *values = q.map(|q| (q as i32 as f32 - row.zero) * scale[0]);
                }
            }
        }

        /// `q · scale + bias`.
        #[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
        pub(super) fn $biased(row: Row, values: &mut [f32]) {
            let lows = row.low.chunks_exact(row.group * $bits / 32);
            for (group, ((low, values), scale)) in lows.zip(values.chunks_exact_mut(row.group)).zip(row.scales).enumerate() {
                let high = row.high.get(group).copied().unwrap_or(0);
                for (part, values) in values.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    let q = $integers(low, high, part);
                    *values = q.map(|q| q as i32 as f32 * scale[0] + scale[1]);
                }
            }
        }
    };
}

rows!(four, 4, dot_four, centred_four, biased_four);
rows!(five, 4, dot_five, centred_five, biased_five);
rows!(six, 4, dot_six, centred_six, biased_six);
rows!(eight, 8, dot_eight, centred_eight, biased_eight);

/// `table[q] · scale`, of four bits.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn table(row: Row, table: &[f32; 16], values: &mut [f32]) {
    let lows = row.low.chunks_exact(row.group / LANES);
    for ((low, values), scale) in lows.zip(values.chunks_exact_mut(row.group)).zip(row.scales) {
        for (word, values) in low.iter().zip(values.as_chunks_mut::<LANES>().0) {
            for (lane, value) in values.iter_mut().enumerate() {
                *value = table[((word >> (4 * lane)) & 15) as usize] * scale[0];
            }
        }
    }
}
