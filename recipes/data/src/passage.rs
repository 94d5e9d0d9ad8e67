//! Text of documents, cut into parts where paragraphs or sections begin.

use std::ops::Range;

/// Follows the lines of a document.
#[derive(Debug, Clone, Default)]
pub(super) struct Outline {
    is_markdown: bool,
    /// What begins and ends the code block that the next line is in.
    fence: Option<&'static str>,
    after_blank: bool,
}

impl Outline {
    pub(super) fn new(is_markdown: bool) -> Self {
        Self { is_markdown, fence: None, after_blank: false }
    }

    /// Whether a paragraph begins in this line, or in Markdown a section.
    pub(super) fn begins(&mut self, line: &str) -> bool {
        let text = line.trim();
        let after_blank = std::mem::replace(&mut self.after_blank, text.is_empty());
        if self.is_markdown {
            let fence = ["```", "~~~"].into_iter().find(|fence| text.starts_with(fence));
            if self.fence.is_some() {
                if self.fence == fence {
                    self.fence = None;
                }
                // Code is not cut at its empty lines.
                return false;
            }
            self.fence = fence;
            let level = line.bytes().take_while(|byte| *byte == b'#').count();
            if (1..=6).contains(&level) && line[level..].starts_with(' ') {
                return true;
            }
        }
        after_blank && !text.is_empty()
    }
}

/// Where paragraphs begin, in bytes.
pub(super) fn beginnings(text: &str, is_markdown: bool) -> Vec<usize> {
    let mut outline = Outline::new(is_markdown);
    let mut at = 0;
    let mut found = Vec::new();
    for line in text.split_inclusive('\n') {
        if outline.begins(line) {
            found.push(at);
        }
        at += line.len();
    }
    found
}

/// Cuts tokens, given by the start and end of their bytes, into parts of at most `room` tokens: where a paragraph begins if one does in the
/// second half of a part, else after `room` tokens.
pub(super) fn cut(offsets: &[(usize, usize)], beginnings: &[usize], room: usize) -> Vec<Range<usize>> {
    let room = room.max(1);
    let mut parts = Vec::new();
    let mut start = 0;
    while offsets.len() - start > room {
        let last = start + room;
        let begins = |token: &usize| beginnings.binary_search(&offsets[*token].0).is_ok();
        let end = (start + room / 2 + 1..=last).rev().find(begins).unwrap_or(last);
        parts.push(start..end);
        start = end;
    }
    if start < offsets.len() {
        parts.push(start..offsets.len());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_begin_after_empty_lines_and_sections_with_a_heading() {
        let text = "a\nb\n\nc\n# d\ne\n```\n\nf\n# g\n```\n\nh\n";
        let begins = |is_markdown| beginnings(text, is_markdown).into_iter().map(|at| &text[at..=at]).collect::<String>();
        assert_eq!(begins(false), "cfh");
        // The heading in a block of code is a comment.
        assert_eq!(begins(true), "c#h");
    }

    #[test]
    fn parts_are_whole_and_begin_with_a_paragraph_where_possible() {
        let offsets: Vec<(usize, usize)> = (0..20).map(|at| (at, at + 1)).collect();
        assert_eq!(cut(&offsets, &[7, 9, 12], 10), [0..9, 9..19, 19..20]);
        assert_eq!(cut(&offsets, &[], 8), [0..8, 8..16, 16..20]);
        assert_eq!(cut(&offsets, &[3], 30), [0..20]);
        assert_eq!(cut(&offsets[..2], &[], 0), [0..1, 1..2]);
        assert!(cut(&[], &[], 5).is_empty());
    }
}
