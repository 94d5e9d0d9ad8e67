//! The searches for the scales of groups, each the one of least weighted squared error among those tried.
//!
//! Source: `make_qkx2_quants`, `make_qkx3_quants`, `make_qx_quants`, `make_q3_quants` and `make_qp_quants` of llama.cpp.

use super::lanes::{Lanes, Mask, nearest};

/// Magnitude below which a group is all zeros.
pub(super) const LEAST: f32 = 1e-15;

/// How groups with a minimum are searched: `steps + 1` scales, for ranges from `most + first` up, `step` apart.
#[derive(Clone, Copy)]
pub(super) struct Search {
    /// Largest integer.
    pub most: f32,
    /// Offset of the first range.
    pub first: f32,
    /// Between two ranges.
    pub step: f32,
    /// How many more are tried.
    pub steps: u8,
    /// Whether errors count by magnitude instead of squared.
    pub absolute: bool,
}

/// Fits `x ≈ scale · q - below` of groups, with their integers `q`.
pub(super) struct Fit<const N: usize, const G: usize> {
    pub scale: Lanes<G>,
    pub below: Lanes<G>,
    pub q: [Lanes<G>; N],
}

impl Search {
    /// The search that llama.cpp uses where the importance of columns is known.
    pub(super) const fn weighted(most: f32) -> Self {
        Self { most, first: -0.9, step: 0.05, steps: 36, absolute: false }
    }

    /// The best fit of each group.
    #[inline(always)]
    pub(super) fn fit<const N: usize, const G: usize>(self, x: &[Lanes<G>; N], w: &[Lanes<G>; N]) -> Fit<N, G> {
        let (mut least, mut largest) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
        for (x, w) in x.iter().zip(w).skip(1) {
            least = x.min(least);
            largest = x.max(largest);
            sum_w += *w;
            sum_x += *w * *x;
        }
        least = least.min(Lanes::ZERO);
        let constant = largest.equals(least);
        let span = |least: Lanes<G>| constant.select(Lanes::all(1.0), largest - least);
        let from = least;
        // The integers are computed once more at the end instead of being kept.
        let mut best_inverse = Lanes::all(self.most) / span(least);
        let mut best_least = least;
        let mut scale = Lanes::all(1.0) / best_inverse;
        let mut best_error = Lanes::ZERO;
        for (x, w) in x.iter().zip(w) {
            best_error += *w * self.off(scale * self.integer(*x, best_inverse, least) + least - *x);
        }
        for step in 0..=self.steps {
            // From the minimum of the best so far, which moves the scales that are tried after it.
            let inverse = Lanes::all(self.first + self.step * f32::from(step) + self.most) / span(least);
            let (mut l, mut l2, mut xl) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
            let mut tried = [Lanes::ZERO; N];
            for ((x, w), tried) in x.iter().zip(w).zip(&mut tried) {
                *tried = self.integer(*x, inverse, least);
                let wq = *w * *tried;
                l += wq;
                l2 += wq * *tried;
                xl += wq * *x;
            }
            let determinant = sum_w * l2 - l * l;
            let minimum = (l2 * sum_x - l * xl) / determinant;
            let positive = Lanes::ZERO.less(minimum);
            let minimum = positive.select(Lanes::ZERO, minimum);
            let tried_scale = positive.select(xl / l2, (sum_w * xl - sum_x * l) / determinant);
            let mut error = Lanes::ZERO;
            for ((x, w), q) in x.iter().zip(w).zip(&tried) {
                error += *w * self.off(tried_scale * *q + minimum - *x);
            }
            let better = Lanes::ZERO.less(determinant) & error.less(best_error);
            best_error = better.select(error, best_error);
            best_inverse = better.select(inverse, best_inverse);
            best_least = better.select(least, best_least);
            scale = better.select(tried_scale, scale);
            least = better.select(minimum, least);
        }
        let mut q = [Lanes::ZERO; N];
        for (q, x) in q.iter_mut().zip(x) {
            *q = constant.select(Lanes::ZERO, self.integer(*x, best_inverse, best_least));
        }
        Fit { scale: constant.select(Lanes::ZERO, scale), below: -constant.select(from, least), q }
    }

    #[inline(always)]
    fn integer<const G: usize>(self, x: Lanes<G>, inverse: Lanes<G>, least: Lanes<G>) -> Lanes<G> {
        (inverse * (x - least)).nearest().clamp(0.0, self.most)
    }

    #[inline(always)]
    fn off<const G: usize>(self, difference: Lanes<G>) -> Lanes<G> {
        if self.absolute { difference.abs() } else { difference * difference }
    }
}

/// The element of largest magnitude of each group, the first of several, and whether it is as good as zero.
#[inline(always)]
pub(super) fn extremes<const N: usize, const G: usize>(x: &[Lanes<G>; N]) -> (Lanes<G>, Mask<G>) {
    let mut extreme = Lanes::ZERO;
    for x in x {
        extreme = extreme.abs().less(x.abs()).select(*x, extreme);
    }
    (extreme, extreme.abs().less(Lanes::all(LEAST)))
}

