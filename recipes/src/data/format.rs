//! The kinds of row, told apart by their keys.

use burnish_models::Message;
use serde_json::{Map, Value};

/// One row of data.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// A conversation: `messages`, ShareGPT's `conversations`, or `prompt` and `completion` as lists of messages.
    Chat {
        /// The turns.
        messages: Vec<Message>,
        /// Tools that the assistant may call, for the template.
        tools: Option<Value>,
        /// Assistant turns before this one are context only.
        learn_from: usize,
    },
    /// `prompt` and `completion` as strings.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// `text`: all of it is learned.
    Text(String),
    /// Alpaca's `instruction`, `input` and `output`.
    Alpaca {
        /// What to do.
        instruction: String,
        /// With what; may be empty.
        input: String,
        /// What is learned.
        output: String,
    },
    /// `input_ids`, with `labels` where not all is learned.
    Tokens {
        /// The tokens.
        input_ids: Vec<u32>,
        /// One a token, -100 where it is not learned.
        labels: Option<Vec<i64>>,
    },
    /// `chosen` and `rejected`: for preference recipes.
    Preference,
}

impl Row {
    /// Reads a row.
    ///
    /// # Errors
    /// What is wrong, for a person who looks at the row.
    pub fn from_json(json: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(json).map_err(|error| not_json(&error))?;
        Self::from_value(value)
    }

    /// Reads a row that is parsed already.
    ///
    /// # Errors
    /// As [`Row::from_json`].
    pub fn from_value(value: Value) -> Result<Self, String> {
        let Value::Object(mut row) = value else {
            return Err(format!("a row is a JSON object, and this is {}", kind(&value)));
        };
        if row.contains_key("input_ids") {
            tokens(&row)
        } else if row.contains_key("chosen") || row.contains_key("rejected") {
            Ok(Self::Preference)
        } else if let Some(messages) = row.remove("messages") {
            chat(&row, messages)
        } else if let Some(turns) = row.remove("conversations") {
            chat(&row, turns)
        } else if row.contains_key("prompt") && row.contains_key("completion") {
            completion(row)
        } else if row.contains_key("instruction") && row.contains_key("output") {
            let mut take = |key: &str| row.remove(key).map_or(Ok(String::new()), |value| string(key, value));
            Ok(Self::Alpaca { instruction: take("instruction")?, input: take("input")?, output: take("output")? })
        } else if let Some(text) = row.remove("text") {
            string("text", text).map(Self::Text)
        } else {
            let keys: Vec<&str> = row.keys().map(String::as_str).collect();
            Err(format!(
                "no known kind of row: its keys are [{}]; known are messages, conversations, prompt + completion, \
                 instruction + output, text, input_ids",
                keys.join(", ")
            ))
        }
    }
}

fn chat(row: &Map<String, Value>, turns: Value) -> Result<Row, String> {
    let mut messages = read_messages(turns)?;
    if let Some(Value::String(system)) = row.get("system")
        && !system.is_empty()
        && messages[0].role != "system"
    {
        messages.insert(0, Message::new("system", system));
    }
    Ok(Row::Chat { messages, tools: tools(row)?, learn_from: 0 })
}

fn completion(mut row: Map<String, Value>) -> Result<Row, String> {
    let (prompt, completion) = (row.remove("prompt"), row.remove("completion"));
    match (prompt, completion) {
        (Some(Value::String(prompt)), Some(Value::String(completion))) => Ok(Row::Completion { prompt, completion }),
        (Some(prompt @ Value::Array(_)), Some(completion @ Value::Array(_))) => {
            let mut messages = read_messages(prompt)?;
            let learn_from = messages.len();
            messages.extend(read_messages(completion)?);
            Ok(Row::Chat { messages, tools: tools(&row)?, learn_from })
        }
        (prompt, completion) => Err(format!(
            "prompt and completion are both strings or both lists of messages, and these are {} and {}",
            prompt.as_ref().map_or("missing", kind),
            completion.as_ref().map_or("missing", kind)
        )),
    }
}

fn read_messages(value: Value) -> Result<Vec<Message>, String> {
    let Value::Array(turns) = value else {
        return Err(format!("messages are a list, and these are {}", kind(&value)));
    };
    if turns.is_empty() {
        return Err("the conversation is empty".to_owned());
    }
    let read = |(index, turn)| message(turn).map_err(|reason| format!("message {}: {reason}", index + 1));
    turns.into_iter().enumerate().map(read).collect()
}

/// A turn as `role` and `content`, or ShareGPT's `from` and `value`.
fn message(turn: Value) -> Result<Message, String> {
    let Value::Object(mut turn) = turn else {
        return Err(format!("should be an object, and is {}", kind(&turn)));
    };
    let share_gpt = !turn.contains_key("role") && turn.contains_key("from");
    let (role_key, content_key) = if share_gpt { ("from", "value") } else { ("role", "content") };
    let role = match turn.remove(role_key) {
        Some(Value::String(role)) => role,
        Some(other) => return Err(format!("{role_key} should be a string, and is {}", kind(&other))),
        None => return Err("has no role".to_owned()),
    };
    let role = if share_gpt { share_gpt_role(&role)?.to_owned() } else { role };
    let content = turn.remove(content_key);
    // Null stands for no text where a turn only calls tools.
    let wordless = turn.contains_key("tool_calls");
    let content = match content {
        Some(content @ (Value::String(_) | Value::Array(_))) => content,
        None | Some(Value::Null) if wordless => Value::String(String::new()),
        None => return Err(format!("has no {content_key}")),
        Some(other) => return Err(format!("{content_key} should be a string, and is {}", kind(&other))),
    };
    Ok(Message { role, content, extra: turn })
}

