//! Renders one conversation, and finds where an answer begins in it.

use std::borrow::Cow;

use minijinja::value::Value as TemplateValue;
use serde_json::Value;

use super::environment::{FUEL, describe};
use super::message::{REASONING, length_of};
use super::{ChatTemplate, MarkedText, Message, NamedTemplate, generation, python};
use crate::error::{ModelError, Result};

/// The instructions that a rendering may take beyond [`FUEL`] for each message, and for each byte of their texts.
const FUEL_OF_MESSAGE: usize = 5_000;
const FUEL_OF_BYTE: usize = 5;

/// A conversation that can be rendered up to different messages.
#[derive(Debug)]
pub struct Conversation<'a> {
    template: &'a ChatTemplate,
    chosen: &'a NamedTemplate,
    messages: &'a [Message],
    values: Vec<TemplateValue>,
    tools: TemplateValue,
    /// The bytes of all texts, and of the tools.
    length: usize,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(
        template: &'a ChatTemplate,
        chosen: &'a NamedTemplate,
        messages: &'a [Message],
        tools: Option<&Value>,
    ) -> Self {
        Self {
            template,
            chosen,
            messages,
            values: messages.iter().map(|message| message.to_template(&chosen.reasoning)).collect(),
            tools: tools.map_or_else(|| TemplateValue::from(()), python::template_value),
            length: messages.iter().map(Message::length).sum::<usize>() + tools.map_or(0, length_of),
        }
    }

    /// The text of the first `count` messages; with `add_generation_prompt`, it ends with the beginning of the assistant's next
    /// message.
    ///
    /// # Errors
    /// [`ModelError::Template`] if the template fails or refuses the messages.
    pub fn render(&self, count: usize, add_generation_prompt: bool) -> Result<String> {
        self.render_values(&self.chosen.plain(), self.values[..count].to_vec(), add_generation_prompt)
    }

    /// The text with the parts in `{% generation %}` blocks; `None` if the template has no such blocks.
    ///
    /// # Errors
    /// As [`Conversation::render`].
    pub fn render_marked(&self) -> Result<Option<MarkedText>> {
        if !self.chosen.marks {
            return Ok(None);
        }
        let plain = self.render(self.values.len(), false)?;
        let marked = generation::read_marks(&self.render_values(&self.chosen.marked(), self.values.clone(), false)?);
        // They differ if a message contains the marks, or the template changes the text in a block.
        Ok(marked.filter(|marked| marked.text == plain && !marked.spans.is_empty()))
    }

    /// The byte at which the content of message `count - 1` begins in `text`, the text of the first `count` messages.
    ///
    /// It is found by rendering the message with marks in it. A search for the content could find an earlier copy of it. `None`
    /// if the marks change the rest of the text, or the template does not print them.
    ///
    /// # Errors
    /// As [`Conversation::render`].
    pub fn answer_start(&self, count: usize, text: &str) -> Result<Option<usize>> {
        let Some(last) = count.checked_sub(1).and_then(|last| self.messages.get(last)) else { return Ok(None) };
        for marks in Marks::ALL {
            let mut values = self.values[..count - 1].to_vec();
            values.push(marks.put_into(last).to_template(&self.chosen.reasoning));
            // Some templates refuse a message with marks.
            let Ok(marked) = self.render_values(&self.chosen.plain(), values, false) else { continue };
            if is_without_marks(&marked, text)
                && let Some(start) = last_start(&marked)
            {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }

    fn render_values(&self, name: &str, messages: Vec<TemplateValue>, prompt: bool) -> Result<String> {
        let failed = |error: &minijinja::Error| ModelError::Template { reason: describe(error) };
        // Long strings use fuel too; a long conversation must not look like an endless loop.
        let mut environment = Cow::Borrowed(&self.template.environment);
        let more = FUEL_OF_MESSAGE * self.messages.len() + FUEL_OF_BYTE * self.length;
        if more as u64 > FUEL / 2 {
            environment.to_mut().set_fuel(Some(FUEL + more as u64));
        }
        let template = environment.get_template(name).map_err(|error| failed(&error))?;
        let own = [
            ("messages", TemplateValue::from(messages)),
            ("tools", self.tools.clone()),
            ("documents", TemplateValue::from(())),
            ("add_generation_prompt", prompt.into()),
        ];
        let special = self.template.special.iter().map(|(name, value)| (name.as_str(), value.clone()));
        template.render(TemplateValue::from_pairs(special.chain(own))).map_err(|error| failed(&error))
    }
}

fn is_mark(character: char) -> bool {
    ('\u{fdd0}'..='\u{fdef}').contains(&character)
}

fn is_without_marks(marked: &str, text: &str) -> bool {
    let mut rest = text;
    let is_next = |piece: &str| match rest.strip_prefix(piece) {
        Some(after) => {
            rest = after;
            true
        }
        None => false,
    };
    marked.split(is_mark).all(is_next) && rest.is_empty()
}

/// Where the content begins in the text without marks. Some templates print it twice: then the last copy counts.
fn last_start(marked: &str) -> Option<usize> {
    let marks: Vec<(usize, &str)> = marked.match_indices(is_mark).collect();
    let mut first = marks.len();
    while first > 0 && marks[first..].iter().all(|(_, later)| *later != marks[first - 1].1) {
        first -= 1;
    }
    let (at, _) = marks.get(first)?;
    Some(at - first * generation::OPEN.len_utf8())
}

/// Where marks are inserted into a message.
#[derive(Debug, Clone, Copy)]
struct Marks {
    /// At the start of each text.
    start: bool,
    /// After the tags around reasoning, at which some templates split the content.
    tags: bool,
    /// After white space at these positions, which some templates strip.
    inside: bool,
}

impl Marks {
    /// Templates split and strip differently. The first that leaves the rest of the text unchanged is used.
    const ALL: [Self; 5] = [
        Self { start: true, tags: true, inside: false },
        Self { start: true, tags: true, inside: true },
        Self { start: true, tags: false, inside: false },
        Self { start: true, tags: false, inside: true },
        Self { start: false, tags: true, inside: true },
    ];

    fn put_into(self, message: &Message) -> Message {
        // Noncharacters of Unicode, a different one for each mark.
        let mut marks = '\u{fdd0}'..='\u{fdef}';
        let mut marked = message.clone();
        for name in REASONING {
            if let Some(Value::String(text)) = marked.extra.get_mut(name).filter(|text| text.as_str() != Some("")) {
                *text = self.mark(text, &mut marks);
            }
        }
        match &mut marked.content {
            Value::String(text) => *text = self.mark(text, &mut marks),
            Value::Array(parts) => {
                if let Some(Value::String(text)) = parts.iter_mut().find_map(|part| part.get_mut("text")) {
                    *text = self.mark(text, &mut marks);
                }
            }
            _ => {}
        }
        marked
    }

    fn mark(self, text: &str, marks: &mut impl Iterator<Item = char>) -> String {
        const TAGS: [&str; 2] = ["<think>", "</think>"];
        let mut positions = Vec::new();
        if self.start {
            positions.push(0);
        }
        if self.tags {
            positions.extend(TAGS.iter().flat_map(|tag| text.match_indices(tag).map(|(at, tag)| at + tag.len())));
        }
        if self.inside {
            for at in &mut positions {
                *at = text.len() - python::strip_start(&text[*at..], None).len();
            }
        }
        positions.sort_unstable();
        positions.dedup();
        let mut marked = String::with_capacity(text.len() + 3 * positions.len());
        let mut copied = 0;
        for (at, mark) in positions.into_iter().zip(marks) {
            marked.push_str(&text[copied..at]);
            marked.push(mark);
            copied = at;
        }
        marked.push_str(&text[copied..]);
        marked
    }
}
