//! The rotary angles of a configuration.

use serde_json::{Map, Value};

use crate::error::{ModelError, Result};

/// Rotary angles of some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryConfig {
    /// Base of the angles, `rope_theta`.
    pub theta: f64,
    /// How they are stretched beyond the context the model grew up with.
    pub scaling: Option<RopeScaling>,
}

/// Stretched rotary angles.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length before stretching.
        original_max_position_embeddings: usize,
    },
    /// The divisor of each frequency, as GGUF files carry it (`rope_freqs.weight`).
    Factors {
        /// One a pair of a head's elements.
        factors: Vec<f64>,
    },
}

fn refuse(reason: impl Into<String>) -> ModelError {
    ModelError::Config { reason: reason.into() }
}

impl RotaryConfig {
    /// Of a file with one kind of layer: `rope_scaling`, or else `rope_parameters`; a `rope_theta` within comes before the one
    /// beside.
    ///
    /// # Errors
    /// When a value is missing, no number, or of a kind that is not computed here.
    ///
    /// # Source
    /// `RotaryEmbeddingConfigMixin.convert_rope_params_to_dict` of transformers 5.
    pub fn read(json: &Value, theta: f64, positions: usize) -> Result<Self> {
        let filled = |key: &str| json.get(key).and_then(Value::as_object).filter(|parameters| !parameters.is_empty());
        let parameters = filled("rope_scaling").or_else(|| filled("rope_parameters"));
        if let Some(kind) = parameters.and_then(|parameters| parameters.iter().find(|(_, value)| value.is_object())) {
            return Err(refuse(format!("rotary parameters of `{}` alone are not computed here", kind.0)));
        }
        let beside = json.get("rope_theta").and_then(Value::as_f64).unwrap_or(theta);
        Self::of_parameters(parameters.unwrap_or(&Map::new()), beside, positions)
    }

    /// Of parameters as they stand in `rope_parameters`; `theta` where they have none.
    ///
    /// # Errors
    /// As [`RotaryConfig::read`].
    pub fn of_parameters(parameters: &Map<String, Value>, theta: f64, positions: usize) -> Result<Self> {
        if let Some(part) =
            parameters.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0) && !part.is_null())
        {
            return Err(refuse(format!("`partial_rotary_factor` is {part}, which is not computed here")));
        }
        let inner = parameters.get("rope_theta").and_then(Value::as_f64);
        Ok(Self { theta: inner.unwrap_or(theta), scaling: scaling(parameters, positions)? })
    }

    pub(super) fn check(&self, head_dim: usize) -> Result<()> {
        if self.theta <= 0.0 || !self.theta.is_finite() {
            return Err(refuse(format!("`rope_theta` {} must be positive", self.theta)));
        }
        match &self.scaling {
            Some(RopeScaling::Factors { factors }) if factors.len() != head_dim / 2 => Err(refuse(format!(
                "`rope_scaling` has {} factors for heads of {head_dim} elements: one a pair",
                factors.len()
            ))),
            _ => Ok(()),
        }
    }
}

fn scaling(parameters: &Map<String, Value>, positions: usize) -> Result<Option<RopeScaling>> {
    let kind = parameters.get("rope_type").or_else(|| parameters.get("type")).and_then(Value::as_str);
    let number = |key: &str| {
        let found = parameters.get(key).and_then(Value::as_f64).filter(|number| *number > 0.0);
        found.ok_or_else(|| refuse(format!("`rope_scaling.{key}` is missing or not a positive number")))
    };
    match kind {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: number("factor")? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: match parameters.get("original_max_position_embeddings") {
                None => positions,
                Some(_) => number("original_max_position_embeddings")? as usize,
            },
        })),
        // What GGUF's `rope_freqs` is in transformers' terms: one list for every length, and no factor on the scores.
        Some("longrope") => {
            let list =
                |key: &str| -> Option<Vec<f64>> { parameters.get(key)?.as_array()?.iter().map(Value::as_f64).collect() };
            let attention = parameters.get("attention_factor").and_then(Value::as_f64);
            match (list("short_factor"), list("long_factor")) {
                (Some(short), Some(long)) if short == long && attention == Some(1.0) => {
                    Ok(Some(RopeScaling::Factors { factors: short }))
                }
                _ => Err(refuse("`longrope` with factors that depend on the length is not supported")),
            }
        }
        Some(other) => Err(refuse(format!("rotary scaling `{other}` is not supported"))),
    }
}
