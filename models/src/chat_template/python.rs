//! Values as Python has them: into templates, and out as `json.dumps` prints them.

use minijinja::value::{Kwargs, Value as TemplateValue, ValueKind};
use minijinja::{Error, ErrorKind};
use serde_json::Value;

/// A JSON value for a template; keys keep their order.
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
        Value::Object(map) => TemplateValue::from_pairs(map.iter().map(|(key, value)| (key.clone(), template_value(value)))),
    }
}

/// Jinja's test: strings, lists, mappings and what is undefined can be iterated over.
pub(super) fn is_iterable(value: &TemplateValue) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The filter `tojson` of transformers: `json.dumps(value, ensure_ascii, indent, separators, sort_keys)`, whose
/// `ensure_ascii` is off and which escapes nothing for HTML.
pub(super) fn tojson(value: &TemplateValue, options: Kwargs) -> Result<TemplateValue, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let mut writer = JsonWriter {
        text: String::new(),
        indent: indent.map(|width| width.min(MAX_INDENT)),
        separators: (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    if let Some([item, key]) = separators.as_deref() {
        writer.separators = (item.clone(), key.clone());
    }
    writer.write(value, 0)?;
    Ok(TemplateValue::from_safe_string(writer.text))
}

/// Templates ask for 2 or 4; a hostile one must not be able to ask for gigabytes.
const MAX_INDENT: usize = 16;
const MAX_DEPTH: usize = 128;

struct JsonWriter {
    text: String,
    indent: Option<usize>,
    separators: (String, String),
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonWriter {
    fn write(&mut self, value: &TemplateValue, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::BadSerialization, format!("nested deeper than {MAX_DEPTH}")));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Undefined => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&value.to_string()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<TemplateValue> = value.try_iter()?.collect();
                self.surround('[', ']', items.len(), depth, |writer, index| writer.write(&items[index], depth + 1))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    entries.push((key.to_string(), value.get_item(&key)?));
                }
                if self.sort_keys {
                    entries.sort_by(|(left, _), (right, _)| left.cmp(right));
                }
                self.surround('{', '}', entries.len(), depth, |writer, index| {
                    let (key, entry) = &entries[index];
                    writer.string(key);
                    let separator = writer.separators.1.clone();
                    writer.text.push_str(&separator);
                    writer.write(entry, depth + 1)
                })?;
            }
            _ => match value.as_str() {
                Some(text) => self.string(text),
                None => return Err(Error::new(ErrorKind::BadSerialization, format!("no JSON for a {}", value.kind()))),
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
        if let Some(width) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', width * depth));
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
                wide if self.ensure_ascii && !wide.is_ascii() => self.escape(wide),
                other => self.text.push(other),
            }
        }
        self.text.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            self.text.push_str("\\u");
            self.text.extend([12, 8, 4, 0].map(|shift| char::from_digit(u32::from(*unit >> shift) & 15, 16).unwrap_or('0')));
        }
    }
}
