//! The text of generated tokens.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Decodes tokens into text. A piece is passed on only when it is final: a character can need several tokens, and the end of
/// the text can be the beginning of a stop string.
pub(super) struct StreamedText<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    tokens: Vec<u32>,
    /// The beginning that is not decoded again, so that decoding takes linear time.
    settled: Settled,
    /// The number of bytes of `text` that were passed on.
    passed_on: usize,
    text: String,
}

/// A number of tokens and their text.
#[derive(Default)]
struct Settled {
    tokens: usize,
    text: String,
}

impl<'a> StreamedText<'a> {
    pub fn new(tokenizer: &'a Tokenizer, stop: &'a [String]) -> Self {
        Self { tokenizer, stop, tokens: Vec::new(), settled: Settled::default(), passed_on: 0, text: String::new() }
    }

    /// Adds a token. Returns true if the text now has a stop string.
    pub fn push(&mut self, token: u32, on_text: &mut dyn FnMut(&str)) -> Result<bool> {
        self.tokens.push(token);
        self.decode()?;
        let stop = self.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| self.text.find(stop.as_str())).min();
        if let Some(at) = stop {
            self.text.truncate(at);
            return Ok(true);
        }
        if !self.text.ends_with('\u{fffd}') {
            let held = self.held_back();
            self.pass_on(self.text.len() - held, on_text);
        }
        Ok(false)
    }

    pub fn finish(mut self, on_text: &mut dyn FnMut(&str)) -> String {
        self.pass_on(self.text.len(), on_text);
        self.text
    }

    fn pass_on(&mut self, until: usize, on_text: &mut dyn FnMut(&str)) {
        if until > self.passed_on
            && let Some(piece) = self.text.get(self.passed_on..until)
        {
            on_text(piece);
            self.passed_on = until;
        }
    }

    /// The number of bytes at the end that may be the beginning of a stop string.
    fn held_back(&self) -> usize {
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        (1..longest.min(self.text.len() + 1))
            .rev()
            .find(|length| {
                let start = self.text.len() - length;
                self.text.is_char_boundary(start) && self.stop.iter().any(|stop| stop.starts_with(&self.text[start..]))
            })
            .unwrap_or(0)
    }

    /// Decodes the tokens after the settled ones. Some tokens before the end stay unsettled, because decoders treat the spaces at
    /// the beginning of a text differently.
    fn decode(&mut self) -> Result<()> {
        const WINDOW: usize = 32;
        let start = self.settled.tokens;
        let tail = self.tokenizer.decode(&self.tokens[start..], true)?;
        let text = format!("{}{tail}", self.settled.text);
        if self.tokens.len() - start >= 2 * WINDOW && !tail.ends_with('\u{fffd}') {
            let kept = self.tokenizer.decode(&self.tokens[self.tokens.len() - WINDOW..], true)?;
            if let Some(head) = text.strip_suffix(kept.as_str()) {
                self.settled = Settled { tokens: self.tokens.len() - WINDOW, text: head.to_owned() };
            }
        }
        self.text = text;
        Ok(())
    }
}
