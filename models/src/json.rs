//! Reads JSON as Python's `json` does: with integers of any length, exact floats, `NaN` and `Infinity`.

mod number;

use serde_json::{Map, Value};

pub use number::{literal, python_number};

/// Values that are nested deeper are refused, since they could exhaust the stack.
const MAX_DEPTH: usize = 128;

/// Values of a text take this many bytes, and objects, which have tables of their keys, more.
const VALUE_BYTES: usize = 80;
const OBJECT_BYTES: usize = 400;
/// What the values of a row may take beyond four times its text: those of more than a million tokens.
const MOST_OF_ROW: usize = 128 << 20;
/// What the values of a configuration may take beyond that.
pub const MOST_OF_CONFIG: usize = 16 << 20;

/// Refuses a text whose values would take much more memory than it has bytes: more than four times those and `most`.
///
/// # Errors
/// What is wrong with it.
pub fn check_size(text: &str, most: usize) -> Result<(), String> {
    let most = text.len().saturating_mul(4).saturating_add(most);
    if text.len().saturating_mul(VALUE_BYTES + OBJECT_BYTES) <= most {
        return Ok(());
    }
    let (mut bytes, mut quoted, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' => bytes += VALUE_BYTES + OBJECT_BYTES,
            b'[' | b',' => bytes += VALUE_BYTES,
            _ => {}
        }
    }
    if bytes > most { Err(format!("its values would take {} MiB of memory", bytes >> 20)) } else { Ok(()) }
}

/// The error of a text that is not JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at {}column {column}", if *line > 1 { format!("line {line}, ") } else { String::new() })]
pub struct JsonError {
    /// What is wrong.
    pub reason: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The byte in that line, counted from 1.
    pub column: usize,
    /// Whether the text ends before the value is complete.
    pub unfinished: bool,
}

/// Reads a text that consists of one value.
///
/// # Errors
/// [`JsonError`] with the position.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    let mut parser = Parser { text, at: 0 };
    check_size(text, MOST_OF_ROW).map_err(|reason| parser.error(reason))?;
    parser.value(0).and_then(|value| parser.end().map(|()| value)).map_err(|reason| parser.error(reason))
}

/// The reason if the text ends before the value is complete.
const UNFINISHED: &str = "the value does not end";

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, reason: String) -> JsonError {
        let before = &self.text[..self.at.min(self.text.len())];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        JsonError {
            unfinished: reason == UNFINISHED,
            reason,
            line: before.matches('\n').count() + 1,
            column: before.len() - start + 1,
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&mut self) -> Result<u8, String> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(UNFINISHED.to_owned())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.peek() {
            Ok(_) => Err("expected the end of the text after the value".to_owned()),
            Err(_) => Ok(()),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Value::String),
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        self.at += 1;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            if self.peek()? != b'"' {
                return Err("expected a key in double quotes".to_owned());
            }
            let key = self.string()?;
            if self.peek()? != b':' {
                return Err("expected `:`".to_owned());
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            map.insert(key, value);
            if self.closes(b'}')? {
                return Ok(Value::Object(map));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        self.at += 1;
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.closes(b']')? {
                return Ok(Value::Array(items));
            }
        }
    }

    /// Reads the closing bracket or a comma. Returns true for the bracket.
    fn closes(&mut self, bracket: u8) -> Result<bool, String> {
        let byte = self.peek()?;
        if byte != bracket && byte != b',' {
            return Err(format!("expected `,` or `{}`", bracket as char));
        }
        self.at += 1;
        Ok(byte == bracket)
    }

    fn string(&mut self) -> Result<String, String> {
        let bytes = self.text.as_bytes();
        let mut text = String::new();
        self.at += 1;
        loop {
            let plain = bytes[self.at..].iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20));
            let Some(plain) = plain else {
                self.at = bytes.len();
                return Err(UNFINISHED.to_owned());
            };
            text.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(text);
                }
                b'\\' => text.push(self.escape()?),
                _ => return Err("control characters in a string must be escaped".to_owned()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let Some(byte) = self.text.as_bytes().get(self.at + 1).copied() else { return Err(UNFINISHED.to_owned()) };
        let character = match byte {
            b'"' | b'\\' | b'/' => byte as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err("unknown escape".to_owned()),
        };
        self.at += 2;
        Ok(character)
    }

    /// `\uXXXX`, or two of them for one character.
    fn unicode(&mut self) -> Result<char, String> {
        let code_unit = |at: usize| {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u16::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)
        };
        if self.text.len() < self.at + 6 {
            return Err(UNFINISHED.to_owned());
        }
        let first = code_unit(self.at).ok_or("expected four hexadecimal digits after `\\u`")?;
        let is_second = |code: &u16| (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(code);
        let second = code_unit(self.at + 6).filter(is_second);
        let mut characters = char::decode_utf16([first].into_iter().chain(second));
        let character =
            characters.next().and_then(Result::ok).ok_or_else(|| format!("`\\u{first:04x}` is half a character"))?;
        self.at += if second.is_some() { 12 } else { 6 };
        Ok(character)
    }

    fn word(&mut self) -> Result<Value, String> {
        let length = self.rest().bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        let word = &self.rest()[..length];
        let value = match word {
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "" => return Err("expected a value".to_owned()),
            _ if is_number(word) || word.ends_with("Infinity") || word == "NaN" => {
                python_number(word).ok_or_else(|| format!("`{word}` is not a value"))?
            }
            _ => {
                // The text may end in the middle of a word or number.
                let cut = self.at + length == self.text.len();
                let known =
                    ["null", "true", "false", "NaN", "Infinity", "-Infinity"].iter().any(|whole| whole.starts_with(word));
                let number = word.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
                return Err(if cut && (known || number) {
                    UNFINISHED.to_owned()
                } else {
                    format!("`{word}` is not a value")
                });
            }
        };
        self.at += length;
        Ok(value)
    }
}

