//! Which parts of conversations are learned.

use super::models::{self, template, tokenizer};
use super::*;

const SYSTEM: (&str, &str) = ("system", "be brief");

fn learned(source: &str, turns: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
    let (tokenizer, template) = (tokenizer(), template(source));
    let messages: Vec<_> =
        turns.iter().map(|(role, content)| serde_json::json!({"role": role, "content": content})).collect();
    let row = Row::from_value(serde_json::json!({"messages": messages})).unwrap();
    let made = row_tokenizer(&tokenizer, Some(&template)).tokenize(&row).unwrap();
    assert_eq!(made.split, made.examples.len() > 1);
    made.examples.iter().map(|example| read(&tokenizer, example)).collect()
}

fn one(source: &str, turns: &[(&str, &str)]) -> (String, Vec<String>) {
    let mut all = learned(source, turns);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

const TWO_TURNS: [(&str, &str); 4] = [("user", "x"), ("assistant", "one é"), ("user", "y"), ("assistant", "two")];

#[test]
fn smollm2_learns_every_turn_and_its_end() {
    let (text, learned) = one(models::SMOLLM2, &TWO_TURNS);
    assert_eq!(learned, ["one é<|im_end|>\n", "two<|im_end|>\n"]);
    assert!(text.starts_with("<|im_start|>system\nYou are a helpful"), "{text}");
    let (text, learned) = one(models::SMOLLM2, &[&[SYSTEM], &TWO_TURNS[..]].concat());
    assert_eq!(learned, ["one é<|im_end|>\n", "two<|im_end|>\n"]);
    assert!(text.starts_with("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nx<|im_end|>\n"), "{text}");
}

#[test]
fn llama3_learns_every_turn_and_its_end() {
    let (text, learned) = one(models::LLAMA3, &[&[SYSTEM], &TWO_TURNS[..]].concat());
    assert_eq!(learned, ["one é<|eot_id|>", "two<|eot_id|>"]);
    let start = "<s><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|>";
    assert!(text.starts_with(start) && text.matches("<s>").count() == 1, "{text}");
}

#[test]
fn mistral_learns_every_turn_and_its_end() {
    let (text, learned) = one(models::MISTRAL, &TWO_TURNS);
    assert_eq!(text, "<s>[INST] x [/INST]one é</s>[INST] y [/INST]two</s>");
    assert_eq!(learned, ["one é</s>", "two</s>"]);
}

#[test]
fn gemma_learns_every_turn_and_its_end() {
    let (text, learned) = one(models::GEMMA, &TWO_TURNS);
    assert!(text.starts_with("<s><start_of_turn>user\nx<end_of_turn>\n<start_of_turn>model\n"), "{text}");
    assert_eq!(learned, ["one é<end_of_turn>\n", "two<end_of_turn>\n"]);
}

#[test]
fn a_template_may_refuse_a_role() {
    let (tokenizer, template) = (tokenizer(), template(models::GEMMA));
    let row = row(r#"{"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]}"#);
    let reason = row_tokenizer(&tokenizer, Some(&template)).tokenize(&row).unwrap_err();
    assert!(reason.contains("System role not supported"), "{reason}");
}

#[test]
fn generation_marks_of_the_template_decide() {
    let (_, learned) = one(models::MARKED, &TWO_TURNS);
    assert_eq!(learned, ["one é<|im_end|>", "two<|im_end|>"]);
}

#[test]
fn a_template_that_rewrites_history_gives_one_example_per_turn() {
    let turns = [
        ("user", "x"),
        ("assistant", "<think>\nhm\n</think>\n\none"),
        ("user", "y"),
        ("assistant", "<think>\nah\n</think>\n\ntwo"),
    ];
    let all = learned(models::FORGETFUL, &turns);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].0, "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>\n\none<|im_end|>\n");
    assert_eq!(all[0].1, ["<think>\nhm\n</think>\n\none<|im_end|>\n"]);
    assert!(all[1].0.contains("assistant\none<|im_end|>"), "{}", all[1].0);
    assert_eq!(all[1].1, ["<think>\nah\n</think>\n\ntwo<|im_end|>\n"]);
}

#[test]
fn an_end_token_is_added_if_the_template_has_none() {
    let (text, learned) = one(models::ENDLESS, &TWO_TURNS);
    assert_eq!(learned, ["one é\n", "two\n</s>"]);
    assert!(text.ends_with("two\n</s>"), "{text}");
}

#[test]
fn a_conversation_may_begin_with_the_assistant_or_end_with_the_user() {
    let (_, learned) = one(models::SMOLLM2, &[("assistant", "hello"), ("user", "x")]);
    assert_eq!(learned, ["hello<|im_end|>\n"]);
    let (text, learned) = one(models::ENDLESS, &[("user", "x"), ("assistant", "a"), ("user", "y")]);
    assert_eq!(learned, ["a\n"]);
    assert!(!text.contains("</s>"), "{text}");
}

