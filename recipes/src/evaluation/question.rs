//! Multiple-choice questions.

use std::path::Path;

use anyhow::Result;
use burnish_engine::with_hint;
use serde_json::{Map, Value};

use crate::data::source::read_values;

/// The names of each part of a row.
const TEXT: &[&str] = &["question", "prompt", "context"];
const CHOICES: &[&str] = &["choices", "options", "endings"];
const ANSWER: &[&str] = &["answer", "label", "gold", "answerKey"];

/// A question with its choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The first line of its row, from 1.
    pub line: usize,
    /// What is asked.
    pub text: String,
    /// The answers to choose from.
    pub choices: Vec<String>,
    /// The index of the right one.
    pub right: usize,
}

/// Reads the questions of a file of JSON rows.
///
/// # Errors
/// When the file can't be read, or has a row that is not a question.
pub fn read(file: &Path) -> Result<Vec<Question>> {
    let mut rows = Vec::new();
    read_values(file, |line, value| {
        rows.push((line, value));
        Ok(())
    })?;
    let question = |(line, value): (usize, Result<Value, String>)| {
        value.and_then(|value| Question::from_value(&value, line)).map_err(|reason| {
            with_hint(
                format!("{}:{line}: {reason}", file.display()),
                "a row looks like {\"question\": \"2 + 2 =\", \"choices\": [\"3\", \"4\"], \"answer\": 1}; the answer is an \
                 index from 0, a letter, or the text of a choice",
            )
        })
    };
    rows.into_iter().map(question).collect()
}

impl Question {
    /// Reads a row.
    ///
    /// # Errors
    /// What is wrong with it, for the user.
    pub fn from_value(value: &Value, line: usize) -> Result<Self, String> {
        let Value::Object(row) = value else { return Err("a row should be a JSON object".to_owned()) };
        let text = match only(row, TEXT)? {
            (_, Value::String(text)) if !text.trim().is_empty() => text.clone(),
            (key, Value::String(_)) => return Err(format!("`{key}` is empty")),
            (key, _) => return Err(format!("`{key}` should be a string")),
        };
        let (key, listed) = only(row, CHOICES)?;
        let (choices, labels) = choices(key, listed)?;
        let (key, answer) = only(row, ANSWER)?;
        let right = index_of(key, answer, &choices, labels.as_deref())?;
        Ok(Self { line, text, choices, right })
    }
}

/// The one of these keys that the row has.
fn only<'a>(row: &'a Map<String, Value>, names: &[&'static str]) -> Result<(&'static str, &'a Value), String> {
    let mut found = names.iter().filter_map(|name| Some((*name, row.get(*name).filter(|value| !value.is_null())?)));
    let first = found.next().ok_or_else(|| format!("expected one of the keys {}", names.join(", ")))?;
    match found.next() {
        Some((second, _)) => Err(format!("`{}` and `{second}` mean the same, so that one of them has to go", first.0)),
        None => Ok(first),
    }
}

