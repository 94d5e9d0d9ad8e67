//! The messages of a conversation.

use minijinja::value::Value as TemplateValue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::python;

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// A string, a list of parts, or null if the message only calls tools.
    #[serde(default)]
    pub content: Value,
    /// All other keys, such as `tool_calls`, for templates that read them.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The keys that data and templates use for the reasoning before an answer. They mean the same.
pub const REASONING: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Value::String(text.into()), extra: Map::new() }
    }

    /// The key and the text of the reasoning, if the message has it.
    pub fn reasoning(&self) -> Option<(&'static str, &str)> {
        REASONING.into_iter().find_map(|name| {
            let text = self.extra.get(name)?.as_str()?;
            (!text.is_empty()).then_some((name, text))
        })
    }

    /// About the bytes of what a template can print.
    pub(super) fn length(&self) -> usize {
        length_of(&self.content) + self.extra.iter().map(|(key, value)| key.len() + length_of(value)).sum::<usize>()
    }

    /// The message for a template that reads reasoning under the keys `reads`.
    pub(super) fn to_template(&self, reads: &[&'static str]) -> TemplateValue {
        // A key that the template reads is not renamed.
        let known = reads.iter().any(|name| self.extra.get(*name).is_some_and(|value| value.as_str() != Some("")));
        let renamed = self.reasoning().zip(reads.first().copied()).filter(|_| !known);
        let mut entries = vec![
            ("role".to_owned(), TemplateValue::from(&self.role)),
            ("content".to_owned(), python::template_value(&self.content)),
        ];
        for (key, value) in &self.extra {
            match renamed {
                Some(((from, _), to)) if from == key => entries.push((to.to_owned(), python::template_value(value))),
                // An empty text under the new key is replaced.
                Some((_, to)) if to == key => {}
                _ => entries.push((key.clone(), python::template_value(value))),
            }
        }
        TemplateValue::from_pairs(entries)
    }
}

/// About the bytes of a value as text.
pub(super) fn length_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(length_of).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + length_of(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}
