use super::*;

fn row(json: &str) -> Row {
    Row::from_json(json).unwrap()
}

fn alpaca(instruction: &str, input: &str, output: &str) -> Row {
    Row::Alpaca {
        system: String::new(),
        history: Vec::new(),
        tools: None,
        instruction: instruction.into(),
        input: input.into(),
        output: output.into(),
    }
}

fn reason(json: &str) -> String {
    Row::from_json(json).unwrap_err()
}

#[test]
fn kinds_are_told_apart() {
    assert_eq!(row(r#"{"text": "a"}"#), Row::Text("a".into()));
    assert_eq!(row(r#"{"prompt": "a", "completion": "b"}"#), Row::Completion { prompt: "a".into(), completion: "b".into() });
    assert_eq!(row(r#"{"instruction": "a", "input": null, "output": "b", "text": "whole"}"#), alpaca("a", "", "b"));
    assert!(matches!(row(r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#), Row::Preference { .. }));
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
    let Row::Chat { messages, tools: Some(tools), learn_from: 1, .. } = row else { panic!("{row:?}") };
    assert_eq!((messages.len(), tools.as_array().unwrap().len()), (2, 1));
}

#[test]
fn tool_calls_need_no_content() {
    let turn = r#"{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]}]}"#;
    let Row::Chat { messages, .. } = row(turn) else { panic!() };
    assert!(messages[0].extra.contains_key("tool_calls"));
    assert!(reason(r#"{"messages": [{"role": "assistant", "content": null}]}"#).contains("has no content"));
}

#[test]
fn reasons_name_what_is_wrong() {
    for (json, words) in [
        ("{\"text\": ", "not JSON: the value does not end at column 10"),
        ("{\"data\": [{\"text\": \"a\"}]}", "jq -c '.data[]' FILE"),
        ("{\"text\": null}", "its keys are []"),
        ("{\"text\": NaN}", "text should be a string, and is a number"),
        ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"weight\": 0.5}]}", "message 1: weight is 0.5"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"train\": true}]}", "nothing is learned"),
        ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"train\": 1}]}", "true or false"),
        ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"train_detail\": []}]}", "train_detail"),
        ("{\"messages\": [{\"role\": \"assistant\", \"function_call\": {}}]}", "tool_calls"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"functions\": [1]}", "`functions`"),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"chat_template_kwargs\": {\"a\": 1}}",
            "not supported",
        ),
        ("{\"prompt\": \"a\", \"completion\": \"b\", \"system\": \"s\"}", "`system` has no place"),
        ("{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"a\"]]}", "pair 1: has 1 parts"),
        ("{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"a\", 2]]}", "should be strings"),
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

#[test]
fn nulls_within_messages_and_tools_are_absent() {
    let with = row(r#"{"messages": [{"role": "assistant", "content": null, "name": null,
            "tool_calls": [{"id": null, "function": {"name": "f", "arguments": {"a": 1, "b": null, "c": [null]}}}]}],
            "tools": [{"name": "f", "strict": null}], "system": null}"#);
    let without = row(r#"{"messages": [{"role": "assistant", "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "c": [null]}}}]}], "tools": "[{\"name\": \"f\"}]"}"#);
    assert_eq!(with, without);
    // A turn without calls needs words, and null is no call.
    assert!(reason(r#"{"messages": [{"role": "assistant", "content": null, "tool_calls": null}]}"#).contains("no content"));
}

#[test]
fn turns_that_are_not_learned_are_counted_from_the_system_message() {
    let row = row(
        r#"{"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0},
            {"from": "gpt", "value": "b", "train": false}, {"from": "gpt", "value": "c", "weight": 1, "train": true}]}"#,
    );
    let Row::Chat { messages, unlearned, .. } = row else { panic!() };
    assert_eq!((messages.len(), unlearned), (5, vec![2, 3]));
    assert!(messages.iter().all(|message| message.extra.is_empty()));
}
