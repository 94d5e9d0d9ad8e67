//! Finds the bytes of a rendered conversation that the assistant wrote.

use std::ops::Range;

use burnish_models::{Conversation, Message, Start};

/// A rendered text with its tokens, and the byte ranges to learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// The tokens that fit into an example; for a long text not all of them.
    pub(super) tokens: Start,
    pub(super) learned: Vec<Range<usize>>,
    /// Whether the last message is the assistant's, so that its end must be learned.
    pub(super) ends_with_assistant: bool,
}

/// A conversation, and which of its turns are learned.
pub(super) struct Turns<'a> {
    pub(super) conversation: Conversation<'a>,
    pub(super) messages: &'a [Message],
    /// Turns before this one are context only.
    pub(super) learn_from: usize,
    /// Turns that are never learned.
    pub(super) unlearned: &'a [usize],
    /// Tokenises a text, up to the length of an example.
    pub(super) encode: &'a dyn Fn(&str) -> Result<Start, String>,
}

impl Turns<'_> {
    /// Renders the conversation and finds the assistant's turns.
    ///
    /// Returns one text, unless the template renders earlier turns differently once later ones follow (some remove the thinking of past
    /// turns, some put tools before the last question). Then it returns one text per turn, in which only that turn is learned.
    pub(super) fn render(&self) -> Result<Vec<Rendered>, String> {
        let all: Vec<usize> = (0..self.messages.len()).filter(|index| is_assistant(&self.messages[*index])).collect();
        if all.iter().all(|turn| *turn < self.learn_from) {
            return Err("the conversation has no assistant turn to train on".to_owned());
        }
        let is_learned = |turn: &usize| *turn >= self.learn_from && !self.unlearned.contains(turn);
        let turns: Vec<usize> = all.iter().copied().filter(is_learned).collect();
        if let Some(marked) = self.conversation.render_marked().map_err(|error| error.to_string())? {
            // Spans can be assigned to turns only if there is one for each.
            let each = marked.spans.len() == all.len();
            if each || turns.len() == all.len() {
                let spans = marked.spans.into_iter().enumerate();
                let learned = spans.filter(|(index, _)| !each || is_learned(&all[*index])).map(|(_, span)| span).collect();
                return Ok(vec![self.rendered(marked.text, learned)?]);
            }
        }
        let mut rendered = self.rendered(self.text(self.messages.len())?, Vec::new())?;
        let limit = rendered.limit();
        for turn in &turns {
            match self.span(*turn, &rendered.text, false)? {
                // Text behind the last token of the example does not matter.
                Some(span) if span.start >= limit => break,
                Some(span) => rendered.learned.push(span),
                None => return turns.iter().map(|turn| self.render_turn(*turn)).collect(),
            }
        }
        Ok(vec![rendered])
    }

    /// Renders the conversation so that all of it is learned, except for unlearned turns.
    pub(super) fn render_whole(&self) -> Result<Rendered, String> {
        let text = self.text(self.messages.len())?;
        let mut learned = Vec::new();
        let mut start = 0;
        for turn in self.unlearned.iter().filter(|turn| is_assistant(&self.messages[**turn])) {
            let span = self.span(*turn, &text, false)?.ok_or_else(|| not_found(*turn))?;
            learned.push(start..span.start);
            start = span.end;
        }
        learned.push(start..text.len());
        self.rendered(text, learned)
    }

    /// Renders a conversation up to a turn, and learns only that turn.
    fn render_turn(&self, turn: usize) -> Result<Rendered, String> {
        let text = self.text(turn + 1)?;
        let span = self.span(turn, &text, true)?.ok_or_else(|| not_found(turn))?;
        Ok(Rendered { ends_with_assistant: true, ..self.rendered(text, vec![span])? })
    }

    fn rendered(&self, text: String, learned: Vec<Range<usize>>) -> Result<Rendered, String> {
        let tokens = (self.encode)(&text)?;
        Ok(Rendered { text, tokens, learned, ends_with_assistant: self.messages.last().is_some_and(is_assistant) })
    }

    fn text(&self, count: usize) -> Result<String, String> {
        self.conversation.render(count, false).map_err(|error| error.to_string())
    }

    /// The range of a turn in `text`: from the end of the generation prompt to the end of the turn. `None` if `text` does not begin with
    /// the conversation rendered up to this turn.
    ///
    /// The answer is never searched for, since the template may print the same words elsewhere: both ends are lengths of renderings that
    /// `text` begins with, or positions of a marker.
    fn span(&self, turn: usize, text: &str, is_last: bool) -> Result<Option<Range<usize>>, String> {
        let end = if is_last || turn + 1 == self.messages.len() {
            text.len()
        } else {
            let through = self.text(turn + 1)?;
            if !text.starts_with(&through) {
                return Ok(None);
            }
            through.len()
        };
        // Some templates refuse an empty conversation, or one that ends with the wrong role.
        let prompt = self.conversation.render(turn, true).unwrap_or_default();
        let start = if !prompt.is_empty() && text.starts_with(&prompt) {
            Some(prompt.len())
        } else {
            let marked = self.conversation.answer_start(turn + 1, &text[..end]).map_err(|error| error.to_string())?;
            let before = self.conversation.render(turn, false).unwrap_or_default();
            // The prompt may be longer than the common part, if the template opens a thinking block for the answer.
            let shared = common_prefix(&prompt, text);
            let shared = (text.starts_with(&before) && shared > before.len()).then_some(shared);
            // Templates that add a system turn to every conversation do not render an empty one as empty.
            if before.is_empty() { marked.or(shared) } else { shared.into_iter().chain(marked).min() }
        };
        Ok(start.filter(|start| *start < end).map(|start| start..end))
    }
}

impl Rendered {
    /// End of the text that the tokens cover, in bytes.
    fn limit(&self) -> usize {
        match self.tokens.offsets.last() {
            Some((_, end)) if !self.tokens.whole => *end,
            _ => self.text.len(),
        }
    }
}

fn not_found(turn: usize) -> String {
    format!("the chat template renders message {} so that it can't be separated from the rest of the text", turn + 1)
}

fn common_prefix(left: &str, right: &str) -> usize {
    let same = left.bytes().zip(right.bytes()).take_while(|(left, right)| left == right).count();
    (0..=same).rev().find(|at| right.is_char_boundary(*at)).unwrap_or(0)
}

fn is_assistant(message: &Message) -> bool {
    matches!(message.role.as_str(), "assistant" | "model")
}
