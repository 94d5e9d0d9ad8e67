//! Which bytes of a rendered conversation the assistant wrote.

use std::ops::Range;

use burnish_models::{ChatTemplate, Message};
use serde_json::Value;

/// A text with the byte ranges that are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) text: String,
    pub(super) learned: Vec<Range<usize>>,
    /// Whether the last message is the assistant's: then its end must be learned.
    pub(super) ends_with_assistant: bool,
}

/// Renders a conversation and finds the assistant's turns from `learn_from` on.
///
/// One text, unless the template writes earlier turns differently once later ones follow (some take out the thinking of
/// past turns, some put tools before the last question): then one text a turn, in which only that turn is learned.
pub(super) fn render(
    template: &ChatTemplate,
    messages: &[Message],
    tools: Option<&Value>,
    learn_from: usize,
) -> Result<Vec<Rendered>, String> {
    let ends_with_assistant = messages.last().is_some_and(is_assistant);
    let turns: Vec<usize> = (learn_from..messages.len()).filter(|index| is_assistant(&messages[*index])).collect();
    if turns.is_empty() {
        return Err("the conversation has no assistant turn to learn".to_owned());
    }
    let all_turns = messages.iter().filter(|message| is_assistant(message)).count();
    if let Some(marked) = template.render_marked(messages, tools).map_err(|error| error.to_string())? {
        // Spans can be told apart by turn only when there is one for each.
        let skipped = all_turns - turns.len();
        if skipped == 0 || marked.spans.len() == all_turns {
            let learned = marked.spans.into_iter().skip(skipped).collect();
            return Ok(vec![Rendered { text: marked.text, learned, ends_with_assistant }]);
        }
    }
    let text = template.render(messages, tools, false).map_err(|error| error.to_string())?;
    let mut learned = Vec::with_capacity(turns.len());
    for turn in &turns {
        match turn_span(template, messages, tools, *turn, &text)? {
            Some(span) => learned.push(span),
            None => return each_turn(template, messages, tools, &turns),
        }
    }
    Ok(vec![Rendered { text, learned, ends_with_assistant }])
}

fn each_turn(
    template: &ChatTemplate,
    messages: &[Message],
    tools: Option<&Value>,
    turns: &[usize],
) -> Result<Vec<Rendered>, String> {
    let mut texts = Vec::with_capacity(turns.len());
    for turn in turns {
        let until = &messages[..=*turn];
        let text = template.render(until, tools, false).map_err(|error| error.to_string())?;
        let span = turn_span(template, until, tools, *turn, &text)?.or_else(|| {
            let content = until[*turn].content.as_str().map(str::trim).filter(|content| !content.is_empty())?;
            text.rfind(content).map(|start| start..text.len())
        });
        let span = span
            .ok_or_else(|| format!("the chat template writes message {} so that it can't be found in the text", turn + 1))?;
        texts.push(Rendered { text, learned: vec![span], ends_with_assistant: true });
    }
    Ok(texts)
}

/// Where a turn stands in `text`: after what the template puts before an answer, up to the end of the turn. `None` when
/// `text` doesn't begin as the turn rendered by itself does.
fn turn_span(
    template: &ChatTemplate,
    messages: &[Message],
    tools: Option<&Value>,
    turn: usize,
    text: &str,
) -> Result<Option<Range<usize>>, String> {
    let end = if turn + 1 == messages.len() {
        text.len()
    } else {
        let through = template.render(&messages[..=turn], tools, false).map_err(|error| error.to_string())?;
        if !text.starts_with(&through) {
            return Ok(None);
        }
        through.len()
    };
    // Some templates refuse to render nothing, or a conversation that does not end where they like.
    let before = template.render(&messages[..turn], tools, false).unwrap_or_default();
    let prompt = template.render(&messages[..turn], tools, true).unwrap_or_default();
    if !text.starts_with(&before) {
        // Nothing rendered is something in templates that give every conversation a system turn.
        return Ok(if turn == 0 { content_span(&messages[turn], text, 0..end) } else { None });
    }
    let start = if !prompt.is_empty() && text.starts_with(&prompt) {
        Some(prompt.len())
    } else {
        // The prompt may go further than the text does: templates that open a thinking block for the answer.
        let shared = common_prefix(&prompt, text);
        let written = content_span(&messages[turn], text, before.len()..end).map(|span| span.start);
        written.or_else(|| (shared > before.len()).then_some(shared))
    };
    Ok(start.filter(|start| *start < end).map(|start| start..end))
}

/// From where the content of a message first stands in a part of the text, to the end of that part.
fn content_span(message: &Message, text: &str, within: Range<usize>) -> Option<Range<usize>> {
    let content = message.content.as_str().map(str::trim).filter(|content| !content.is_empty())?;
    let start = text.get(within.clone())?.find(content)?;
    Some(within.start + start..within.end)
}

fn common_prefix(left: &str, right: &str) -> usize {
    let same = left.bytes().zip(right.bytes()).take_while(|(left, right)| left == right).count();
    (0..=same).rev().find(|at| right.is_char_boundary(*at)).unwrap_or(0)
}

pub(super) fn is_assistant(message: &Message) -> bool {
    matches!(message.role.as_str(), "assistant" | "model")
}
