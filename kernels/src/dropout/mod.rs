//! Dropout with a counter-based generator: no mask is kept, since its key gives it again.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;
pub(crate) mod philox;
#[cfg(feature = "cube")]
pub(crate) mod words;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData, TensorMetadata};
use rayon::prelude::*;

use crate::FusedBackend;
use crate::primitive::{cast, raw, typed};

/// Elements of a mask that one task draws; whole blocks of the generator.
const TASK: usize = 4096;

/// What a mask depends on, beside the index of an element: the same key gives the same mask on every backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DropoutKey {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the optimizer step.
    pub step: u32,
    /// Number of the micro-batch within the step.
    pub micro_batch: u32,
    /// Layer and projection, for example a hash of the parameter's name.
    pub layer: u64,
}

/// How much of a tensor is dropped, and the key that decides which elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability with which an element is dropped, in `[0, 1)`.
    pub probability: f64,
    /// Decides which elements.
    pub key: DropoutKey,
    /// Number of the tensor's first element in the mask, a multiple of 4: a slice of rows is dropped like the whole tensor's.
    pub first: u64,
}

impl Dropout {
    /// Number of the block of random words that the first element takes its word from.
    #[cfg(feature = "cube")]
    pub(crate) fn first_block(self) -> u64 {
        debug_assert!(self.first.is_multiple_of(philox::WORDS as u64), "dropout: a mask begins with a block");
        self.first / philox::WORDS as u64
    }

    /// An element is dropped where its 32 random bits are below the threshold `p · 2³²`.
    pub(crate) fn threshold(self) -> u32 {
        (self.probability * 2f64.powi(32)).round() as u32
    }

    /// Factor on the elements that are kept: `1 / (1 - p)`.
    pub(crate) fn factor(self) -> f32 {
        (1.0 / (1.0 - self.probability)) as f32
    }
}

/// `y = x / (1 - p)` where an element is kept, and 0 where it is dropped, with probability `p`.
///
/// Element `i`, counted in row-major order, takes word `i mod 4` of block `⌊i / 4⌋` of the generator. The backward draws the
/// mask again from the key: neither the mask nor `x` is kept.
///
/// # Shapes
/// Any; the result has the shape of `x`.
///
/// # Precision
/// The result has the dtype of `x`; the product is f32. The mask is the same on every backend and in every dtype.
///
/// # Panics
/// When the probability is not within `[0, 1)`.
///
/// # Source
/// Srivastava et al. 2014, "Dropout"; the generator is Philox4x32-10 of Salmon et al. 2011, "Parallel Random Numbers: As Easy
/// as 1, 2, 3".
pub fn dropout<B: FusedBackend, const D: usize>(x: Tensor<B, D>, probability: f64, key: DropoutKey) -> Tensor<B, D> {
    dropout_from(x, Dropout { probability, key, first: 0 })
}

/// [`dropout`] with all that its mask depends on.
///
/// # Panics
/// When the probability is not within `[0, 1)`.
pub fn dropout_from<B: FusedBackend, const D: usize>(x: Tensor<B, D>, dropout: Dropout) -> Tensor<B, D> {
    if drops(dropout.probability) { typed(B::dropout(raw(x), dropout)) } else { x }
}

/// Whether anything is dropped.
///
/// # Panics
/// When the probability is not within `[0, 1)`.
pub(crate) fn drops(probability: f64) -> bool {
    assert!((0.0..1.0).contains(&probability), "dropout: expected a probability in [0, 1), got {probability}");
    probability > 0.0
}

/// The factors on `count` elements, drawn on all processors of the host.
fn mask(count: usize, dropout: Dropout) -> Vec<f32> {
    let (threshold, factor) = (dropout.threshold(), dropout.factor());
    let mut mask = vec![factor; count];
    mask.par_chunks_mut(TASK).enumerate().for_each(|(index, mask)| {
        let mut words = [0; TASK];
        let words = &mut words[..mask.len()];
        philox::fill(words, dropout.first + (index * TASK) as u64, dropout.key);
        let dropped = mask.iter_mut().zip(words).filter(|(_, word)| **word < threshold);
        dropped.for_each(|(factor, _)| *factor = 0.0);
    });
    mask
}

