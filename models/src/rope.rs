//! The rotary position embedding.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::{FusedBackend, RotaryTable};

use crate::config::{RopeScaling, RotaryConfig};

/// The rotary frequencies, `rotated / 2` of them: of the first `rotated` elements of a head at position `p`, the elements `i` and
/// `i + rotated / 2` are rotated by the angle `p · frequency[i]`.
///
/// # Source
/// Su et al. 2021; Peng et al. 2023, "YaRN"; `_compute_llama3_parameters`, `_compute_linear_scaling_rope_parameters`,
/// `_compute_yarn_parameters` and `_compute_longrope_parameters` of transformers 5.
pub fn inverse_frequencies(rotated: usize, config: &RotaryConfig) -> Vec<f64> {
    let dim = rotated as f64;
    let plain = (0..rotated / 2).map(|index| config.theta.powf(-2.0 * index as f64 / dim));
    match &config.scaling {
        None => plain.collect(),
        Some(RopeScaling::Linear { factor }) => plain.map(|frequency| frequency / factor).collect(),
        Some(RopeScaling::Factors { factors } | RopeScaling::LongRope { short: factors, .. }) => {
            plain.zip(factors.iter().chain(std::iter::repeat(&1.0))).map(|(frequency, factor)| frequency / factor).collect()
        }
        Some(RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position_embeddings, truncate, .. }) => {
            let original = *original_max_position_embeddings as f64;
            // The index of the frequency that rotates so many times in the original context.
            let index = |rotations: f64| {
                dim * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * config.theta.ln())
            };
            let (low, high) = (index(*beta_fast), index(*beta_slow));
            let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(dim - 1.0));
            // As in transformers, equal bounds are a step.
            let width = if (high - low).abs() > 0.0 { high - low } else { 0.001 };
            plain
                .enumerate()
                .map(|(index, frequency)| {
                    let divided = ((index as f64 - low) / width).clamp(0.0, 1.0);
                    divided * frequency / factor + (1.0 - divided) * frequency
                })
                .collect()
        }
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let original = *original_max_position_embeddings as f64;
            plain
                .map(|frequency| {
                    let rotations = original * frequency / (2.0 * std::f64::consts::PI);
                    let kept = ((rotations - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                })
                .collect()
        }
    }
}

/// Computes the tables of cosines and sines. Rows are kept for later calls: on a CPU, computing those of the thousands of tokens
/// of a step takes longer than a GPU takes for several blocks.
#[derive(Debug, Clone)]
pub struct Rope {
    frequencies: Vec<f64>,
    /// Factor on cosines and sines.
    factor: f64,
    /// For texts that are longer than a number of tokens.
    long: Option<(usize, Box<Rope>)>,
    /// Shared by the clones of a model.
    kept: Arc<Mutex<Rows>>,
}

/// The cosines and sines of some positions, one row per position.
#[derive(Debug, Default)]
struct Rows {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Only rows of positions below this are kept: 64 MiB for heads of 128 elements.
const MAX_KEPT: u32 = 1 << 17;

impl Rows {
    /// Adds the rows up to position `last`, if they begin at position 0.
    fn extend(&mut self, frequencies: &[f64], factor: f64, last: u32) {
        let first = (self.cos.len() / frequencies.len().max(1)) as u32;
        for position in first..=last {
            self.push(frequencies, factor, position);
        }
    }

    fn push(&mut self, frequencies: &[f64], factor: f64, position: u32) {
        for frequency in frequencies {
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            self.cos.push((cos * factor) as f32);
            self.sin.push((sin * factor) as f32);
        }
    }
}

impl Rope {
    /// The rotary embedding of a configuration, for heads of which the first `rotated` elements are rotated.
    pub fn new(rotated: usize, config: &RotaryConfig) -> Self {
        let factor = match &config.scaling {
            Some(RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. }) => {
                *attention_factor
            }
            _ => 1.0,
        };
        let long = match &config.scaling {
            Some(RopeScaling::LongRope { long, original_max_position_embeddings, .. }) => {
                let scaling = Some(RopeScaling::Factors { factors: long.clone() });
                let of_long = Self { factor, ..Self::new(rotated, &RotaryConfig { scaling, ..config.clone() }) };
                Some((*original_max_position_embeddings, Box::new(of_long)))
            }
            _ => None,
        };
        Self { frequencies: inverse_frequencies(rotated, config), factor, long, kept: Arc::default() }
    }

    /// Whether a text with that number of tokens has the frequencies of long texts.
    pub fn is_long(&self, tokens: usize) -> bool {
        self.long.as_ref().is_some_and(|(limit, _)| tokens > *limit)
    }

