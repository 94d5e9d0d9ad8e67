//! Rows of messages.

use burnish_models::{Message, json};
use serde_json::{Map, Value};

use super::{Row, is_empty, kind, shown};

/// A row of `messages` or `conversations`.
pub(super) fn of_messages(row: &Map<String, Value>, turns: Value) -> Result<Row, String> {
    let Turns { mut messages, mut unlearned } = Turns::read(turns)?;
    add_system(row, &mut messages, &mut unlearned)?;
    Ok(Row::Chat { messages, tools: tools(row)?, learn_from: 0, unlearned })
}

/// A row whose `prompt` and `completion` are lists of messages.
pub(super) fn of_prompt_and_completion(row: &Map<String, Value>, prompt: Value, completion: Value) -> Result<Row, String> {
    let Turns { mut messages, mut unlearned } = Turns::read(prompt)?;
    add_system(row, &mut messages, &mut unlearned)?;
    let learn_from = messages.len();
    let answer = Turns::read(completion)?;
    messages.extend(answer.messages);
    unlearned.extend(answer.unlearned.into_iter().map(|turn| turn + learn_from));
    Ok(Row::Chat { messages, tools: tools(row)?, learn_from, unlearned })
}

/// Inserts the row's `system` key as the first message.
fn add_system(row: &Map<String, Value>, messages: &mut Vec<Message>, unlearned: &mut [usize]) -> Result<(), String> {
    if let Some(key) = ["functions", "chat_template_kwargs", "history"]
        .into_iter()
        .find(|key| row.get(*key).is_some_and(|value| !is_empty(value)))
    {
        let instead = match key {
            "functions" => "is OpenAI's old key; use `tools`",
            "history" => "is for rows with instruction and output; put its turns into the messages",
            _ => "is not supported",
        };
        return Err(format!("`{key}` {instead}"));
    }
    match row.get("system") {
        Some(Value::String(system)) if !system.is_empty() && messages[0].role != "system" => {
            messages.insert(0, Message::new("system", system));
            for turn in unlearned {
                *turn += 1;
            }
        }
        None | Some(Value::String(_)) => {}
        Some(other) => return Err(format!("system should be a string, got {}", kind(other))),
    }
    Ok(())
}

struct Turns {
    messages: Vec<Message>,
    /// Indices of messages that must not be learned.
    unlearned: Vec<usize>,
}

impl Turns {
    fn read(value: Value) -> Result<Self, String> {
        let Value::Array(turns) = value else {
            return Err(format!("messages should be a list, got {}", kind(&value)));
        };
        if turns.is_empty() {
            return Err("the conversation is empty".to_owned());
        }
        let mut read = Self { messages: Vec::with_capacity(turns.len()), unlearned: Vec::new() };
        for (index, turn) in turns.into_iter().enumerate() {
            let (message, learned) = message(turn).map_err(|reason| format!("message {}: {reason}", index + 1))?;
            read.messages.push(message);
            if !learned {
                read.unlearned.push(index);
            }
        }
        Ok(read)
    }
}

/// Reads a turn with `role` and `content`, or ShareGPT's `from` and `value`; returns it, and whether it may be learned.
fn message(turn: Value) -> Result<(Message, bool), String> {
    let Value::Object(mut turn) = turn else {
        return Err(format!("should be an object, got {}", kind(&turn)));
    };
    remove_nulls(&mut turn);
    let share_gpt = !turn.contains_key("role") && turn.contains_key("from");
    let (role_key, content_key) = if share_gpt { ("from", "value") } else { ("role", "content") };
    let role = match turn.shift_remove(role_key) {
        Some(Value::String(role)) => role,
        Some(other) => return Err(format!("{role_key} should be a string, got {}", kind(&other))),
        None => return Err("has no role".to_owned()),
    };
    let role = if share_gpt { share_gpt_role(&role)?.to_owned() } else { check_role(role)? };
    let learned = is_learned(&mut turn, &role)?;
    if turn.contains_key("function_call") {
        return Err("`function_call` is OpenAI's old key; use `tool_calls`".to_owned());
    }
    if let Some(calls) = turn.get_mut("tool_calls") {
        let list = std::mem::take(calls);
        *calls = list_of("tool_calls", list)?.into();
    }
    let content = match turn.shift_remove(content_key) {
        Some(content @ (Value::String(_) | Value::Array(_))) => content,
        // A turn with only tool calls has no text.
        None if turn.contains_key("tool_calls") => Value::String(String::new()),
        None => return Err(format!("has no {content_key}")),
        Some(other) => return Err(format!("{content_key} should be a string, got {}", kind(&other))),
    };
    Ok((Message { role, content, extra: turn }, learned))
}

