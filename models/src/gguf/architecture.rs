//! What several architectures of llama.cpp have in common.

use super::metadata::{Metadata, Value, shortest};
use crate::config::ModelConfig;

/// `layer_types` of an architecture with windows: a flag for each layer, true if it slides, or every how many layers one is full, where 0
/// means that none is; without the key, every `period`th. `theta` is the `rope_theta` of full layers.
///
/// # Errors
/// If a value has another type, or sliding layers have another base of their rotary frequencies.
pub fn layer_types(
    metadata: &Metadata,
    architecture: &str,
    layers: usize,
    period: usize,
    theta: Option<f64>,
) -> Result<Vec<&'static str>, String> {
    let base = format!("{architecture}.rope.freq_base_swa");
    if let Some(other) = metadata.optional_float(&base)?.map(shortest).filter(|other| theta != Some(*other)) {
        return Err(format!("`{base}` is {other}, other than `rope.freq_base`, which is not supported"));
    }
    let key = format!("{architecture}.attention.sliding_window_pattern");
    let slides: Vec<bool> = match metadata.get(&key) {
        Some(Value::List(list)) => list.iter().map(|value| flag(&key, value)).collect::<Result<_, _>>()?,
        _ => {
            let period = metadata.optional_number(&key)?.unwrap_or(period);
            (0..layers).map(|layer| period == 0 || !(layer + 1).is_multiple_of(period)).collect()
        }
    };
    Ok(slides.into_iter().map(|slides| if slides { "sliding_attention" } else { "full_attention" }).collect())
}

/// A boolean, or a number as llama.cpp reads it.
fn flag(key: &str, value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::Unsigned(number) => Ok(*number != 0),
        Value::Signed(number) => Ok(*number != 0),
        Value::Float(_) | Value::Text(_) | Value::List(_) => {
            Err(format!("`{key}`: expected a list of booleans, got a list with {}", value.describe()))
        }
    }
}

/// Refuses heads that are wider or narrower together than the residual stream, for an architecture to which `head_dim` is their quotient.
///
/// # Errors
/// Names `head_dim`.
pub fn check_head_dim(config: &ModelConfig, name: &str) -> Result<(), String> {
    let (heads, width, hidden) = (config.num_attention_heads, config.head_dim, config.hidden_size);
    if heads * width == hidden {
        return Ok(());
    }
    Err(format!("`head_dim`: llama.cpp expects {hidden} / {heads} for {name}, got {width}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_slide_by_flags_a_period_or_the_default() {
        let of = |pattern: Option<Value>| {
            let mut metadata = Metadata::default();
            if let Some(pattern) = pattern {
                metadata.insert("a.attention.sliding_window_pattern", pattern);
            }
            layer_types(&metadata, "a", 4, 4, None)
                .map(|kinds| kinds.iter().map(|kind| *kind == "sliding_attention").collect::<Vec<_>>())
        };
        assert_eq!(of(None).unwrap(), [true, true, true, false]);
        assert_eq!(of(Some(Value::Unsigned(2))).unwrap(), [true, false, true, false]);
        assert_eq!(of(Some(Value::Unsigned(0))).unwrap(), [true; 4]);
        let mixed = vec![Value::Bool(true), Value::Bool(false), Value::Unsigned(1), Value::Signed(0)];
        assert_eq!(of(Some(Value::List(mixed))).unwrap(), [true, false, true, false]);
        let texts = Value::List(vec![Value::Text("L".to_owned())]);
        assert!(of(Some(texts)).unwrap_err().contains("expected a list of booleans"));
        assert!(of(Some(Value::Text("LLLG".to_owned()))).is_err());
    }

    #[test]
    fn another_base_of_sliding_layers_is_refused() {
        let mut metadata = Metadata::default();
        metadata.insert("a.rope.freq_base_swa", 1e4);
        assert!(layer_types(&metadata, "a", 4, 4, Some(1e4)).is_ok());
        assert!(layer_types(&metadata, "a", 4, 4, Some(1e6)).unwrap_err().contains("a.rope.freq_base_swa"));
    }
}
