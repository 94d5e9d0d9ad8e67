//! From rows to tokens with labels.

use std::ops::Range;

use burnish_models::{ChatTemplate, Message, Pretrained, Start, Tokenizer};

use super::IGNORE;
use super::format::Row;
use super::spans::{Rendered, Turns};

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
    /// Rows are pairs of a chosen and a rejected answer, and become two examples each.
    pub pairs: bool,
    /// Examples are cut to so many tokens.
    pub max_seq_length: usize,
    /// Rows of the model's embedding: no id may be as great.
    pub vocab_size: usize,
}

/// What a row became.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// At most `max_seq_length` tokens each, all with something to learn.
    pub examples: Vec<Example>,
    /// Examples that were longer.
    pub cut: usize,
    /// Examples in which nothing was left to learn.
    pub dropped: usize,
    /// Whether each assistant turn became an example of its own.
    pub split: bool,
    /// Examples with an answer that begins inside a token: the prompt ends in the middle of one.
    pub begun_inside: usize,
    /// Examples that should end, and whose model names no token for that.
    pub endless: usize,
    /// Whether the row has reasoning that the chat template has no place for.
    pub unread_reasoning: bool,
}

impl<'a> Preparation<'a> {
    /// How rows become examples for a model: answers are learned and prompts are not, up to 2048 tokens.
    pub fn of(model: &'a Pretrained) -> Self {
        Self {
            tokenizer: &model.tokenizer,
            template: model.chat_template.as_ref(),
            mask_prompt: true,
            pairs: false,
            max_seq_length: 2048,
            vocab_size: model.config.vocab_size,
        }
    }
}

