//! Numbers that Python's `json` reads but `serde_json::Number` can't represent.

use serde_json::{Map, Value};

/// The key of the object that represents such a number.
const KEY: &str = "$burnish::number";

/// Reads a number as Python's `json` does, with integers of any length, `NaN`, `Infinity` and `-Infinity`; `None` if `literal` is
/// not a number.
///
/// A number that [`serde_json::Number`] can't represent becomes an object, which [`ChatTemplate`](crate::ChatTemplate) prints as
/// the number.
pub fn python_number(literal: &str) -> Option<Value> {
    let digits = literal.strip_prefix('-').unwrap_or(literal);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let short = literal.parse::<i64>().map(Value::from).or_else(|_| literal.parse::<u64>().map(Value::from));
        return Some(short.unwrap_or_else(|_| stand_in(literal)));
    }
    if matches!(literal, "NaN" | "Infinity" | "-Infinity") {
        return Some(stand_in(literal));
    }
    // Rust also parses words such as `inf`.
    let value: f64 = literal.parse().ok().filter(|_| digits.starts_with(|first: char| first.is_ascii_digit()))?;
    Some(match serde_json::Number::from_f64(value) {
        Some(number) => Value::Number(number),
        // Like Python, this reads 1e400 as infinity.
        None => stand_in(if value > 0.0 { "Infinity" } else { "-Infinity" }),
    })
}

fn stand_in(literal: &str) -> Value {
    Value::Object(Map::from_iter([(KEY.to_owned(), Value::from(literal))]))
}

/// The number that an object of [`python_number`] represents; `None` for any other value.
pub fn literal(value: &Value) -> Option<&str> {
    let map = value.as_object().filter(|map| map.len() == 1)?;
    map.get(KEY)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        assert_eq!(python_number("12"), Some(Value::from(12)));
        assert_eq!(python_number("-0"), Some(Value::from(0)));
        assert_eq!(python_number("18446744073709551615"), Some(Value::from(u64::MAX)));
        assert_eq!(python_number("1e16"), Some(Value::from(1e16)));
        for long in ["123456789012345678901234567890", "-99999999999999999999", "NaN", "-Infinity"] {
            assert_eq!(literal(&python_number(long).unwrap()), Some(long));
        }
        assert_eq!(literal(&python_number("1e400").unwrap()), Some("Infinity"));
        for wrong in ["", "-", "inf", "1x", "nan", "+1"] {
            assert_eq!(python_number(wrong), None, "{wrong}");
        }
    }
}
