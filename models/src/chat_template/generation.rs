//! `{% generation %} … {% endgeneration %}`: how a template for transformers marks what the assistant wrote.
//!
//! Both become filter blocks, whose whitespace control works alike. The filter prints its block, in the marked variant
//! between two characters that are no text. (transformers makes them call blocks; but in minijinja a call block can't
//! assign to a namespace from outside, which templates do.)

use std::ops::Range;

use minijinja::Environment;
use minijinja::value::Value;

use super::{MarkedText, syntax};

/// Filter that prints its block.
pub(super) const PLAIN: &str = "burnish_generation";
/// Filter that prints its block between [`OPEN`] and [`CLOSE`].
pub(super) const MARKED: &str = "burnish_marked_generation";

/// Unicode noncharacters, reserved for uses like this.
pub(super) const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// Whether the template has generation blocks.
pub(super) fn is_marked(source: &str) -> bool {
    tags(source).iter().any(|tag| tag.opens)
}

/// The template with filter blocks in place of generation blocks.
pub(super) fn as_filters(source: &str, filter: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut copied = 0;
    for tag in tags(source) {
        text.push_str(&source[copied..tag.word.start]);
        if tag.opens {
            text.extend(["filter ", filter]);
        } else {
            text.push_str("endfilter");
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

/// The two filters.
pub(super) fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter(PLAIN, |block: Value| block);
    environment.add_filter(MARKED, |block: Value| Value::from_safe_string(format!("{OPEN}{block}{CLOSE}")));
}

/// The word of a generation tag.
struct Tag {
    word: Range<usize>,
    opens: bool,
}

fn tags(source: &str) -> Vec<Tag> {
    let words = syntax::tags(source).into_iter().filter_map(|tag| match tag.tokens.as_slice() {
        [token] if tag.statement => Some(token.range.clone()),
        _ => None,
    });
    let is = |word: &Range<usize>, text: &str| &source[word.clone()] == text;
    words
        .filter(|word| is(word, "generation") || is(word, "endgeneration"))
        .map(|word| Tag { opens: is(&word, "generation"), word })
        .collect()
}