/// Fits of `x ≈ scale · (q - most)` with `q` in `0 .. 2 · most`, of nineteen tried; `below` is not used.
#[inline(always)]
pub(super) fn symmetric<const N: usize, const G: usize>(x: &[Lanes<G>; N], w: &[Lanes<G>; N], most: f32) -> Fit<N, G> {
    let (extreme, zero) = extremes(x);
    let extreme = zero.select(Lanes::all(1.0), extreme);
    let integer = |inverse: Lanes<G>, x: Lanes<G>| (inverse * x).nearest().clamp(-most, most - 1.0);
    let sums = |inverse: Lanes<G>| {
        let (mut xl, mut l2) = (Lanes::ZERO, Lanes::ZERO);
        for (x, w) in x.iter().zip(w) {
            let l = integer(inverse, *x);
            xl += *w * *x * l;
            l2 += *w * l * l;
        }
        (xl, l2)
    };
    let mut best_inverse = Lanes::all(-most) / extreme;
    let (xl, l2) = sums(best_inverse);
    let mut scale = l2.equals(Lanes::ZERO).select(Lanes::ZERO, xl / l2);
    let mut best = scale * xl;
    for step in (-9i8..=9).filter(|step| *step != 0) {
        let inverse = Lanes::all(-(most + 0.1 * f32::from(step))) / extreme;
        let (xl, l2) = sums(inverse);
        let better = Lanes::ZERO.less(l2) & (best * l2).less(xl * xl);
        best_inverse = better.select(inverse, best_inverse);
        scale = better.select(xl / l2, scale);
        best = better.select(scale * xl, best);
    }
    let mut q = [Lanes::ZERO; N];
    for (q, x) in q.iter_mut().zip(x) {
        *q = zero.select(Lanes::ZERO, integer(best_inverse, *x) + Lanes::all(most));
    }
    Fit { scale: zero.select(Lanes::ZERO, scale), below: Lanes::ZERO, q }
}

/// As [`symmetric`] where elements weigh as their squares, with integers that are moved one at a time while that helps.
#[inline(always)]
pub(super) fn descent<const N: usize, const G: usize>(x: &[Lanes<G>; N], most: f32) -> Fit<N, G> {
    let (extreme, zero) = extremes(x);
    let extreme = zero.select(Lanes::all(1.0), extreme);
    let inverse = Lanes::all(-most) / extreme;
    let mut q = [Lanes::ZERO; N];
    let (mut xl, mut l2) = (Lanes::ZERO, Lanes::ZERO);
    for (q, x) in q.iter_mut().zip(x) {
        *q = (inverse * *x).nearest().clamp(-most, most - 1.0);
        let w = *x * *x;
        xl += w * *x * *q;
        l2 += w * *q * *q;
    }
    for _ in 0..5 {
        let mut changed = Lanes::ZERO;
        for (q, x) in q.iter_mut().zip(x) {
            let w = *x * *x;
            let rest = xl - w * *x * *q;
            let rest2 = l2 - w * *q * *q;
            let moved = (*x * rest2 / rest).nearest().clamp(-most, most - 1.0);
            let moved_xl = rest + w * *x * moved;
            let moved_l2 = rest2 + w * moved * moved;
            let better = Lanes::ZERO.less(rest)
                & moved.equals(*q).not()
                & Lanes::ZERO.less(moved_l2)
                & (xl * xl * moved_l2).less(moved_xl * moved_xl * l2);
            *q = better.select(moved, *q);
            xl = better.select(moved_xl, xl);
            l2 = better.select(moved_l2, l2);
            changed = better.select(Lanes::all(1.0), changed);
        }
        if !Lanes::any(Lanes::ZERO.less(changed)) {
            break;
        }
    }
    for q in &mut q {
        *q = zero.select(Lanes::ZERO, *q + Lanes::all(most));
    }
    let scale = Lanes::ZERO.less(l2).select(xl / l2, Lanes::ZERO);
    Fit { scale: zero.select(Lanes::ZERO, scale), below: Lanes::ZERO, q }
}

/// The scale of `x ≈ scale · q` for numbers that are not negative, and their integers, from 0 to `most`.
#[inline(always)]
pub(super) fn positive<const N: usize>(x: &[f32; N], w: &[f32; N], most: f32) -> (f32, [u8; N]) {
    let mut q = [0.0f32; N];
    let largest = x.iter().fold(0.0, |largest: f32, x| if *x > largest { *x } else { largest });
    if largest < LEAST {
        return (0.0, [0; N]);
    }
    let integer = |x: f32| nearest(x).clamp(0.0, most);
    let error = |inverse: f32| {
        let scale = 1.0 / inverse;
        x.iter().zip(w).fold(0.0f32, |sum, (x, w)| {
            let off = x - scale * integer(inverse * x);
            sum + w * off * off
        })
    };
    let mut inverse = most / largest;
    let mut best = error(inverse);
    for step in (-4i8..=4).filter(|step| *step != 0) {
        let tried = (0.1 * f32::from(step) + most) / largest;
        let error = error(tried);
        if error < best {
            (best, inverse) = (error, tried);
        }
    }
    let (mut xl, mut l2) = (0.0f32, 0.0f32);
    for ((q, x), w) in q.iter_mut().zip(x).zip(w) {
        *q = integer(inverse * x);
        xl += w * x * *q;
        l2 += w * *q * *q;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((q, x), w) in q.iter_mut().zip(x).zip(w) {
            let rest = xl - w * x * *q;
            let rest2 = l2 - w * *q * *q;
            if rest > 0.0 && rest2 > 0.0 {
                let moved = integer(x * rest2 / rest);
                let (moved_xl, moved_l2) = (rest + w * x * moved, rest2 + w * moved * moved);
                if moved != *q && moved_xl * moved_xl * l2 > xl * xl * moved_l2 {
                    (*q, xl, l2, changed) = (moved, moved_xl, moved_l2, true);
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if l2 > 0.0 { xl / l2 } else { 0.0 }, q.map(|q| q as u8))
}
