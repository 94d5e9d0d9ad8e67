//! The rotary position embedding of a configuration.

use serde_json::{Map, Value};

use crate::error::{ModelError, Result};

/// The rotary frequencies of some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryConfig {
    /// Base of the frequencies, `rope_theta`.
    pub theta: f64,
    /// How the frequencies are changed to extend the context.
    pub scaling: Option<RopeScaling>,
}

/// A change of the rotary frequencies that extends the context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// All frequencies are divided by `factor`, as if positions were.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies are divided, high ones are kept, and those between are interpolated.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Frequencies with wavelengths above `original_max_position_embeddings / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Frequencies with wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context length before the extension.
        original_max_position_embeddings: usize,
    },
    /// YaRN: frequencies with few rotations in the original context are divided, those with many are kept, and those between are
    /// interpolated; cosines and sines are multiplied by a factor.
    Yarn {
        /// The divisor.
        factor: f64,
        /// Frequencies with more rotations than this are kept.
        beta_fast: f64,
        /// Frequencies with fewer rotations than this are divided.
        beta_slow: f64,
        /// The context length before the extension.
        original_max_position_embeddings: usize,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Whether the indices of the frequencies at both bounds are rounded outwards.
        truncate: bool,
    },
    /// LongRoPE: each frequency has its own divisor, and another one in texts that are longer than the original context; cosines
    /// and sines are multiplied by a factor.
    LongRope {
        /// The divisors in other texts, one for every two elements of a head that are rotated.
        short: Vec<f64>,
        /// The divisors in longer texts.
        long: Vec<f64>,
        /// The context length before the extension.
        original_max_position_embeddings: usize,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
    /// Each frequency has its own divisor, as in the tensor `rope_freqs.weight` of GGUF files.
    Factors {
        /// The divisors, one for every two elements of a head that are rotated.
        factors: Vec<f64>,
    },
}

fn refuse(reason: impl Into<String>) -> ModelError {
    ModelError::Config { reason: reason.into() }
}

impl RotaryConfig {
    /// Reads the parameters of a file whose layers all have the same: `rope_scaling`, or else `rope_parameters`. A `rope_theta`
    /// inside them takes precedence over one beside them, and that over `theta`; an `original_max_position_embeddings` beside them takes
    /// precedence over one inside them; `positions` is the context length.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that is missing, has the wrong type, or asks for something that is not supported.
    ///
    /// # Source
    /// `RotaryEmbeddingConfigMixin.convert_rope_params_to_dict` of transformers 5.
    pub fn read(json: &Value, theta: f64, positions: usize) -> Result<Self> {
        let object = |key: &str| json.get(key).and_then(Value::as_object).filter(|parameters| !parameters.is_empty());
        let parameters = object("rope_scaling").or_else(|| object("rope_parameters"));
        if let Some((kind, _)) = parameters.and_then(|parameters| parameters.iter().find(|(_, value)| value.is_object())) {
            return Err(refuse(format!("`rope_parameters` has parameters of `{kind}`, which this family does not support")));
        }
        let beside = theta_of(json.get("rope_theta"), "rope_theta")?.unwrap_or(theta);
        let mut parameters = parameters.cloned().unwrap_or_default();
        if let Some(original) = json.get("original_max_position_embeddings").filter(|original| !original.is_null()) {
            parameters.insert("original_max_position_embeddings".to_owned(), original.clone());
        }
        Self::from_parameters(&parameters, beside, positions)
    }

    /// Reads the parameters of one kind of layer, as they stand in `rope_parameters`; `theta` is used if they have none.
    ///
    /// # Errors
    /// As [`RotaryConfig::read`].
    pub fn from_parameters(parameters: &Map<String, Value>, theta: f64, positions: usize) -> Result<Self> {
        if let Some(part) =
            parameters.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0) && !part.is_null())
        {
            return Err(refuse(format!("`partial_rotary_factor` is {part}, which is not supported")));
        }
        let inner = theta_of(parameters.get("rope_theta"), "rope_theta")?;
        Ok(Self { theta: inner.unwrap_or(theta), scaling: scaling(parameters, positions)? })
    }

    /// Checks the values for heads of which so many elements are rotated.
    pub(super) fn check(&self, rotated: usize) -> Result<()> {
        if self.theta <= 0.0 || !self.theta.is_finite() {
            return Err(refuse(format!("`rope_theta`: expected a positive number, got {}", self.theta)));
        }
        let lists: &[&Vec<f64>] = match &self.scaling {
            Some(RopeScaling::Factors { factors }) => &[factors],
            Some(RopeScaling::LongRope { short, long, .. }) => &[short, long],
            _ => &[],
        };
        match lists.iter().find(|factors| factors.len() != rotated / 2) {
            Some(factors) => Err(refuse(format!(
                "`rope_scaling`: expected {} factors for {rotated} elements that are rotated, got {}",
                rotated / 2,
                factors.len()
            ))),
            None => Ok(()),
        }
    }
}

