//! The methods of Python's strings and lists that templates call.

use minijinja::value::{Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::arguments::Arguments;
use super::{formats, limits, python};

/// Calls a method as Python does. Methods that are not implemented here are those of `pycompat`.
pub(super) fn call(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    arguments.iter().try_for_each(|argument| limits::read(state, argument))?;
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => {
            limits::take_bytes(state, text.len())?;
            match method {
                "format" => formats::check_widths(text, arguments)?,
                "replace" => return replace(state, text, arguments),
                "join" => return join(state, text, arguments),
                _ => {}
            }
            match of_string(text, method, arguments)? {
                Some(result) => Ok(result),
                None => pycompat::unknown_method_callback(state, value, method, arguments),
            }
        }
        (ValueKind::Seq | ValueKind::Iterable, _) if matches!(method, "index" | "count") => {
            limits::read(state, value)?;
            if method == "count" {
                return pycompat::unknown_method_callback(state, value, method, arguments);
            }
            let (searched,): (&Value,) = from_args(arguments)?;
            let at = value.try_iter()?.position(|item| item == *searched);
            at.map(Value::from).ok_or_else(|| refused("index: the value is not in the list"))
        }
        _ => pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

fn refused(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// `str.replace`. The length of the result is known before it is made.
fn replace(state: &State, text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (old, new, most): (&str, &str, Option<i64>) = from_args(arguments)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let found = text.matches(old).take(most).count();
    limits::take_bytes(state, text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(Value::from(text.replacen(old, new, found)))
}

/// `str.join`.
fn join(state: &State, separator: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = from_args(arguments)?;
    let mut joined = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        limits::take_bytes(state, separator.len())?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(&python::text(&item));
    }
    Ok(Value::from(joined))
}

fn of_string(text: &str, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(arguments)?;
            Value::from(match method {
                "strip" => python::strip(text, characters),
                "lstrip" => python::strip_start(text, characters),
                _ => python::strip_end(text, characters),
            })
        }
        "split" | "rsplit" => {
            let options = Arguments::new(arguments.to_vec())?;
            let separator = options.get(0, "sep")?;
            let limit = options.get(1, "maxsplit")?.map(i64::try_from).transpose()?;
            options.end(2)?;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
            let parts = match separator
                .as_ref()
                .map(|value| value.as_str().ok_or_else(|| refused("split: expected a string as separator")))
            {
                None => split_at_space(text, limit, method == "rsplit"),
                Some(separator) => split(text, separator?, limit, method == "rsplit")?,
            };
            Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(arguments)?;
            Value::from(lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            if separator.is_empty() {
                return Err(refused("partition: expected a separator, got an empty string"));
            }
            let at = if method == "partition" { text.find(separator) } else { text.rfind(separator) };
            let parts = match at {
                Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (searched, start, end): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
            match (find(text, searched, start, end, method.starts_with('r')), method.ends_with("find")) {
                (Some(at), _) => Value::from(at),
                (None, true) => Value::from(-1),
                (None, false) => return Err(refused("index: the string is not in the text")),
            }
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (i64, Option<&str>) = from_args(arguments)?;
            let width = usize::try_from(width).unwrap_or(0);
            let pad = missing(text, width)?;
            let left = match method {
                // This is how CPython rounds.
                "center" => pad / 2 + (pad & width & 1),
                "ljust" => 0,
                _ => pad,
            };
            let fill = fill.unwrap_or(" ");
            Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(pad - left)))
        }
        "zfill" => {
            let (width,): (i64,) = from_args(arguments)?;
            let zeros = "0".repeat(missing(text, usize::try_from(width).unwrap_or(0))?);
            let sign = usize::from(text.starts_with(['+', '-']));
            Value::from(format!("{}{zeros}{}", &text[..sign], &text[sign..]))
        }
        "swapcase" => {
            let () = from_args(arguments)?;
            let swap = |character: char| -> String {
                if character.is_uppercase() {
                    character.to_lowercase().collect()
                } else {
                    character.to_uppercase().collect()
                }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "isspace" => {
            let () = from_args(arguments)?;
            Value::from(!text.is_empty() && text.chars().all(python::is_space))
        }
        "isdecimal" => {
            let () = from_args(arguments)?;
            if !text.is_ascii() {
                return Err(refused("isdecimal: only ASCII is supported"));
            }
            Value::from(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        }
        _ => return Ok(None),
    }))
}

/// The number of characters that a text lacks to a width, which is limited.
fn missing(text: &str, width: usize) -> Result<usize, Error> {
    const WIDEST: usize = 10_000;
    if width > WIDEST {
        return Err(refused("expected a width of at most 10000"));
    }
    Ok(width.saturating_sub(text.chars().count()))
}

/// The position of a string in a text, in characters, between the positions `start` and `end`.
fn find(text: &str, searched: &str, start: Option<i64>, end: Option<i64>, last: bool) -> Option<usize> {
    let length = text.chars().count();
    let clamp = |at: i64| if at < 0 { (length as i64 + at).max(0) as usize } else { (at as usize).min(length) };
    let (start, end) = (start.map_or(0, clamp), end.map_or(length, clamp));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let part = text.get(byte(start)..byte(end))?;
    let at = if last { part.rfind(searched) } else { part.find(searched) }?;
    Some(start + part[..at].chars().count())
}

fn split<'a>(text: &'a str, separator: &str, limit: usize, from_end: bool) -> Result<Vec<&'a str>, Error> {
    if separator.is_empty() {
        return Err(refused("split: expected a separator, got an empty string"));
    }
    let parts = limit.saturating_add(1);
    if !from_end {
        return Ok(text.splitn(parts, separator).collect());
    }
    let mut found: Vec<&str> = text.rsplitn(parts, separator).collect();
    found.reverse();
    Ok(found)
}

