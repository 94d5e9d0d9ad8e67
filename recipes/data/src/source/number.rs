//! Values of columns as JSON.

use burnish_models::json;
use serde_json::Value;

use super::flaw::Flaw;

/// A floating-point number of 2, 4 or 8 bytes.
pub(super) fn of_float(bytes: &[u8]) -> Option<Value> {
    let value = match bytes.len() {
        2 => half(u16::from_le_bytes(bytes.try_into().ok()?)),
        4 => f32::from_le_bytes(bytes.try_into().ok()?).into(),
        8 => f64::from_le_bytes(bytes.try_into().ok()?),
        _ => return None,
    };
    Some(match serde_json::Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => json::python_number("NaN")?,
        None => json::python_number(if value > 0.0 { "Infinity" } else { "-Infinity" })?,
    })
}

/// The value of 16 bits: a sign, 5 of the exponent, and 10 of the fraction.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction > 0.0 => f64::NAN,
        31 => f64::INFINITY,
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// The value that a text of a column of JSON has.
pub(super) fn of_json(text: &str) -> Result<Value, Flaw> {
    json::parse(text).map_err(|error| Flaw::damaged(format!("its column of JSON has text that is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_16_bits_are_read() {
        for (bits, expected) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 2_f64.powi(-24)),
            (0x03ff, 1023.0 * 2_f64.powi(-24)),
            (0x0400, 2_f64.powi(-14)),
            (0x7bff, 65504.0),
            (0x8000, -0.0),
            (0x3555, 0.333_251_953_125),
        ] {
            assert_eq!(half(bits).to_bits(), f64::to_bits(expected), "{bits:x}");
        }
        assert!(half(0x7e00).is_nan() && half(0xfc00) < -1e300);
        assert_eq!(json::literal(&of_float(&f32::NAN.to_le_bytes()).unwrap()), Some("NaN"));
        assert_eq!(of_float(&0.1_f32.to_le_bytes()), Some(Value::from(f64::from(0.1_f32))));
    }
}