/// A base of the frequencies; `None` if it is absent or null.
pub(crate) fn theta_of(value: Option<&Value>, key: &str) -> Result<Option<f64>> {
    match value.filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => {
            let refused = || refuse(format!("`{key}`: expected a number, got {value}"));
            value.as_f64().map(Some).ok_or_else(refused)
        }
    }
}

/// The kind of scaling; `default` if the file does not say.
fn kind_of(parameters: &Map<String, Value>) -> Result<&str> {
    let given = ["rope_type", "type"].into_iter().filter_map(|key| parameters.get(key)).find(|value| !value.is_null());
    match given {
        None => Ok("default"),
        Some(kind) => kind.as_str().ok_or_else(|| refuse(format!("`rope_type`: expected a name, got {kind}"))),
    }
}

/// A positive number.
fn positive(parameters: &Map<String, Value>, key: &str) -> Result<f64> {
    let found = parameters.get(key).and_then(Value::as_f64).filter(|number| *number > 0.0);
    let got = || parameters.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
    found.ok_or_else(|| refuse(format!("`rope_scaling.{key}`: expected a positive number, got {}", got())))
}

/// A positive number; `None` if it is absent or null.
fn optional_positive(parameters: &Map<String, Value>, key: &str) -> Result<Option<f64>> {
    let given = parameters.get(key).is_some_and(|value| !value.is_null());
    given.then(|| positive(parameters, key)).transpose()
}

/// # Source
/// `_compute_longrope_parameters` of transformers 5.
fn longrope(parameters: &Map<String, Value>, positions: usize) -> Result<RopeScaling> {
    let list = |key: &str| -> Result<Vec<f64>> {
        let numbers = parameters.get(key).and_then(Value::as_array);
        let found: Option<Vec<f64>> = numbers.and_then(|list| list.iter().map(Value::as_f64).collect());
        let positive = found.filter(|found| found.iter().all(|factor| *factor > 0.0));
        positive.ok_or_else(|| refuse(format!("`rope_scaling.{key}`: expected a list of positive numbers")))
    };
    let (short, long) = (list("short_factor")?, list("long_factor")?);
    let original = optional_positive(parameters, "original_max_position_embeddings")?.unwrap_or(positions as f64);
    let factor = optional_positive(parameters, "factor")?.unwrap_or(positions as f64 / original);
    let of_factor = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
    let attention_factor = optional_positive(parameters, "attention_factor")?.unwrap_or(of_factor);
    if !attention_factor.is_finite() {
        let reason = "`rope_scaling.original_max_position_embeddings`: expected at least 2, because `attention_factor` follows from it";
        return Err(refuse(format!("{reason}, got {original}")));
    }
    // The form in which the divisors of a GGUF file are kept: the same for every length.
    if short == long && (attention_factor - 1.0).abs() <= 0.0 {
        return Ok(RopeScaling::Factors { factors: short });
    }
    let original_max_position_embeddings = original as usize;
    Ok(RopeScaling::LongRope { short, long, original_max_position_embeddings, attention_factor })
}

/// # Source
/// `_compute_yarn_parameters` of transformers 5.
fn yarn(parameters: &Map<String, Value>, positions: usize) -> Result<RopeScaling> {
    let original = optional_positive(parameters, "original_max_position_embeddings")?.unwrap_or(positions as f64);
    let factor = optional_positive(parameters, "factor")?.unwrap_or(positions as f64 / original);
    let of_scale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let scales = [optional_positive(parameters, "mscale")?, optional_positive(parameters, "mscale_all_dim")?];
    let attention_factor = match (optional_positive(parameters, "attention_factor")?, scales) {
        (Some(factor), _) => factor,
        (None, [Some(scale), Some(of_all)]) => of_scale(scale) / of_scale(of_all),
        _ => of_scale(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: optional_positive(parameters, "beta_fast")?.unwrap_or(32.0),
        beta_slow: optional_positive(parameters, "beta_slow")?.unwrap_or(1.0),
        original_max_position_embeddings: original as usize,
        attention_factor,
        truncate: match parameters.get("truncate") {
            None | Some(Value::Null) => true,
            Some(value) => {
                let refused = || refuse(format!("`rope_scaling.truncate`: expected true or false, got {value}"));
                value.as_bool().ok_or_else(refused)?
            }
        },
    })
}

fn scaling(parameters: &Map<String, Value>, positions: usize) -> Result<Option<RopeScaling>> {
    let number = |key: &str| positive(parameters, key);
    match kind_of(parameters)? {
        "default" => Ok(None),
        "linear" => Ok(Some(RopeScaling::Linear { factor: number("factor")? })),
        "llama3" => {
            let (low_freq_factor, high_freq_factor) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(refuse(format!(
                    "`rope_scaling.high_freq_factor`: expected more than `low_freq_factor`, which is {low_freq_factor}, got \
                     {high_freq_factor}"
                )));
            }
            Ok(Some(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: match parameters.get("original_max_position_embeddings") {
                    None => positions,
                    Some(_) => number("original_max_position_embeddings")? as usize,
                },
            }))
        }
        "yarn" => yarn(parameters, positions).map(Some),
        "longrope" => longrope(parameters, positions).map(Some),
        other => Err(refuse(format!("rotary scaling `{other}` is not supported"))),
    }
}