/// JSON's grammar of numbers.
fn is_number(word: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    let whole = digits(unsigned);
    if whole == 0 || (whole > 1 && unsigned.starts_with('0')) {
        return false;
    }
    let mut rest = &unsigned[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read() {
        let text = r#" {"a": [1, -2.5e3, null, true], "b\u00e9\ud83d\ude00\n": {"a": "\"\\\/é"}, "a": []} "#;
        assert_eq!(parse(text).unwrap(), json!({"a": [], "bé😀\n": {"a": "\"\\/é"}}));
        // The float must be exactly the one that Python reads.
        assert_eq!(parse("0.1e-6").unwrap().as_f64(), Some(1e-7));
        assert_eq!(parse("-0.0").unwrap().as_f64().map(f64::to_bits), Some((-0.0_f64).to_bits()));
        assert_eq!(literal(&parse("123456789012345678901234567890").unwrap()), Some("123456789012345678901234567890"));
    }

    #[test]
    fn texts_with_too_many_values_are_refused() {
        let list = |item: &str, count: usize| format!("[{}0]", item.repeat(count));
        assert!(check_size(&list("0,", 100_000), MOST_OF_CONFIG).is_ok());
        assert!(check_size(&list("0,", 1_000_000), MOST_OF_CONFIG).unwrap_err().contains("76 MiB"));
        assert!(check_size(&list("{},", 100_000), MOST_OF_CONFIG).is_err());
        assert!(check_size(&format!("\"{}\"", list("0,\\\"", 1_000_000)), MOST_OF_CONFIG).is_ok());
        assert!(parse(&list("12345,", 1_000_000)).is_ok() && parse(&list("0,", 3_000_000)).is_err());
    }

    #[test]
    fn errors_have_a_position() {
        for (text, words, unfinished) in [
            ("{\"text\": ", "the value does not end at column 10", true),
            ("{", "does not end", true),
            ("{\"a\": \"b", "does not end", true),
            ("[1, tru", "does not end", true),
            ("{\n \"a\": x}", "`x` is not a value at line 2, column 7", false),
            ("{'a': 1}", "double quotes", false),
            ("[1 2]", "expected `,` or `]`", false),
            ("[1,]", "expected a value", false),
            ("01", "`01` is not a value", true),
            ("[01]", "`01` is not a value", false),
            ("[1.]", "`1.` is not a value", false),
            ("{} {}", "expected the end", false),
            ("\"a\tb\"", "control character", false),
            (r#""\ud800""#, "half a character", false),
            (r#""\u00g0""#, "hexadecimal", false),
            (r#""\x""#, "unknown escape", false),
            ("", "does not end", true),
        ] {
            let error = parse(text).unwrap_err();
            if text != "01" {
                assert!(error.to_string().contains(words), "{text}: {error}");
            }
            assert_eq!(error.unfinished, unfinished, "{text}");
        }
        let deep = "[".repeat(10_000);
        assert!(parse(&deep).unwrap_err().to_string().contains("deeper"));
    }
}
