//! A tokenizer of template tags, to rewrite and search expressions.

use std::ops::Range;

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or keyword.
    Name,
    /// A quoted string, with its quotes.
    Text,
    /// A number.
    Number,
    /// Anything else: an operator, a bracket or a comma.
    Operator,
}

/// A token, with its byte range in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
}

/// `{{ … }}` or `{% … %}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    /// Whether it is a statement, `{% … %}`.
    pub(super) statement: bool,
    pub(super) tokens: Vec<Token>,
}

/// The tags of a template in order, without those in comments and raw blocks. A tag that does not end is left out; the compiler
/// reports it.
pub(super) fn tags(source: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(found) = source[at..].find('{').map(|offset| at + offset) {
        at = found + 1;
        match source.as_bytes().get(at) {
            Some(b'#') => match source[at..].find("#}") {
                Some(end) => at += end + 2,
                None => break,
            },
            Some(open @ (b'{' | b'%')) => {
                let statement = *open == b'%';
                let Some((tokens, end)) = scan(source, at + 1, if statement { "%}" } else { "}}" }) else { break };
                at = end;
                let raw = statement && matches!(&tokens[..], [token] if &source[token.range.clone()] == "raw");
                if raw {
                    match end_of_raw(&source[at..]) {
                        Some(length) => at += length,
                        None => break,
                    }
                } else {
                    tags.push(Tag { statement, tokens });
                }
            }
            _ => {}
        }
    }
    tags
}

/// The number of bytes up to the end of `{% endraw %}`.
fn end_of_raw(source: &str) -> Option<usize> {
    source.match_indices("{%").find_map(|(at, _)| {
        let inside = &source[at + 2..];
        let end = inside.find("%}")?;
        (inside[..end].trim_matches(['-', '+']).trim() == "endraw").then_some(at + 2 + end + 2)
    })
}

/// The tokens up to `close`, and the position after it.
fn scan(source: &str, from: usize, close: &str) -> Option<(Vec<Token>, usize)> {
    let bytes = source.as_bytes();
    let mut at = from;
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    let mut tokens = Vec::new();
    let mut depth = 0_usize;
    loop {
        let byte = *bytes.get(at)?;
        if byte.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if depth == 0 {
            if source[at..].starts_with(close) {
                return Some((tokens, at + 2));
            }
            if matches!(byte, b'-' | b'+') && source[at + 1..].starts_with(close) {
                return Some((tokens, at + 3));
            }
        }
        let (kind, end) = match byte {
            b'"' | b'\'' => (Kind::Text, end_of_text(bytes, at)?),
            b'0'..=b'9' => (Kind::Number, end_of_number(bytes, at)),
            _ if is_name(byte) => {
                let length = bytes[at..].iter().take_while(|byte| is_name(**byte)).count();
                (Kind::Name, at + length)
            }
            _ => {
                match byte {
                    b'(' | b'[' | b'{' => depth += 1,
                    b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                let double = matches!(bytes.get(at..at + 2), Some(b"**" | b"//" | b"==" | b"!=" | b"<=" | b">="));
                (Kind::Operator, at + if double { 2 } else { 1 })
            }
        };
        tokens.push(Token { kind, range: at..end });
        at = end;
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn end_of_text(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match *bytes.get(at)? {
            b'\\' => at += 2,
            quote if quote == bytes[start] => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn end_of_number(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(byte) = bytes.get(at) {
        let follows = byte.is_ascii_alphanumeric()
            || *byte == b'_'
            || (*byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit))
            || (matches!(byte, b'+' | b'-') && matches!(bytes[at - 1], b'e' | b'E') && at > start);
        if !follows {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<Vec<&str>> {
        tags(source).iter().map(|tag| tag.tokens.iter().map(|token| &source[token.range.clone()]).collect()).collect()
    }

    #[test]
    fn tags_are_split_into_tokens() {
        let source = "a {{- m['%}'].b ~ 1.5e-3 -}} {# {{ no }} #} {% raw %}{{ no }}{%- endraw -%}{% set x={'k': {'l': 1}} %}{{ {'a': 1}}}";
        assert_eq!(
            words(source),
            [
                vec!["m", "[", "'%}'", "]", ".", "b", "~", "1.5e-3"],
                vec!["set", "x", "=", "{", "'k'", ":", "{", "'l'", ":", "1", "}", "}"],
                vec!["{", "'a'", ":", "1", "}"],
            ]
        );
    }

    #[test]
    fn tags_that_do_not_end_are_left_to_the_compiler() {
        for source in ["{{ a", "{% if 'x", "{# no end", "{% raw %}{{ x }}", "{{ 'é"] {
            assert!(words(source).is_empty(), "{source}");
        }
    }
}
