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
fn kinds_are_recognised_by_their_keys() {
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
    assert!(
        reason(r#"{"conversations": [{"from": "alien", "value": "q"}]}"#)
            .contains("message 1: from should be human, gpt, system or tool, got \"alien\"")
    );
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
fn bad_rows_are_refused_with_a_reason() {
    for (json, words) in [
        ("{\"text\": ", "not JSON: the value does not end at column 10"),
        ("{\"data\": [{\"text\": \"a\"}]}", "jq -c '.data[]' FILE"),
        ("{\"text\": null}", "the keys []"),
        ("{\"text\": NaN}", "text should be a string, got a number"),
        (
            "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"weight\": 0.5}]}",
            "message 1: weight should be 0 or 1, got 0.5",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"train\": true}]}",
            "only turns of the assistant are learned",
        ),
        ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"train\": 1}]}", "true or false"),
        ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"train_detail\": []}]}", "train_detail"),
        ("{\"messages\": [{\"role\": \"assistant\", \"function_call\": {}}]}", "tool_calls"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"functions\": [1]}", "`functions`"),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"chat_template_kwargs\": {\"a\": 1}}",
            "not supported",
        ),
        ("{\"prompt\": \"a\", \"completion\": \"b\", \"system\": \"s\"}", "`system` can't be combined"),
        ("{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"a\"]]}", "turn 1: should be 2 strings, got 1"),
        ("{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"a\", 2]]}", "should be strings"),
        ("[1]", "got a list"),
        ("{\"txt\": \"a\"}", "the keys [txt]"),
        ("{\"messages\": []}", "empty"),
        ("{\"text\": \"a\", \"images\": [\"b\"]}", "`images` is not empty"),
        ("{\"messages\": [3]}", "message 1: should be an object"),
        ("{\"messages\": [{\"role\": \"\", \"content\": \"a\"}]}", "message 1: role is empty"),
        (
            "{\"messages\": [{\"role\": \"Assistant\", \"content\": \"a\"}]}",
            "role should be \"assistant\", got \"Assistant\"",
        ),
        ("{\"messages\": [{\"role\": \"human\", \"content\": \"a\"}]}", "role should be \"user\", got \"human\""),
        (
            "{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": \"f()\"}]}",
            "tool_calls should be a list, got a string that is not a JSON list",
        ),
        (
            "{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": {\"name\": \"f\"}}]}",
            "tool_calls should be a list, got an object",
        ),
        (
            "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"weight\": NaN}]}",
            "weight should be 0 or 1, got NaN",
        ),
        ("{\"messages\": [{\"content\": \"a\"}]}", "message 1: has no role"),
        ("{\"text\": 3}", "text should be a string, got a number"),
        ("{\"prompt\": \"a\", \"completion\": [1]}", "both"),
        ("{\"input_ids\": [1, -2]}", "got -2"),
        ("{\"input_ids\": [1, 2.5]}", "2.5"),
        ("{\"input_ids\": []}", "empty"),
        ("{\"input_ids\": [1], \"labels\": [1, 2]}", "the same length, got 1 and 2"),
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
    // A turn without tool calls needs content, and null is not a tool call.
    assert!(reason(r#"{"messages": [{"role": "assistant", "content": null, "tool_calls": null}]}"#).contains("no content"));
}

#[test]
fn calls_may_be_a_string_of_a_list() {
    let read = |calls: &str| row(&format!(r#"{{"messages": [{{"role": "assistant", "tool_calls": {calls}}}]}}"#));
    assert_eq!(read(r#""[{\"name\": \"f\", \"id\": null}]""#), read(r#"[{"name": "f"}]"#));
}

#[test]
fn indices_of_unlearned_turns_include_the_system_message() {
    let row = row(
        r#"{"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0},
            {"from": "gpt", "value": "b", "train": false}, {"from": "gpt", "value": "c", "weight": 1, "train": true}]}"#,
    );
    let Row::Chat { messages, unlearned, .. } = row else { panic!() };
    assert_eq!((messages.len(), unlearned), (5, vec![2, 3]));
    assert!(messages.iter().all(|message| message.extra.is_empty()));
}
