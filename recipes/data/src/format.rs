//! The kinds of rows, distinguished by their keys. A key with the value null counts as absent, since tables fill missing keys with it.

mod chat;
mod columns;
mod preference;
mod tokens;

use std::borrow::Cow;

use burnish_models::{Message, json};
use serde_json::{Map, Value};

pub use columns::Columns;

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
        /// Turns that are never learned: `weight` is 0 or `train` is false.
        unlearned: Vec<usize>,
    },
    /// `prompt` and `completion`, both strings.
    Completion {
        /// Context only.
        prompt: String,
        /// The text to learn.
        completion: String,
    },
    /// `text`: all of it is learned.
    Text(String),
    /// A part of a document: all of it is learned.
    Passage {
        /// The text.
        text: String,
        /// Whether it is Markdown.
        is_markdown: bool,
        /// Whether the document ends with it.
        is_last: bool,
    },
    /// Alpaca's `instruction`, `input` and `output`, with LLaMA-Factory's `system`, `history` and `tools`.
    Alpaca {
        /// A system message; may be empty.
        system: String,
        /// Questions and answers before this one.
        history: Vec<(String, String)>,
        /// Tools that the assistant may call.
        tools: Option<Value>,
        /// The task.
        instruction: String,
        /// Input of the task; may be empty.
        input: String,
        /// The answer to learn.
        output: String,
    },
    /// `input_ids`, with `labels` unless all tokens are learned.
    Tokens {
        /// The tokens.
        input_ids: Vec<u32>,
        /// One per token; -100 if it is not learned.
        labels: Option<Vec<i64>>,
    },
    /// `chosen` and `rejected`, for preference recipes, each as a row with the prompt.
    Preference {
        /// The better answer.
        chosen: Box<Row>,
        /// The worse one.
        rejected: Box<Row>,
    },
    /// A row with an answer, and with `label` or `kto_tag`: for recipes that learn from single answers, true or false.
    Labelled {
        /// The row without its label.
        answer: Box<Row>,
        /// The label.
        label: Value,
    },
}

impl Row {
    /// Reads a row.
    ///
    /// # Errors
    /// What is wrong with the row, for the user.
    pub fn from_json(json: &str) -> Result<Self, String> {
        json::parse(json).map_err(|error| format!("not JSON: {error}")).and_then(Self::from_value)
    }

    /// Reads a row from parsed JSON.
    ///
    /// # Errors
    /// Those of [`Row::from_json`].
    pub fn from_value(value: Value) -> Result<Self, String> {
        let Value::Object(mut row) = value else {
            return Err(format!("a row should be a JSON object, got {}", kind(&value)));
        };
        row.retain(|_, value| !value.is_null());
        // The names in TRL and LLaMA-Factory.
        let of_media = |key: &&str| row.get(*key).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if let Some(key) = ["images", "videos", "audios"].into_iter().find(of_media) {
            return Err(format!("`{key}` is not empty, but only text is supported"));
        }
        if row.contains_key("input_ids") {
            return tokens::tokens(&row);
        }
        if row.contains_key("chosen") || row.contains_key("rejected") {
            return preference::preference(row);
        }
        if let [Some(Value::Bool(label)), Some(Value::Bool(tag))] = LABELS.map(|key| row.get(key))
            && label != tag
        {
            return Err(format!("`label` is {label}, but `kto_tag` is {tag}"));
        }
        let label = LABELS.into_iter().find_map(|key| row.get(key)).cloned();
        let answer = if let Some(messages) = row.shift_remove("messages") {
            chat::of_messages(&row, messages)?
        } else if let Some(turns) = row.shift_remove("conversations") {
            chat::of_messages(&row, turns)?
        } else if row.contains_key("prompt") && row.contains_key("completion") {
            completion(row)?
        } else if row.contains_key("instruction") && row.contains_key("output") {
            alpaca(row)?
        } else if let Some(text) = row.shift_remove("text") {
            return string("text", text).map(Self::Text);
        } else {
            return Err(unknown(&row));
        };
        Ok(match label {
            Some(label) => Self::Labelled { answer: Box::new(answer), label },
            None => answer,
        })
    }
}

/// TRL's name of a label, and LLaMA-Factory's.
pub(crate) const LABELS: [&str; 2] = ["label", "kto_tag"];