#[test]
fn nothing_to_learn_is_an_error() {
    let (tokenizer, template) = (tokenizer(), template(models::SMOLLM2));
    let row = row(r#"{"messages": [{"role": "user", "content": "x"}]}"#);
    let reason = row_tokenizer(&tokenizer, Some(&template)).tokenize(&row).unwrap_err();
    assert!(reason.contains("no assistant turn"), "{reason}");
}

#[test]
fn messages_of_a_prompt_are_not_learned() {
    let tokenizer = tokenizer();
    for source in [models::SMOLLM2, models::MARKED] {
        let template = template(source);
        let row = row(
            r#"{"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "old"}, {"role": "user", "content": "y"}],
                "completion": [{"role": "assistant", "content": "new"}]}"#,
        );
        let made = row_tokenizer(&tokenizer, Some(&template)).tokenize(&row).unwrap();
        let (_, learned) = read(&tokenizer, &made.examples[0]);
        assert_eq!(learned.len(), 1);
        assert!(learned[0].starts_with("new<|im_end|>"), "{learned:?}");
    }
}

#[test]
fn without_masking_everything_is_learned() {
    let (tokenizer, template) = (tokenizer(), template(models::MISTRAL));
    let row = row(r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}]}"#);
    let all = RowTokenizer { mask_prompt: false, ..row_tokenizer(&tokenizer, Some(&template)) };
    let made = all.tokenize(&row).unwrap();
    assert_eq!(read(&tokenizer, &made.examples[0]).1, ["<s>[INST] x [/INST]a</s>"]);
}

/// A template that prints answers twice, so that they can't be found by searching.
const TWICE: &str = "The answers are yes, no and {{ messages[-1].content }}.\n{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}";

#[test]
fn an_answer_that_the_template_also_prints_elsewhere_is_learned_only_in_its_turn() {
    for answer in ["yes", "assistant", "<|im_start|>", "im_end", " ", "user", ""] {
        let (text, learned) = one(models::SMOLLM2, &[("assistant", answer), ("user", answer), ("assistant", answer)]);
        assert_eq!(learned, [format!("{answer}<|im_end|>\n"), format!("{answer}<|im_end|>\n")], "{text}");
        let all = self::learned(TWICE, &[("user", "yes"), ("assistant", answer)]);
        assert_eq!(all.len(), 1);
        // Only if the template prints the same text before the answer does the text begin with the prompt.
        let role = if answer == "yes" { "<assistant>" } else { "" };
        assert_eq!(all[0].1, [format!("{role}{answer}</assistant>\n</s>")], "{answer:?}");
    }
}

/// Opens a thinking block in the generation prompt, but renders none for answers without thinking.
const THINKING: &str = "{% for m in messages %}<{{ m.role }}>\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>\n<think>\n{% endif %}";

#[test]
fn a_longer_generation_prompt_ends_where_the_text_differs() {
    let (_, learned) = one(THINKING, &[("user", "q"), ("assistant", " assistant ")]);
    assert_eq!(learned, ["assistant<|im_end|>\n"]);
    let (_, learned) = one(THINKING, &[("assistant", "\n think\n"), ("user", "q"), ("assistant", "")]);
    assert_eq!(learned, ["think<|im_end|>\n", "<|im_end|>\n"]);
}

/// Prints the number of turns at the beginning.
const COUNTING: &str =
    "{{ messages|length }} turns\n{% for m in messages %}[{{ m.role }}]{{ m.content.strip() }}\n{% endfor %}";

#[test]
fn a_template_that_depends_on_the_whole_conversation_gives_one_example_per_turn() {
    let all = learned(COUNTING, &[("user", "2"), ("assistant", "2 turns"), ("user", "turns"), ("assistant", "4 ")]);
    let texts: Vec<&str> = all.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "2 turns\n[user]2\n[assistant]2 turns\n</s>",
            "4 turns\n[user]2\n[assistant]2 turns\n[user]turns\n[assistant]4\n</s>",
        ]
    );
    assert_eq!((&all[0].1[..], &all[1].1[..]), (&["2 turns\n</s>".to_owned()][..], &["4\n</s>".to_owned()][..]));
}

#[test]
fn an_answer_that_can_not_be_located_is_an_error() {
    let source = "{{ messages|length }}{% for m in messages %}{{ m.content|length }}{% endfor %}";
    let (tokenizer, template) = (tokenizer(), template(source));
    let row = row(r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "abc"}]}"#);
    let reason = row_tokenizer(&tokenizer, Some(&template)).tokenize(&row).unwrap_err();
    assert!(reason.contains("message 2") && reason.contains("can't be separated"), "{reason}");
}

#[test]
fn generation_marks_skip_turns_of_weight_zero() {
    let (tokenizer, template) = (tokenizer(), template(models::MARKED));
    let row = row(r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "bad", "weight": 0},
            {"role": "user", "content": "y"}, {"role": "assistant", "content": "good", "weight": 1}]}"#);
    let made = row_tokenizer(&tokenizer, Some(&template)).tokenize(&row).unwrap();
    assert_eq!(read(&tokenizer, &made.examples[0]).1, ["good<|im_end|>"]);
}

#[test]
fn a_conversation_with_nothing_to_learn_is_dropped() {
    let (tokenizer, template) = (tokenizer(), template(models::SMOLLM2));
    let row =
        row(r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a", "train": false}]}"#);
    let made = row_tokenizer(&tokenizer, Some(&template)).tokenize(&row).unwrap();
    assert_eq!((made.dropped, made.examples.len()), (1, 0));
}
