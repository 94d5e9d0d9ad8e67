//! What the K types share: the search for a group's scale, and scales of six bits in twelve bytes.
//!
//! Sums are taken in f32 in the order of llama.cpp, which the blocks depend on.

use super::{BLOCK, BLOCK_K, extreme, half, put_half};

/// Groups of a block with scales and minima.
const GROUPS: usize = BLOCK_K / BLOCK;

/// Magnitude below which a group is all zeros.
pub(super) const LEAST: f32 = 1e-15;

/// Nearest integer, half-way to even.
pub(super) fn nearest(x: f32) -> i32 {
    x.round_ties_even() as i32
}

/// How a group with a minimum searches: `steps + 1` scales from `(most + first) / range` up, in steps of a tenth.
#[derive(Clone, Copy)]
pub(super) struct Search {
    /// Largest integer.
    pub most: i32,
    /// Offset of the first scale tried.
    pub first: f32,
    /// How many more are tried.
    pub steps: i32,
}

/// A scale and how far below zero the group begins: `x ≈ scale · q - below`.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f32,
    below: f32,
}

/// Weighted sums over a group and its integers.
struct Sums {
    w: f32,
    x: f32,
}

impl Search {
    /// The fit with the least weighted squared error among those tried, and its integers.
    fn fit(self, x: &[f32], q: &mut [u8]) -> Fit {
        let mean_square = x.iter().fold(0.0, |sum, x| sum + x * x) / BLOCK as f32;
        let root = mean_square.sqrt();
        let weights: [f32; BLOCK] = std::array::from_fn(|at| root + x[at].abs());
        let (mut least, mut largest) = (x[0], x[0]);
        let mut sums = Sums { w: weights[0], x: weights[0] * x[0] };
        for (x, w) in x.iter().zip(weights).skip(1) {
            least = if *x < least { *x } else { least };
            largest = if *x > largest { *x } else { largest };
            sums.w += w;
            sums.x += w * x;
        }
        if least > 0.0 {
            least = 0.0;
        }
        if largest <= least {
            q.fill(0);
            return Fit { scale: 0.0, below: -least };
        }
        let inverse = self.most as f32 / (largest - least);
        let mut best = Fit { scale: 1.0 / inverse, below: -least };
        self.integers(x, inverse, least, q);
        let mut best_error = error(x, &weights, q, best.scale, least);
        let mut tried = [0; BLOCK];
        for step in 0..=self.steps {
            // From the least error so far: a better minimum moves the scales that are tried after it.
            let inverse = (self.first + 0.1 * step as f32 + self.most as f32) / (largest - least);
            self.integers(x, inverse, least, &mut tried);
            let Some((scale, minimum)) = sums.solve(x, &weights, &tried) else { continue };
            let error = error(x, &weights, &tried, scale, minimum);
            if error < best_error {
                q.copy_from_slice(&tried);
                best_error = error;
                best = Fit { scale, below: -minimum };
                least = minimum;
            }
        }
        best
    }

    fn integers(self, x: &[f32], inverse: f32, least: f32, q: &mut [u8]) {
        for (q, x) in q.iter_mut().zip(x) {
            *q = nearest(inverse * (x - least)).clamp(0, self.most) as u8;
        }
    }

    /// Fits all groups of a block, and writes the f16 scales and the six-bit ones. The integers are those for what was written.
    pub fn block(self, x: &[f32], b: &mut [u8]) -> [u8; BLOCK_K] {
        let mut q = [0; BLOCK_K];
        let mut fits = [Fit::default(); GROUPS];
        for ((fit, x), q) in fits.iter_mut().zip(x.chunks_exact(BLOCK)).zip(q.chunks_exact_mut(BLOCK)) {
            *fit = self.fit(x, q);
        }
        let most = |part: fn(&Fit) -> f32| fits.iter().map(part).fold(0.0, |most: f32, x| if x > most { x } else { most });
        let (scale, below) = (most(|fit| fit.scale), most(|fit| fit.below));
        let inverse = |most: f32| if most > 0.0 { 63.0 / most } else { 0.0 };
        let (inverse_scale, inverse_below) = (inverse(scale), inverse(below));
        let six_bits = |x: f32| (nearest(x) as u8).min(63);
        put_scales(
            fits.map(|fit| [six_bits(inverse_scale * fit.scale), six_bits(inverse_below * fit.below)]),
            &mut b[4..16],
        );
        let d = put_half(b, 0, scale / 63.0);
        let m = put_half(b, 2, below / 63.0);
        for (group, (x, q)) in x.chunks_exact(BLOCK).zip(q.chunks_exact_mut(BLOCK)).enumerate() {
            let (scale, minimum) = scale_and_minimum(group, &b[4..16]);
            let (d, m) = (d * scale, m * minimum);
            if d != 0.0 {
                for (q, x) in q.iter_mut().zip(x) {
                    *q = nearest((x + m) / d).clamp(0, self.most) as u8;
                }
            }
        }
        q
    }
}

