//! Shows the tokens of rows, and finds what is odd about them.

use std::fmt;

use burnish_models::{ChatTemplate, Message, Tokenizer};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::content;
use super::format::Row;
use super::tokenize::{Example, RowTokenizer, TokenizedRow};
use burnish_engine::IGNORE;

/// Consecutive tokens of an example that belong to one role, and are all learned or all not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The role of the message, if it is known.
    pub role: Option<String>,
    /// Whether these tokens are learned.
    pub learned: bool,
    /// The text of each token. A token with only a part of a character has none; the one that completes it has the whole character.
    pub tokens: Vec<String>,
}

/// What may be odd about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// It is truncated.
    Truncated,
    /// It is left out, because it is too long.
    TooLong,
    /// It became several examples, because it is too long.
    Parted,
    /// It is dropped.
    NothingLearned,
    /// An answer has nothing but special tokens and space.
    EmptyAnswer,
    /// An answer does not end with a special token.
    NoEndToken,
    /// The last message is not the assistant's.
    Unanswered,
    /// The text of a message has the text of a special token in it.
    SpecialInText,
    /// It has the token for unknown text.
    UnknownToken,
    /// The prompt ends inside a token.
    BegunInside,
    /// Each turn became an example of its own.
    Split,
    /// It has reasoning that is left out.
    UnreadReasoning,
    /// It has tools that are left out.
    UnreadTools,
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "truncated to max_seq_length",
            Self::TooLong => "left out, because they are longer than max_seq_length",
            Self::Parted => "split, because they are longer than max_seq_length",
            Self::NothingLearned => "dropped, because nothing is left to train on",
            Self::EmptyAnswer => "with an empty answer",
            Self::NoEndToken => {
                "with an answer that does not end with a special token, so the model would not learn to stop"
            }
            Self::Unanswered => "whose last message is not the assistant's",
            Self::SpecialInText => "with the text of a special token in a message, which becomes that token",
            Self::UnknownToken => "with text that the tokenizer does not know",
            Self::BegunInside => "whose prompt ends inside a token, which is trained on with the answer",
            Self::Split => "split into one example per turn, because the chat template rewrites earlier turns",
            Self::UnreadReasoning => "with reasoning that the chat template does not render",
            Self::UnreadTools => "with tools or tool calls that the chat template does not render",
        })
    }
}

impl Serialize for Oddity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{self:?}"))
    }
}

impl RowTokenizer<'_> {
    /// The tokens of each example of a row, role by role.
    pub fn shown(&self, row: &Row, made: &TokenizedRow) -> Vec<Vec<Part>> {
        let template = self.template;
        let roles = match row {
            Row::Chat { messages, tools, .. } => {
                template.map_or(Vec::new(), |template| ends(template, messages, tools.as_ref()))
            }
            Row::Completion { prompt, completion } => {
                let (end, whole) = (prompt.len(), prompt.len() + completion.len());
                vec![("prompt".to_owned(), end), ("completion".to_owned(), whole)]
            }
            _ => Vec::new(),
        };
        made.examples.iter().map(|example| parts(self.tokenizer, example, &roles)).collect()
    }

    /// What is odd about a row and its examples.
    pub fn oddities(&self, row: &Row, made: &TokenizedRow) -> Vec<Oddity> {
        let examples = &made.examples;
        let unknown = self.tokenizer.special().unk.as_ref().map(|(_, id)| *id);
        let is_empty = |example: &Example| learned(example).all(|id| self.is_blank(id));
        // An answer that is cut off, or given as tokens, may have no end.
        let may_end = made.cut + made.parted == 0 && !matches!(row, Row::Tokens { .. } | Row::Passage { .. });
        let last = |example: &Example| learned(example).filter(|id| !self.is_space(*id)).last();
        let has_no_end = |example: &Example| last(example).is_some_and(|id| !self.is_end(id));
        let has_unknown = |example: &Example| example.input_ids.iter().any(|id| Some(*id) == unknown);
        let found = [
            (Oddity::Truncated, made.cut > 0),
            (Oddity::TooLong, made.too_long > 0),
            (Oddity::Parted, made.parted > 0),
            (Oddity::NothingLearned, made.dropped > 0),
            (Oddity::EmptyAnswer, examples.iter().any(is_empty) || has_empty_answer(row)),
            (Oddity::NoEndToken, may_end && examples.iter().any(has_no_end)),
            (Oddity::Unanswered, is_unanswered(row)),
            (Oddity::SpecialInText, self.has_special(row)),
            (Oddity::UnknownToken, examples.iter().any(has_unknown)),
            (Oddity::BegunInside, made.begun_inside > 0),
            (Oddity::Split, made.split),
            (Oddity::UnreadReasoning, made.unread_reasoning),
            (Oddity::UnreadTools, made.unread_tools),
        ];
        found.into_iter().filter(|(_, found)| *found).map(|(oddity, _)| oddity).collect()
    }

    fn is_end(&self, id: u32) -> bool {
        self.tokenizer.is_special(id) || self.tokenizer.end_of_text() == Some(id)
    }

    fn is_space(&self, id: u32) -> bool {
        self.tokenizer.decode(&[id], false).is_ok_and(|text| text.trim().is_empty())
    }

    fn is_blank(&self, id: u32) -> bool {
        self.is_end(id) || self.is_space(id)
    }

    /// Whether the text of a message has the text of a special token in it.
    fn has_special(&self, row: &Row) -> bool {
        let special: Vec<String> = self
            .tokenizer
            .inner()
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special)
            .map(|token| token.content)
            .collect();
        let has = |text: &str| special.iter().any(|token| text.contains(token.as_str()));
        match row {
            Row::Chat { messages, .. } => messages.iter().filter_map(|message| message.content.as_str()).any(has),
            Row::Alpaca { instruction, input, output, .. } => [instruction, input, output].into_iter().any(|text| has(text)),
            Row::Labelled { answer, .. } => self.has_special(answer),
            Row::Preference { chosen, rejected } => self.has_special(chosen) || self.has_special(rejected),
            Row::Completion { .. } | Row::Text(_) | Row::Tokens { .. } | Row::Passage { .. } => false,
        }
    }
}

