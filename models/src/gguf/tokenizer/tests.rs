use super::*;
use crate::gguf::metadata::Value as Entry;

fn text(text: &str) -> Entry {
    Entry::Text(text.to_owned())
}

/// A byte-level vocabulary of these tokens. Those in angle brackets are control tokens.
fn metadata(pre: Option<&str>, tokens: &[&str], merges: &[&str]) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert("tokenizer.ggml.model", text("gpt2"));
    if let Some(pre) = pre {
        metadata.insert("tokenizer.ggml.pre", text(pre));
    }
    let kind = |token: &&str| Entry::Signed(if token.starts_with('<') && token.len() > 1 { 3 } else { 1 });
    metadata.insert("tokenizer.ggml.token_type", Entry::List(tokens.iter().map(kind).collect()));
    metadata.insert("tokenizer.ggml.tokens", Entry::List(tokens.iter().map(|token| text(token)).collect()));
    metadata.insert("tokenizer.ggml.merges", Entry::List(merges.iter().map(|merge| text(merge)).collect()));
    metadata
}

#[test]
fn files_of_some_pre_tokenizers_add_a_start_token_by_default() {
    let adding = ["llama-bpe", "llama3", "llama-v3", "tekken"].map(|pre| (pre, true));
    for (pre, adds) in adding.into_iter().chain(["qwen2", "smaug-bpe", "gpt-4o"].map(|pre| (pre, false))) {
        let mut metadata = metadata(Some(pre), &["a", "<|begin_of_text|>", "<|eot_id|>"], &["a a"]);
        metadata.insert("tokenizer.ggml.bos_token_id", Entry::Unsigned(1));
        assert_eq!(special_tokens(&metadata).unwrap().add_bos, adds, "{pre}");
        for said in [true, false] {
            metadata.insert("tokenizer.ggml.add_bos_token", Entry::Bool(said));
            assert_eq!(special_tokens(&metadata).unwrap().add_bos, said, "{pre}");
        }
    }
}

#[test]
fn all_end_tokens_of_llama_cpp_end_a_text() {
    let end = |keys: &[(&str, u64)], tokens: &[&str]| {
        let mut metadata = metadata(Some("gpt-2"), tokens, &[]);
        for (key, id) in keys {
            metadata.insert(format!("tokenizer.ggml.{key}_token_id"), Entry::Unsigned(*id));
        }
        special_tokens(&metadata).unwrap().end
    };
    assert_eq!(end(&[], &["a", "<|eot_id|>", "<|im_end|>", "<end_of_turn>", "b"]), [1, 2, 3]);
    assert_eq!(end(&[("eos", 0), ("eot", 1), ("eom", 2)], &["<x>", "<y>", "<z>", "<w>"]), [1, 2]);
    assert_eq!(end(&[("eot", 9)], &["<x>"]), [0u32; 0]);
    assert_eq!(end(&[("fim_sep", 0)], &["<x>", "<|file_sep|>", "<|fim_pad|>"]), [0, 2]);
    assert_eq!(end(&[], &["<|end|>"]), [0]);
    assert_eq!(end(&[], &["<|end|>", "<|return|>", "<|call|>"]), [1, 2]);
}

#[test]
fn sentence_piece_has_the_default_ids_of_llama_cpp() {
    let mut metadata = metadata(None, &["<unk>", "<s>", "</s>", "a"], &[]);
    metadata.insert("tokenizer.ggml.model", text("llama"));
    let special = special_tokens(&metadata).unwrap();
    assert_eq!((special.bos, special.eos), (Some(("<s>".into(), 1)), Some(("</s>".into(), 2))));
    assert!(special.add_bos && special.end == [2] && special.unk == Some(("<unk>".into(), 0)));
}

#[test]
fn the_default_patterns_are_used_without_a_pre_tokenizer() {
    // `=` is split off and digits are split by threes: these are the default patterns, not GPT-2's.
    let tokens = ["1", "2", "3", "4", "5", "=", "a", "12", "123", "45", "a=", "1234"];
    let merges = ["1 2", "12 3", "123 4", "4 5", "a ="];
    let ids = |pre: Option<&str>, text: &str| build(&metadata(pre, &tokens, &merges)).unwrap().encode(text, false).unwrap();
    for pre in [None, Some("default")] {
        assert_eq!(ids(pre, "12345"), [8, 9], "{pre:?}");
        assert_eq!(ids(pre, "a=1234"), [6, 5, 8, 3], "{pre:?}");
    }
    assert_eq!(ids(Some("gpt-2"), "12345"), [11, 4]);
    assert_eq!(ids(Some("smollm"), "12345"), [0, 1, 2, 3, 4]);
    assert_eq!(ids(Some("llama-bpe"), "12345"), [8, 9]);
    assert!(build(&metadata(Some("bloom"), &tokens, &merges)).unwrap_err().to_string().contains("bloom"));
}

#[test]
fn words_are_split_by_case_as_in_gpt_4o_and_tekken() {
    let tokens = ["a", "b", "B", "1", "2", "'", "s", "aB", "bB", "12", "'s", "b's", "ab", "\u{cc}", "\u{12a}", "a\u{cc}"];
    let merges = ["a B", "b B", "1 2", "' s", "b 's", "a \u{cc}"];
    let ids = |pre: &str, text: &str| build(&metadata(Some(pre), &tokens, &merges)).unwrap().encode(text, false).unwrap();
    for pre in ["gpt-4o", "llama4", "tekken"] {
        // An upper-case letter begins a word, so that `aB` is never one.
        assert_eq!(ids(pre, "aBb"), [0, 2, 1], "{pre}");
        // A combining mark, here of two bytes, belongs to its word.
        assert_eq!(ids(pre, "a\u{308}"), [15, 14], "{pre}");
    }
    assert_eq!(ids("qwen2", "aBb"), [7, 1]);
    assert_eq!(ids("gpt-4o", "b's"), [11]);
    assert_eq!(ids("tekken", "b's"), [1, 10]);
    assert_eq!(ids("gpt-4o", "12"), [9]);
    assert_eq!(ids("tekken", "12"), [3, 4]);
    // No merge leads to `ab`, which only tekken takes whole.
    assert_eq!((ids("tekken", "ab"), ids("gpt-4o", "ab")), (vec![12], vec![0, 1]));
}

#[test]
fn end_tokens_are_special_whatever_their_kind() {
    // Some converters mark it as an ordinary token; llama.cpp makes it a control token.
    let mut metadata = metadata(Some("gpt-2"), &["<", "|", "e", "x", "<|im_end|>"], &[]);
    metadata.insert("tokenizer.ggml.token_type", Entry::List(vec![Entry::Signed(1); 5]));
    let tokenizer = build(&metadata).unwrap();
    assert_eq!(tokenizer.encode("x<|im_end|>x", false).unwrap(), [3, 4, 3]);
    assert!(tokenizer.is_special(4));
}
