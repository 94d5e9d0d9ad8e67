//! The checkpoint's own chat template, rendered as transformers renders it.

mod generation;
mod python;

use std::path::Path;

use minijinja::value::{Kwargs, Value as TemplateValue};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::tokenizer::SpecialTokens;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text, a list of parts, or null where a turn only calls tools.
    #[serde(default)]
    pub content: Value,
    /// Whatever else the row has, such as `tool_calls`: templates may read it.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A turn of text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Value::String(text.into()), extra: Map::new() }
    }

    fn to_template(&self) -> TemplateValue {
        let own = [
            ("role".to_owned(), TemplateValue::from(&self.role)),
            ("content".to_owned(), python::template_value(&self.content)),
        ];
        let extra = self.extra.iter().map(|(key, value)| (key.clone(), python::template_value(value)));
        TemplateValue::from_pairs(own.into_iter().chain(extra))
    }
}

/// Text with the byte ranges that the template itself marks as written by the assistant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedText {
    /// The conversation.
    pub text: String,
    /// Ranges of `text`, in order.
    pub spans: Vec<std::ops::Range<usize>>,
}

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    bos: String,
    eos: String,
    marks: bool,
}

/// Name of the template that prints the conversation, and of the one that also prints where the assistant speaks.
const PLAIN: &str = "chat_template";
const MARKED: &str = "chat_template, marked";
/// Instructions of a rendering; long conversations take thousands, and loops within loops of a bad template any number.
const FUEL: u64 = 20_000_000;
/// The global that fixes the date; no template can name it.
const NOW: &str = "now, fixed";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`ModelError::Template`] with the line that is wrong.
    pub fn new(source: String, special: &SpecialTokens) -> Result<Self> {
        let failed = |error: &Error| ModelError::Template { reason: describe(error) };
        let mut environment = environment().map_err(|error| failed(&error))?;
        let marks = generation::is_marked(&source);
        // Jinja knows one kind of newline.
        let lines = source.replace("\r\n", "\n").replace('\r', "\n");
        environment
            .add_template_owned(PLAIN, generation::as_filters(&lines, generation::PLAIN))
            .map_err(|error| failed(&error))?;
        if marks {
            environment
                .add_template_owned(MARKED, generation::as_filters(&lines, generation::MARKED))
                .map_err(|error| failed(&error))?;
        }
        let text = |token: &Option<(String, u32)>| token.as_ref().map(|(text, _)| text.clone()).unwrap_or_default();
        Ok(Self { source, environment, bos: text(&special.bos), eos: text(&special.eos), marks })
    }

    /// Lets templates that print the date print that of `seconds` since 1970, so that a run that is resumed on another
    /// day sees the same text.
    pub fn fix_now(&mut self, seconds: i64) {
        self.environment.add_global(NOW, seconds);
    }

    /// Reads `chat_template.jinja`, or else the key of `tokenizer_config.json`; `None` where there is neither.
    ///
    /// # Errors
    /// When the template does not compile or a file can't be read.
    pub fn from_folder(folder: &Path, special: &SpecialTokens) -> Result<Option<Self>> {
        let path = folder.join("chat_template.jinja");
        if path.exists() {
            let source = std::fs::read_to_string(&path).map_err(|error| ModelError::io(&path, error))?;
            return Self::new(source, special).map(Some);
        }
        let path = folder.join("tokenizer_config.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
        let config: Value =
            serde_json::from_slice(&text).map_err(|error| ModelError::format(&path, format!("not JSON: {error}")))?;
        let source = match config.get("chat_template") {
            Some(Value::String(source)) => Some(source.as_str()),
            // Several templates by name: `default` is the one for plain chat.
            Some(Value::Array(list)) => list
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
                .or_else(|| list.first())
                .and_then(|entry| entry.get("template").and_then(Value::as_str)),
            _ => None,
        };
        source.map(|source| Self::new(source.to_owned(), special)).transpose()
    }

    /// The template as the checkpoint has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation; `add_generation_prompt` adds what comes before the assistant's next turn.
    ///
    /// # Errors
    /// [`ModelError::Template`], also when the template itself refuses the messages.
    pub fn render(&self, messages: &[Message], tools: Option<&Value>, add_generation_prompt: bool) -> Result<String> {
        self.render_as(PLAIN, messages, tools, add_generation_prompt)
    }

    /// The text of a conversation with the spans of its `{% generation %}` blocks; `None` where the template has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_marked(&self, messages: &[Message], tools: Option<&Value>) -> Result<Option<MarkedText>> {
        if !self.marks {
            return Ok(None);
        }
        let plain = self.render(messages, tools, false)?;
        let marked = generation::read_marks(&self.render_as(MARKED, messages, tools, false)?);
        // They differ where a message holds the marks themselves, or the template rewrites the text it has marked.
        Ok(marked.filter(|marked| marked.text == plain && !marked.spans.is_empty()))
    }

    fn render_as(&self, name: &str, messages: &[Message], tools: Option<&Value>, prompt: bool) -> Result<String> {
        let failed = |error: &Error| ModelError::Template { reason: describe(error) };
        let template = self.environment.get_template(name).map_err(|error| failed(&error))?;
        let context = TemplateValue::from_pairs([
            ("messages", messages.iter().map(Message::to_template).collect::<Vec<_>>().into()),
            ("tools", tools.map_or_else(|| TemplateValue::from(()), python::template_value)),
            ("documents", TemplateValue::from(())),
            ("add_generation_prompt", prompt.into()),
            ("bos_token", TemplateValue::from(&self.bos)),
            ("eos_token", TemplateValue::from(&self.eos)),
        ]);
        template.render(context).map_err(|error| failed(&error))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Jinja as transformers sets it up.
fn environment() -> std::result::Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| {
        Err::<TemplateValue, _>(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", python::tojson);
    // Strings and mappings are sequences to Jinja's tests, and None is nothing.
    environment.add_test("sequence", python::is_iterable);
    environment.add_test("iterable", python::is_iterable);
    generation::add_filters(&mut environment);
    Ok(environment)
}

/// Today in UTC, or the day of [`ChatTemplate::fix_now`].
fn strftime_now(state: &State, format: String) -> std::result::Result<String, Error> {
    let fixed = state.lookup(NOW).filter(|now| !now.is_undefined());
    let now = fixed.unwrap_or_else(minijinja_contrib::globals::now);
    let options = Kwargs::from_iter([("format", TemplateValue::from(format))]);
    minijinja_contrib::filters::datetimeformat(state, now, options)
}

fn describe(error: &Error) -> String {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("it does not come to an end within {FUEL} instructions{line}");
    }
    match error.detail() {
        // What `raise_exception` says is meant for people as it stands.
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => format!("{detail}{line}"),
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

#[cfg(test)]
mod tests;