fn learned(example: &Example) -> impl Iterator<Item = u32> + '_ {
    example.input_ids.iter().zip(&example.labels).filter(|(_, label)| **label != IGNORE).map(|(id, _)| *id)
}

fn is_assistant(message: &Message) -> bool {
    matches!(message.role.as_str(), "assistant" | "model")
}

fn is_unanswered(row: &Row) -> bool {
    matches!(row, Row::Chat { messages, .. } if messages.last().is_some_and(|message| !is_assistant(message)))
}

fn has_empty_answer(row: &Row) -> bool {
    let is_blank = |text: &str| text.trim().is_empty();
    match row {
        Row::Chat { messages, .. } => messages.iter().any(|message| {
            let has_more = message.extra.contains_key("tool_calls") || message.reasoning().is_some();
            is_assistant(message) && !has_more && message.content.as_str().is_some_and(is_blank)
        }),
        Row::Completion { completion, .. } => is_blank(completion),
        Row::Alpaca { output, .. } => is_blank(output),
        Row::Preference { chosen, rejected } => has_empty_answer(chosen) || has_empty_answer(rejected),
        Row::Labelled { answer, .. } => has_empty_answer(answer),
        Row::Text(_) | Row::Tokens { .. } | Row::Passage { .. } => false,
    }
}

/// The role of each message, and where it ends in the text of the conversation; those up to the first whose end is not known.
fn ends(template: &ChatTemplate, messages: &[Message], tools: Option<&Value>) -> Vec<(String, usize)> {
    let Ok(messages) = content::as_taken(template, messages, tools) else { return Vec::new() };
    let text = |count: usize| template.render(&messages[..count], tools, false).ok();
    let Some(whole) = text(messages.len()) else { return Vec::new() };
    let end = |count: usize| text(count).filter(|text| whole.starts_with(text.as_str())).map(|text| text.len());
    let ends = messages.iter().enumerate().map(|(at, message)| Some((message.role.clone(), end(at + 1)?)));
    // Some templates refuse a conversation that ends with the system's message. It then belongs to the next one.
    ends.flatten().collect()
}

fn parts(tokenizer: &Tokenizer, example: &Example, roles: &[(String, usize)]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let (mut end, mut current) = (0, roles.iter().peekable());
    for (text, label) in texts(tokenizer, &example.input_ids).into_iter().zip(&example.labels) {
        while current.next_if(|(_, role_end)| *role_end <= end).is_some() {}
        end += text.len();
        let (role, learned) = (current.peek().map(|(role, _)| role.clone()), *label != IGNORE);
        match parts.last_mut().filter(|part| part.learned == learned && part.role == role) {
            Some(part) => part.tokens.push(text),
            None => parts.push(Part { role, learned, tokens: vec![text] }),
        }
    }
    parts
}

/// Tokens before one that decide whether its text begins with a space; and the most of which only the last completes a character.
const CONTEXT: usize = 8;

