//! From rows to tokens with labels.

use std::ops::Range;

use burnish_models::{ChatTemplate, Message, Tokenizer};

use super::IGNORE;
use super::format::Row;
use super::spans::{self, Rendered};

/// Tokens and what is learned of them: `labels[i]` is `input_ids[i]` where that token is learned and -100 where it is
/// not. Nothing is shifted here: the loss compares what position `i` predicts with `labels[i + 1]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub input_ids: Vec<u32>,
    /// One a token.
    pub labels: Vec<i64>,
}

impl Example {
    /// Tokens that are learned; the first never is, for nothing comes before it.
    pub fn target_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORE).count()
    }
}

/// How rows become examples.
#[derive(Debug, Clone)]
pub struct Preparation<'a> {
    /// Text to ids.
    pub tokenizer: &'a Tokenizer,
    /// Messages to text, where the model has a template.
    pub template: Option<&'a ChatTemplate>,
    /// Learn only what the assistant writes, or the completion; `text` rows are always learned whole.
    pub mask_prompt: bool,
    /// Examples are cut to so many tokens.
    pub max_seq_length: usize,
    /// Rows of the model's embedding: no id may be as great.
    pub vocab_size: usize,
}

/// What a row became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// At most `max_seq_length` tokens each, all with something to learn.
    pub examples: Vec<Example>,
    /// Examples that were longer.
    pub cut: usize,
    /// Examples in which nothing was left to learn.
    pub dropped: usize,
    /// Whether each assistant turn became an example of its own.
    pub split: bool,
}

