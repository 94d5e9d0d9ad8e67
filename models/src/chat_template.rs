//! Renders the chat templates of a model as transformers does.

mod arguments;
mod conversation;
mod environment;
mod folder;
mod formats;
mod generation;
mod limits;
mod message;
mod methods;
mod operators;
mod python;
mod syntax;
mod tojson;

use std::collections::BTreeMap;

use minijinja::value::Value as TemplateValue;
use minijinja::{Environment, Error};
use serde_json::Value;

pub use conversation::Conversation;
pub use folder::ADDITIONAL_TEMPLATES;
pub(crate) use folder::TEMPLATE_FOLDERS;
pub use message::{Message, REASONING};

use crate::error::{ModelError, Result};
use crate::tokenizer::SpecialTokens;

/// A rendered conversation, with the parts that the template itself marks as written by the assistant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedText {
    /// The text.
    pub text: String,
    /// The byte ranges of those parts in `text`, in order.
    pub spans: Vec<std::ops::Range<usize>>,
}

/// The compiled chat templates of a model: one, or several with names.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    templates: Vec<NamedTemplate>,
    /// The variables with the special tokens, such as `bos_token`.
    special: BTreeMap<String, TemplateValue>,
}

/// One of the templates.
#[derive(Debug, Clone)]
struct NamedTemplate {
    name: String,
    source: String,
    /// Whether it has `{% generation %}` blocks.
    marks: bool,
    /// The keys under which it reads the reasoning of a message.
    reasoning: Vec<&'static str>,
    /// Why it does not compile.
    failure: Option<String>,
}

/// The name of the template for chats without tools.
const DEFAULT: &str = "default";
/// The name of the template for chats with tools.
const TOOL_USE: &str = "tool_use";

impl NamedTemplate {
    /// Compiles a template. `failure` is the error if it does not compile.
    fn compile(name: String, source: String, environment: &mut Environment<'static>) -> Self {
        let marks = generation::is_marked(&source);
        let mut compiled = Self { name, marks, reasoning: reasoning_names(&source), source, failure: None };
        // Jinja converts newlines too.
        let lines = compiled.source.replace("\r\n", "\n").replace('\r', "\n");
        let calls = match operators::as_calls(&lines) {
            Ok(calls) => calls,
            Err(reason) => return Self { failure: Some(reason), ..compiled },
        };
        let mut add =
            |name: String, filter: &str| environment.add_template_owned(name, generation::as_filters(&calls, filter));
        let mut added = add(compiled.plain(), generation::PLAIN);
        if marks {
            added = added.and_then(|()| add(compiled.marked(), generation::MARKED));
        }
        compiled.failure = added.err().map(|error| environment::describe(&error));
        compiled
    }

    /// The name of the plain variant in the environment.
    fn plain(&self) -> String {
        self.name.clone()
    }