impl Preparation<'_> {
    /// The examples of a row: one, or one an assistant turn where the template asks for it.
    ///
    /// # Errors
    /// What is wrong with the row, for a person who looks at it.
    pub fn prepare(&self, row: &Row) -> Result<Made, String> {
        match row {
            Row::Preference { chosen, rejected } if self.pairs => return self.pair(chosen, rejected),
            _ if self.pairs => return Err("a preference recipe learns from rows with chosen and rejected".to_owned()),
            _ => {}
        }
        let mut made = Made::default();
        match row {
            Row::Chat { messages, tools, learn_from, unlearned } => {
                self.chat(&mut made, messages, tools.as_ref(), *learn_from, unlearned)?;
            }
            Row::Completion { prompt, completion } => self.completion(&mut made, prompt, completion)?,
            Row::Text(text) if text.is_empty() => return Err("text is empty".to_owned()),
            Row::Text(text) => self.plain(&mut made, text, 0)?,
            Row::Alpaca { .. } => self.alpaca(&mut made, row)?,
            Row::Tokens { input_ids, labels } => made.examples.push(from_tokens(input_ids, labels.as_deref())),
            Row::Preference { .. } => {
                return Err(
                    "a preference row (chosen, rejected) needs a preference recipe such as dpo, and this is sft".into()
                );
            }
        }
        for example in &made.examples {
            self.check(example)?;
        }
        let whole = made.examples.len();
        made.split = whole > 1;
        for example in made.examples.iter_mut().filter(|example| example.input_ids.len() > self.max_seq_length) {
            example.input_ids.truncate(self.max_seq_length);
            example.labels.truncate(self.max_seq_length);
            made.cut += 1;
        }
        made.examples.retain(|example| example.target_tokens() > 0);
        made.dropped = whole - made.examples.len();
        Ok(made)
    }

    /// The chosen answer and the rejected one, each after the prompt; neither where one of them has nothing left to learn.
    fn pair(&self, chosen: &Row, rejected: &Row) -> Result<Made, String> {
        let alone = Preparation { pairs: false, mask_prompt: true, ..self.clone() };
        let (mut made, other) = (alone.prepare(chosen)?, alone.prepare(rejected)?);
        if made.split || other.split {
            return Err("an answer of several turns, each of which the template renders apart, is no half of a pair".into());
        }
        made.examples.extend(other.examples);
        made.cut += other.cut;
        made.begun_inside += other.begun_inside;
        made.endless += other.endless;
        made.unread_reasoning |= other.unread_reasoning;
        made.dropped = usize::from(made.examples.len() < 2);
        if made.dropped > 0 {
            made.examples.clear();
        }
        Ok(made)
    }

    fn chat(
        &self,
        made: &mut Made,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        learn_from: usize,
        unlearned: &[usize],
    ) -> Result<(), String> {
        let template = self.template.ok_or("the model has no chat template, which rows of messages need")?;
        let conversation = template.conversation(messages, tools).map_err(|error| error.to_string())?;
        let reads_reasoning = template.reads_reasoning(tools).map_err(|error| error.to_string())?;
        made.unread_reasoning = !reads_reasoning && messages.iter().any(|message| message.reasoning().is_some());
        // Special tokens are in the text already, so none are added.
        let encode = |text: &str| self.encode(text, false);
        let turns = Turns { conversation, messages, learn_from, unlearned, encode: &encode };
        if self.mask_prompt {
            turns.render()?.into_iter().for_each(|rendered| self.label(made, rendered));
        } else {
            self.label(made, turns.render_whole()?);
        }
        Ok(())
    }

    /// The tokens of a text that an example has room for.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Start, String> {
        self.tokenizer.encode_start(text, add_special_tokens, self.max_seq_length).map_err(|error| error.to_string())
    }

    /// Tokens of a rendered conversation with what is learned of them, and an end where the template gives none: a model
    /// never stops that was never shown where to.
    fn label(&self, made: &mut Made, rendered: Rendered) {
        let Rendered { text, tokens, learned, ends_with_assistant } = rendered;
        let whole = tokens.whole;
        let last = |(start, end): &(usize, usize)| text.get(*start..*end).is_none_or(|piece| !piece.trim().is_empty());
        let last = tokens.offsets.iter().rposition(last);
        let ended = last.is_some_and(|last| self.tokenizer.is_special(tokens.ids[last]));
        let mut example = with_labels(made, tokens, &learned);
        if whole && !ended && ends_with_assistant && learned.last().is_some_and(|span| span.end == text.len()) {
            self.end(made, &mut example);
        }
        made.examples.push(example);
    }

    fn completion(&self, made: &mut Made, prompt: &str, completion: &str) -> Result<(), String> {
        let start = if self.mask_prompt { prompt.len() } else { 0 };
        self.plain(made, &format!("{prompt}{completion}"), start)
    }

    /// Text that no template wraps: the tokenizer's own special tokens go around it, and the end is learned.
    fn plain(&self, made: &mut Made, text: &str, learned_from: usize) -> Result<(), String> {
        let begun = self.tokenizer.special().bos.as_ref().is_some_and(|(bos, _)| text.starts_with(bos.as_str()));
        let tokens = self.encode(text, !begun)?;
        let whole = tokens.whole;
        let mut example = with_labels(made, tokens, std::slice::from_ref(&(learned_from..text.len())));
        if whole {
            if example.input_ids.last().is_some_and(|last| Some(*last) == self.tokenizer.end_of_text()) {
                // An end that the tokenizer has put there stands for no byte of the text.
                example.input_ids.pop();
                example.labels.pop();
            }
            self.end(made, &mut example);
        }
        made.examples.push(example);
        Ok(())
    }

    /// Alpaca's own prompt is for models without a template.
    fn alpaca(&self, made: &mut Made, row: &Row) -> Result<(), String> {
        let Row::Alpaca { system, history, tools, instruction, input, output } = row else { return Ok(()) };
        if self.template.is_none() {
            if !history.is_empty() || tools.is_some() {
                let key = if tools.is_some() { "tools" } else { "history" };
                return Err(format!("the model has no chat template, which rows with `{key}` need"));
            }
            return self.completion(made, &alpaca_prompt(system, instruction, input), output);
        }
        let parts = [instruction.as_str(), input].into_iter().filter(|part| !part.is_empty());
        let question = parts.collect::<Vec<_>>().join("\n\n");
        let mut messages = Vec::with_capacity(2 * history.len() + 3);
        if !system.is_empty() {
            messages.push(Message::new("system", system));
        }
        for (question, answer) in history {
            messages.extend([Message::new("user", question), Message::new("assistant", answer)]);
        }
        messages.extend([Message::new("user", question), Message::new("assistant", output)]);
        self.chat(made, &messages, tools.as_ref(), 0, &[])
    }

    fn end(&self, made: &mut Made, example: &mut Example) {
        match self.tokenizer.end_of_text() {
            Some(end) => {
                example.input_ids.push(end);
                example.labels.push(i64::from(end));
            }
            None => made.endless += 1,
        }
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

/// A token is learned when a character of it lies in a span: the first token of an answer may begin in the prompt, as in
/// `Label: ` + `yes`, where a space and the word are one token. (TRL and Unsloth take the length of the prompt's own tokens,
/// by which such an answer is not learned at all.)
fn with_labels(made: &mut Made, tokens: Start, learned: &[Range<usize>]) -> Example {
    let mut labels = Vec::with_capacity(tokens.ids.len() + 1);
    let mut begun_inside = false;
    let mut spans = learned.iter().peekable();
    for (id, (start, end)) in tokens.ids.iter().zip(tokens.offsets) {
        while spans.next_if(|span| span.end <= start).is_some() {}
        let inside = |span: &&Range<usize>| span.start < end || (start == end && span.start <= start);
        labels.push(match spans.peek().copied().filter(inside) {
            Some(span) => {
                begun_inside |= start < span.start;
                i64::from(*id)
            }
            None => IGNORE,
        });
    }
    made.begun_inside += usize::from(begun_inside);
    made.cut += usize::from(!tokens.whole);
    Example { input_ids: tokens.ids, labels }
}

fn alpaca_prompt(system: &str, instruction: &str, input: &str) -> String {
    let preamble = match (system, input) {
        ("", "") => {
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        }
        ("", _) => {
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
             response that appropriately completes the request."
        }
        (system, _) => system,
    };
    let input = if input.is_empty() { String::new() } else { format!("### Input:\n{input}\n\n") };
    format!("{preamble}\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n")
}
