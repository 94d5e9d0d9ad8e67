//! The next token of each row of logits, chosen on the device.

#[cfg(feature = "cube")]
pub(crate) mod cube;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::FusedBackend;
use crate::dropout::DropoutKey;
use crate::dropout::philox;
use crate::primitive::{raw, typed};

/// Separates these random words from those of dropout.
const LAYER: u64 = 0x7361_6d70_6c65;

/// Below this temperature the most likely token is taken: a quotient of logits would be beyond f32.
const COLDEST: f32 = 1e-6;

/// How tokens are drawn: the same draw of the same logits gives the same tokens on every backend, but where two scores are closer than
/// the rounding of a logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TokenDraw {
    /// Logits are divided by this; 0 takes the most likely token.
    pub temperature: f32,
    /// Seed of the text.
    pub seed: u64,
    /// Number of the token within the text.
    pub number: u32,
}

impl TokenDraw {
    /// The factor on the logits; `None` if the most likely token is taken.
    pub(crate) fn factor(self) -> Option<f32> {
        (self.temperature > COLDEST).then(|| self.temperature.recip())
    }

    pub(crate) fn key(self) -> DropoutKey {
        DropoutKey { seed: self.seed, step: self.number, micro_batch: 0, layer: LAYER }
    }
}

/// One token for each row of logits: the most likely one, the first of equals; or, at a temperature `T`, token `i` with a probability
/// proportional to `exp(logitᵢ / T)`. The result is -1 for a row with a logit that is not finite.
///
/// The token drawn is that with the largest `logitᵢ / T - ln(-ln(1 - uᵢ))`, where `uᵢ` is uniform in `(0, 1)`: no sum over the vocabulary, and
/// no sorting. Element `i`, counted in row-major order, takes word `i mod 4` of block `⌊i / 4⌋` of the generator that dropout has.
///
/// # Shapes
/// `logits` `[rows, vocab_size]`; the result is `[rows]`.
///
/// # Precision
/// Scores are f32.
///
/// # Source
/// Gumbel 1954; Maddison et al. 2014, "A* Sampling" (the Gumbel-max trick).
pub fn sample_tokens<B: FusedBackend>(logits: Tensor<B, 2>, draw: TokenDraw) -> Tensor<B, 1, Int> {
    Tensor::from_primitive(B::sample_tokens(raw(logits), draw))
}

/// The composed operation, on the host.
///
/// # Panics
/// If the device fails.
pub fn reference<B: Backend>(logits: FloatTensor<B>, draw: TokenDraw) -> IntTensor<B> {
    let device = B::float_device(&logits);
    let logits = typed::<B, 2>(logits);
    let [rows, columns] = logits.dims();
    let values: Vec<f32> = logits.cast(DType::F32).into_data().iter::<f32>().collect();
    let mut noise = Vec::new();
    if draw.factor().is_some() {
        let mut words = vec![0; rows * columns];
        philox::fill(&mut words, 0, draw.key());
        noise.extend(words.into_iter().map(gumbel));
    }
    let row = |row: usize| {
        let range = row * columns..(row + 1) * columns;
        best(&values[range.clone()], draw.factor().map(|factor| (factor, &noise[range])))
    };
    let ids: Vec<i32> = (0..rows).map(row).collect();
    Tensor::<B, 1, Int>::from_data(TensorData::new(ids, [rows]), &device).into_primitive()
}

/// The first of the largest scores; -1 where a logit is not finite.
fn best(logits: &[f32], drawn: Option<(f32, &[f32])>) -> i32 {
    let (mut best, mut largest) = (0, f32::NEG_INFINITY);
    for (id, logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return -1;
        }
        let score = match drawn {
            Some((factor, noise)) => logit * factor + noise[id],
            None => *logit,
        };
        if score > largest {
            (best, largest) = (id, score);
        }
    }
    best as i32
}

/// A number of the standard Gumbel distribution, of a random word: `-ln(-ln(1 - u))`. The large numbers, which decide, come from a small `u`,
/// where f32 is fine.
fn gumbel(word: u32) -> f32 {
    let u = (word as f32 + 0.5) * 2f32.powi(-32);
    -exponential(u).ln()
}

/// `-ln(1 - u)`, by its series where `u` is small.
fn exponential(u: f32) -> f32 {
    if u < SMALL { u * (1.0 + u * (0.5 + u * (1.0 / 3.0))) } else { -(1.0 - u.min(LARGEST)).ln() }
}

/// Below this the series is used: its relative error is at most 2.5e-7, that of its next term.
const SMALL: f32 = 0.01;

/// The largest number below 1.
const LARGEST: f32 = 1.0 - f32::EPSILON / 2.0;

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    fn sampled(logits: &[f32], rows: usize, draw: TokenDraw) -> Vec<i32> {
        let data = TensorData::new(logits.to_vec(), [rows, logits.len() / rows]);
        let logits = Tensor::<Flex, 2>::from_data(data, &Default::default());
        sample_tokens(logits, draw).into_data().iter::<i32>().collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let logits = [0.0, 3.0, 3.0, 1.0, -5.0, -9.0, -5.0, -7.0];
        assert_eq!(sampled(&logits, 2, TokenDraw::default()), [1, 0]);
    }

    #[test]
    fn a_row_that_is_not_finite_has_no_token() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for temperature in [0.0, 1.0] {
                let draw = TokenDraw { temperature, ..TokenDraw::default() };
                assert_eq!(sampled(&[0.0, 1.0, bad, 2.0, 0.0, 9.0, 1.0, 2.0], 2, draw)[0], -1);
                assert!(sampled(&[0.0, 1.0, bad, 2.0, 0.0, 9.0, 1.0, 2.0], 2, draw)[1] >= 0);
            }
        }
    }

    #[test]
    fn tokens_are_drawn_by_their_probabilities() {
        const DRAWS: u32 = 20_000;
        let logits = [0.0f32, 1.0, 2.0, -1.0, 1.5, 0.0];
        for temperature in [0.5, 1.0, 3.0] {
            let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut counts = [0u32; 6];
            for number in 0..DRAWS {
                let draw = TokenDraw { temperature, seed: 5, number };
                counts[sampled(&logits, 1, draw)[0] as usize] += 1;
            }
            for (count, weight) in counts.iter().zip(weights) {
                let (share, expected) = (f64::from(*count) / f64::from(DRAWS), weight / total);
                // Five standard deviations.
                let bound = 5.0 * (expected * (1.0 - expected) / f64::from(DRAWS)).sqrt();
                assert!((share - expected).abs() < bound, "{share} of {expected} at {temperature}");
            }
        }
    }

    #[test]
    fn seed_and_number_change_the_draw() {
        let logits = vec![0.0; 1000];
        let of = |seed, number| sampled(&logits, 1, TokenDraw { temperature: 1.0, seed, number })[0];
        assert_eq!(of(1, 2), of(1, 2));
        assert!(of(1, 2) != of(2, 2) && of(1, 2) != of(1, 3));
    }

    #[test]
    fn every_word_has_a_finite_number() {
        for word in [0, 1, 1 << 24, 42_949_672, 42_949_673, u32::MAX - 1, u32::MAX] {
            assert!(gumbel(word).is_finite(), "{word}");
        }
        // The series and the logarithm meet.
        let (below, above) = (exponential(SMALL - 1e-6), exponential(SMALL));
        assert!(below < above && above - below < 2e-6);
    }
}