    /// The name of the variant that also prints marks around what the assistant writes.
    fn marked(&self) -> String {
        format!("{}, marked", self.name)
    }
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`ModelError::Template`] with the line if it does not compile.
    pub fn new(source: String, special: &SpecialTokens) -> Result<Self> {
        Self::named(vec![(DEFAULT.to_owned(), source)], special)
    }

    /// Compiles templates, given by name and source: `default` is for chats without tools, `tool_use` for those with tools.
    ///
    /// # Errors
    /// [`ModelError::Template`] if `default` does not compile. For the others, using them is an error.
    pub fn named(templates: Vec<(String, String)>, special: &SpecialTokens) -> Result<Self> {
        let failed = |error: &Error| ModelError::Template { reason: environment::describe(error) };
        let mut environment = environment::environment().map_err(|error| failed(&error))?;
        let templates: Vec<NamedTemplate> =
            templates.into_iter().map(|(name, source)| NamedTemplate::compile(name, source, &mut environment)).collect();
        let broken = templates.iter().find(|template| template.name == DEFAULT).and_then(|default| default.failure.clone());
        if let Some(reason) = broken {
            return Err(ModelError::Template { reason });
        }
        let tokens = [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("pad_token", &special.pad),
            ("unk_token", &special.unk),
        ];
        let special = tokens
            .into_iter()
            .filter_map(|(name, token)| Some((name.to_owned(), TemplateValue::from(&token.as_ref()?.0))))
            .collect();
        Ok(Self { environment, templates, special })
    }

    /// Sets the current time of the templates, in seconds since 1970. Templates that print the date then give the same text when a
    /// run is resumed on another day.
    pub fn fix_now(&mut self, seconds: i64) {
        self.environment.add_global(environment::NOW, seconds);
    }

    /// The source of the default template, or of the first one if there is no default.
    pub fn source(&self) -> &str {
        let default = self.templates.iter().find(|template| template.name == DEFAULT).or(self.templates.first());
        default.map_or("", |template| &template.source)
    }

    /// The names and sources of all templates. A single template is called `default`.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.templates.iter().map(|template| (template.name.as_str(), template.source.as_str()))
    }

    /// The template for a conversation, chosen as in transformers.
    fn choose(&self, tools: Option<&Value>) -> Result<&NamedTemplate> {
        let find = |name: &str| self.templates.iter().find(|template| template.name == name);
        let chosen = tools.and_then(|_| find(TOOL_USE)).or_else(|| find(DEFAULT));
        let Some(chosen) = chosen else {
            let names: Vec<&str> = self.templates.iter().map(|template| template.name.as_str()).collect();
            let reason = format!("the model has no template named `{DEFAULT}`, only {}", names.join(", "));
            return Err(ModelError::Template { reason });
        };
        match &chosen.failure {
            Some(reason) => Err(ModelError::Template { reason: format!("`{}`: {reason}", chosen.name) }),
            None => Ok(chosen),
        }
    }

    /// Prepares a conversation, to render it several times.
    ///
    /// # Errors
    /// [`ModelError::Template`] if there is no template for it.
    pub fn conversation<'a>(&'a self, messages: &'a [Message], tools: Option<&Value>) -> Result<Conversation<'a>> {
        Ok(Conversation::new(self, self.choose(tools)?, messages, tools))
    }

    /// The text of a conversation; with `add_generation_prompt`, it ends with the beginning of the assistant's next message.
    ///
    /// # Errors
    /// [`ModelError::Template`] if there is no template for it, or the template fails or refuses the messages.
    pub fn render(&self, messages: &[Message], tools: Option<&Value>, add_generation_prompt: bool) -> Result<String> {
        self.conversation(messages, tools)?.render(messages.len(), add_generation_prompt)
    }

    /// The text of a conversation with the parts in `{% generation %}` blocks; `None` if the template has no such blocks.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_marked(&self, messages: &[Message], tools: Option<&Value>) -> Result<Option<MarkedText>> {
        self.conversation(messages, tools)?.render_marked()
    }

    /// Whether the template for a conversation prints the reasoning of messages.
    ///
    /// # Errors
    /// As [`ChatTemplate::conversation`].
    pub fn reads_reasoning(&self, tools: Option<&Value>) -> Result<bool> {
        Ok(!self.choose(tools)?.reasoning.is_empty())
    }
}

/// The names of [`REASONING`] that a template uses as an attribute or as a string.
fn reasoning_names(source: &str) -> Vec<&'static str> {
    let tags = syntax::tags(source);
    let reads = |name: &str| {
        tags.iter().any(|tag| {
            tag.tokens.iter().enumerate().any(|(at, token)| {
                let before = at.checked_sub(1).map(|before| &source[tag.tokens[before].range.clone()]);
                match token.kind {
                    syntax::Kind::Name => &source[token.range.clone()] == name && before == Some("."),
                    syntax::Kind::Text => source[token.range.clone()].trim_matches(['"', '\'']) == name,
                    syntax::Kind::Number | syntax::Kind::Operator => false,
                }
            })
        })
    };
    REASONING.into_iter().filter(|name| reads(name)).collect()
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ChatTemplate").field("templates", &self.templates).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
