//! Chooses the next token by its logits.

use std::borrow::Cow;
use std::cmp::Ordering;

use burnish_kernels::TokenDraw;
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

impl SamplingOptions {
    /// How token `number` of a text is chosen on the device; `None` where only a sampler with all logits can.
    pub fn draw(&self, number: usize) -> Option<TokenDraw> {
        let Self { repetition_penalty, temperature, top_k, top_p, min_p, seed } = *self;
        let is_plain = (repetition_penalty - 1.0).abs() < f32::EPSILON;
        let takes_all = temperature <= 0.0 || top_k == 0 && top_p >= 1.0 && min_p <= 0.0;
        (is_plain && takes_all).then(|| TokenDraw { temperature: temperature.max(0.0), seed, number: number as u32 })
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
        let logits = self.penalised(logits, seen);
        if self.options.temperature <= 0.0 {
            return most_likely(&logits);
        }
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut ranked = Ranked::new(&logits);
        if self.options.top_k > 0 {
            ranked.keep(self.options.top_k);
        }
        let largest = ranked.get(0).1;
        let temperature = f64::from(self.options.temperature);
        let weight = |logit: f32| (f64::from(logit - largest) / temperature).exp();
        let total: f64 = ranked.candidates.iter().map(|(_, logit)| weight(*logit)).sum();
        let (kept, total) = self.kept(&mut ranked, weight, total);
        let mut left = uniform * total;
        for rank in 0..kept {
            let (id, logit) = ranked.get(rank);
            left -= weight(logit);
            if left < 0.0 {
                return id;
            }
        }
        ranked.get(kept - 1).0
    }

    /// How many of the candidates, most likely first, top-p and min-p keep, at least one; and the sum of their weights. `total` is that
    /// of all candidates.
    fn kept(&self, ranked: &mut Ranked, weight: impl Fn(f32) -> f64, total: f64) -> (usize, f64) {
        let SamplingOptions { top_p, min_p, .. } = self.options;
        if top_p >= 1.0 && min_p <= 0.0 {
            return (ranked.candidates.len(), total);
        }
        let (mut kept, mut sum) = (0, 0.0);
        while kept < ranked.candidates.len() {
            let next = weight(ranked.get(kept).1);
            // The largest weight is 1.
            if kept > 0 && next < f64::from(min_p) {
                break;
            }
            kept += 1;
            sum += next;
            if top_p < 1.0 && sum / total >= f64::from(top_p) {
                break;
            }
        }
        (kept, sum)
    }

    /// The logits after the penalty on the tokens that occurred.
    fn penalised<'a>(&self, logits: &'a [f32], seen: &[u32]) -> Cow<'a, [f32]> {
        let penalty = self.options.repetition_penalty;
        if (penalty - 1.0).abs() < f32::EPSILON {
            return Cow::Borrowed(logits);
        }
        let (mut logits, mut seen) = (logits.to_vec(), seen.to_vec());
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        Cow::Owned(logits)
    }
}

/// Tokens with their logits, the most likely first, sorted as far as they were asked for: a vocabulary is long, and few of its tokens
/// are looked at.
struct Ranked {
    candidates: Vec<(u32, f32)>,
    sorted: usize,
}

impl Ranked {
    /// How many are sorted at first.
    const FIRST: usize = 64;

    fn new(logits: &[f32]) -> Self {
        Self { candidates: logits.iter().enumerate().map(|(id, logit)| (id as u32, *logit)).collect(), sorted: 0 }
    }

    /// The more likely first; of equal ones that with the smaller id.
    fn order(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
        b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
    }

    /// The candidate of that rank, which must exist.
    fn get(&mut self, rank: usize) -> (u32, f32) {
        while rank >= self.sorted {
            let (sorted, length) = (self.sorted, self.candidates.len());
            let more = sorted.max(Self::FIRST).min(length - sorted);
            let rest = &mut self.candidates[sorted..];
            if more < rest.len() {
                rest.select_nth_unstable_by(more, Self::order);
            }
            rest[..more].sort_unstable_by(Self::order);
            self.sorted += more;
        }
        self.candidates[rank]
    }

    /// Removes all but the `count` most likely.
    fn keep(&mut self, count: usize) {
        if count < self.candidates.len() {
            self.candidates.select_nth_unstable_by(count, Self::order);
            self.candidates.truncate(count);
        }
    }
}

fn most_likely(logits: &[f32]) -> u32 {
    let mut best = (0, logits[0]);
    for (id, logit) in logits.iter().enumerate() {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    best.0 as u32
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
    fn candidates_are_ranked_as_by_a_sort_of_all() {
        let logits: Vec<f32> = (0..1000u32).map(|id| (id.wrapping_mul(2_654_435_761) >> 24) as f32).collect();
        let mut sorted: Vec<(u32, f32)> = logits.iter().enumerate().map(|(id, logit)| (id as u32, *logit)).collect();
        sorted.sort_by(Ranked::order);
        let mut ranked = Ranked::new(&logits);
        assert!((0..1000).all(|rank| ranked.get(rank) == sorted[rank]));
        let mut few = Ranked::new(&logits);
        few.keep(70);
        assert!((0..70).all(|rank| few.get(rank) == sorted[rank]));
        assert_eq!(few.candidates.len(), 70);
    }

    #[test]
    fn draws_are_as_frequent_as_the_probabilities() {
        let options = SamplingOptions { temperature: 1.0, ..Default::default() };
        let mut sampler = Sampler::new(options);
        let logits = [0.0f32, 3.0f32.ln(), f32::MIN];
        let drawn = (0..4000).filter(|_| sampler.next(&logits, &[]) == 1).count();
        assert!((2900..3100).contains(&drawn), "{drawn} of 4000");
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
