//! The keys and values of a GGUF header.

use std::collections::BTreeMap;

/// A value of a GGUF header.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// A float of either width.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of values of one type.
    List(Vec<Value>),
}

impl Value {
    /// The value for an error message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Unsigned(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(flag) => flag.to_string(),
            Self::Text(_) => "a string".to_owned(),
            Self::List(list) => format!("a list of {}", list.len()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Unsigned(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Unsigned(number as u64)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

/// The keys and values of a GGUF header, sorted by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Sets the value of a key.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(key.into(), value.into());
    }

    /// The value of a key, if it is present.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All keys with their values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }

    /// The value of a key, if it is a string.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key, if it is an integer and not negative, or a list in which every element is the same such integer.
    pub fn number(&self, key: &str) -> Option<usize> {
        match self.get(key)? {
            Value::Unsigned(number) => usize::try_from(*number).ok(),
            Value::Signed(number) => usize::try_from(*number).ok(),
            // Some files list the number of heads of each layer.
            Value::List(list) => match list.first()? {
                Value::Unsigned(number) if list.iter().all(|value| value == &list[0]) => usize::try_from(*number).ok(),
                Value::Signed(number) if list.iter().all(|value| value == &list[0]) => usize::try_from(*number).ok(),
                _ => None,
            },
            _ => None,
        }
    }

    /// The value of a key as a float, if it is a float or an integer.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::Float(number) => Some(*number),
            Value::Unsigned(number) => Some(*number as f64),
            Value::Signed(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// As [`Metadata::number`], but `None` only if the key is absent.
    ///
    /// # Errors
    /// If the value is anything else.
    pub fn optional_number(&self, key: &str) -> Result<Option<usize>, String> {
        let got = |value: &Value| format!("`{key}`: expected a number that is not negative, got {}", value.describe());
        self.get(key).map(|value| self.number(key).ok_or_else(|| got(value))).transpose()
    }

    /// As [`Metadata::float`], but `None` only if the key is absent.
    ///
    /// # Errors
    /// If the value is not a number.
    pub fn optional_float(&self, key: &str) -> Result<Option<f64>, String> {
        let got = |value: &Value| format!("`{key}`: expected a number, got {}", value.describe());
        self.get(key).map(|value| self.float(key).ok_or_else(|| got(value))).transpose()
    }

    /// The value of a key, if it is a boolean.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The value of a key, if it is a list of strings.
    pub fn texts(&self, key: &str) -> Option<Vec<&str>> {
        match self.get(key)? {
            Value::List(list) => list
                .iter()
                .map(|value| match value {
                    Value::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    /// The names and sources of the chat templates; the unnamed one is called `default`.
    pub fn chat_templates(&self) -> Vec<(String, String)> {
        let read = |name: &str, key: &str| Some((name.to_owned(), self.text(key)?.to_owned()));
        let names = self.texts("tokenizer.chat_templates").unwrap_or_default();
        let named = names.iter().filter_map(|name| read(name, &format!("tokenizer.chat_template.{name}")));
        read("default", "tokenizer.chat_template").into_iter().chain(named).collect()
    }

    /// The value of a key as floats, if it is a list of numbers.
    pub fn floats(&self, key: &str) -> Option<Vec<f64>> {
        match self.get(key)? {
            Value::List(list) => list
                .iter()
                .map(|value| match value {
                    Value::Float(number) => Some(*number),
                    Value::Unsigned(number) => Some(*number as f64),
                    Value::Signed(number) => Some(*number as f64),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }
}

/// The shortest decimal number, such as 1e-5, that gives the same f32.
pub(crate) fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_another_type_are_not_taken_for_absent_ones() {
        let mut metadata = Metadata::default();
        assert_eq!((metadata.optional_number("a"), metadata.optional_float("a")), (Ok(None), Ok(None)));
        metadata.insert("a", 3usize);
        assert_eq!((metadata.optional_number("a"), metadata.optional_float("a")), (Ok(Some(3)), Ok(Some(3.0))));
        metadata.insert("a", [4usize, 4].into_iter().collect::<Value>());
        assert_eq!(metadata.optional_number("a"), Ok(Some(4)));
        for (value, got) in [
            (Value::Text("3".into()), "a string"),
            (Value::Bool(true), "true"),
            ([4usize, 8].into_iter().collect(), "a list of 2"),
            (Value::Signed(-1), "-1"),
        ] {
            metadata.insert("a", value);
            assert!(metadata.optional_number("a").unwrap_err().ends_with(&format!("got {got}")));
        }
        metadata.insert("a", "1e6");
        assert_eq!(metadata.optional_float("a").unwrap_err(), "`a`: expected a number, got a string");
    }
}
