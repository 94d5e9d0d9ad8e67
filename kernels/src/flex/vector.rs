//! Loops over f32 rows, compiled for the vector units that the machine may have and chosen when it runs.

use multiversion::multiversion;

/// Partial sums side by side, which the compiler can keep in one vector register.
const LANES: usize = 16;

/// `eˣ`, relative error below 2e-7; beyond the range of f32 it saturates.
///
/// Source: Cephes `expf`: `x = n ln 2 + r`, a polynomial of degree 6 in `r`, `2ⁿ` through the exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * core::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let value = (p * r * r + r) + 1.0;
    // The clamp keeps n within [-126, 127].
    value * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// `1 / (1 + e⁻ˣ)`.
#[allow(clippy::inline_always, reason = "only what is inlined is compiled for the vector units of its caller")]
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

macro_rules! lanes {
    ($left:expr, $right:expr, $term:expr) => {{
        let (left, right): (&[f32], &[f32]) = ($left, $right);
        let length = left.len().min(right.len());
        let (left, right) = (&left[..length], &right[..length]);
        let mut sums = [0.0f32; LANES];
        let mut left_chunks = left.chunks_exact(LANES);
        let mut right_chunks = right.chunks_exact(LANES);
        for (a, b) in left_chunks.by_ref().zip(right_chunks.by_ref()) {
            for lane in 0..LANES {
                sums[lane] += $term(a[lane], b[lane]);
            }
        }
        let mut sum = 0.0;
        for (a, b) in left_chunks.remainder().iter().zip(right_chunks.remainder()) {
            sum += $term(*a, *b);
        }
        sums.iter().sum::<f32>() + sum
    }};
}

/// `Σ aᵢ bᵢ`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    lanes!(a, b, |x: f32, y: f32| x * y)
}

/// `Σ xᵢ wᵢ` for four rows of a matrix at once, so that `x` is loaded once for the four.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn dot4(x: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let length = x.len();
    let [a, b, c, d] = rows.map(|row| &row[..length]);
    let mut sums = [[0.0f32; LANES]; 4];
    let whole = length / LANES * LANES;
    let mut start = 0;
    while start < whole {
        let end = start + LANES;
        let (x, a, b, c, d) = (&x[start..end], &a[start..end], &b[start..end], &c[start..end], &d[start..end]);
        for lane in 0..LANES {
            sums[0][lane] += x[lane] * a[lane];
            sums[1][lane] += x[lane] * b[lane];
            sums[2][lane] += x[lane] * c[lane];
            sums[3][lane] += x[lane] * d[lane];
        }
        start = end;
    }
    let mut totals = sums.map(|lanes| lanes.iter().sum::<f32>());
    for index in whole..length {
        for (total, row) in totals.iter_mut().zip([a, b, c, d]) {
            *total += x[index] * row[index];
        }
    }
    totals
}

/// Largest element; `-∞` of an empty row.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn maximum(row: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in chunks.by_ref() {
        for lane in 0..LANES {
            largest[lane] = if chunk[lane] > largest[lane] { chunk[lane] } else { largest[lane] };
        }
    }
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    largest.iter().copied().fold(rest, f32::max)
}

/// Replaces each element by `e^(x - shift)` and returns their sum.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn exp_and_sum(row: &mut [f32], shift: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in chunks.by_ref() {
        for lane in 0..LANES {
            let value = exp(chunk[lane] - shift);
            chunk[lane] = value;
            sums[lane] += value;
        }
    }
    let mut sum = 0.0;
    for value in chunks.into_remainder() {
        *value = exp(*value - shift);
        sum += *value;
    }
    sums.iter().sum::<f32>() + sum
}

/// `x ← factor · x`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn scale(row: &mut [f32], factor: f32) {
    for value in row {
        *value *= factor;
    }
}

/// `y += factor · x` for elements whose word is at least the threshold.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn add_kept(y: &mut [f32], x: &[f32], words: &[u32], threshold: u32, factor: f32) {
    for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
        *y += if *word < threshold { 0.0 } else { *x * factor };
    }
}

/// `y = x · w · factor`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn weighted(y: &mut [f32], x: &[f32], w: &[f32], factor: f32) {
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = *x * factor * *w;
    }
}

/// `dx = r (dy · w - x · c)`, the row of an RMS norm's backward.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn norm_gradient(dx: &mut [f32], x: &[f32], w: &[f32], dy: &[f32], r: f32, c: f32) {
    for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
        *dx = r * (*dy * *w - *x * c);
    }
}

/// `Σ xᵢ wᵢ gᵢ`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn dot3(x: &[f32], w: &[f32], g: &[f32]) -> f32 {
    let length = x.len().min(w.len()).min(g.len());
    let (x, w, g) = (&x[..length], &w[..length], &g[..length]);
    let mut sums = [0.0f32; LANES];
    let whole = length / LANES * LANES;
    let mut start = 0;
    while start < whole {
        let end = start + LANES;
        let (x, w, g) = (&x[start..end], &w[start..end], &g[start..end]);
        for lane in 0..LANES {
            sums[lane] += x[lane] * w[lane] * g[lane];
        }
        start = end;
    }
    let rest: f32 = (whole..length).map(|index| x[index] * w[index] * g[index]).sum();
    sums.iter().sum::<f32>() + rest
}

/// `y = silu(gate) · up`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn swiglu(y: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = *gate * sigmoid(*gate) * *up;
    }
}

/// Both gradients of `silu(gate) · up`, written over gate and up.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn swiglu_gradient(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
    for ((gate, up), grad) in gate.iter_mut().zip(up).zip(grad) {
        let s = sigmoid(*gate);
        let d_gate = *grad * *up * s * (1.0 + *gate * (1.0 - s));
        *up = *grad * *gate * s;
        *gate = d_gate;
    }
}

/// `dS = P (dP - row) · factor`, written over `dP`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn softmax_gradient(d_probabilities: &mut [f32], probabilities: &[f32], row: f32, factor: f32) {
    for (d, p) in d_probabilities.iter_mut().zip(probabilities) {
        *d = *p * (*d - row) * factor;
    }
}

/// Rotates the pairs of one head: `a ← a c - b s`, `b ← b c + a s`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn rotate(y: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let (first, second) = x.split_at(half);
    let (y_first, y_second) = y.split_at_mut(half);
    for index in 0..half {
        let s = sin[index] * sign;
        y_first[index] = first[index] * cos[index] - second[index] * s;
        y_second[index] = second[index] * cos[index] + first[index] * s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulps_of_the_library() {
        for step in -8700..8800 {
            let x = step as f32 * 0.01;
            let (ours, theirs) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours - theirs).abs() <= 3e-7 * theirs, "exp({x}) = {ours}, not {theirs}");
        }
    }

    #[test]
    fn reductions_equal_plain_loops_at_odd_lengths() {
        for length in [0usize, 1, 3, 15, 16, 17, 23, 77, 199, 777] {
            let a: Vec<f32> = (0..length).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..length).map(|i| (i as f32 * 0.11).cos()).collect();
            let expected: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(x * y)).sum();
            assert!((f64::from(dot(&a, &b)) - expected).abs() < 1e-4);
            let four = dot4(&a, [&b, &a, &b, &a]);
            assert!((f64::from(four[2]) - expected).abs() < 1e-4);
            assert_eq!(maximum(&a).to_bits(), a.iter().copied().fold(f32::NEG_INFINITY, f32::max).to_bits());
        }
    }
}