fn share_gpt_role(from: &str) -> Result<&'static str, String> {
    match from {
        "human" | "user" => Ok("user"),
        "gpt" | "assistant" | "chatgpt" | "model" | "bot" => Ok("assistant"),
        "system" => Ok("system"),
        "tool" | "observation" | "function_response" => Ok("tool"),
        other => Err(format!("from is {other:?}; known are human, gpt, system, tool")),
    }
}

/// Tools are a list, or a string of JSON, as tables without nested columns have it.
fn tools(row: &Map<String, Value>) -> Result<Option<Value>, String> {
    match row.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(list @ Value::Array(_)) => Ok(Some(list)),
            _ => Err("tools is a string, and not of a JSON list".to_owned()),
        },
        Some(list @ Value::Array(tools)) => Ok((!tools.is_empty()).then(|| list.clone())),
        Some(other) => Err(format!("tools should be a list, and is {}", kind(other))),
    }
}

fn tokens(row: &Map<String, Value>) -> Result<Row, String> {
    let list = |key: &str| match row.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_i64().ok_or_else(|| format!("{key} holds {item}, which is no integer")))
            .collect::<Result<Vec<i64>, String>>()
            .map(Some),
        Some(other) => Err(format!("{key} should be a list, and is {}", kind(other))),
    };
    let ids = list("input_ids")?.unwrap_or_default();
    if ids.is_empty() {
        return Err("input_ids is empty".to_owned());
    }
    let labels = list("labels")?;
    if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != ids.len()) {
        return Err(format!("{} input_ids and {} labels", ids.len(), labels.len()));
    }
    let id = |id: i64| u32::try_from(id).map_err(|_| format!("input_ids holds {id}"));
    Ok(Row::Tokens { input_ids: ids.into_iter().map(id).collect::<Result<_, _>>()?, labels })
}

fn string(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        other => Err(format!("{key} should be a string, and is {}", kind(&other))),
    }
}

/// serde_json counts lines within the row; the row's own line is said by whoever read it.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    format!("not JSON: {reason} at column {}", error.column())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Row {
        Row::from_json(json).unwrap()
    }

    fn reason(json: &str) -> String {
        Row::from_json(json).unwrap_err()
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(row(r#"{"text": "a"}"#), Row::Text("a".into()));
        assert_eq!(
            row(r#"{"prompt": "a", "completion": "b"}"#),
            Row::Completion { prompt: "a".into(), completion: "b".into() }
        );
        assert_eq!(
            row(r#"{"instruction": "a", "input": null, "output": "b", "text": "whole"}"#),
            Row::Alpaca { instruction: "a".into(), input: String::new(), output: "b".into() }
        );
        assert_eq!(row(r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#), Row::Preference);
        assert_eq!(
            row(r#"{"input_ids": [1, 2], "labels": [-100, 2]}"#),
            Row::Tokens { input_ids: vec![1, 2], labels: Some(vec![-100, 2]) }
        );
    }

    #[test]
    fn share_gpt_becomes_messages() {
        let share_gpt =
            row(r#"{"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#);
        let messages = row(
            r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
        );
        assert_eq!(share_gpt, messages);
        assert!(reason(r#"{"conversations": [{"from": "alien", "value": "q"}]}"#).contains("message 1: from is \"alien\""));
    }

    #[test]
    fn prompt_messages_are_context() {
        let row = row(
            r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}], "tools": "[{\"name\": \"f\"}]"}"#,
        );
        let Row::Chat { messages, tools: Some(tools), learn_from: 1 } = row else { panic!("{row:?}") };
        assert_eq!((messages.len(), tools.as_array().unwrap().len()), (2, 1));
    }

    #[test]
    fn tool_calls_need_no_content() {
        let turn = r#"{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]}]}"#;
        let Row::Chat { messages, .. } = row(turn) else { panic!() };
        assert!(messages[0].extra.contains_key("tool_calls"));
        assert!(reason(r#"{"messages": [{"role": "assistant", "content": null}]}"#).contains("is null"));
    }

    #[test]
    fn reasons_name_what_is_wrong() {
        for (json, words) in [
            ("{\"text\": ", "not JSON"),
            ("[1]", "is a list"),
            ("{\"txt\": \"a\"}", "its keys are [txt]"),
            ("{\"messages\": []}", "empty"),
            ("{\"messages\": [3]}", "message 1: should be an object"),
            ("{\"messages\": [{\"content\": \"a\"}]}", "message 1: has no role"),
            ("{\"text\": 3}", "text should be a string, and is a number"),
            ("{\"prompt\": \"a\", \"completion\": [1]}", "both"),
            ("{\"input_ids\": [1, -2]}", "holds -2"),
            ("{\"input_ids\": [1, 2.5]}", "2.5"),
            ("{\"input_ids\": []}", "empty"),
            ("{\"input_ids\": [1], \"labels\": [1, 2]}", "1 input_ids and 2 labels"),
        ] {
            assert!(reason(json).contains(words), "{json}: {}", reason(json));
        }
    }
}
