//! Content in parts, and tools that a template does not render.

use std::borrow::Cow;

use burnish_models::{ChatTemplate, Message};
use serde_json::Value;

/// Adapts messages to a template: if it does not render lists of parts, their texts are joined without a separator, as in templates
/// that do.
pub(super) fn as_taken<'a>(
    template: &ChatTemplate,
    messages: &'a [Message],
    tools: Option<&Value>,
) -> Result<Cow<'a, [Message]>, String> {
    let mut texts: Vec<&str> = Vec::new();
    let mut joined = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let Value::Array(parts) = &message.content else { continue };
        let text = |(part, value)| {
            text_of(value).map_err(|reason| format!("message {}: part {} of its content {reason}", index + 1, part + 1))
        };
        let of_message = parts.iter().enumerate().map(text).collect::<Result<Vec<&str>, String>>()?;
        joined.push((index, of_message.concat()));
        texts.extend(of_message);
    }
    if joined.is_empty() || takes_parts(template, messages, tools, &texts) {
        return Ok(Cow::Borrowed(messages));
    }
    let mut messages = messages.to_vec();
    for (index, text) in joined {
        messages[index].content = Value::String(text);
    }
    Ok(Cow::Owned(messages))
}

fn text_of(part: &Value) -> Result<&str, String> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text") | None, Some(text)) => Ok(text),
        (Some(kind), _) if kind != "text" => Err(format!("has the type {kind}, but only text is supported")),
        _ => Err("should be an object with `type` and `text`".to_owned()),
    }
}

/// Whether a template renders the texts of parts, instead of printing the lists with brackets and keys.
fn takes_parts(template: &ChatTemplate, messages: &[Message], tools: Option<&Value>, texts: &[&str]) -> bool {
    let rendered =
        template.conversation(messages, tools).and_then(|conversation| conversation.render(messages.len(), false));
    let is_printed_whole = |text: &str| ["'type': 'text'", "\"type\": \"text\""].iter().any(|key| text.contains(key));
    rendered.is_ok_and(|rendered| !is_printed_whole(&rendered) && texts.iter().all(|text| rendered.contains(text.trim())))
}

/// Whether the row has tools or tool calls, but the template renders the same `text` without them.
pub(super) fn leaves_out_tools(template: &ChatTemplate, messages: &[Message], tools: Option<&Value>, text: &str) -> bool {
    let is_same = |messages: &[Message], tools: Option<&Value>| {
        let conversation = template.conversation(messages, tools);
        let without = conversation.and_then(|conversation| conversation.render(messages.len(), false));
        without.is_ok_and(|without| without == text)
    };
    let has_calls =
        |message: &Message| message.extra.get("tool_calls").is_some_and(|calls| calls.as_array() != Some(&Vec::new()));
    if tools.is_some() && is_same(messages, None) {
        return true;
    }
    if !messages.iter().any(has_calls) {
        return false;
    }
    let mut without = messages.to_vec();
    for message in &mut without {
        message.extra.shift_remove("tool_calls");
    }
    is_same(&without, tools)
}
