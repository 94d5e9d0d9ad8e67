//! `{% generation %} … {% endgeneration %}`: how a template for transformers marks what the assistant wrote.
//!
//! transformers compiles the pair into a call block, so that is what it becomes here too: whitespace control and scopes
//! then work alike. The function called prints its body, in the marked variant between two characters that are no text.

use std::ops::Range;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, State};

use super::MarkedText;

/// Function that prints its body.
pub(super) const PLAIN: &str = "burnish_generation";
/// Function that prints its body between [`OPEN`] and [`CLOSE`].
pub(super) const MARKED: &str = "burnish_marked_generation";

/// Unicode noncharacters, reserved for uses like this.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// Whether the template has generation blocks.
pub(super) fn is_marked(source: &str) -> bool {
    tags(source).iter().any(|tag| tag.opens)
}

/// The template with call blocks in place of generation blocks.
pub(super) fn as_calls(source: &str, function: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut copied = 0;
    for tag in tags(source) {
        text.push_str(&source[copied..tag.word.start]);
        if tag.opens {
            text.extend(["call ", function, "()"]);
        } else {
            text.push_str("endcall");
        }
        copied = tag.word.end;
    }
    text.push_str(&source[copied..]);
    text
}

/// Takes the marks out of a text; `None` when they don't pair.
pub(super) fn read_marks(marked: &str) -> Option<MarkedText> {
    let mut text = String::with_capacity(marked.len());
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut open = None;
    for character in marked.chars() {
        match (character, open) {
            (OPEN, None) => open = Some(text.len()),
            (CLOSE, Some(start)) => {
                spans.push(start..text.len());
                open = None;
            }
            (OPEN | CLOSE, _) => return None,
            (other, _) => text.push(other),
        }
    }
    open.is_none().then_some(MarkedText { text, spans })
}

/// The two functions.
pub(super) fn add_functions(environment: &mut Environment<'static>) {
    let body = |state: &mut State, options: Kwargs| -> Result<Value, Error> {
        let caller: Value = options.get("caller")?;
        caller.call(state, &[])
    };
    environment.add_function(PLAIN, body);
    environment.add_function(MARKED, move |state: &mut State, options: Kwargs| {
        body(state, options).map(|body| Value::from_safe_string(format!("{OPEN}{body}{CLOSE}")))
    });
}

/// The word of a generation tag.
struct Tag {
    word: Range<usize>,
    opens: bool,
}

fn tags(source: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    for (at, _) in source.match_indices("{%") {
        let inside = at + 2;
        let Some(end) = source[inside..].find("%}").map(|length| inside + length) else { break };
        let body = source[inside..end].trim_matches(['-', '+']);
        let word = body.trim();
        if matches!(word, "generation" | "endgeneration") {
            let start = inside + source[inside..end].find(word).unwrap_or(0);
            tags.push(Tag { word: start..start + word.len(), opens: word == "generation" });
        }
    }
    tags
}
