//! Readable JSON: a value that fits on a line is one line, and numbers are rounded to the digits that were measured.

use serde_json::Value;

const WIDTH: usize = 120;
const DIGITS: i32 = 5;

/// A document as text.
pub fn layout(value: &Value) -> String {
    let mut text = String::new();
    write(&rounded(value), 0, &mut text);
    text.push('\n');
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    let line = value.to_string();
    if 2 * depth + line.chars().count() <= WIDTH {
        text.push_str(&line);
        return;
    }
    match value {
        Value::Array(items) => {
            let items = items.iter().map(|item| (String::new(), item));
            block(['[', ']'], items, depth, text);
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, field)| (format!("{}: ", Value::from(key.as_str())), field));
            block(['{', '}'], fields, depth, text);
        }
        _ => text.push_str(&line),
    }
}

fn block<'a>(ends: [char; 2], items: impl Iterator<Item = (String, &'a Value)>, depth: usize, text: &mut String) {
    text.push(ends[0]);
    for (index, (key, item)) in items.enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&"  ".repeat(depth + 1));
        text.push_str(&key);
        write(item, depth + 1, text);
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(ends[1]);
}

/// Fractions rounded, whole numbers as they are.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => Value::from(number.as_f64().map(round)),
        Value::Array(items) => items.iter().map(rounded).collect(),
        Value::Object(fields) => fields.iter().map(|(key, field)| (key.clone(), rounded(field))).collect(),
        other => other.clone(),
    }
}

fn round(number: f64) -> f64 {
    let exponent = DIGITS - 1 - number.abs().log10().floor() as i32;
    // Rounded as text, as a product with a power of ten would add digits.
    match exponent {
        _ if number == 0.0 || !number.is_finite() => number,
        ..=0 => number.round(),
        exponent => format!("{number:.*}", exponent as usize).parse().unwrap_or(number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_keep_five_digits() {
        let shown = [0.123_456_78, 1_234_567.8, 12.345_678, 0.0, -1.5e-7].map(|number| json!(round(number)).to_string());
        assert_eq!(shown, ["0.12346", "1234568.0", "12.346", "0.0", "-1.5e-7"]);
        assert_eq!(rounded(&json!({ "whole": 123_456_789, "none": null })), json!({ "whole": 123_456_789, "none": null }));
    }

    #[test]
    fn what_fits_is_a_line_and_reads_back() {
        let row = json!({ "kernel": "rms_norm", "ms": 0.25, "note": "a \"word\"" });
        let value = json!({ "rows": vec![row; 5], "empty": [] });
        let text = layout(&value);
        assert_eq!(text.lines().count(), 1 + 1 + 5 + 1 + 1 + 1);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH + 2));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
