//! The key-value part of a GGUF header.

use std::collections::BTreeMap;

/// A value of the header.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of one type.
    List(Vec<Value>),
}

/// All keys of the header.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Sets a key.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) {
        self.0.insert(key.into(), value);
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All keys with their values, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }

    /// A string.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer that is not negative.
    pub fn number(&self, key: &str) -> Option<usize> {
        match self.get(key)? {
            Value::Unsigned(number) => usize::try_from(*number).ok(),
            Value::Signed(number) => usize::try_from(*number).ok(),
            // Some files give head counts a layer; they are used here when all layers agree.
            Value::List(list) => match list.first()? {
                Value::Unsigned(number) if list.iter().all(|value| value == &list[0]) => usize::try_from(*number).ok(),
                Value::Signed(number) if list.iter().all(|value| value == &list[0]) => usize::try_from(*number).ok(),
                _ => None,
            },
            _ => None,
        }
    }

    /// A float, or an integer as one.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::Float(number) => Some(*number),
            Value::Unsigned(number) => Some(*number as f64),
            Value::Signed(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// A boolean.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A list of strings.
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

    /// Names and sources of the chat templates; the one without a name is `default`.
    pub fn chat_templates(&self) -> Vec<(String, String)> {
        let read = |name: &str, key: &str| Some((name.to_owned(), self.text(key)?.to_owned()));
        let names = self.texts("tokenizer.chat_templates").unwrap_or_default();
        let named = names.iter().filter_map(|name| read(name, &format!("tokenizer.chat_template.{name}")));
        read("default", "tokenizer.chat_template").into_iter().chain(named).collect()
    }

    /// A list of numbers.
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
