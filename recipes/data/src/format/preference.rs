//! Rows with a chosen and a rejected answer.

use serde_json::{Map, Value, json};

use super::{Row, completion, kind};

/// Reads a row with `chosen` and `rejected`, strings or lists of messages. Without `prompt`, their common beginning is the prompt, as in
/// TRL's `extract_prompt`.
pub(super) fn preference(mut row: Map<String, Value>) -> Result<Row, String> {
    let (Some(chosen), Some(rejected)) = (row.shift_remove("chosen"), row.shift_remove("rejected")) else {
        return Err("a preference row needs both chosen and rejected".to_owned());
    };
    if chosen == rejected {
        return Err("chosen and rejected are the same".to_owned());
    }
    let prompt = row.shift_remove("prompt");
    // Without this, the first letters that both answers share would become the prompt.
    let unread = ["question", "instruction", "input", "query", "messages", "conversations"];
    if let Some(key) = unread.iter().find(|key| prompt.is_none() && chosen.is_string() && row.contains_key(**key)) {
        return Err(format!("`{key}` is not read together with chosen and rejected; rename it to `prompt`"));
    }
    let Pair { prompt, chosen, rejected } = match (prompt, chosen, rejected) {
        (None, Value::String(chosen), Value::String(rejected)) => of_strings(&chosen, &rejected)?,
        (None, Value::Array(chosen), Value::Array(rejected)) => of_messages(chosen, rejected)?,
        (Some(prompt @ Value::String(_)), chosen @ Value::String(_), rejected @ Value::String(_))
        | (Some(prompt @ Value::Array(_)), chosen @ Value::Array(_), rejected @ Value::Array(_)) => {
            Pair { prompt, chosen, rejected }
        }
        (Some(Value::String(prompt)), Value::Array(chosen), Value::Array(rejected)) => {
            of_question(&prompt, chosen, rejected)?
        }
        (prompt, chosen, rejected) => {
            return Err(format!(
                "prompt, chosen and rejected should be all strings or all lists of messages, got {}, {} and {}",
                prompt.as_ref().map_or("missing", kind),
                kind(&chosen),
                kind(&rejected)
            ));
        }
    };
    let answer = |answer: Value| -> Result<Box<Row>, String> {
        let mut row = row.clone();
        row.insert("prompt".to_owned(), prompt.clone());
        row.insert("completion".to_owned(), answer);
        completion(row).map(Box::new)
    };
    Ok(Row::Preference { chosen: answer(chosen)?, rejected: answer(rejected)? })
}

/// A prompt with its two answers.
struct Pair {
    prompt: Value,
    chosen: Value,
    rejected: Value,
}

/// Splits off the common beginning of two texts; a space at its end belongs to the answers.
fn of_strings(chosen: &str, rejected: &str) -> Result<Pair, String> {
    let both = chosen.char_indices().zip(rejected.chars());
    let mut shared = both.take_while(|((_, a), b)| a == b).last().map_or(0, |((at, a), _)| at + a.len_utf8());
    if chosen[..shared].ends_with(' ') {
        shared -= 1;
    }
    if shared == 0 {
        return Err("the row has no prompt, and chosen and rejected have no common beginning".to_owned());
    }
    Ok(Pair { prompt: json!(chosen[..shared]), chosen: json!(chosen[shared..]), rejected: json!(rejected[shared..]) })
}

/// Splits off the common beginning of two conversations.
fn of_messages(mut chosen: Vec<Value>, mut rejected: Vec<Value>) -> Result<Pair, String> {
    let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return Err("the row has no prompt, and chosen and rejected have no common first messages".to_owned());
    }
    let (chosen_answer, rejected_answer) = (chosen.split_off(shared), rejected.split_off(shared));
    if chosen_answer.is_empty() || rejected_answer.is_empty() {
        return Err("one of chosen and rejected is only the beginning of the other".to_owned());
    }
    Ok(Pair { prompt: chosen.into(), chosen: chosen_answer.into(), rejected: rejected_answer.into() })
}

/// A prompt string with lists of messages, which either begin with the prompt or are only the answers.
fn of_question(prompt: &str, chosen: Vec<Value>, rejected: Vec<Value>) -> Result<Pair, String> {
    let first =
        |messages: &[Value], key: &str| messages.first().and_then(|message| message[key].as_str().map(str::to_owned));
    let both = |key: &str, value: &str| [&chosen, &rejected].iter().all(|list| first(list, key).as_deref() == Some(value));
    if both("content", prompt) && both("role", "user") {
        return of_messages(chosen, rejected);
    }
    if both("role", "assistant") {
        let prompt = json!([{ "role": "user", "content": prompt }]);
        return Ok(Pair { prompt, chosen: chosen.into(), rejected: rejected.into() });
    }
    Err("prompt is a string, but chosen and rejected begin neither with it nor with an answer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<(Row, Row), String> {
        match Row::from_value(value)? {
            Row::Preference { chosen, rejected } => Ok((*chosen, *rejected)),
            other => panic!("{other:?}"),
        }
    }

    fn strings(prompt: &str, completion: &str) -> Row {
        Row::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() }
    }

    #[test]
    fn strings_have_a_prompt_or_a_common_beginning() {
        let row = json!({ "prompt": "2+2=", "chosen": "4", "rejected": "5" });
        assert_eq!(read(row).unwrap(), (strings("2+2=", "4"), strings("2+2=", "5")));
        // As in TRL, the space belongs to the answers.
        let row = json!({ "chosen": "The sky is blue.", "rejected": "The sky is green." });
        assert_eq!(read(row).unwrap(), (strings("The sky is", " blue."), strings("The sky is", " green.")));
        let row = json!({ "chosen": "é1", "rejected": "é2", "prompt": null });
        assert_eq!(read(row).unwrap().0, strings("é", "1"));
    }

    #[test]
    fn messages_have_a_prompt_or_a_common_beginning() {
        let (user, good, bad) = (
            json!({ "role": "user", "content": "hi" }),
            json!({ "role": "assistant", "content": "hello" }),
            json!({ "role": "assistant", "content": "no" }),
        );
        let expected = read(json!({ "prompt": [user], "chosen": [good], "rejected": [bad] })).unwrap();
        let Row::Chat { messages, learn_from, .. } = &expected.0 else { panic!() };
        assert_eq!((messages.len(), *learn_from), (2, 1));
        for row in [
            json!({ "chosen": [user, good], "rejected": [user, bad] }),
            json!({ "prompt": "hi", "chosen": [user, good], "rejected": [user, bad] }),
            json!({ "prompt": "hi", "chosen": [good], "rejected": [bad] }),
        ] {
            assert_eq!(read(row.clone()).unwrap(), expected, "{row}");
        }
    }

    #[test]
    fn rows_that_are_not_pairs_are_refused() {
        for (row, word) in [
            (json!({ "prompt": "a", "chosen": "b" }), "both"),
            (json!({ "prompt": "a", "chosen": "b", "rejected": "b" }), "the same"),
            (json!({ "chosen": "b", "rejected": "c" }), "no common beginning"),
            (json!({ "prompt": "a", "chosen": "b", "rejected": [] }), "a string and a list"),
            (json!({ "prompt": "a", "chosen": [], "rejected": [1] }), "begin neither with it"),
            (json!({ "chosen": [1], "rejected": [1, 2] }), "only the beginning"),
            (json!({ "question": "a", "chosen": "The b", "rejected": "The c" }), "`question` is not read"),
        ] {
            let error = read(row.clone()).unwrap_err();
            assert!(error.contains(word), "{row}: {error}");
        }
    }
}
