//! Values that differ by layer, under patterns of their names.

use regex::Regex;
use serde_json::{Map, Value};

/// A value for the layers whose name a regular expression matches, as PEFT's `rank_pattern` and `alpha_pattern` give it.
#[derive(Debug, Clone)]
pub struct Pattern<T> {
    /// As the file has it.
    pub pattern: String,
    /// For the layers that it matches.
    pub value: T,
    regex: Regex,
}

impl<T: PartialEq> PartialEq for Pattern<T> {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.value == other.value
    }
}

impl<T> Pattern<T> {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When it is no regular expression.
    ///
    /// # Source
    /// `get_pattern_key` of PEFT 0.21: the pattern matches a whole name, or its last parts.
    pub fn new(pattern: impl Into<String>, value: T) -> Result<Self, String> {
        let pattern = pattern.into();
        let regex = Regex::new(&format!("^(?:.*\\.)?(?:{pattern})$"))
            .map_err(|error| format!("`{pattern}` is no regular expression: {error}"))?;
        Ok(Self { pattern, value, regex })
    }
}

/// The value for a layer: that of the first pattern that matches.
pub(crate) fn find<T: Copy>(patterns: &[Pattern<T>], layer: &str, default: T) -> T {
    patterns.iter().find(|pattern| pattern.regex.is_match(layer)).map_or(default, |pattern| pattern.value)
}

/// Patterns of a JSON object, in its order.
pub(crate) fn read<T>(map: &Map<String, Value>, value: impl Fn(&Value) -> Option<T>) -> Result<Vec<Pattern<T>>, String> {
    map.iter()
        .map(|(pattern, found)| {
            let value = value(found).ok_or_else(|| format!("`{pattern}` has {found}, which is not a number it may have"))?;
            Pattern::new(pattern.as_str(), value)
        })
        .collect()
}

/// As [`read`] reads it.
pub(crate) fn write<T: Copy>(patterns: &[Pattern<T>], value: impl Fn(T) -> Value) -> Value {
    Value::Object(patterns.iter().map(|pattern| (pattern.pattern.clone(), value(pattern.value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_peft() {
        let names = ["q_proj", "layers.1.self_attn.v_proj", "^model.layers.2.*", r".*\.3\.mlp\.(up|down)_proj"];
        let patterns: Vec<Pattern<usize>> =
            names.iter().enumerate().map(|(value, name)| Pattern::new(*name, value).unwrap()).collect();
        for (layer, expected) in [
            ("model.layers.0.self_attn.q_proj", 0),
            ("model.layers.2.self_attn.q_proj", 0),
            ("model.layers.1.self_attn.v_proj", 1),
            ("model.layers.11.self_attn.v_proj", 9),
            ("model.layers.2.self_attn.v_proj", 2),
            ("other.model.layers.2.self_attn.v_proj", 9),
            ("model.layers.3.mlp.up_proj", 3),
            ("model.layers.3.mlp.gate_proj", 9),
            ("model.layers.0.self_attn.qq_proj", 9),
        ] {
            assert_eq!(find(&patterns, layer, 9), expected, "{layer}");
        }
        assert!(Pattern::new("(", 1).unwrap_err().contains("regular expression"));
    }
}