/// The words of a text. After `limit` splits, the rest is kept as it is.
fn split_at_space(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_end { python::strip_end(text, None) } else { python::strip_start(text, None) };
    while !rest.is_empty() && parts.len() < limit {
        let at = if from_end { rest.rfind(python::is_space) } else { rest.find(python::is_space) };
        let Some(at) = at else { break };
        let next = at + rest[at..].chars().next().map_or(0, char::len_utf8);
        if from_end {
            parts.push(&rest[next..]);
            rest = python::strip_end(&rest[..at], None);
        } else {
            parts.push(&rest[..at]);
            rest = python::strip_start(&rest[next..], None);
        }
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    if from_end {
        parts.reverse();
    }
    parts
}

/// `str.splitlines`, which splits not only at `\n`.
fn lines(text: &str, keep: bool) -> Vec<&str> {
    const ENDS: &[char] = &['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ENDS) {
        let end = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = at + if rest[at..].starts_with("\r\n") { 2 } else { end };
        found.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_at_white_space_as_in_python() {
        let text = " a b\u{1c} c  d ";
        assert_eq!(split_at_space(text, usize::MAX, false), ["a", "b", "c", "d"]);
        assert_eq!(split_at_space(text, usize::MAX, true), ["a", "b", "c", "d"]);
        assert_eq!(split_at_space(text, 1, false), ["a", "b\u{1c} c  d "]);
        assert_eq!(split_at_space(text, 1, true), [" a b\u{1c} c", "d"]);
        assert_eq!(split_at_space("  ", 1, false), Vec::<&str>::new());
        assert_eq!(split_at_space(" a ", 0, false), ["a "]);
    }

    #[test]
    fn text_is_split_at_separators_and_lines_as_in_python() {
        assert_eq!(split("a,b,c", ",", 1, false).unwrap(), ["a", "b,c"]);
        assert_eq!(split("a,b,c", ",", 1, true).unwrap(), ["a,b", "c"]);
        assert_eq!(split("", ",", usize::MAX, false).unwrap(), [""]);
        assert_eq!(lines("a\r\nb\u{2028}c\r", false), ["a", "b", "c"]);
        assert_eq!(lines("a\r\n\nb", true), ["a\r\n", "\n", "b"]);
    }

    #[test]
    fn positions_are_counted_in_characters() {
        assert_eq!(find("éaéa", "a", None, None, false), Some(1));
        assert_eq!(find("éaéa", "a", None, None, true), Some(3));
        assert_eq!(find("éaéa", "a", Some(2), None, false), Some(3));
        assert_eq!(find("éaéa", "a", Some(-1), None, false), Some(3));
        assert_eq!(find("éaéa", "a", Some(2), Some(3), false), None);
    }
}
