//! From logits to the next token.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is chosen; the filters apply in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Logits of tokens seen before are divided by this when positive and multiplied when negative; 1 is off.
    pub repetition_penalty: f32,
    /// Logits are divided by this; 0 takes the most likely token.
    pub temperature: f32,
    /// Only so many of the most likely tokens; 0 is off.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability; 1 is off.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the most likely one; 0 is off.
    pub min_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// The most likely token, always.
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// Chooses tokens; the same seed and logits give the same tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the start of its random stream.
    pub fn new(options: SamplingOptions) -> Self {
        let random = ChaCha8Rng::seed_from_u64(options.seed);
        Self { options, random }
    }

    /// Chooses the next token, given those before it.
    ///
    /// # Panics
    /// When there are no logits.
    ///
    /// # Source
    /// Keskar et al. 2019 (repetition penalty); Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p).
    pub fn next(&mut self, logits: &[f32], seen: &[u32]) -> u32 {
        assert!(!logits.is_empty(), "sampling needs logits");
        let mut logits = logits.to_vec();
        self.penalise(&mut logits, seen);
        if self.options.temperature <= 0.0 {
            return most_likely(&logits);
        }
        let mut candidates: Vec<(u32, f32)> = logits.iter().enumerate().map(|(id, logit)| (id as u32, *logit)).collect();
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.options.top_k > 0 {
            candidates.truncate(self.options.top_k);
        }
        let largest = candidates[0].1;
        let mut weights: Vec<f64> = candidates
            .iter()
            .map(|(_, logit)| (f64::from(logit - largest) / f64::from(self.options.temperature)).exp())
            .collect();
        let kept = self.keep(&weights);
        weights.truncate(kept);
        let total: f64 = weights.iter().sum();
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * total;
        for ((id, _), weight) in candidates.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return *id;
            }
        }
        candidates[kept - 1].0
    }

    /// How many of the weights, most likely first, top-p and min-p leave; at least one.
    fn keep(&self, weights: &[f64]) -> usize {
        let mut kept = weights.len();
        if self.options.top_p < 1.0 {
            let total: f64 = weights.iter().sum();
            let mut sum = 0.0;
            let reached = weights.iter().position(|weight| {
                sum += weight / total;
                sum >= f64::from(self.options.top_p)
            });
            kept = reached.map_or(kept, |index| index + 1);
        }
        if self.options.min_p > 0.0 {
            let least = weights[0] * f64::from(self.options.min_p);
            kept = kept.min(weights.iter().take_while(|weight| **weight >= least).count());
        }
        kept.max(1)
    }

    fn penalise(&self, logits: &mut [f32], seen: &[u32]) {
        let penalty = self.options.repetition_penalty;
        if (penalty - 1.0).abs() < f32::EPSILON {
            return;
        }
        let mut seen = seen.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }
}

fn most_likely(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(options: SamplingOptions, logits: &[f32]) -> Vec<u32> {
        let mut sampler = Sampler::new(options);
        (0..200).map(|_| sampler.next(logits, &[])).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(Sampler::new(SamplingOptions::default()).next(&[0.0, 3.0, 3.0, 1.0], &[]), 1);
    }

    #[test]
    fn filters_leave_out_what_they_should() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let hot = SamplingOptions { temperature: 5.0, ..Default::default() };
        assert_eq!(draws(hot.clone(), &logits).iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert!(draws(SamplingOptions { top_k: 2, ..hot.clone() }, &logits).iter().all(|id| *id >= 2));
        assert!(draws(SamplingOptions { top_p: 0.1, ..hot.clone() }, &logits).iter().all(|id| *id == 3));
        assert!(draws(SamplingOptions { min_p: 0.9, ..hot }, &logits).iter().all(|id| *id == 3));
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let logits = [0.0; 50];
        let with = |seed| SamplingOptions { temperature: 1.0, seed, ..Default::default() };
        assert_eq!(draws(with(1), &logits), draws(with(1), &logits));
        assert_ne!(draws(with(1), &logits), draws(with(2), &logits));
    }

    #[test]
    fn the_penalty_moves_seen_tokens_down() {
        let options = SamplingOptions { repetition_penalty: 2.0, ..Default::default() };
        assert_eq!(Sampler::new(options.clone()).next(&[1.5, 2.0], &[1]), 0);
        assert_eq!(Sampler::new(options).next(&[-1.5, -1.0], &[1]), 0);
    }
}