/// Weighted squared error of a fit.
fn error(x: &[f32], weights: &[f32], q: &[u8], scale: f32, minimum: f32) -> f32 {
    x.iter().zip(weights).zip(q).fold(0.0, |sum, ((x, w), q)| {
        let off = scale * f32::from(*q) + minimum - x;
        sum + w * (off * off)
    })
}

impl Sums {
    /// Scale and minimum of least squares for integers; the minimum is at most 0.
    fn solve(&self, x: &[f32], weights: &[f32], q: &[u8]) -> Option<(f32, f32)> {
        let (mut l, mut l2, mut xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((x, w), q) in x.iter().zip(weights).zip(q) {
            let q = f32::from(*q);
            l += w * q;
            l2 += w * q * q;
            xl += w * q * x;
        }
        let determinant = self.w * l2 - l * l;
        if determinant.is_nan() || determinant <= 0.0 {
            return None;
        }
        let scale = (self.w * xl - self.x * l) / determinant;
        let minimum = (l2 * self.x - l * xl) / determinant;
        Some(if minimum > 0.0 { (xl / l2, 0.0) } else { (scale, minimum) })
    }
}

/// The scale of a group of `x ≈ scale · (q - most)` with `q` in `0 .. 2 · most`: of nineteen tried, the one of least squared error
/// where elements weigh as their squares. The integers go to `q`.
pub(super) fn symmetric_fit(x: &[f32], most: i32, q: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < LEAST {
        q.fill(0);
        return 0.0;
    }
    let integer = |inverse: f32, x: f32| nearest(inverse * x).clamp(-most, most - 1);
    let sums = |inverse: f32| {
        x.iter().fold((0.0f32, 0.0f32), |(xl, l2), x| {
            let (w, l) = (x * x, integer(inverse, *x) as f32);
            (xl + w * x * l, l2 + w * l * l)
        })
    };
    let write = |inverse: f32, q: &mut [u8]| {
        q.iter_mut().zip(x).for_each(|(q, x)| *q = (integer(inverse, *x) + most) as u8);
    };
    let inverse = -most as f32 / extreme;
    write(inverse, q);
    let (xl, l2) = sums(inverse);
    let mut scale = if l2 == 0.0 { 0.0 } else { xl / l2 };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|step| *step != 0) {
        let inverse = -(most as f32 + 0.1 * step as f32) / extreme;
        let (xl, l2) = sums(inverse);
        if l2 > 0.0 && xl * xl > best * l2 {
            write(inverse, q);
            scale = xl / l2;
            best = scale * xl;
        }
    }
    scale
}

/// Scale and minimum of the group `j` in the 12 packed bytes of `Q4_K` and `Q5_K`.
pub(super) fn scale_and_minimum(j: usize, q: &[u8]) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (q[j] & 63, q[j + 4] & 63)
    } else {
        ((q[j + 4] & 15) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(minimum))
}

/// The inverse: the first four groups have whole bytes, whose upper bits hold those of the last four.
fn put_scales(groups: [[u8; 2]; GROUPS], packed: &mut [u8]) {
    let (first, last) = groups.split_at(GROUPS / 2);
    for (j, ([scale, minimum], [later_scale, later_minimum])) in first.iter().zip(last).enumerate() {
        packed[j] = scale | ((later_scale >> 4) << 6);
        packed[j + 4] = minimum | ((later_minimum >> 4) << 6);
        packed[j + 8] = (later_scale & 15) | ((later_minimum & 15) << 4);
    }
}

/// Lower nibbles of groups two by two, as `Q4_K` and `Q5_K` lay them out.
pub(super) fn put_nibbles(q: &[u8; BLOCK_K], bytes: &mut [u8]) {
    for (bytes, q) in bytes.chunks_exact_mut(BLOCK).zip(q.chunks_exact(2 * BLOCK)) {
        let (low, high) = q.split_at(BLOCK);
        for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
            *byte = (low & 15) | ((high & 15) << 4);
        }
    }
}

/// f16 scale and minimum of a block.
pub(super) fn block_scales(b: &[u8]) -> (f32, f32) {
    (half(b, 0), half(b, 2))
}