/// The texts of the choices, and their labels where a row names them, as ARC does: `{"text": […], "label": […]}`.
fn choices(key: &str, value: &Value) -> Result<(Vec<String>, Option<Vec<String>>), String> {
    let strings = |value: Option<&Value>| -> Option<Vec<String>> {
        value?.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let (texts, labels) = match value {
        Value::Object(lists) => (strings(lists.get("text")), strings(lists.get("label"))),
        list => (strings(Some(list)), None),
    };
    let texts = texts.ok_or_else(|| format!("`{key}` should be a list of strings"))?;
    if texts.len() < 2 {
        return Err(format!("`{key}` should have two or more choices, got {}", texts.len()));
    }
    if let Some(empty) = texts.iter().position(|text| text.trim().is_empty()) {
        return Err(format!("choice {empty} of `{key}` is empty"));
    }
    for (index, text) in texts.iter().enumerate() {
        if let Some(before) = texts[..index].iter().position(|other| other == text) {
            return Err(format!("choices {before} and {index} of `{key}` are the same"));
        }
    }
    match labels {
        Some(labels) if labels.len() != texts.len() => {
            Err(format!("`{key}` has {} texts, but {} labels", texts.len(), labels.len()))
        }
        labels => Ok((texts, labels)),
    }
}

/// The index of the right choice: a number, or a string with a label, a letter, an index or the text of a choice.
fn index_of(key: &str, answer: &Value, choices: &[String], labels: Option<&[String]>) -> Result<usize, String> {
    let count = choices.len();
    let beyond = |shown: &str| format!("`{key}` is {shown}, but there are {count} choices, counted from 0");
    let text = match answer {
        Value::Number(number) => {
            let index = number.as_u64().and_then(|index| usize::try_from(index).ok());
            return index.filter(|index| *index < count).ok_or_else(|| beyond(&number.to_string()));
        }
        Value::String(text) => text.trim(),
        _ => return Err(format!("`{key}` should be a number or a string")),
    };
    let named = |names: &[String]| names.iter().position(|name| name.trim() == text);
    if let Some(labels) = labels {
        // Labels may be numbers from 1, so that nothing else can be meant.
        return named(labels)
            .ok_or_else(|| format!("`{key}` is `{text}`, which is none of the labels {}", labels.join(", ")));
    }
    let letter = match text.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        [letter @ b'a'..=b'z'] => Some(usize::from(letter - b'a')),
        _ => None,
    };
    let (by_text, by_place) = (named(choices), letter.or_else(|| text.parse().ok()));
    match (by_text, by_place) {
        (Some(index), Some(other)) if index != other && other < count => Err(format!(
            "`{key}` is `{text}`, which may mean choice {index} or choice {other}: use a number, counted from 0"
        )),
        (Some(index), _) => Ok(index),
        (None, Some(index)) if index < count => Ok(index),
        (None, Some(_)) => Err(beyond(&format!("`{text}`"))),
        (None, None) => Err(format!("`{key}` is `{text}`, which is none of the choices")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn right(choices: &Value, answer: &Value) -> Result<usize, String> {
        let row = json!({ "question": "which?", "choices": choices, "answer": answer });
        Question::from_value(&row, 1).map(|question| question.right)
    }

    #[test]
    fn an_answer_is_an_index_a_letter_a_label_or_a_text() {
        let colours = json!(["red", "green", "blue"]);
        for answer in [json!(2), json!("2"), json!("C"), json!("c"), json!("blue"), json!(" blue ")] {
            assert_eq!(right(&colours, &answer), Ok(2), "{answer}");
        }
        let labelled = json!({ "text": ["red", "green"], "label": ["1", "2"] });
        assert_eq!(right(&labelled, &json!("2")), Ok(1));
        assert_eq!(right(&json!(["4", "5"]), &json!("5")), Ok(1));
        let hellaswag = json!({ "context": "He", "endings": ["runs", "sits"], "label": "1", "question": null });
        assert_eq!(Question::from_value(&hellaswag, 7).unwrap().line, 7);
    }

    #[test]
    fn an_answer_that_names_no_choice_or_two_is_refused() {
        let colours = json!(["red", "green", "blue"]);
        for (choices, answer, words) in [
            (&colours, json!(3), "`answer` is 3, but there are 3 choices, counted from 0"),
            (&colours, json!(-1), "`answer` is -1, but there are 3 choices"),
            (&colours, json!(1.5), "`answer` is 1.5, but there are 3 choices"),
            (&colours, json!("D"), "`answer` is `D`, but there are 3 choices"),
            (&colours, json!("7"), "`answer` is `7`, but there are 3 choices"),
            (&colours, json!("pink"), "`answer` is `pink`, which is none of the choices"),
            (&colours, json!(true), "`answer` should be a number or a string"),
            (&colours, json!(null), "expected one of the keys answer, label"),
            (&json!(["2", "1", "0"]), json!("0"), "may mean choice 2 or choice 0"),
            (&json!({ "text": ["red", "green"], "label": ["1", "2"] }), json!("3"), "none of the labels 1, 2"),
            (&json!({ "text": ["red", "green"], "label": ["1"] }), json!("1"), "2 texts, but 1 labels"),
            (&json!(["red", "red"]), json!(0), "choices 0 and 1 of `choices` are the same"),
            (&json!(["red", ""]), json!(0), "choice 1 of `choices` is empty"),
            (&json!(["red"]), json!(0), "two or more choices, got 1"),
            (&json!(["red", 3]), json!(0), "a list of strings"),
        ] {
            let error = right(choices, &answer).unwrap_err();
            assert!(error.contains(words), "{choices} {answer}: {error}");
        }
        let twice = json!({ "question": "a", "prompt": "b", "choices": ["x", "y"], "answer": 0 });
        assert!(Question::from_value(&twice, 1).unwrap_err().contains("`question` and `prompt`"));
        assert!(Question::from_value(&json!([1]), 1).is_err());
    }
}
