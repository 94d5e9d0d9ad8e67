//! Means over rows, with intervals.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

/// The confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;
/// The quantile of a normal distribution for [`CONFIDENCE`].
const Z: f64 = 1.959_963_984_540_054;

/// How intervals are found: percentiles of means over rows that are drawn with replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bootstrap {
    /// How often rows are drawn.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// A mean with the interval that holds it with [`CONFIDENCE`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean over all rows.
    pub value: f64,
    /// The lower and the upper end; `None` for fewer than two rows.
    pub interval: Option<[f64; 2]>,
}

impl Estimate {
    /// Whether the interval is below zero (-1), above it (1), or neither (0).
    pub fn sign(&self) -> i8 {
        match self.interval {
            Some([_, high]) if high < 0.0 => -1,
            Some([low, _]) if low > 0.0 => 1,
            _ => 0,
        }
    }

    /// The estimate of an increasing function of the mean.
    #[must_use]
    pub fn map(self, function: impl Fn(f64) -> f64) -> Self {
        Self { value: function(self.value), interval: self.interval.map(|ends| ends.map(function)) }
    }
}

/// What one model scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Paired {
    /// Its mean.
    pub mean: Estimate,
    /// Its mean less that of the first model, over the same draws.
    pub difference: Estimate,
}

impl Bootstrap {
    /// For each model the sum of its `values` over the sum of `weights`, `[models][rows]` and `[rows]`.
    ///
    /// # Panics
    /// If a model has not as many values as there are weights.
    pub fn paired(self, values: &[Vec<f64>], weights: &[f64]) -> Vec<Paired> {
        assert!(values.iter().all(|values| values.len() == weights.len()), "expected a value for each row");
        let all: Vec<usize> = (0..weights.len()).collect();
        let whole = means(values, weights, &all);
        let draws = if weights.len() < 2 { Vec::new() } else { self.draws(values, weights) };
        let interval = |of: &dyn Fn(&[f64]) -> f64| {
            let mut values: Vec<f64> = draws.iter().map(|means| of(means)).collect();
            values.sort_by(f64::total_cmp);
            let tail = (1.0 - CONFIDENCE) / 2.0;
            (!values.is_empty()).then(|| [tail, 1.0 - tail].map(|share| quantile(&values, share)))
        };
        let of = |model: usize| Paired {
            mean: Estimate { value: whole[model], interval: interval(&|means| means[model]) },
            difference: Estimate { value: whole[model] - whole[0], interval: interval(&|means| means[model] - means[0]) },
        };
        (0..values.len()).map(of).collect()
    }

    fn draws(self, values: &[Vec<f64>], weights: &[f64]) -> Vec<Vec<f64>> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let count = weights.len();
        let mut rows = vec![0; count];
        let draw = |_| {
            for row in &mut rows {
                // The high half of the product is nearly uniform: the bias is below count / 2^64.
                *row = ((u128::from(random.next_u64()) * count as u128) >> 64) as usize;
            }
            means(values, weights, &rows)
        };
        (0..self.resamples).map(draw).collect()
    }
}

fn means(values: &[Vec<f64>], weights: &[f64], rows: &[usize]) -> Vec<f64> {
    let sum = |of: &[f64]| rows.iter().map(|row| of[*row]).sum::<f64>();
    let weight = sum(weights);
    values.iter().map(|values| sum(values) / weight).collect()
}

/// The value below which a share of the sorted values lies, between two of them in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(sorted.len() - 1);
    if sorted[low].total_cmp(&sorted[high]).is_eq() { sorted[low] } else { sorted[low] * (1.0 - part) + sorted[high] * part }
}

/// The share of right answers, with Wilson's interval, which has a width even where all or none are right.
pub fn share(right: usize, asked: usize) -> Estimate {
    if asked == 0 {
        return Estimate { value: f64::NAN, interval: None };
    }
    let (count, value) = (asked as f64, right as f64 / asked as f64);
    let centre = value + Z * Z / (2.0 * count);
    let spread = Z * (value * (1.0 - value) / count + Z * Z / (4.0 * count * count)).sqrt();
    let scale = 1.0 + Z * Z / count;
    let ends = [centre - spread, centre + spread].map(|end| (end / scale).clamp(0.0, 1.0));
    Estimate { value, interval: Some(ends) }
}

