//! Turns of a conversation.

use minijinja::value::Value as TemplateValue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::python;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text, a list of parts, or null where a turn only calls tools.
    #[serde(default)]
    pub content: Value,
    /// Whatever else the row has, such as `tool_calls`: templates may read it.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Names that data and templates give to what was thought before an answer; they mean the same.
pub const REASONING: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

impl Message {
    /// A turn of text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Value::String(text.into()), extra: Map::new() }
    }

    /// The name and text of what was thought before the answer, where the turn has one.
    pub fn reasoning(&self) -> Option<(&'static str, &str)> {
        REASONING.into_iter().find_map(|name| {
            let text = self.extra.get(name)?.as_str()?;
            (!text.is_empty()).then_some((name, text))
        })
    }

    /// The turn for a template that reads its reasoning under these names.
    pub(super) fn to_template(&self, reads: &[&'static str]) -> TemplateValue {
        // The row's own name is the best where the template knows it.
        let known = reads.iter().any(|name| self.extra.get(*name).is_some_and(|value| value.as_str() != Some("")));
        let renamed = self.reasoning().zip(reads.first().copied()).filter(|_| !known);
        let mut pairs = vec![
            ("role".to_owned(), TemplateValue::from(&self.role)),
            ("content".to_owned(), python::template_value(&self.content)),
        ];
        for (key, value) in &self.extra {
            match renamed {
                Some(((from, _), to)) if from == key => pairs.push((to.to_owned(), python::template_value(value))),
                // An empty text under the template's name gives way.
                Some((_, to)) if to == key => {}
                _ => pairs.push((key.clone(), python::template_value(value))),
            }
        }
        TemplateValue::from_pairs(pairs)
    }
}
