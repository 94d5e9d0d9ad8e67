//! Eight groups side by side: each lane computes what llama.cpp computes for one group, in the order of its f32 sums.

use std::array;
use std::ops::{Add, AddAssign, BitAnd, Div, Mul, Neg, Sub};

/// Groups that are searched together.
pub(super) const LANES: usize = 8;

/// One number per group.
#[derive(Clone, Copy)]
pub(super) struct Lanes<const G: usize = LANES>(pub [f32; G]);

/// One condition per group: all bits or none.
#[derive(Clone, Copy)]
pub(super) struct Mask<const G: usize = LANES>([u32; G]);

/// Adding this and subtracting it again leaves the nearest integer, half-way to even, of numbers up to 2²².
const ROUNDER: f32 = 12_582_912.0;

/// The bits of its sum with an integer up to 2²³ end with those of the integer.
const TO_BITS: f32 = 8_388_608.0;

/// Nearest integer, half-way to even.
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

impl<const G: usize> Lanes<G> {
    pub(super) const ZERO: Self = Self([0.0; G]);

    #[inline(always)]
    pub(super) fn all(x: f32) -> Self {
        Self([x; G])
    }

    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(array::from_fn(|g| f(self.0[g])))
    }

    #[inline(always)]
    fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(array::from_fn(|g| f(self.0[g], other.0[g])))
    }

    #[inline(always)]
    fn compare(self, other: Self, f: impl Fn(f32, f32) -> bool) -> Mask<G> {
        Mask(array::from_fn(|g| if f(self.0[g], other.0[g]) { u32::MAX } else { 0 }))
    }

    #[inline(always)]
    pub(super) fn less(self, other: Self) -> Mask<G> {
        self.compare(other, |a, b| a < b)
    }

    #[inline(always)]
    pub(super) fn equals(self, other: Self) -> Mask<G> {
        self.compare(other, |a, b| a == b)
    }

    #[inline(always)]
    pub(super) fn abs(self) -> Self {
        self.map(f32::abs)
    }

    #[inline(always)]
    pub(super) fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }

    #[inline(always)]
    pub(super) fn nearest(self) -> Self {
        self.map(nearest)
    }

    /// The integer below numbers that are not negative.
    #[inline(always)]
    pub(super) fn floor(self) -> Self {
        self.map(|x| {
            let near = nearest(x);
            if near > x { near - 1.0 } else { near }
        })
    }

    /// The smaller one; a NaN of `self` is passed by.
    #[inline(always)]
    pub(super) fn min(self, other: Self) -> Self {
        self.with(other, |a, b| if a < b { a } else { b })
    }

    /// The larger one; a NaN of `self` is passed by.
    #[inline(always)]
    pub(super) fn max(self, other: Self) -> Self {
        self.with(other, |a, b| if a > b { a } else { b })
    }

    /// Between two numbers.
    #[inline(always)]
    pub(super) fn clamp(self, least: f32, most: f32) -> Self {
        self.max(Self::all(least)).min(Self::all(most))
    }

    /// Whether any lane is true.
    #[inline(always)]
    pub(super) fn any(mask: Mask<G>) -> bool {
        mask.0.iter().fold(0, |any, lane| any | lane) != 0
    }
}

impl<const G: usize> Mask<G> {
    /// `yes` where it is true, else `no`.
    #[inline(always)]
    pub(super) fn select(self, yes: Lanes<G>, no: Lanes<G>) -> Lanes<G> {
        Lanes(array::from_fn(|g| f32::from_bits((yes.0[g].to_bits() & self.0[g]) | (no.0[g].to_bits() & !self.0[g]))))
    }

    #[inline(always)]
    pub(super) fn not(self) -> Self {
        Self(self.0.map(|lane| !lane))
    }
}

impl<const G: usize> BitAnd for Mask<G> {
    type Output = Self;

    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        Self(array::from_fn(|g| self.0[g] & other.0[g]))
    }
}

macro_rules! operator {
    ($trait:ident, $name:ident, $with:expr) => {
        impl<const G: usize> $trait for Lanes<G> {
            type Output = Self;

            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                self.with(other, $with)
            }
        }
    };
}

operator!(Add, add, |a, b| a + b);
operator!(Sub, sub, |a, b| a - b);
operator!(Mul, mul, |a, b| a * b);
operator!(Div, div, |a, b| a / b);

impl<const G: usize> Neg for Lanes<G> {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        self.map(|x| -x)
    }
}

impl<const G: usize> AddAssign for Lanes<G> {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// `G` groups of `N` elements side by side; zeros follow where the elements end.
#[inline(always)]
pub(super) fn side_by_side<const N: usize, const G: usize>(x: &[f32]) -> [Lanes<G>; N] {
    let mut lanes = [Lanes::ZERO; N];
    for (group, x) in x.chunks_exact(N).take(G).enumerate() {
        for (lane, x) in lanes.iter_mut().zip(x) {
            lane.0[group] = *x;
        }
    }
    lanes
}

/// The integers of groups one after the other again, as many as there is room for.
#[inline(always)]
pub(super) fn one_by_one<const N: usize, const G: usize>(lanes: &[Lanes<G>; N], q: &mut [u8]) {
    for (group, q) in q.chunks_exact_mut(N).take(G).enumerate() {
        for (q, lane) in q.iter_mut().zip(lanes) {
            // The lowest bits of the sum are those of the integer.
            *q = (lane.0[group] + TO_BITS).to_bits() as u8;
        }
    }
}
