//! Angles of the rotary position embedding.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::{FusedBackend, RotaryTable};

use crate::config::{RopeScaling, RotaryConfig};

/// The angle a position adds to each pair of a head's elements, `head_dim / 2` of them.
///
/// Source: Su et al. 2021; `_compute_llama3_parameters` and `_compute_linear_scaling_rope_parameters` of transformers 5.
pub fn inverse_frequencies(head_dim: usize, config: &RotaryConfig) -> Vec<f64> {
    let dim = head_dim as f64;
    let plain = (0..head_dim / 2).map(|pair| config.theta.powf(-2.0 * pair as f64 / dim));
    match &config.scaling {
        None => plain.collect(),
        Some(RopeScaling::Linear { factor }) => plain.map(|frequency| frequency / factor).collect(),
        Some(RopeScaling::Factors { factors }) => {
            plain.zip(factors.iter().chain(std::iter::repeat(&1.0))).map(|(frequency, factor)| frequency / factor).collect()
        }
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let original = *original_max_position_embeddings as f64;
            plain
                .map(|frequency| {
                    let turns = original * frequency / (2.0 * std::f64::consts::PI);
                    let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                })
                .collect()
        }
    }
}

/// The angles of a model. What was computed of one position is kept: cosines of a step's thousands of tokens, exact ones, take a CPU
/// longer than a GPU takes for some blocks.
#[derive(Debug, Clone)]
pub struct Rope {
    frequencies: Vec<f64>,
    /// Shared by the clones of a model.
    known: Arc<Mutex<Known>>,
}

/// Rows of the positions from 0 on.
#[derive(Debug, Default)]
struct Known {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Positions before this are kept, 64 MiB for heads of 128; there are hardly longer contexts.
const MOST_KNOWN: u32 = 1 << 17;

impl Known {
    /// Goes on to position `last`.
    fn extend(&mut self, frequencies: &[f64], last: u32) {
        let first = (self.cos.len() / frequencies.len().max(1)) as u32;
        for position in first..=last {
            self.push(frequencies, position);
        }
    }

    fn push(&mut self, frequencies: &[f64], position: u32) {
        for frequency in frequencies {
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            self.cos.push(cos as f32);
            self.sin.push(sin as f32);
        }
    }
}

impl Rope {
    /// Those of a configuration, for heads of that width.
    pub fn new(head_dim: usize, config: &RotaryConfig) -> Self {
        Self { frequencies: inverse_frequencies(head_dim, config), known: Arc::default() }
    }

    /// Cosines and sines for tokens at the given positions, f32 whatever the model's dtype.
    pub fn table<B: FusedBackend>(&self, positions: &[u32], device: &B::Device) -> RotaryTable<B> {
        let width = self.frequencies.len();
        let upload = |values: Vec<f32>| {
            let shape = [values.len() / width.max(1), width];
            Tensor::<B, 2>::from_data(TensorData::new(values, shape), (device, DType::F32))
        };
        let last = positions.iter().copied().max().unwrap_or(0);
        if last >= MOST_KNOWN {
            let mut rows = Known::default();
            for position in positions {
                rows.push(&self.frequencies, *position);
            }
            return RotaryTable { cos: upload(rows.cos), sin: upload(rows.sin) };
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(&self.frequencies, last);
        let (tokens, rows) = (positions.len(), last as usize + 1);
        if 2 * rows <= tokens {
            // Several rows of tokens: they share the positions, and the device spreads them.
            let places = positions.iter().map(|position| *position as i32).collect();
            let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [tokens]), device);
            let spread = |values: &[f32]| upload(values[..rows * width].to_vec()).select(0, places.clone());
            return RotaryTable { cos: spread(&known.cos), sin: spread(&known.sin) };
        }
        let of = |values: &[f32]| {
            upload(positions.iter().flat_map(|position| &values[*position as usize * width..][..width]).copied().collect())
        };
        RotaryTable { cos: of(&known.cos), sin: of(&known.sin) }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn every_way_to_a_table_gives_the_same_rows() {
        let rope = Rope { frequencies: vec![1.0, 0.3, 0.01], known: Arc::default() };
        let check = |positions: &[u32]| {
            let table = rope.table::<Flex>(positions, &Default::default());
            assert_eq!(table.cos.dims(), [positions.len(), 3]);
            let angles = positions.iter().flat_map(|position| [1.0, 0.3, 0.01].map(|f| f64::from(*position) * f));
            let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
            assert_eq!(table.cos.into_data().to_vec::<f32>().unwrap(), cos);
            assert_eq!(table.sin.into_data().to_vec::<f32>().unwrap(), sin);
        };
        // A row of tokens; one far on, and back; rows that share their positions; beyond what is kept.
        check(&[0, 1, 2, 3]);
        check(&[700]);
        check(&[5, 6]);
        check(&[0, 1, 0, 1, 2, 0, 1, 1]);
        check(&[3, MOST_KNOWN, u32::MAX]);
        assert_eq!(rope.known.lock().unwrap().cos.len(), 701 * 3);
    }
}