/// A row with a label, of whose conversation the label concerns the last answer only.
pub(crate) fn with_last_answer(row: &Row) -> Result<Cow<'_, Row>, String> {
    let Row::Chat { messages, tools, learn_from: 0, unlearned } = row else { return Ok(Cow::Borrowed(row)) };
    let last = messages.len().saturating_sub(1);
    match messages.last() {
        Some(message) if message.role == "assistant" && !unlearned.contains(&last) => Ok(Cow::Owned(Row::Chat {
            messages: messages.clone(),
            tools: tools.clone(),
            learn_from: last,
            unlearned: unlearned.clone(),
        })),
        _ => Err("a label concerns the last message, which should be the assistant's".to_owned()),
    }
}

fn completion(mut row: Map<String, Value>) -> Result<Row, String> {
    let (prompt, completion) = (row.shift_remove("prompt"), row.shift_remove("completion"));
    match (prompt, completion) {
        (Some(Value::String(prompt)), Some(Value::String(completion))) => {
            match ["system", "history", "tools"].into_iter().find(|key| row.get(*key).is_some_and(|value| !is_empty(value)))
            {
                Some(key) => Err(format!(
                    "`{key}` can't be combined with a prompt that is a string: put it into the prompt, or use messages"
                )),
                None => Ok(Row::Completion { prompt, completion }),
            }
        }
        (Some(prompt @ Value::Array(_)), Some(completion @ Value::Array(_))) => {
            chat::of_prompt_and_completion(&row, prompt, completion)
        }
        (prompt, completion) => Err(format!(
            "prompt and completion should be both strings or both lists of messages, got {} and {}",
            prompt.as_ref().map_or("missing", kind),
            completion.as_ref().map_or("missing", kind)
        )),
    }
}

fn alpaca(mut row: Map<String, Value>) -> Result<Row, String> {
    let tools = chat::tools(&row)?;
    let history = row.shift_remove("history").map_or(Ok(Vec::new()), history)?;
    let mut take = |key: &str| row.shift_remove(key).map_or(Ok(String::new()), |value| string(key, value));
    Ok(Row::Alpaca {
        system: take("system")?,
        history,
        tools,
        instruction: take("instruction")?,
        input: take("input")?,
        output: take("output")?,
    })
}

/// Earlier questions and answers.
fn history(value: Value) -> Result<Vec<(String, String)>, String> {
    let Value::Array(turns) = value else {
        return Err(format!("history should be a list of [question, answer] lists, got {}", kind(&value)));
    };
    let turn = |(index, turn): (usize, Value)| match turn {
        Value::Array(turn) => match <[Value; 2]>::try_from(turn) {
            Ok([Value::String(question), Value::String(answer)]) => Ok((question, answer)),
            Ok(_) => Err(format!("history, turn {}: question and answer should be strings", index + 1)),
            Err(turn) => Err(format!("history, turn {}: should be 2 strings, got {} values", index + 1, turn.len())),
        },
        other => Err(format!("history, turn {}: should be a list of 2 strings, got {}", index + 1, kind(&other))),
    };
    turns.into_iter().enumerate().map(turn).collect()
}

/// The most keys of a row that an error lists.
const MOST_KEYS: usize = 20;

/// The error for a row of an unknown kind.
fn unknown(row: &Map<String, Value>) -> String {
    let mut keys: Vec<&str> = row.keys().map(String::as_str).take(MOST_KEYS).collect();
    if row.len() > MOST_KEYS {
        keys.push("…");
    }
    if let Some(label) = LABELS.into_iter().find(|key| row.contains_key(*key)).filter(|_| row.contains_key("prompt")) {
        return format!("a row with prompt and {label} needs a completion, got the keys [{}]", keys.join(", "));
    }
    let rows = row.iter().find(|(_, value)| value.as_array().and_then(|list| list.first()).is_some_and(Value::is_object));
    let list = rows.map(|(key, _)| {
        format!("; if the list `{key}` holds the rows, put each on a line of its own: jq -c '.{key}[]' FILE > rows.jsonl")
    });
    format!(
        "unknown kind of row with the keys [{}]; expected messages, conversations, prompt + completion, \
         instruction + output, text, input_ids, or chosen + rejected{}",
        keys.join(", "),
        list.unwrap_or_default()
    )
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty() || text.trim() == "[]",
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn string(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        other => Err(format!("{key} should be a string, got {}", kind(&other))),
    }
}

/// A number as it is, or the kind of any other value, which might fill the screen.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => json::literal(other).map_or_else(|| kind(other).to_owned(), str::to_owned),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        number if json::literal(number).is_some() => "a number",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
