//! Values of configuration files.

use serde_json::Value;

/// A number, or a string that is one: PyYAML reads `1e-5` as a string, and other programs convert it.
pub(super) fn number(value: &Value) -> Option<f64> {
    let text = || value.as_str()?.replace('_', "").parse::<f64>().ok();
    value.as_f64().or_else(text).filter(|number| number.is_finite())
}

/// Why a value is refused; follows the key.
pub(super) fn should_be(expected: &str, value: &Value) -> String {
    format!("should be {expected}, got {value}")
}