    /// The cosines and sines for tokens at the given positions, each `[tokens, rotated / 2]` and f32 whatever the model's type.
    pub fn table<B: FusedBackend>(&self, positions: &[u32], device: &B::Device) -> RotaryTable<B> {
        let last = positions.iter().copied().max().unwrap_or(0);
        // As in transformers, the longest text of a batch decides.
        if let Some((_, long)) = self.long.as_ref().filter(|_| self.is_long(last as usize + 1)) {
            return long.table(positions, device);
        }
        let width = self.frequencies.len();
        let upload = |values: Vec<f32>| {
            let shape = [values.len() / width.max(1), width];
            Tensor::<B, 2>::from_data(TensorData::new(values, shape), (device, DType::F32))
        };
        if last >= MAX_KEPT {
            let mut rows = Rows::default();
            for position in positions {
                rows.push(&self.frequencies, self.factor, *position);
            }
            return RotaryTable { cos: upload(rows.cos), sin: upload(rows.sin) };
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&self.frequencies, self.factor, last);
        let (tokens, rows) = (positions.len(), last as usize + 1);
        if 2 * rows <= tokens {
            // Several tokens share a position: upload its row once and repeat it on the device.
            let indices = positions.iter().map(|position| *position as i32).collect();
            let indices = Tensor::<B, 1, Int>::from_data(TensorData::new(indices, [tokens]), device);
            let select = |values: &[f32]| upload(values[..rows * width].to_vec()).select(0, indices.clone());
            return RotaryTable { cos: select(&kept.cos), sin: select(&kept.sin) };
        }
        let of = |values: &[f32]| {
            upload(positions.iter().flat_map(|position| &values[*position as usize * width..][..width]).copied().collect())
        };
        RotaryTable { cos: of(&kept.cos), sin: of(&kept.sin) }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use serde_json::{Value, json};

    use super::*;

    // `ROPE_INIT_FUNCTIONS["yarn"]` of transformers 5.23.
    #[test]
    fn frequencies_of_yarn_are_those_of_transformers() {
        let config = |more: Value| {
            let mut parameters = json!({ "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256 });
            parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            RotaryConfig::from_parameters(parameters.as_object().unwrap(), 10_000.0, 2048).unwrap()
        };
        let close = |json: Value, expected: [f64; 8], factor: f64| {
            let rope = Rope::new(16, &config(json));
            for (found, expected) in rope.frequencies.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
            }
            assert!((rope.factor / factor - 1.0).abs() < 1e-9, "{} {factor}", rope.factor);
        };
        let plain = [1.0, 0.247_052_94, 0.056_25, 0.010_870_33, 0.001_25, 3.952_847_3e-4, 1.25e-4, 3.952_847_3e-5];
        close(json!({}), plain, 1.207_944_154_167_983_6);
        close(json!({ "mscale": 0.7, "mscale_all_dim": 0.4 }), plain, 1.057_592_810_911_056);
        let others = json!({ "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.3 });
        let narrow = [1.0, 0.316_227_76, 0.056_25, 0.003_952_847_3, 0.001_25, 3.952_847_3e-4, 1.25e-4, 3.952_847_3e-5];
        close(others, narrow, 1.3);
    }

    // `ROPE_INIT_FUNCTIONS["longrope"]` of transformers 5.23.
    #[test]
    fn texts_beyond_the_original_context_have_other_frequencies() {
        let parameters = json!({ "rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 8.0],
            "original_max_position_embeddings": 8 });
        let config = RotaryConfig::from_parameters(parameters.as_object().unwrap(), 100.0, 64).unwrap();
        let (rope, factor) = (Rope::new(4, &config), 2f64.sqrt());
        let cosines = |positions: &[u32]| rope.table::<Flex>(positions, &Default::default()).cos.into_data();
        let expected = |position: f64, frequencies: [f64; 2]| {
            let values: Vec<f32> = frequencies.map(|frequency| (factor * (position * frequency).cos()) as f32).to_vec();
            values
        };
        let row = |data: TensorData, row: usize| data.to_vec::<f32>().unwrap()[2 * row..2 * row + 2].to_vec();
        assert_eq!(row(cosines(&[3, 7]), 0), expected(3.0, [1.0, 0.1 / 1.5]));
        assert_eq!(row(cosines(&[3, 8]), 0), expected(3.0, [0.5, 0.1 / 8.0]));
        assert!(!rope.is_long(8) && rope.is_long(9));
    }

    #[test]
    fn tables_have_the_right_rows_however_they_are_computed() {
        let rope = Rope { frequencies: vec![1.0, 0.3, 0.01], factor: 1.5, long: None, kept: Arc::default() };
        let check = |positions: &[u32]| {
            let table = rope.table::<Flex>(positions, &Default::default());
            assert_eq!(table.cos.dims(), [positions.len(), 3]);
            let angles = positions.iter().flat_map(|position| [1.0, 0.3, 0.01].map(|f| f64::from(*position) * f));
            let (sin, cos): (Vec<f32>, Vec<f32>) =
                angles.map(|angle| ((1.5 * angle.sin()) as f32, (1.5 * angle.cos()) as f32)).unzip();
            assert_eq!(table.cos.into_data().to_vec::<f32>().unwrap(), cos);
            assert_eq!(table.sin.into_data().to_vec::<f32>().unwrap(), sin);
        };
        // One text; a later position, and an earlier one; packed texts; a position whose row is not kept.
        check(&[0, 1, 2, 3]);
        check(&[700]);
        check(&[5, 6]);
        check(&[0, 1, 0, 1, 2, 0, 1, 1]);
        check(&[3, MAX_KEPT, u32::MAX]);
        assert_eq!(rope.kept.lock().unwrap().cos.len(), 701 * 3);
    }
}