impl Preparation<'_> {
    /// The examples of a row: one, or one an assistant turn where the template asks for it.
    ///
    /// # Errors
    /// What is wrong with the row, for a person who looks at it.
    pub fn prepare(&self, row: &Row) -> Result<Made, String> {
        let mut examples = match row {
            Row::Chat { messages, tools, learn_from } => self.chat(messages, tools.as_ref(), *learn_from)?,
            Row::Completion { prompt, completion } => vec![self.completion(prompt, completion)?],
            Row::Text(text) => vec![self.text(text)?],
            Row::Alpaca { instruction, input, output } => vec![self.alpaca(instruction, input, output)?],
            Row::Tokens { input_ids, labels } => vec![from_tokens(input_ids, labels.as_deref())],
            Row::Preference => {
                return Err(
                    "a preference row (chosen, rejected) needs a preference recipe such as dpo, and this is sft".into()
                );
            }
        };
        for example in &examples {
            self.check(example)?;
        }
        let (whole, split) = (examples.len(), examples.len() > 1);
        let mut cut = 0;
        for example in examples.iter_mut().filter(|example| example.input_ids.len() > self.max_seq_length) {
            example.input_ids.truncate(self.max_seq_length);
            example.labels.truncate(self.max_seq_length);
            cut += 1;
        }
        examples.retain(|example| example.target_tokens() > 0);
        Ok(Made { dropped: whole - examples.len(), examples, cut, split })
    }

    fn chat(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        learn_from: usize,
    ) -> Result<Vec<Example>, String> {
        let template = self.template.ok_or("the model has no chat template, which rows of messages need")?;
        if !self.mask_prompt {
            let text = template.render(messages, tools, false).map_err(|error| error.to_string())?;
            let whole = 0..text.len();
            let ends_with_assistant = messages.last().is_some_and(spans::is_assistant);
            return Ok(vec![self.label(&Rendered { text, learned: vec![whole], ends_with_assistant })?]);
        }
        spans::render(template, messages, tools, learn_from)?.iter().map(|rendered| self.label(rendered)).collect()
    }

    /// Tokens of a rendered conversation. Its special tokens are in the text already, so none are added, but for an end:
    /// a model never stops that was never shown where to.
    fn label(&self, rendered: &Rendered) -> Result<Example, String> {
        let Rendered { text, learned, ends_with_assistant } = rendered;
        let (ids, offsets) = self.tokenizer.encode_with_offsets(text, false).map_err(|error| error.to_string())?;
        let mut example = with_labels(ids, &offsets, learned);
        if *ends_with_assistant && learned.last().is_some_and(|span| span.end == text.len()) {
            let written =
                offsets.iter().rposition(|(start, end)| text.get(*start..*end).is_none_or(|piece| !piece.trim().is_empty()));
            let ended = written.is_some_and(|last| self.tokenizer.is_special(example.input_ids[last]));
            if !ended {
                self.end(&mut example);
            }
        }
        Ok(example)
    }

    fn completion(&self, prompt: &str, completion: &str) -> Result<Example, String> {
        let start = if self.mask_prompt { prompt.len() } else { 0 };
        let text = format!("{prompt}{completion}");
        self.plain(&text, start)
    }

    fn text(&self, text: &str) -> Result<Example, String> {
        if text.is_empty() {
            return Err("text is empty".to_owned());
        }
        self.plain(text, 0)
    }

    /// Text that no template wraps: the tokenizer's own special tokens go around it, and the end is learned.
    fn plain(&self, text: &str, learned_from: usize) -> Result<Example, String> {
        let begun = self.tokenizer.special().bos.as_ref().is_some_and(|(bos, _)| text.starts_with(bos.as_str()));
        let (ids, offsets) = self.tokenizer.encode_with_offsets(text, !begun).map_err(|error| error.to_string())?;
        let learned = learned_from..text.len();
        let mut example = with_labels(ids, &offsets, std::slice::from_ref(&learned));
        if example.input_ids.last().copied().is_some_and(|last| Some(last) == self.eos()) {
            // An end that the tokenizer has put there stands for no byte of the text.
            example.input_ids.pop();
            example.labels.pop();
        }
        self.end(&mut example);
        Ok(example)
    }

    /// Alpaca's own prompt is for models without a template.
    fn alpaca(&self, instruction: &str, input: &str, output: &str) -> Result<Example, String> {
        if self.template.is_some() {
            let question = if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n\n{input}") };
            let messages = [Message::new("user", question), Message::new("assistant", output)];
            return self.chat(&messages, None, 0)?.pop().ok_or_else(|| "nothing to learn".to_owned());
        }
        self.completion(&alpaca_prompt(instruction, input), output)
    }

    fn end(&self, example: &mut Example) {
        if let Some(eos) = self.eos() {
            example.input_ids.push(eos);
            example.labels.push(i64::from(eos));
        }
    }

    fn eos(&self) -> Option<u32> {
        self.tokenizer.special().eos.as_ref().map(|(_, id)| *id)
    }

    fn check(&self, example: &Example) -> Result<(), String> {
        let size = self.vocab_size;
        if let Some(id) = example.input_ids.iter().find(|id| **id as usize >= size) {
            return Err(format!("token id {id} is outside the model's vocabulary of {size}"));
        }
        let outside = |label: &&i64| **label != IGNORE && !(0..size as i64).contains(*label);
        match example.labels.iter().find(outside) {
            Some(label) => Err(format!("label {label} is neither -100 nor in the model's vocabulary of {size}")),
            None => Ok(()),
        }
    }
}

fn from_tokens(input_ids: &[u32], labels: Option<&[i64]>) -> Example {
    let labels = labels.map_or_else(|| input_ids.iter().map(|id| i64::from(*id)).collect(), <[i64]>::to_vec);
    Example { input_ids: input_ids.to_vec(), labels }
}

/// A token is learned when it starts inside a span.
fn with_labels(ids: Vec<u32>, offsets: &[(usize, usize)], learned: &[Range<usize>]) -> Example {
    let is_learned = |at: &(usize, usize)| learned.iter().any(|span| span.contains(&at.0));
    let labels = ids.iter().zip(offsets).map(|(id, at)| if is_learned(at) { i64::from(*id) } else { IGNORE }).collect();
    Example { input_ids: ids, labels }
}

fn alpaca_prompt(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:\n"
        )
    } else {
        format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
             response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        )
    }
}
