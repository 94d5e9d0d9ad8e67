//! `{% generation %} … {% endgeneration %}`: the blocks in which a template marks what the assistant writes.
//!
//! They are replaced by filter blocks, which have the same whitespace control. The filter returns its block, in the marked
//! variant between two noncharacters. (transformers uses call blocks, but in minijinja these can't assign to a namespace that
//! was created outside, which templates do.)

use std::ops::Range;

use minijinja::Environment;
use minijinja::value::Value;

use super::{MarkedText, syntax};

/// The filter that returns its block.
pub(super) const PLAIN: &str = "burnish_generation";
/// The filter that returns its block between [`OPEN`] and [`CLOSE`].
pub(super) const MARKED: &str = "burnish_marked_generation";

/// Noncharacters of Unicode, which are reserved for internal use.
pub(super) const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// Whether the template has generation blocks.
pub(super) fn is_marked(source: &str) -> bool {
    tags(source).iter().any(|tag| tag.opens)
}

/// The template with generation blocks replaced by filter blocks.
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

/// Removes the marks from a text; `None` if they don't match.
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

/// Adds the two filters.
pub(super) fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter(PLAIN, |block: Value| block);
    environment.add_filter(MARKED, |block: Value| Value::from_safe_string(format!("{OPEN}{block}{CLOSE}")));
}

/// The keyword of a generation tag.
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
