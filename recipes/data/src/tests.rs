//! Rows rendered by the templates of real models, checked token by token.

mod cases;
mod columns;
mod content;
mod lengths;
mod models;
mod rows;
mod turns;

use burnish_models::{ChatTemplate, Tokenizer};

use super::*;
use tokenize::TokenizedRow;

fn row_tokenizer<'a>(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>) -> RowTokenizer<'a> {
    RowTokenizer {
        tokenizer,
        template,
        mask_prompt: true,
        rows: RowUse::Answers,
        max_seq_length: 512,
        length_policy: LengthPolicy::Truncate,
        vocab_size: tokenizer.vocab_size(),
    }
}

fn row(json: &str) -> Row {
    Row::from_json(json).unwrap()
}

/// The text of all tokens, and of each sequence of learned tokens.
fn read(tokenizer: &Tokenizer, example: &Example) -> (String, Vec<String>) {
    let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
    let mut runs: Vec<Vec<u32>> = Vec::new();
    let mut inside = false;
    for (id, label) in example.input_ids.iter().zip(&example.labels) {
        if *label == IGNORE {
            inside = false;
            continue;
        }
        assert_eq!(*label, i64::from(*id), "a label is the token itself");
        if !inside {
            runs.push(Vec::new());
            inside = true;
        }
        runs.last_mut().unwrap().push(*id);
    }
    (text(&example.input_ids), runs.iter().map(|run| text(run)).collect())
}
