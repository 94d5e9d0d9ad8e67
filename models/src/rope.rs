//! Angles of the rotary position embedding.

use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::{FusedBackend, RotaryTable};

use crate::config::{ModelConfig, RopeScaling};

/// The angle a position adds to each pair of a head's elements, `head_dim / 2` of them.
///
/// Source: Su et al. 2021; `_compute_llama3_parameters` and `_compute_linear_scaling_rope_parameters` of transformers 5.
pub fn inverse_frequencies(config: &ModelConfig) -> Vec<f64> {
    let dim = config.head_dim as f64;
    let plain = (0..config.head_dim / 2).map(|pair| config.rope_theta.powf(-2.0 * pair as f64 / dim));
    match &config.rope_scaling {
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

/// Cosines and sines for tokens at the given positions, f32 whatever the model's dtype.
pub fn table<B: FusedBackend>(frequencies: &[f64], positions: &[u32], device: &B::Device) -> RotaryTable<B> {
    let shape = [positions.len(), frequencies.len()];
    let angles = || positions.iter().flat_map(|position| frequencies.iter().map(move |f| f64::from(*position) * f));
    let upload = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, shape), (device, DType::F32));
    RotaryTable {
        cos: upload(angles().map(|angle| angle.cos() as f32).collect()),
        sin: upload(angles().map(|angle| angle.sin() as f32).collect()),
    }
}