/// The share of right answers less that of another model to the same questions, with Bonett and Price's interval for pairs, which has a
/// width even where every question tells the two apart.
///
/// # Panics
/// If they have not the same number of answers.
///
/// # Source
/// Bonett and Price, Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data (2012).
pub fn share_difference(right: &[bool], other: &[bool]) -> Estimate {
    assert_eq!(right.len(), other.len(), "expected the same questions");
    let count = |one: bool, two: bool| right.iter().zip(other).filter(|pair| *pair == (&one, &two)).count() as f64;
    let (gained, lost, asked) = (count(true, false), count(false, true), right.len() as f64);
    let [more, less] = [gained, lost].map(|changed| (changed + 1.0) / (asked + 2.0));
    let spread = Z * ((more + less - (more - less).powi(2)) / (asked + 2.0)).sqrt();
    let ends = [more - less - spread, more - less + spread].map(|end| end.clamp(-1.0, 1.0));
    Estimate { value: (gained - lost) / asked, interval: (!right.is_empty()).then_some(ends) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Bootstrap = Bootstrap { resamples: 4000, seed: 3 };

    /// Sums of losses of rows of different lengths, and the same, lower by `less` a token.
    fn rows(count: usize, less: f64) -> (Vec<Vec<f64>>, Vec<f64>) {
        let weights: Vec<f64> = (0..count).map(|row| (1 + row * 7 % 5) as f64).collect();
        let per_token = |row: usize| 2.0 + ((row * 37 % 100) as f64 - 50.0) / 50.0;
        let first: Vec<f64> = weights.iter().enumerate().map(|(row, weight)| weight * per_token(row)).collect();
        let second = first.iter().zip(&weights).map(|(loss, weight)| loss - less * weight).collect();
        (vec![first, second], weights)
    }

    #[test]
    fn a_difference_has_a_narrower_interval_than_the_means_it_is_of() {
        let (values, weights) = rows(60, 0.01);
        let found = OPTIONS.paired(&values, &weights);
        let [low, high] = found[1].mean.interval.unwrap();
        assert!(high - low > 0.2 && low < found[1].mean.value && found[1].mean.value < high, "{found:?}");
        // Each token is better by the same amount, so that drawing rows does not change it.
        let difference = found[1].difference;
        assert!((difference.value + 0.01).abs() < 1e-12 && difference.sign() == -1, "{found:?}");
        let [low, high] = difference.interval.unwrap();
        assert!(high - low < 1e-12);
        assert_eq!(found[0].difference, Estimate { value: 0.0, interval: Some([0.0, 0.0]) });
        assert_eq!(found, OPTIONS.paired(&values, &weights));
        assert_ne!(found, Bootstrap { seed: 4, ..OPTIONS }.paired(&values, &weights));
    }

    /// The standard error of the mean of a hundred zeros and ones is 0.05.
    #[test]
    fn the_interval_is_that_of_the_normal_distribution_for_many_rows() {
        let values: Vec<f64> = (0..100).map(|row| f64::from(row % 2)).collect();
        let found = OPTIONS.paired(&[values], &[1.0; 100])[0].mean;
        let [low, high] = found.interval.unwrap();
        assert!((low - 0.402).abs() < 0.015 && (high - 0.598).abs() < 0.015, "{found:?}");
        assert_eq!(found.value.to_string(), "0.5");
    }

    #[test]
    fn one_row_has_no_interval_and_none_no_mean() {
        let one = OPTIONS.paired(&[vec![3.0]], &[2.0])[0];
        assert!((one.mean.value - 1.5).abs() < 1e-12 && one.mean.interval.is_none() && one.difference.sign() == 0);
        assert!(OPTIONS.paired(&[Vec::new()], &[])[0].mean.value.is_nan());
    }

    /// Values of `statsmodels.stats.proportion.proportion_confint(..., method="wilson")`.
    #[test]
    fn shares_have_wilsons_interval() {
        for (right, asked, expected) in
            [(0, 10, [0.0, 0.277_532_8]), (10, 10, [0.722_467_2, 1.0]), (7, 20, [0.181_192_4, 0.567_145_6])]
        {
            let found = share(right, asked).interval.unwrap();
            assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
        }
        assert!(share(0, 0).value.is_nan());
    }

    #[test]
    fn differences_of_shares_are_wide_for_few_answers() {
        let (yes, no) = ([true; 10], [false; 10]);
        let of = |one: &[bool], other: &[bool]| share_difference(one, other);
        // 2 of 2 against none: 0.75 - 0.25 ± 1.96 √(0.75 / 4).
        assert_eq!(of(&yes[..2], &no[..2]).sign(), 0);
        let found = of(&yes, &no);
        let [low, high] = found.interval.unwrap();
        // 11/12 - 1/12 ± 1.96 √((1 - 25/36) / 12).
        assert!((low - 0.520_577).abs() < 1e-5 && (high - 1.0).abs() < 1e-12 && found.sign() == 1, "{found:?}");
        assert!((found.value - 1.0).abs() < 1e-12 && of(&no, &yes).sign() == -1);
        let same = of(&yes, &yes);
        assert!(same.value.abs() < 1e-12 && same.sign() == 0);
        assert!(of(&[], &[]).interval.is_none());
    }
}
