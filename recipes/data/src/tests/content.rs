//! Content in parts, and tools that a template does not render.

use serde_json::{Value, json};

use super::models::{self, template, tokenizer};
use super::*;

/// Renders the texts of lists, as templates of multimodal models do.
const PARTS: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// Prints a list with its brackets and keys.
const WHOLE: &str =
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}";
/// Renders strings only.
const STRINGS: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}";
const TOOLS: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}{% for call in message.tool_calls or [] %}{{ call.name }}{% endfor %}<|im_end|>\n{% endfor %}";

/// Text of an example, and of what is learned of it.
type Read = (String, Vec<String>);

fn prepared(source: &str, row: Value) -> Result<(Vec<Read>, bool), String> {
    let (tokenizer, template) = (tokenizer(), template(source));
    let made = row_tokenizer(&tokenizer, Some(&template)).tokenize(&Row::from_value(row)?)?;
    Ok((made.examples.iter().map(|example| read(&tokenizer, example)).collect(), made.unread_tools))
}

#[test]
fn parts_of_text_are_joined_where_the_template_takes_no_parts() {
    let text = |text: &str| json!({"type": "text", "text": text});
    let as_parts = json!({"messages": [
        {"role": "user", "content": [text("x "), text("y")]}, {"role": "assistant", "content": [text("one"), text(" two")]},
    ]});
    let as_text = json!({"messages": [{"role": "user", "content": "x y"}, {"role": "assistant", "content": "one two"}]});
    for source in [models::SMOLLM2, models::LLAMA3, models::GEMMA, PARTS, WHOLE, STRINGS] {
        let (examples, _) = prepared(source, as_parts.clone()).unwrap();
        assert_eq!(examples, prepared(source, as_text.clone()).unwrap().0, "{source}");
        assert!(examples[0].1[0].contains("one two"), "{examples:?}");
    }
}

#[test]
fn parts_that_are_no_text_are_named() {
    for (part, words) in [
        (json!({"type": "image", "url": "x"}), "message 1: part 2 of its content has the type image"),
        (json!({"type": "text"}), "`type` and `text`"),
        (json!("words"), "`type` and `text`"),
    ] {
        let content = json!([{"type": "text", "text": "x"}, part]);
        let row = json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "y"}]});
        let error = prepared(models::SMOLLM2, row).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn tools_that_the_template_leaves_out_are_counted() {
    let call = json!([{"name": "clock"}]);
    let asks = json!({"role": "user", "content": "x"});
    let with_call = json!({"messages": [asks, {"role": "assistant", "content": "", "tool_calls": call}]});
    let with_tools = json!({"messages": [asks, {"role": "assistant", "content": "y"}], "tools": call});
    let without = json!({"messages": [asks, {"role": "assistant", "content": "y"}], "tools": []});
    for row in [&with_call, &with_tools] {
        assert!(prepared(models::SMOLLM2, row.clone()).unwrap().1, "{row}");
        assert!(!prepared(TOOLS, row.clone()).unwrap().1, "{row}");
    }
    assert!(!prepared(models::SMOLLM2, without).unwrap().1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.jsonl");
    std::fs::write(&file, format!("{with_tools}\n{with_call}")).unwrap();
    let (tokenizer, template) = (tokenizer(), template(models::SMOLLM2));
    let lines = load(&file, &row_tokenizer(&tokenizer, Some(&template)), BadRows::Stop).unwrap().report.lines();
    assert!(lines.iter().any(|line| line.contains("does not render: 2")), "{lines:?}");
}

#[test]
fn rows_that_leave_nothing_to_learn_are_named() {
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.jsonl");
    std::fs::write(&file, "\n{\"input_ids\": [20, 21], \"labels\": [-100, -100]}\n").unwrap();
    let error = load(&file, &row_tokenizer(&tokenizer, None), BadRows::Stop).unwrap_err();
    assert!(
        error.to_string().ends_with("none of the 1 rows can be used; the first error: line 2: nothing is left to train on"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("masks"), "{error}");
    let short = RowTokenizer { max_seq_length: 2, ..row_tokenizer(&tokenizer, None) };
    std::fs::write(&file, "{\"prompt\": \"long\", \"completion\": \"x\"}").unwrap();
    let error = load(&file, &short, BadRows::Stop).unwrap_err();
    assert!(error.hint().unwrap().contains("max_seq_length"), "{error}");
}
