//! Examples that are too long, and documents.

use super::models::{MISTRAL, template, tokenizer};
use super::*;

fn of(policy: LengthPolicy, json: &str) -> (TokenizedRow, Vec<(String, Vec<String>)>) {
    let tokenizer = tokenizer();
    let template = template(MISTRAL);
    let limited = RowTokenizer { max_seq_length: 24, length_policy: policy, ..row_tokenizer(&tokenizer, Some(&template)) };
    let made = limited.tokenize(&row(json)).unwrap();
    let read = made.examples.iter().map(|example| read(&tokenizer, example)).collect();
    (made, read)
}

const LONG: &str =
    r#"{"text": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"}"#;
const SHORT: &str = r#"{"text": "one two"}"#;

#[test]
fn long_examples_are_truncated_split_or_left_out_and_counted() {
    let tokenizer = tokenizer();
    let whole = row_tokenizer(&tokenizer, None).tokenize(&row(LONG)).unwrap().examples.remove(0);
    assert!(whole.input_ids.len() > 48);
    let (made, _) = of(LengthPolicy::Truncate, LONG);
    assert_eq!((made.cut, made.too_long, made.parted, made.examples[0].input_ids.len()), (1, 0, 0, 24));
    let (made, _) = of(LengthPolicy::Drop, LONG);
    assert_eq!((made.cut, made.too_long, made.dropped, made.examples.len()), (0, 1, 0, 0));
    let (made, _) = of(LengthPolicy::Split, LONG);
    assert_eq!((made.cut, made.parted, made.dropped), (0, 1, 0));
    assert!(made.examples.iter().all(|example| example.input_ids.len() <= 24));
    assert_eq!(made.examples.iter().flat_map(|example| example.input_ids.clone()).collect::<Vec<_>>(), whole.input_ids);
    assert_eq!(made.examples.iter().flat_map(|example| example.labels.clone()).collect::<Vec<_>>(), whole.labels);
    for policy in [LengthPolicy::Truncate, LengthPolicy::Drop, LengthPolicy::Split] {
        let (made, _) = of(policy, SHORT);
        assert_eq!((made.cut + made.too_long + made.parted, made.examples.len()), (0, 1), "{policy:?}");
    }
}

#[test]
fn a_part_with_nothing_to_learn_is_left_out() {
    let question = "why ".repeat(40);
    let chat = format!(
        r#"{{"messages": [{{"role": "user", "content": "{question}"}}, {{"role": "assistant", "content": "so"}}]}}"#
    );
    let (made, read) = of(LengthPolicy::Split, &chat);
    assert_eq!((made.parted, made.dropped), (1, 0));
    let learned: Vec<String> = read.into_iter().flat_map(|(_, learned)| learned).collect();
    assert!(learned.concat().starts_with("so") && made.examples.len() <= 2, "{learned:?}");
}

#[test]
fn a_part_of_an_answer_can_not_be_compared() {
    let tokenizer = tokenizer();
    let pairs = RowTokenizer { rows: RowUse::Pairs, length_policy: LengthPolicy::Split, ..row_tokenizer(&tokenizer, None) };
    let pair = row(r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#);
    assert!(pairs.tokenize(&pair).unwrap_err().contains("truncate or drop"));
    let drop = RowTokenizer { length_policy: LengthPolicy::Drop, max_seq_length: 8, ..pairs };
    let long = row(&format!(r#"{{"prompt": "q", "chosen": "a", "rejected": "{}"}}"#, "long ".repeat(9)));
    let made = drop.tokenize(&long).unwrap();
    assert_eq!((made.examples.len(), made.too_long, made.dropped), (0, 1, 0));
}

#[test]
fn a_document_is_cut_where_paragraphs_begin_and_nothing_is_lost() {
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("book.md");
    let text: String =
        (0..40).map(|part| format!("# Part {part}\n\nIt has some words, and then {part} more.\n\n")).collect();
    std::fs::write(&file, &text).unwrap();
    let limited = RowTokenizer { max_seq_length: 64, ..row_tokenizer(&tokenizer, None) };
    let book = load(&file, &limited, BadRows::Stop).unwrap();
    let texts: Vec<String> = book.examples.iter().map(|example| read(&tokenizer, &example).0).collect();
    let stripped: Vec<&str> = texts.iter().map(|text| text.trim_start_matches("<s>").trim_end_matches("</s>")).collect();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&stripped.join(" ")), words(&text));
    assert!(texts.len() > 4 && texts.iter().all(|text| text.starts_with("<s>")), "{texts:?}");
    assert!(stripped.iter().all(|text| text.starts_with("# Part") || text.starts_with("It has")), "{texts:?}");
    // Only the document has an end.
    assert_eq!(texts.iter().filter(|text| text.ends_with("</s>")).count(), 1);
    assert!(book.examples.iter().all(|example| example.input_ids.len() <= 64 && example.target_tokens() > 0));
}
