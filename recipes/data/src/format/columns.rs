//! Columns whose names differ from ours.

use serde_json::{Map, Value};

/// The names of the columns of a data set, where they differ from ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// The column that is read as `text`.
    pub text: Option<String>,
    /// The column that is read as `prompt`.
    pub prompt: Option<String>,
    /// The column that is read as `completion`.
    pub completion: Option<String>,
    /// The column that is read as `messages`.
    pub chat: Option<String>,
}

/// Keys that decide the kind of a row.
const KINDS: [&str; 10] = [
    "input_ids",
    "chosen",
    "rejected",
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "output",
    "text",
];

impl Columns {
    /// For each of our keys: the name of the configuration's key, and the column.
    fn named(&self) -> impl Iterator<Item = (&'static str, &'static str, &String)> {
        let all = [
            ("text", "text_feature", &self.text),
            ("prompt", "prompt_feature", &self.prompt),
            ("completion", "completion_feature", &self.completion),
            ("messages", "chat_feature", &self.chat),
        ];
        all.into_iter().filter_map(|(own, key, column)| Some((own, key, column.as_ref()?)))
    }

    /// A row with our keys. If its kind follows from the named columns, keys of other kinds are left out.
    ///
    /// # Errors
    /// If the row lacks a named column.
    pub(crate) fn applied(&self, row: Value) -> Result<Value, String> {
        let Value::Object(mut row) = row else { return Ok(row) };
        if self == &Self::default() {
            return Ok(Value::Object(row));
        }
        let mut taken = Map::new();
        for (own, key, column) in self.named() {
            let value = row.get(column).filter(|value| !value.is_null());
            let Some(value) = value else {
                let keys: Vec<&str> = row.keys().map(String::as_str).collect();
                return Err(format!("the row has no `{column}`, which `{key}` names, but the keys [{}]", keys.join(", ")));
            };
            taken.insert(own.to_owned(), listed(own, value));
        }
        for (_, _, column) in self.named() {
            row.shift_remove(column);
        }
        // A prompt alone may belong to rows of several kinds.
        if taken.keys().any(|own| own != "prompt") {
            let partner = |key: &str| self.text.is_none() && self.chat.is_none() && matches!(key, "prompt" | "completion");
            row.retain(|key, _| !KINDS.contains(&key.as_str()) || partner(key));
        }
        row.extend(taken);
        Ok(Value::Object(row))
    }
}

/// In a table without nested columns, a list of messages is text.
fn listed(own: &str, value: &Value) -> Value {
    let text = value.as_str().filter(|text| own == "messages" && text.trim_start().starts_with('['));
    let list = text.and_then(|text| burnish_models::json::parse(text).ok()).filter(Value::is_array);
    list.unwrap_or_else(|| value.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Row;

    fn named(prompt: &str, completion: &str) -> Columns {
        Columns { prompt: Some(prompt.to_owned()), completion: Some(completion.to_owned()), ..Columns::default() }
    }

    fn read(columns: &Columns, row: Value) -> Result<Row, String> {
        Row::from_value(columns.applied(row)?)
    }

    #[test]
    fn columns_are_read_under_our_names() {
        let expected = Row::Completion { prompt: "q".into(), completion: "a".into() };
        let row = json!({ "id": 7, "question": "q", "answer": "a", "text": "q a", "messages": [] });
        assert_eq!(read(&named("question", "answer"), row).unwrap(), expected);
        // Names may change places, or be ours.
        let row = json!({ "completion": "q", "prompt": "a" });
        assert_eq!(read(&named("completion", "prompt"), row).unwrap(), expected);
        let only = Columns { completion: Some("answer".into()), ..Columns::default() };
        assert_eq!(read(&only, json!({ "prompt": "q", "answer": "a" })).unwrap(), expected);
        let text = Columns { text: Some("body".into()), ..Columns::default() };
        assert_eq!(read(&text, json!({ "body": "b", "prompt": "q", "completion": "a" })).unwrap(), Row::Text("b".into()));
        let chat = Columns { chat: Some("turns".into()), ..Columns::default() };
        let turns = json!([{ "role": "user", "content": "q" }, { "role": "assistant", "content": "a" }]);
        assert!(matches!(read(&chat, json!({ "turns": turns, "text": "t" })), Ok(Row::Chat { .. })));
    }

    #[test]
    fn a_named_prompt_may_belong_to_a_pair() {
        let columns = Columns { prompt: Some("question".into()), ..Columns::default() };
        let row = json!({ "question": "q", "chosen": "a", "rejected": "b" });
        assert!(matches!(read(&columns, row), Ok(Row::Preference { .. })));
    }

    #[test]
    fn a_missing_column_is_an_error_that_names_it() {
        for row in [json!({ "query": "q", "answer": "a" }), json!({ "question": null, "query": "q", "answer": "a" })] {
            let error = read(&named("question", "answer"), row).unwrap_err();
            assert!(
                error.contains("no `question`, which `prompt_feature` names") && error.contains("query, answer"),
                "{error}"
            );
        }
    }
}
