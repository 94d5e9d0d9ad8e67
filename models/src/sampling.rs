//! Chooses the next token by its logits.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is chosen. The options apply in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Logits of tokens that occurred before are divided by this if positive and multiplied by it if negative; 1 is off.
    pub repetition_penalty: f32,
    /// Logits are divided by this; 0 chooses the most likely token.
    pub temperature: f32,
    /// Only this many of the most likely tokens are considered; 0 is off.
    pub top_k: usize,
    /// Only the most likely tokens whose probabilities add up to this are considered; 1 is off.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the most likely one are considered; 0 is off.
    pub min_p: f32,
    /// The seed of the random choice.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// Always the most likely token.
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// Chooses tokens. The same seed and logits give the same tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler that has not chosen a token yet.
    pub fn new(options: SamplingOptions) -> Self {
        let random = ChaCha8Rng::seed_from_u64(options.seed);
        Self { options, random }
    }

    /// Chooses the next token by its logits, `vocab_size` of them; `seen` are the tokens before it.
    ///
    /// # Panics
    /// If there are no logits.
    ///
    /// # Source
    /// Keskar et al. 2019 (repetition penalty); Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p).
    pub fn next(&mut self, logits: &[f32], seen: &[u32]) -> u32 {
        assert!(!logits.is_empty(), "expected at least one logit");
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

    /// How many of the candidates, most likely first, top-p and min-p keep; at least one.
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
    fn top_k_top_p_and_min_p_limit_the_candidates() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let hot = SamplingOptions { temperature: 5.0, ..Default::default() };
        assert_eq!(draws(hot.clone(), &logits).iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert!(draws(SamplingOptions { top_k: 2, ..hot.clone() }, &logits).iter().all(|id| *id >= 2));
        assert!(draws(SamplingOptions { top_p: 0.1, ..hot.clone() }, &logits).iter().all(|id| *id == 3));
        assert!(draws(SamplingOptions { min_p: 0.9, ..hot }, &logits).iter().all(|id| *id == 3));
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        let logits = [0.0; 50];
        let with = |seed| SamplingOptions { temperature: 1.0, seed, ..Default::default() };
        assert_eq!(draws(with(1), &logits), draws(with(1), &logits));
        assert_ne!(draws(with(1), &logits), draws(with(2), &logits));
    }

    #[test]
    fn the_penalty_makes_seen_tokens_less_likely() {
        let options = SamplingOptions { repetition_penalty: 2.0, ..Default::default() };
        assert_eq!(Sampler::new(options.clone()).next(&[1.5, 2.0], &[1]), 0);
        assert_eq!(Sampler::new(options).next(&[-1.5, -1.0], &[1]), 0);
    }
}