/// Reads and removes OpenAI's `weight` and axolotl's `train`, which are not for templates.
fn is_learned(turn: &mut Map<String, Value>, role: &str) -> Result<bool, String> {
    if turn.contains_key("train_detail") {
        return Err("`train_detail` (training on parts of a turn) is not supported".to_owned());
    }
    let weight = match turn.shift_remove("weight") {
        None => true,
        Some(weight) => match weight.as_f64() {
            Some(0.0) => false,
            Some(1.0) => true,
            _ => return Err(format!("weight should be 0 or 1, got {}", shown(&weight))),
        },
    };
    let train = match turn.shift_remove("train") {
        None => true,
        Some(Value::Bool(true)) if !matches!(role, "assistant" | "model") => {
            return Err(format!("train is true for the role `{role}`, but only turns of the assistant are learned"));
        }
        Some(Value::Bool(train)) => train,
        Some(other) => return Err(format!("train should be true or false, got {}", kind(&other))),
    };
    Ok(weight && train)
}

/// Refuses role names that templates would print unchanged although another role is meant.
fn check_role(role: String) -> Result<String, String> {
    let meant = match role.trim().to_lowercase().as_str() {
        "gpt" | "chatgpt" => "assistant",
        "human" => "user",
        "" => return Err("role is empty".to_owned()),
        known => match ["system", "user", "assistant", "tool"].into_iter().find(|name| *name == known && *name != role) {
            Some(name) => name,
            None => return Ok(role),
        },
    };
    Err(format!("role should be {meant:?}, got {role:?}"))
}

fn share_gpt_role(from: &str) -> Result<&'static str, String> {
    match from {
        "human" | "user" => Ok("user"),
        "gpt" | "assistant" | "chatgpt" | "model" | "bot" => Ok("assistant"),
        "system" => Ok("system"),
        "tool" | "observation" | "function_response" => Ok("tool"),
        other => Err(format!("from should be human, gpt, system or tool, got {other:?}")),
    }
}

/// Reads `tools`: a list, or a string with a JSON list, as in tables without nested columns.
pub(super) fn tools(row: &Map<String, Value>) -> Result<Option<Value>, String> {
    let Some(tools) = row.get("tools") else { return Ok(None) };
    let list = list_of("tools", tools.clone())?;
    Ok((!list.is_empty()).then_some(Value::Array(list)))
}

/// Reads a list, or a string with a JSON list.
fn list_of(key: &str, value: Value) -> Result<Vec<Value>, String> {
    let mut list = match value {
        Value::Array(list) => list,
        Value::String(text) if text.trim().is_empty() => Vec::new(),
        Value::String(text) => match json::parse(&text) {
            Ok(Value::Array(list)) => list,
            _ => return Err(format!("{key} should be a list, got a string that is not a JSON list")),
        },
        other => return Err(format!("{key} should be a list, got {}", kind(&other))),
    };
    list.iter_mut().for_each(remove_nulls_within);
    Ok(list)
}

/// Removes null values: tables give every object the keys that any of them has.
fn remove_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    map.values_mut().for_each(remove_nulls_within);
}

fn remove_nulls_within(value: &mut Value) {
    match value {
        Value::Object(map) => remove_nulls(map),
        Value::Array(items) => items.iter_mut().for_each(remove_nulls_within),
        _ => {}
    }
}
