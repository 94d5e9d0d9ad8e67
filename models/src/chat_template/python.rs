//! Python's values, and how its `str` and `repr` print them.

use std::fmt::{self, Write};
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, Value as TemplateValue, ValueKind};
use serde_json::Value;

use crate::json::literal;

/// Values that are nested deeper are not printed.
const MAX_DEPTH: usize = 128;

/// Converts a JSON value for a template. Keys keep their order.
pub(super) fn template_value(json: &Value) -> TemplateValue {
    match json {
        Value::Null => TemplateValue::from(()),
        Value::Bool(value) => TemplateValue::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => TemplateValue::from(value),
            (_, Some(value)) => TemplateValue::from(value),
            _ => TemplateValue::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => TemplateValue::from(text),
        Value::Array(items) => TemplateValue::from(items.iter().map(template_value).collect::<Vec<_>>()),
        Value::Object(map) => match literal(json) {
            Some(literal) => literal_value(literal),
            None => TemplateValue::from_pairs(map.iter().map(|(key, value)| (key.clone(), template_value(value)))),
        },
    }
}

fn literal_value(literal: &str) -> TemplateValue {
    match literal {
        "NaN" => TemplateValue::from(f64::NAN),
        "Infinity" => TemplateValue::from(f64::INFINITY),
        "-Infinity" => TemplateValue::from(f64::NEG_INFINITY),
        digits => match (digits.parse::<i128>(), digits.parse::<u128>()) {
            (Ok(value), _) => TemplateValue::from(value),
            (_, Ok(value)) => TemplateValue::from(value),
            _ => TemplateValue::from_object(Digits(digits.to_owned())),
        },
    }
}

/// An integer that is too long to compute with; it can only be printed.
#[derive(Debug)]
pub(super) struct Digits(pub(super) String);

impl Object for Digits {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Jinja's test `iterable`: true for strings, lists, mappings and undefined values.
pub(super) fn is_iterable(value: &TemplateValue) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whether minijinja would print a value differently.
pub(super) fn is_special(value: &TemplateValue) -> bool {
    match value.kind() {
        ValueKind::Number => !value.is_integer(),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => true,
        _ => false,
    }
}

/// `str(value)`.
pub(super) fn text(value: &TemplateValue) -> String {
    if let Some(text) = value.as_str() {
        text.to_owned()
    } else if is_special(value) {
        repr(value)
    } else {
        value.to_string()
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &TemplateValue) -> String {
    let mut text = String::new();
    write_repr(value, &mut text, 0);
    text
}

fn write_repr(value: &TemplateValue, text: &mut String, depth: usize) {
    let items = || value.try_iter().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    let list = |text: &mut String, open: &str, close: &str| {
        text.push_str(open);
        for (index, item) in items().iter().enumerate() {
            text.push_str(if index > 0 { ", " } else { "" });
            write_repr(item, text, depth + 1);
        }
        text.push_str(close);
    };
    match value.kind() {
        _ if depth > MAX_DEPTH => text.push_str("..."),
        ValueKind::Number if !value.is_integer() => {
            text.push_str(&f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float));
        }
        ValueKind::Seq | ValueKind::Iterable if value.is_tuple() => {
            list(text, "(", if value.len() == Some(1) { ",)" } else { ")" });
        }
        ValueKind::Seq | ValueKind::Iterable => list(text, "[", "]"),
        ValueKind::Map => {
            text.push('{');
            for (index, key) in items().iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_repr(key, text, depth + 1);
                text.push_str(": ");
                write_repr(&value.get_item(key).unwrap_or_default(), text, depth + 1);
            }
            text.push('}');
        }
        ValueKind::Undefined => text.push_str("Undefined"),
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain => text.push_str(&value.to_string()),
        _ => {
            // Writing to a string does not fail.
            write!(text, "{value:?}").ok();
        }
    }
}

/// `repr` of a float: the fewest digits that identify it, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        // Rust prints these without an exponent, and a whole number with `.0`.
        return format!("{value:?}");
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
}

/// Whether Python's `strip` and `split` treat a character as white space.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// `str.strip`.
pub(super) fn strip<'a>(text: &'a str, characters: Option<&str>) -> &'a str {
    strip_end(strip_start(text, characters), characters)
}

/// `str.lstrip`.
pub(super) fn strip_start<'a>(text: &'a str, characters: Option<&str>) -> &'a str {
    text.trim_start_matches(|character| characters.map_or_else(|| is_space(character), |all| all.contains(character)))
}

/// `str.rstrip`.
pub(super) fn strip_end<'a>(text: &'a str, characters: Option<&str>) -> &'a str {
    text.trim_end_matches(|character| characters.map_or_else(|| is_space(character), |all| all.contains(character)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_printed_as_in_python() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (9_007_199_254_740_993.0, "9007199254740992.0"),
            (1e16, "1e+16"),
            (1.2345e22, "1.2345e+22"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn containers_are_printed_as_in_python() {
        let json = serde_json::json!({"a": [1, 2.5, 1e16, null, true], "b'": "it's", "c": {}});
        assert_eq!(text(&template_value(&json)), r#"{'a': [1, 2.5, 1e+16, None, True], "b'": "it's", 'c': {}}"#);
        let one = minijinja::value::Tuple::from(vec![TemplateValue::from("x")]);
        assert_eq!(text(&TemplateValue::from(one)), "('x',)");
    }
}
