//! Cases from public bug reports, with the token counts of transformers. The tokenizer is the quickstart model's.

use std::path::PathBuf;

use burnish_models::{ChatTemplate, Tokenizer};
use serde_json::Value;

use super::*;

const TOKENIZER: &[u8] = include_bytes!("../../../assets/quickstart/model/tokenizer.json");
const CONFIG: &str = include_str!("../../../assets/quickstart/model/tokenizer_config.json");

struct Case {
    folder: PathBuf,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Case {
    /// Opens a folder of fixtures; its `tokenizer_config.json` replaces the quickstart model's.
    fn open(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases").join(name);
        let config = std::fs::read_to_string(folder.join("tokenizer_config.json")).unwrap_or_else(|_| CONFIG.to_owned());
        let config: Value = serde_json::from_str(&config).unwrap();
        let tokenizer = Tokenizer::from_json(TOKENIZER, &config, &Value::Null, &Value::Null).unwrap();
        let template = ChatTemplate::from_folder(&folder, tokenizer.special()).unwrap().unwrap_or_else(|| {
            ChatTemplate::new(config["chat_template"].as_str().unwrap().to_owned(), tokenizer.special()).unwrap()
        });
        Self { folder, tokenizer, template }
    }

    fn load(&self, file: &str) -> TokenizedFile {
        let row_tokenizer = row_tokenizer(&self.tokenizer, Some(&self.template));
        load(&self.folder.join(file), &row_tokenizer, BadRows::Stop).unwrap()
    }

    fn error(&self, file: &str) -> String {
        let row_tokenizer = row_tokenizer(&self.tokenizer, Some(&self.template));
        load(&self.folder.join(file), &row_tokenizer, BadRows::Stop).unwrap_err().to_string()
    }

    /// The text and the learned parts of a file's only example.
    fn only(&self, file: &str) -> (String, Vec<String>) {
        let examples = self.load(file).examples;
        assert_eq!(examples.len(), 1, "{file}");
        read(&self.tokenizer, &examples.get(0))
    }
}

#[test]
fn a_row_with_tools_uses_the_tool_use_template() {
    let mut case = Case::open("tool-use");
    assert_eq!(case.load("data.jsonl").report.tokens, 954);
    // The same templates, as a list in tokenizer_config.json only.
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(case.folder.join("tokenizer_config.json"), folder.path().join("tokenizer_config.json")).unwrap();
    case.template = ChatTemplate::from_folder(folder.path(), case.tokenizer.special()).unwrap().unwrap();
    assert_eq!(case.load("data.jsonl").report.tokens, 954);
}

#[test]
fn null_keys_of_messages_are_absent() {
    for name in ["null-tool-calls", "null-name"] {
        let case = Case::open(name);
        let (nulls, clean) = (case.load("data.jsonl"), case.load("clean.jsonl"));
        assert_eq!(nulls.examples, clean.examples, "{name}");
        assert_eq!(clean.report.tokens, 384);
    }
}

#[test]
fn null_columns_are_absent_in_every_kind_of_row() {
    let case = Case::open("null-columns");
    for file in ["a-text-with-null-messages.jsonl", "b-text-with-null-alpaca.jsonl", "d-text-with-null-prompt.jsonl"] {
        assert_eq!(case.only(file).0, "Table for two.<|im_end|>", "{file}");
    }
    for file in ["c-chat-with-null-chosen.jsonl", "e-chat-with-null-ids.jsonl"] {
        assert_eq!(case.load(file).report.tokens, 64, "{file}");
    }
    assert_eq!(case.only("g-sharegpt-null-messages.jsonl").1, ["yo<|im_end|>\n"]);
    let error = case.error("f-alpaca-null-output.jsonl");
    assert!(error.contains("unknown kind of row with the keys [instruction]"), "{error}");
}

#[test]
fn alpaca_rows_have_a_system_message_and_a_history() {
    let case = Case::open("alpaca");
    assert_eq!(case.load("data.jsonl").examples, case.load("right.jsonl").examples);
    assert_eq!(case.only("data.jsonl").1.len(), 3);
}

#[test]
fn a_weight_of_zero_is_not_learned() {
    let case = Case::open("weight-zero");
    assert_eq!(case.only("data.jsonl").1, ["ok<|im_end|>\n"]);
    let (text, learned) = case.only("noweight.jsonl");
    assert_eq!(learned, ["a bad answer of some length<|im_end|>\n", "ok<|im_end|>\n"]);
    assert_eq!(text, case.only("data.jsonl").0);
    // It is not learned without prompt masking either.
    let row = std::fs::read_to_string(case.folder.join("data.jsonl")).unwrap();
    let all = RowTokenizer { mask_prompt: false, ..row_tokenizer(&case.tokenizer, Some(&case.template)) };
    let learned = |row: &str| read(&case.tokenizer, &all.tokenize(&Row::from_json(row).unwrap()).unwrap().examples[0]).1;
    assert_eq!(
        learned(&row),
        [
            "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\nok<|im_end|>\n",
        ]
    );
    assert_eq!(learned(&row.replace("\"weight\": 0", "\"train\": false")).len(), 2);
}

#[test]
fn names_of_reasoning_are_synonyms() {
    let case = Case::open("reasoning");
    let right = case.load("reasoning_content.jsonl");
    assert_eq!(right.report.tokens, 510);
    assert_eq!(case.load("thinking.jsonl").examples, right.examples);
    assert_eq!(case.load("reasoning.jsonl").examples, right.examples);
    assert_eq!(right.report.unread_reasoning, 0);
    let learned = read(&case.tokenizer, &right.examples.get(0)).1;
    assert!(learned[0].starts_with("<think>count the seats</think>{"), "{learned:?}");
    // A template that does not render it drops it, and the report counts the rows.
    let mut silent = Case::open("bos");
    silent.folder = case.folder;
    let report = silent.load("thinking.jsonl").report;
    assert_eq!((report.tokens, report.unread_reasoning), (384, 6));
    assert!(report.lines().iter().any(|line| line.contains("reasoning that is left out") && line.contains('6')));
}

#[test]
fn a_rendered_conversation_gets_no_start_token() {
    let case = Case::open("bos");
    assert!(case.tokenizer.special().add_bos);
    let prepared = case.load("data.jsonl");
    assert_eq!(prepared.report.tokens, 384);
    assert_eq!(prepared.examples.get(0).input_ids[0], case.tokenizer.inner().token_to_id("<|im_start|>").unwrap());
}

#[test]
fn an_end_token_from_config_json_is_learned() {
    let case = Case::open("eos-in-config");
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config.as_object_mut().unwrap().shift_remove("eos_token");
    let tokenizer = Tokenizer::from_json(TOKENIZER, &config, &Value::Null, &Value::Null).unwrap();
    let mut case = Case { tokenizer, ..case };
    for (file, rows) in [("text.jsonl", 2), ("pc.jsonl", 1)] {
        let endless = case.load(file).report;
        assert_eq!(endless.endless, rows, "{file}");
        assert!(endless.lines().iter().any(|line| line.contains("without an end token")), "{:?}", endless.lines());
    }
    case.tokenizer.set_end_of_text(2);
    for (file, tokens) in [("text.jsonl", 6 + 8 + 2), ("pc.jsonl", 9 + 1)] {
        let TokenizedFile { examples, report, .. } = case.load(file);
        assert_eq!((report.tokens, report.endless), (tokens, 0), "{file}");
        assert!(examples.iter().all(|example| example.input_ids.last() == Some(&2) && example.labels.last() == Some(&2)));
    }
}

#[test]
fn tool_calls_print_numbers_as_python_does() {
    let case = Case::open("tojson");
    let report = case.load("data.jsonl").report;
    assert_eq!((report.tokens, report.target_tokens), (125, 109));
}

#[test]
fn every_special_token_is_a_variable_of_the_template() {
    assert_eq!(Case::open("special-tokens").load("data.jsonl").report.tokens, 396);
}