/// The composed operation, both forward and backward. The mask is drawn on the host: the generator needs the upper half of 32-bit
/// products, which not all backends' integers provide.
pub fn reference<B: Backend>(x: FloatTensor<B>, dropout: Dropout) -> FloatTensor<B> {
    let (shape, dtype, device) = (x.shape(), x.dtype(), B::float_device(&x));
    let mask = B::float_from_data(TensorData::new(mask(shape.num_elements(), dropout), shape), &device);
    cast::<B>(B::float_mul(cast::<B>(x, DType::F32), mask), dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: DropoutKey = DropoutKey { seed: 0x0123_4567_89ab_cdef, step: 7, micro_batch: 2, layer: 0xfeed };

    fn dropped(count: usize, probability: f64, key: DropoutKey) -> Vec<bool> {
        mask(count, Dropout { probability, key, first: 0 }).iter().map(|factor| *factor == 0.0).collect()
    }

    fn share(probability: f64, key: DropoutKey) -> f64 {
        let count = 1 << 20;
        dropped(count, probability, key).iter().filter(|dropped| **dropped).count() as f64 / count as f64
    }

    #[test]
    fn the_fraction_dropped_lies_within_binomial_bounds() {
        for probability in [0.001, 0.05, 0.1, 0.5, 0.9] {
            // Five standard deviations of a binomial distribution of 2²⁰ draws.
            let bound = 5.0 * (probability * (1.0 - probability) / f64::from(1 << 20)).sqrt();
            for layer in 0..4 {
                let found = share(probability, DropoutKey { layer, ..KEY });
                assert!((found - probability).abs() < bound, "{found} of {probability}");
            }
        }
    }

    #[test]
    fn every_part_of_the_key_changes_the_mask() {
        let half = |key| dropped(1 << 16, 0.5, key);
        let own = half(KEY);
        let others = [
            DropoutKey { seed: KEY.seed ^ 1, ..KEY },
            DropoutKey { seed: KEY.seed ^ 1 << 63, ..KEY },
            DropoutKey { step: KEY.step + 1, ..KEY },
            DropoutKey { micro_batch: KEY.micro_batch + 1, ..KEY },
            DropoutKey { layer: KEY.layer + 1, ..KEY },
        ];
        assert_eq!(own, half(KEY));
        for other in others {
            // Independent masks of one half agree in one half: within five standard deviations of 2¹⁶ draws.
            let equal = own.iter().zip(half(other)).filter(|(own, other)| *own == other).count();
            assert!(equal.abs_diff(1 << 15) < 640, "{other:?}: {equal} of {} elements agree", own.len());
        }
    }

    #[test]
    fn a_part_of_a_mask_does_not_depend_on_the_rest() {
        let all = dropped(3 * TASK + 5, 0.3, KEY);
        let some = dropped(TASK + 3, 0.3, KEY);
        assert_eq!(all[..some.len()], some);
    }

    #[test]
    fn the_mask_of_a_slice_is_that_part_of_the_whole() {
        let all = mask(2 * TASK, Dropout { probability: 0.3, key: KEY, first: 0 });
        for first in [4, 1000, TASK] {
            let part = mask(2 * TASK - first, Dropout { probability: 0.3, key: KEY, first: first as u64 });
            assert_eq!(part, all[first..]);
        }
    }

    #[test]
    fn thresholds_are_exact_and_never_overflow() {
        let threshold = |probability| Dropout { probability, key: KEY, first: 0 }.threshold();
        assert_eq!(threshold(0.05), 214_748_365);
        assert_eq!(threshold(0.5), 1 << 31);
        assert_eq!(threshold(1.0 - 1e-15), u32::MAX);
    }
}