/// The text of each token; of several tokens that are parts of one character, the last one has it.
fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap_or_default();
    // Decoding may begin and end at these tokens. From within a character, a decoder of bytes may replace all bytes that follow.
    let mut whole = vec![0];
    let (mut done, mut shown) = (0, String::new());
    let mut texts = Vec::with_capacity(ids.len());
    for at in 0..ids.len() {
        let context = whole.iter().rev().take_while(|start| at - **start <= CONTEXT).last().copied().unwrap_or(done);
        let (before, with) = (decode(&ids[context..done]) + &shown, decode(&ids[context..=at]));
        let complete = with.trim_end_matches('\u{fffd}');
        let text = complete.strip_prefix(before.as_str()).unwrap_or_default().to_owned();
        shown.push_str(&text);
        if complete.len() == with.len() || at - done >= CONTEXT {
            done = at + 1;
            whole.push(done);
            shown.clear();
        }
        texts.push(text);
    }
    texts
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burnish_models::Pretrained;

    use super::*;

    fn model() -> Pretrained {
        Pretrained::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/quickstart/model")).unwrap()
    }

    fn inspected(json: &str) -> (Vec<Vec<Part>>, Vec<Oddity>) {
        let model = model();
        let row_tokenizer = RowTokenizer { max_seq_length: 64, ..RowTokenizer::of(&model) };
        let row = Row::from_json(json).unwrap();
        let made = row_tokenizer.tokenize(&row).unwrap();
        (row_tokenizer.shown(&row, &made), row_tokenizer.oddities(&row, &made))
    }

    #[test]
    fn tokens_are_shown_role_by_role() {
        let row = r#"{"messages": [{"role": "user", "content": "Hi é 你"}, {"role": "assistant", "content": "Yes."}]}"#;
        let (shown, oddities) = inspected(row);
        assert!(oddities.is_empty(), "{oddities:?}");
        let text: String = shown[0].iter().flat_map(|part| part.tokens.iter().map(String::as_str)).collect();
        let model = model();
        let template = model.chat_template.as_ref().unwrap();
        let messages = [Message::new("user", "Hi é 你"), Message::new("assistant", "Yes.")];
        assert_eq!(text, template.render(&messages, None, false).unwrap());
        let roles: Vec<_> = shown[0].iter().map(|part| (part.role.as_deref(), part.learned)).collect();
        assert_eq!(roles.first(), Some(&(Some("user"), false)));
        assert!(roles.contains(&(Some("assistant"), true)) && !roles.contains(&(Some("user"), true)), "{roles:?}");
        let learned: String =
            shown[0].iter().filter(|part| part.learned).flat_map(|part| part.tokens.iter().map(String::as_str)).collect();
        assert!(learned.starts_with("Yes.") && learned.len() < text.len(), "{learned}");
    }

    #[test]
    fn tokens_of_single_bytes_are_shown_as_characters() {
        let mut vocab: serde_json::Map<String, serde_json::Value> =
            (0..256).map(|byte| (format!("<0x{byte:02X}>"), byte.into())).collect();
        vocab.extend([("\u{2581}", 256), ("a", 257)].map(|(piece, id)| (piece.to_owned(), id.into())));
        let decoders = serde_json::json!([
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true}});
        let none = serde_json::Value::Null;
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes(), &none, &none, &none).unwrap();
        let (spaced, many) = ("a 你好 é a", "你好".repeat(9));
        for text in [spaced, many.as_str()] {
            let ids: Vec<u32> = text
                .bytes()
                .map(|byte| match byte {
                    b' ' => 256,
                    b'a' => 257,
                    byte => u32::from(byte),
                })
                .collect();
            let found = texts(&tokenizer, &ids);
            assert_eq!(found.concat(), text);
            for (at, character) in text.char_indices() {
                assert_eq!(found[at + character.len_utf8() - 1], character.to_string(), "{found:?}");
            }
        }
        // A character that is not complete does not hide those that follow.
        let broken = [0xe4_u32, 257, 256, 257, 257, 257, 257, 257, 257, 257, 257, 257];
        assert!(texts(&tokenizer, &broken).concat().ends_with("aaaa"), "{:?}", texts(&tokenizer, &broken));
    }

    #[test]
    fn odd_rows_are_found() {
        let chat = |user: &str, more: &str| {
            format!(
                r#"{{"messages": [{{"role": "user", "content": "{user}"}}, {{"role": "assistant", "content": {more}}}]}}"#
            )
        };
        let special = model().tokenizer.special().eos.clone().unwrap().0;
        for (row, expected) in [
            (chat("a", "\"\""), vec![Oddity::EmptyAnswer]),
            (chat(&special, "\"b\""), vec![Oddity::SpecialInText]),
            (chat("a", "\"b\"}, {\"role\": \"user\", \"content\": \"c\""), vec![Oddity::Unanswered]),
            (chat("a", &format!("\"{}\"", "word ".repeat(99))), vec![Oddity::Truncated]),
        ] {
            let found = inspected(&row).1;
            assert!(expected.iter().all(|oddity| found.contains(oddity)) && found.len() == 1, "{row}: {found:?}");
        }
    }
}
