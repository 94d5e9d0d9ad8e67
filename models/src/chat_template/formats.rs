//! `%`, which formats strings and gives the remainder of numbers.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::{limits, python};

/// `left % right`: the remainder of numbers, or the formatting of a string.
pub(super) fn percent(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else { return remainder(&left, &right) };
    limits::read(state, &left)?;
    limits::read(state, &right)?;
    let mut arguments: Vec<Value> = if right.is_tuple() { right.try_iter()?.collect() } else { vec![right.clone()] };
    check_widths(text, &arguments)?;
    let taken = conversions(text);
    if right.kind() != ValueKind::Map {
        if taken.len() != arguments.len() {
            let reason = format!("{text:?}: expected {} values, got {}", taken.len(), arguments.len());
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        for (argument, conversion) in arguments.iter_mut().zip(&taken) {
            if *conversion == 's' {
                *argument = Value::from(python::text(argument));
            }
        }
    }
    format(FormatStyle::Printf, text, &arguments).map(Value::from)
}

/// The widest field, and the most digits, that a format may ask for.
const WIDEST: usize = 10_000;

/// Refuses formats, of `%` or of `str.format`, whose widths or precisions are too large. They may also be values.
///
/// # Errors
/// If there is such a width.
pub(super) fn check_widths(format: &str, values: &[Value]) -> Result<(), Error> {
    let mut from_values = false;
    for (at, mark) in format.match_indices(['%', '{']) {
        let rest = &format[at + 1..];
        let specification = if mark == "%" {
            let rest = rest.strip_prefix('(').and_then(|named| named.split_once(')')).map_or(rest, |(_, rest)| rest);
            let end = rest.find(|character: char| !" #+-*.".contains(character) && !character.is_ascii_digit());
            from_values |= rest[..end.unwrap_or(rest.len())].contains('*');
            &rest[..end.unwrap_or(rest.len())]
        } else {
            let inside = rest.split(['}', '{']).next().unwrap_or_default();
            from_values |= inside.contains(':') && rest[inside.len()..].starts_with('{');
            inside.split_once(':').map_or("", |(_, specification)| specification)
        };
        let mut numbers = specification.split(|character: char| !character.is_ascii_digit());
        if numbers.any(|digits| digits.len() > 18 || digits.parse::<usize>().is_ok_and(|width| width > WIDEST)) {
            return Err(too_wide());
        }
    }
    let is_wide = |value: &Value| {
        value.is_integer() && i128::try_from(value.clone()).is_ok_and(|width| width.unsigned_abs() > WIDEST as u128)
    };
    if from_values && values.iter().any(is_wide) { Err(too_wide()) } else { Ok(()) }
}

fn too_wide() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a format asks for more than {WIDEST} characters"))
}

/// The conversions in a format string that take a value, including `*`.
fn conversions(format: &str) -> Vec<char> {
    let mut found = Vec::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            continue;
        }
        for character in characters.by_ref() {
            match character {
                '%' => break,
                '*' => found.push('*'),
                letter if letter.is_ascii_alphabetic() && !matches!(letter, 'h' | 'l' | 'L') => {
                    found.push(letter);
                    break;
                }
                _ => {}
            }
        }
    }
    found
}

/// The remainder, which has the sign of the divisor.
fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    let failed = || {
        let reason = format!("{} has no remainder by {}", python::repr(left), python::repr(right));
        Error::new(ErrorKind::InvalidOperation, reason)
    };
    let integer = |value: &Value| {
        (value.kind() == ValueKind::Bool || value.is_integer()).then(|| i128::try_from(value.clone()).ok()).flatten()
    };
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        let rest = left.checked_rem(right).ok_or_else(failed)?;
        let other_sign = rest != 0 && (rest < 0) != (right < 0);
        let rest = if other_sign { rest + right } else { rest };
        return Ok(i64::try_from(rest).map_or_else(|_| Value::from(rest), Value::from));
    }
    let float = |value: &Value| {
        matches!(value.kind(), ValueKind::Bool | ValueKind::Number).then(|| f64::try_from(value.clone()).ok()).flatten()
    };
    match (float(left), float(right)) {
        (Some(left), Some(right)) if right != 0.0 => {
            let rest = left % right;
            let other_sign = rest != 0.0 && (rest < 0.0) != (right < 0.0);
            Ok(Value::from(if other_sign { rest + right } else { rest }))
        }
        _ => Err(failed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_have_the_sign_of_the_divisor() {
        for (left, right, rest) in [(7, 3, 1), (-7, 3, 2), (7, -3, -2), (-6, 3, 0)] {
            assert_eq!(remainder(&Value::from(left), &Value::from(right)).unwrap(), Value::from(rest));
        }
        assert_eq!(remainder(&Value::from(-7.5), &Value::from(2)).unwrap(), Value::from(0.5));
        assert!(remainder(&Value::from(1), &Value::from(0)).is_err());
    }

    #[test]
    fn wide_formats_are_refused() {
        let number = [Value::from(123_456)];
        for fine in ["100% of 1234567", "%5d", "%(a)s", "{:>20}", "{123456}", "{{x}} {}", "%%", "%", "{", "{}:{}"] {
            assert!(check_widths(fine, &number).is_ok(), "{fine}");
        }
        for wide in
            ["%99999d", "%.99999f", "%(a)-99999s", "%*d", "{:99999}", "{0:.99999f}", "{:{}}", "%999999999999999999999d"]
        {
            assert!(check_widths(wide, &number).is_err(), "{wide}");
        }
    }
}
