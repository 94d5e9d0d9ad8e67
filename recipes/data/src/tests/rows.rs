//! Rows without a template, and whole files.

use super::models::{self, template, tokenizer};
use super::*;

fn tokenized(json: &str) -> (String, Vec<String>) {
    let tokenizer = tokenizer();
    let made = row_tokenizer(&tokenizer, None).tokenize(&row(json)).unwrap();
    assert_eq!(made.examples.len(), 1);
    read(&tokenizer, &made.examples[0])
}

#[test]
fn text_is_learned_with_its_end() {
    let (text, learned) = tokenized(r#"{"text": "abc"}"#);
    assert_eq!((text.as_str(), learned), ("<s>abc</s>", vec!["<s>abc</s>".to_owned()]));
    assert_eq!(tokenized(r#"{"text": "<s>abc</s>"}"#).0, "<s>abc</s>", "an existing start or end token is not added again");
}

#[test]
fn a_completion_is_learned_with_its_end() {
    let (text, learned) = tokenized(r#"{"prompt": "q: ", "completion": "yes"}"#);
    assert_eq!((text.as_str(), learned), ("<s>q: yes</s>", vec!["yes</s>".to_owned()]));
}

#[test]
fn prompt_and_completion_are_tokenised_as_one_text() {
    let tokenizer = tokenizer();
    let row = Row::Completion { prompt: "xa".into(), completion: "b c".into() };
    let made = row_tokenizer(&tokenizer, None).tokenize(&row).unwrap();
    let mut joined = tokenizer.encode("xab c", true).unwrap();
    joined.push(tokenizer.special().eos.as_ref().unwrap().1);
    assert_eq!(made.examples[0].input_ids, joined);
    // The token `ab` begins in the prompt, and contains the first character of the completion.
    assert_eq!(read(&tokenizer, &made.examples[0]).1, ["ab c</s>"]);
    assert_eq!(made.begun_inside, 1);
}

#[test]
fn alpaca_has_its_own_prompt_without_a_template() {
    let (text, learned) = tokenized(r#"{"instruction": "add", "input": "1 2", "output": "3"}"#);
    assert!(text.ends_with("### Instruction:\nadd\n\n### Input:\n1 2\n\n### Response:\n3</s>"), "{text}");
    assert_eq!(learned, ["3</s>"]);
    let (tokenizer, template) = (tokenizer(), template(models::MISTRAL));
    let row = Row::from_json(r#"{"instruction": "add", "input": "1 2", "output": "3"}"#).unwrap();
    let made = row_tokenizer(&tokenizer, Some(&template)).tokenize(&row).unwrap();
    assert_eq!(read(&tokenizer, &made.examples[0]).0, "<s>[INST] add\n\n1 2 [/INST]3</s>");
}

#[test]
fn alpaca_without_a_template_has_a_system_message_and_no_history() {
    let (text, _) = tokenized(r#"{"instruction": "add", "output": "3", "system": "Count."}"#);
    assert_eq!(text, "<s>Count.\n\n### Instruction:\nadd\n\n### Response:\n3</s>");
    let tokenizer = tokenizer();
    let row = row(r#"{"instruction": "add", "output": "3", "history": [["a", "b"]]}"#);
    let reason = row_tokenizer(&tokenizer, None).tokenize(&row).unwrap_err();
    assert!(reason.contains("no chat template, which rows with `history` need"), "{reason}");
}

#[test]
fn a_prompt_that_ends_inside_a_token_is_counted() {
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.jsonl");
    let rows = [("q:", "x"), ("q: ", "a"), ("xa", "b"), ("q", " a")];
    let lines = rows.map(|(prompt, completion)| serde_json::json!({"prompt": prompt, "completion": completion}).to_string());
    std::fs::write(&file, lines.join("\n")).unwrap();
    let prepared = load(&file, &row_tokenizer(&tokenizer, None), BadRows::Stop).unwrap();
    let learned: Vec<Vec<String>> = prepared.examples.iter().map(|example| read(&tokenizer, &example).1).collect();
    assert_eq!(learned, [["x</s>"], [" a</s>"], ["ab</s>"], [" a</s>"]]);
    let report = prepared.report;
    assert_eq!((report.begun_inside, report.first_begun_inside), (2, Some(2)));
    let lines = report.lines();
    assert!(
        lines.iter().any(|line| line.contains("inside a token") && line.ends_with("2; the first is line 2")),
        "{lines:?}"
    );
}

#[test]
fn a_long_row_is_tokenised_only_up_to_the_limit() {
    let tokenizer = tokenizer();
    let short = row_tokenizer(&tokenizer, None);
    let template = template(models::SMOLLM2);
    let chat = row_tokenizer(&tokenizer, Some(&template));
    let words = |count: usize| "some words é ab ".repeat(count);
    for count in [10, 3_000, 30_000] {
        let rows = [
            serde_json::json!({"text": words(count)}),
            serde_json::json!({"prompt": "q", "completion": words(count)}),
            serde_json::json!({"prompt": words(count), "completion": "a"}),
        ];
        for row in rows {
            let row = Row::from_value(row).unwrap();
            let whole = RowTokenizer { max_seq_length: usize::MAX, ..short.clone() }.tokenize(&row).unwrap();
            let cut = short.tokenize(&row).unwrap();
            let expected = plain_cut(&whole.examples[0], 512);
            assert_eq!(
                cut.examples,
                Vec::from_iter(Some(expected).filter(|example| example.target_tokens() > 0)),
                "{count}"
            );
            assert_eq!(cut.cut, usize::from(whole.examples[0].input_ids.len() > 512));
        }
        let answers = [("user", words(1)), ("assistant", words(3)), ("user", words(2)), ("assistant", words(count))];
        let messages: Vec<_> =
            answers.iter().map(|(role, content)| serde_json::json!({"role": role, "content": content})).collect();
        let row = Row::from_value(serde_json::json!({"messages": messages})).unwrap();
        let whole = RowTokenizer { max_seq_length: usize::MAX, ..chat.clone() }.tokenize(&row).unwrap();
        let cut = chat.tokenize(&row).unwrap();
        assert_eq!(cut.examples, [plain_cut(&whole.examples[0], 512)], "{count}");
    }
}

fn plain_cut(example: &Example, length: usize) -> Example {
    let cut = |length: usize| Example {
        input_ids: example.input_ids[..length].to_vec(),
        labels: example.labels[..length].to_vec(),
        desirable: true,
    };
    cut(length.min(example.input_ids.len()))
}

#[test]
fn time_grows_linearly_with_a_row() {
    let (tokenizer, template) = (tokenizer(), template(models::LLAMA3));
    let row_tokenizer = row_tokenizer(&tokenizer, Some(&template));
    let seconds = |bytes: usize| {
        let content = "some words é ab\n".repeat(bytes / 17);
        let row =
            serde_json::json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]});
        let row = row.to_string();
        let times = (0..3).map(|_| {
            let started = std::time::Instant::now();
            let made = row_tokenizer.tokenize(&Row::from_json(&row).unwrap()).unwrap();
            assert_eq!((made.cut, made.examples[0].input_ids.len()), (1, 512));
            started.elapsed().as_secs_f64()
        });
        times.fold(f64::INFINITY, f64::min)
    };
    let (short, long) = (seconds(2 << 20), seconds(32 << 20));
    // Sixteen times as long. Tokenising all of it would take a hundred times as long as parsing it.
    assert!(long < 64.0 * short.max(0.002), "{short} s, then {long} s");
    assert!(long < 10.0, "{long} s");
}

#[test]
fn token_rows_are_used_unchanged() {
    let tokenizer = tokenizer();
    let tokens = |input_ids: Vec<u32>, labels| row_tokenizer(&tokenizer, None).tokenize(&Row::Tokens { input_ids, labels });
    let made = tokens(vec![5, 6, 7], Some(vec![-100, -100, 7])).unwrap();
    assert_eq!(made.examples[0], Example { input_ids: vec![5, 6, 7], labels: vec![-100, -100, 7], desirable: true });
    assert_eq!(made.examples[0].target_tokens(), 1);
    let outside = tokens(vec![5, 9999], None).unwrap_err();
    assert!(outside.contains("9999"), "{outside}");
    let label = tokens(vec![5, 6], Some(vec![5, -7])).unwrap_err();
    assert!(label.contains("-7"), "{label}");
}

#[test]
fn preference_rows_need_a_preference_recipe() {
    let tokenizer = tokenizer();
    let pair = Row::from_json(r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#).unwrap();
    let of_answers = row_tokenizer(&tokenizer, None);
    let error = of_answers.tokenize(&pair).unwrap_err();
    assert!(error.contains("dpo") && !error.contains("got sft"), "{error}");
    let of_pairs = RowTokenizer { rows: RowUse::Pairs, mask_prompt: false, ..of_answers.clone() };
    let error = of_pairs.tokenize(&Row::Text("a".to_owned())).unwrap_err();
    assert!(error.contains("chosen and rejected") && error.contains("sft"), "{error}");
    // Two examples, the chosen one first; the prompt is never learned.
    let alone = |completion: &str| {
        let row = Row::Completion { prompt: "a".to_owned(), completion: completion.to_owned() };
        of_answers.tokenize(&row).unwrap().examples.remove(0)
    };
    assert_eq!(of_pairs.tokenize(&pair).unwrap().examples, [alone("b"), alone("c")]);
    let short = RowTokenizer { max_seq_length: 1, ..of_pairs };
    let made = short.tokenize(&pair).unwrap();
    assert!(made.examples.is_empty() && made.dropped == 1, "{made:?}");
}

#[test]
fn rows_with_a_label_need_the_recipe_for_them() {
    let (tokenizer, template) = (tokenizer(), template(models::LLAMA3));
    let of_answers = row_tokenizer(&tokenizer, Some(&template));
    let of_ratings = RowTokenizer { rows: RowUse::Ratings, mask_prompt: false, ..of_answers.clone() };
    let read = |json: &str| of_ratings.tokenize(&row(json)).map(|made| made.examples);
    let alone = |json: &str, desirable: bool| {
        let mut made = of_answers.tokenize(&row(json)).unwrap().examples;
        made[0].desirable = desirable;
        made
    };
    // The prompt is never learned; the label may have LLaMA-Factory's name.
    let completion = r#"{"prompt": "a", "completion": "b"}"#;
    assert_eq!(read(r#"{"prompt": "a", "completion": "b", "label": false}"#).unwrap(), alone(completion, false));
    assert_eq!(read(r#"{"prompt": "a", "completion": "b", "kto_tag": true}"#).unwrap(), alone(completion, true));
    // Of a conversation the last answer has the label.
    let turns = |first: &str, last: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b"{first}}},
                {{"role": "user", "content": "c"}}, {{"role": "assistant", "content": "d"}}]{last}}}"#
        )
    };
    let expected = alone(&turns(r#", "train": false"#, ""), false);
    assert_eq!(read(&turns("", r#", "label": false"#)).unwrap(), expected);
    let history = |tag: &str| format!(r#"{{"instruction": "c", "output": "d", "history": [["a", "b"]]{tag}}}"#);
    assert_eq!(read(&history(r#", "kto_tag": false"#)).unwrap(), expected);
    assert_ne!(of_answers.tokenize(&row(&history(""))).unwrap().examples[0].labels, expected[0].labels);
    // A pair is a good and a bad answer.
    let pair = read(r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#).unwrap();
    assert_eq!(pair, [alone(completion, true), alone(r#"{"prompt": "a", "completion": "c"}"#, false)].concat());

    for (json, word) in [
        (completion, "needs a label that is true or false"),
        (r#"{"prompt": "a", "completion": "b", "label": null}"#, "a row without either is for sft"),
        (r#"{"text": "a", "label": true}"#, "a label needs a prompt and an answer, not `text`"),
        (r#"{"input_ids": [1, 2], "label": true}"#, "a label needs a prompt and an answer, not `input_ids`"),
        (r#"{"prompt": "a", "completion": "b", "label": 1}"#, "label should be true or false, got 1"),
        (r#"{"prompt": "a", "completion": "b", "label": "yes"}"#, "got a string"),
        (r#"{"messages": [{"role": "user", "content": "a"}], "label": true}"#, "should be the assistant's"),
    ] {
        let error = read(json).unwrap_err();
        assert!(error.contains(word), "{json}: {error}");
    }
    let error = Row::from_json(r#"{"prompt": "a", "label": true}"#).unwrap_err();
    assert!(error.contains("needs a completion"), "{error}");
    // Other recipes name the right one, and ignore labels of other kinds.
    let labelled = row(r#"{"prompt": "a", "completion": "b", "label": true}"#);
    let error = of_answers.tokenize(&labelled).unwrap_err();
    assert!(error.contains("the recipe kto; for sft remove `label`"), "{error}");
    let of_pairs = RowTokenizer { rows: RowUse::Pairs, ..of_answers.clone() };
    let other_way = of_pairs.tokenize(&labelled).unwrap_err();
    assert!(other_way.contains("kto"));
    let pair = of_answers.tokenize(&row(r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#)).unwrap_err();
    assert!(pair.contains("dpo, orpo, simpo, cpo or kto"), "{pair}");
    let single = of_pairs.tokenize(&row(completion)).unwrap_err();
    for (reason, recipe) in [(error, "kto"), (other_way, "kto"), (pair, "dpo"), (single, "sft")] {
        let error = DataError::Row { file: "rows.jsonl".into(), line: 1, reason };
        assert!(error.hint().unwrap().starts_with(&format!("`burnish train {recipe}`")), "{error}");
    }
    let error = Row::from_json(r#"{"prompt": "a", "completion": "b", "label": true, "kto_tag": false}"#).unwrap_err();
    assert_eq!(error, "`label` is true, but `kto_tag` is false");
    let other = row(r#"{"prompt": "a", "completion": "b", "label": "positive"}"#);
    assert_eq!(of_answers.tokenize(&other).unwrap().examples, alone(completion, true));
}

#[test]
fn long_examples_are_truncated_and_dropped_if_nothing_is_left() {
    let tokenizer = tokenizer();
    let short = RowTokenizer { max_seq_length: 6, ..row_tokenizer(&tokenizer, None) };
    let cut = |prompt: &str| {
        let row = Row::Completion { prompt: prompt.into(), completion: "yes".into() };
        short.tokenize(&row).unwrap()
    };
    let made = cut("qqq");
    assert_eq!((made.cut, made.dropped, made.examples[0].input_ids.len()), (1, 0, 6));
    let made = cut("qqqqqqqq");
    assert_eq!((made.cut, made.dropped, made.examples.len()), (1, 1, 0));
    let told = |truncated| {
        let report = DataReport { examples: 10, dropped: 2, truncated, ..DataReport::default() };
        (report.lines().into_iter().find(|line| line.contains("truncated")), report.warning())
    };
    assert_eq!(told(0), (None, None));
    assert_eq!(told(6), (Some("examples truncated to max_seq_length: 6".to_owned()), None));
    let warning = "7 of 12 examples were truncated to max_seq_length: raise it, or split the rows";
    assert_eq!(told(7), (None, Some(warning.to_owned())));
}

#[test]
fn a_bad_row_is_an_error_or_is_skipped() {
    let tokenizer = tokenizer();
    let row_tokenizer = row_tokenizer(&tokenizer, None);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.jsonl");
    let rows: Vec<&str> = (1..=10).map(|row| if row == 7 { "not json" } else { "{\"text\": \"ab\"}" }).collect();
    std::fs::write(&file, rows.join("\n")).unwrap();
    let error = load(&file, &row_tokenizer, BadRows::Stop).unwrap_err();
    assert!(matches!(error, DataError::Row { line: 7, .. }), "{error}");
    assert!(error.to_string().contains("train.jsonl:7: not JSON"), "{error}");
    let prepared = load(&file, &row_tokenizer, BadRows::Skip).unwrap();
    let report = &prepared.report;
    assert_eq!((report.rows, report.examples, report.skipped, prepared.examples.len()), (10, 9, 1, 9));
    assert_eq!((report.tokens, report.target_tokens), (27, 18));
    assert!(report.lines()[1].contains("line 7"), "{:?}", report.lines());
    std::fs::write(&file, "nonsense").unwrap();
    let error = load(&file, &row_tokenizer, BadRows::Skip).unwrap_err();
    assert!(matches!(error, DataError::NothingLeft { rows: 1, .. }), "{error}");
}

#[test]
fn messages_need_a_template() {
    let tokenizer = tokenizer();
    let row = row(r#"{"messages": [{"role": "assistant", "content": "a"}]}"#);
    let reason = row_tokenizer(&tokenizer, None).tokenize(&row).unwrap_err();
    assert!(reason.contains("no chat template"), "{reason}");
}

#[test]
fn rows_are_split_as_a_whole_and_by_the_seed() {
    let tokenizer = tokenizer();
    let mut row_tokenizer = row_tokenizer(&tokenizer, None);
    row_tokenizer.rows = RowUse::Pairs;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pairs.jsonl");
    let pairs: Vec<String> =
        (0..9).map(|pair| format!("{{\"prompt\": \"q{pair}: \", \"chosen\": \"a\", \"rejected\": \"b\"}}\n")).collect();
    std::fs::write(&file, pairs.concat()).unwrap();
    let split = |seed| {
        let rows = load(&file, &row_tokenizer, BadRows::Stop).unwrap();
        assert_eq!(rows.used_rows(), 9);
        Mixture::from(rows)
            .split(2, seed)
            .map(|examples| examples.iter().map(|example| read(&tokenizer, &example).0).collect::<Vec<_>>())
    };
    let [train, valid] = split(1);
    assert_eq!((train.len(), valid.len()), (14, 4));
    // Both answers of a pair stay together, and in the order of the file.
    for pair in train.chunks(2).chain(valid.chunks(2)) {
        assert!(pair[0].replace("a</s>", "b</s>") == pair[1], "{pair:?}");
    }
    assert!(train.is_sorted() && valid.is_sorted() && train.iter().all(|text| !valid.contains(text)));
    assert!(split(1)[1] == valid && (2..9).any(|seed| split(seed)[1] != valid));
}
