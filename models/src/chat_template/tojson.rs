//! The filter `tojson`, as transformers defines it.

use minijinja::value::{Rest, Value as TemplateValue, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State};

use super::arguments::Arguments;
use super::limits;
use super::python::{self, Digits};

/// Templates use 2 or 4. The limit keeps a malicious template from printing gigabytes.
const MAX_INDENT: usize = 64;
const MAX_DEPTH: usize = 128;

/// `json.dumps(value, ensure_ascii, indent, separators, sort_keys)` with `ensure_ascii` off by default. Unlike Jinja's own filter,
/// it does not escape characters for HTML.
pub(super) fn tojson(state: &State, value: &TemplateValue, options: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let options = Arguments::new(options.into_values())?;
    let is_set = |value: Option<TemplateValue>| value.is_some_and(|value| value.is_true());
    let ensure_ascii = is_set(options.get(0, "ensure_ascii")?);
    let indent = options.get(1, "indent")?.map(|indent| indentation(&indent)).transpose()?;
    let separators = options.get(2, "separators")?.map(|separators| two_texts(&separators)).transpose()?;
    let sort_keys = is_set(options.get(3, "sort_keys")?);
    options.end(4)?;
    let item = if indent.is_some() { "," } else { ", " };
    let separators = separators.unwrap_or_else(|| (item.to_owned(), ": ".to_owned()));
    limits::read(state, value)?;
    let most = usize::try_from(limits::most_bytes(state)).unwrap_or(usize::MAX);
    let mut writer = JsonWriter { text: String::new(), most, indent, separators, ensure_ascii, sort_keys };
    writer.write(value, 0)?;
    Ok(writer.text)
}

fn wrong(reason: String) -> Error {
    Error::new(ErrorKind::BadSerialization, reason)
}

/// A number of spaces, or a string.
fn indentation(value: &TemplateValue) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        if text.len() > MAX_INDENT {
            return Err(wrong(format!("tojson: expected an indent of at most {MAX_INDENT} bytes, got {}", text.len())));
        }
        return Ok(text.to_owned());
    }
    let width = i64::try_from(value.clone())?.max(0) as usize;
    if width > MAX_INDENT {
        return Err(wrong(format!("tojson: expected an indent of at most {MAX_INDENT}, got {width}")));
    }
    Ok(" ".repeat(width))
}

fn two_texts(value: &TemplateValue) -> Result<(String, String), Error> {
    let items: Vec<TemplateValue> = value.try_iter()?.collect();
    match items.as_slice() {
        [item, key] => Ok((python::text(item), python::text(key))),
        other => Err(wrong(format!("tojson: expected two separators, got {}", other.len()))),
    }
}

struct JsonWriter {
    text: String,
    /// The most bytes of the text.
    most: usize,
    indent: Option<String>,
    separators: (String, String),
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonWriter {
    fn write(&mut self, value: &TemplateValue, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(wrong(format!("nested deeper than {MAX_DEPTH}")));
        }
        if self.text.len() > self.most {
            return Err(ErrorKind::OutOfFuel.into());
        }
        match value.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.text.push_str(&scalar(value)),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<TemplateValue> = value.try_iter()?.collect();
                self.surround('[', ']', items.len(), depth, |writer, index| writer.write(&items[index], depth + 1))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let entry = value.get_item(&key)?;
                    entries.push((key, entry));
                }
                if self.sort_keys {
                    entries.sort_by(|(left, _), (right, _)| left.cmp(right));
                }
                self.surround('{', '}', entries.len(), depth, |writer, index| {
                    let (key, entry) = &entries[index];
                    match key.as_str() {
                        Some(text) => writer.string(text),
                        None => writer.string(&scalar(key)),
                    }
                    let separator = writer.separators.1.clone();
                    writer.text.push_str(&separator);
                    writer.write(entry, depth + 1)
                })?;
            }
            kind => match (value.as_str(), value.downcast_object_ref::<Digits>()) {
                (Some(text), _) => self.string(text),
                (_, Some(digits)) => self.text.push_str(&digits.0),
                _ => return Err(wrong(format!("tojson: JSON has no values of the kind `{kind}`"))),
            },
        }
        Ok(())
    }

    fn surround(
        &mut self,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        for index in 0..count {
            if index > 0 {
                let separator = self.separators.0.clone();
                self.text.push_str(&separator);
            }
            self.line(depth + 1);
            item(self, index)?;
        }
        if count > 0 {
            self.line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                control if (control as u32) < 0x20 => self.escape(control),
                wide if self.ensure_ascii && !matches!(wide, ' '..='~') => self.escape(wide),
                other => self.text.push(other),
            }
        }
        self.text.push('"');
    }

    fn escape(&mut self, character: char) {
        for code_unit in character.encode_utf16(&mut [0; 2]) {
            self.text.push_str("\\u");
            self.text
                .extend([12, 8, 4, 0].map(|shift| char::from_digit(u32::from(*code_unit >> shift) & 15, 16).unwrap_or('0')));
        }
    }
}

/// Prints a value that is neither a container nor a string.
fn scalar(value: &TemplateValue) -> String {
    match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number if !value.is_integer() => match python::text(value).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            other => other.to_owned(),
        },
        _ => python::text(value),
    }
}
