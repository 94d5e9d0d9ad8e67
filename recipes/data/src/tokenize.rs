//! Turns rows into tokens with labels.

use std::ops::Range;

use burnish_engine::IGNORE;
use burnish_models::{ChatTemplate, Message, Pretrained, Start, Tokenizer};
use serde_json::Value;

use super::content;
use super::format::{self, Row};
use super::length_policy::LengthPolicy;
use super::passage;
use super::spans::{Rendered, Turns};

/// Tokens with labels: `labels[i]` is `input_ids[i]` if that token is learned, else -100. Labels are not shifted: the loss compares the
/// prediction at position `i` with `labels[i + 1]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub input_ids: Vec<u32>,
    /// One per token.
    pub labels: Vec<i64>,
    /// Whether the answer is one to learn; false if the row says that it is one to unlearn.
    pub desirable: bool,
}

/// Which rows a recipe learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowUse {
    /// Rows with an answer to learn.
    Answers,
    /// Pairs of a chosen and a rejected answer, which become two examples each.
    Pairs,
    /// Rows with an answer and a label that says whether it is a good one; a pair counts as two of them.
    Ratings,
}

impl Example {
    /// Number of learned tokens. The first token is never learned, because nothing precedes it.
    pub fn target_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORE).count()
    }
}

/// The recipes for pairs of answers, and the only one for single answers with a label.
const OF_PAIRS: &str = "dpo, orpo, simpo, cpo or kto";
const OF_RATINGS: &str = "the recipe kto";

/// Turns rows into examples.
#[derive(Debug, Clone)]
pub struct RowTokenizer<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The model's chat template, if it has one.
    pub template: Option<&'a ChatTemplate>,
    /// Whether only the assistant's turns or the completion are learned. `text` rows are always learned completely.
    pub mask_prompt: bool,
    /// The rows that are used; others are refused.
    pub rows: RowUse,
    /// The most tokens of an example.
    pub max_seq_length: usize,
    /// What becomes of longer ones.
    pub length_policy: LengthPolicy,
    /// Rows of the model's embedding; every token id must be smaller.
    pub vocab_size: usize,
}

/// The examples of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizedRow {
    /// Examples of at most `max_seq_length` tokens, each with something to learn.
    pub examples: Vec<Example>,
    /// Number of examples that were truncated.
    pub cut: usize,
    /// Number of examples that were left out because they are too long.
    pub too_long: usize,
    /// Number of examples that became several because they are too long.
    pub parted: usize,
    /// Number of examples dropped because nothing was left to learn.
    pub dropped: usize,
    /// Whether each assistant turn became an example of its own.
    pub split: bool,
    /// Number of examples whose prompt ends in the middle of a token.
    pub begun_inside: usize,
    /// Number of examples without an end token, because the model has none.
    pub endless: usize,
    /// Whether the row has reasoning that the chat template does not render.
    pub unread_reasoning: bool,
    /// Whether the row has tools or tool calls that the chat template does not render.
    pub unread_tools: bool,
}

impl<'a> RowTokenizer<'a> {
    /// For a model: only answers are learned, and examples have up to 2048 tokens.
    pub fn of(model: &'a Pretrained) -> Self {
        Self {
            tokenizer: &model.tokenizer,
            template: model.chat_template.as_ref(),
            mask_prompt: true,
            rows: RowUse::Answers,
            max_seq_length: 2048,
            length_policy: LengthPolicy::Truncate,
            vocab_size: model.config.vocab_size,
        }
    }
}

impl RowTokenizer<'_> {
    /// Returns the examples of a row: one, or one per assistant turn if the template requires it.
    ///
    /// # Errors
    /// What is wrong with the row, for the user.
    pub fn tokenize(&self, row: &Row) -> Result<TokenizedRow, String> {
        match self.rows {
            RowUse::Answers => {}
            RowUse::Pairs => return self.pairs(row),
            RowUse::Ratings => return self.ratings(row),
        }
        self.answers(row, false)
    }

    /// The examples of the answers of a row, or of its last answer.
    fn answers(&self, row: &Row, only_last: bool) -> Result<TokenizedRow, String> {
        let mut made = TokenizedRow::default();
        match row {
            Row::Chat { messages, tools, learn_from, unlearned } => {
                self.chat(&mut made, messages, tools.as_ref(), *learn_from, unlearned)?;
            }
            Row::Completion { prompt, completion } => self.completion(&mut made, prompt, completion)?,
            Row::Text(text) if text.is_empty() => return Err("text is empty".to_owned()),
            Row::Text(text) => self.plain(&mut made, text, 0)?,
            Row::Passage { text, is_markdown, is_last } => self.passage(&mut made, text, *is_markdown, *is_last)?,
            Row::Alpaca { .. } => self.alpaca(&mut made, row, only_last)?,
            Row::Tokens { input_ids, labels } => made.examples.push(from_tokens(input_ids, labels.as_deref())),
            Row::Preference { .. } => {
                return Err(format!("a preference row (chosen, rejected) needs one of the recipes {OF_PAIRS}"));
            }
            Row::Labelled { label: Value::Bool(_), .. } => {
                return Err(format!(
                    "a row with a label that is true or false needs {OF_RATINGS}; for sft remove `label` or `kto_tag`"
                ));
            }
            // Any other label is a column without meaning.
            Row::Labelled { answer, .. } => return self.answers(answer, only_last),
        }
        for example in &made.examples {
            self.check(example)?;
        }
        made.split = made.examples.len() > 1 && !matches!(row, Row::Passage { .. });
        self.shorten(&mut made);
        let whole = made.examples.len();
        made.examples.retain(|example| example.target_tokens() > 0);
        made.dropped += whole - made.examples.len();
        Ok(made)
    }

    /// Applies the policy to examples that are too long.
    fn shorten(&self, made: &mut TokenizedRow) {
        let longest = self.max_seq_length;
        let is_long = |example: &Example| example.input_ids.len() > longest;
        let count = made.examples.iter().filter(|example| is_long(example)).count();
        match self.length_policy {
            LengthPolicy::Truncate => {
                for example in made.examples.iter_mut().filter(|example| is_long(example)) {
                    example.input_ids.truncate(longest);
                    example.labels.truncate(longest);
                }
                made.cut += count;
            }
            LengthPolicy::Drop => {
                made.examples.retain(|example| !is_long(example));
                (made.too_long, made.cut) = (count, 0);
            }
            LengthPolicy::Split => {
                let examples = std::mem::take(&mut made.examples);
                for example in examples {
                    let parts = if is_long(&example) { parts(&example, longest) } else { vec![example] };
                    made.dropped += usize::from(parts.is_empty());
                    made.examples.extend(parts);
                }
                made.parted = count;
            }
        }
    }

    fn pairs(&self, row: &Row) -> Result<TokenizedRow, String> {
        match row {
            Row::Preference { chosen, rejected } => self.pair(chosen, rejected),
            Row::Labelled { label: Value::Bool(_), .. } => {
                Err(format!("a row with prompt, chosen and rejected is needed; a row with a label is for {OF_RATINGS}"))
            }
            _ => Err("a row with prompt, chosen and rejected is needed; a row with one answer is for the recipe sft".into()),
        }
    }

    fn ratings(&self, row: &Row) -> Result<TokenizedRow, String> {
        match row {
            Row::Labelled { answer, label: Value::Bool(desirable) } => {
                let alone = RowTokenizer { rows: RowUse::Answers, mask_prompt: true, ..self.clone() };
                let answer = format::with_last_answer(answer)?;
                let mut made = alone.answers(&answer, true)?;
                if made.split {
                    return Err(
                        "an answer of several turns can't have a label, because the template renders each turn differently"
                            .into(),
                    );
                }
                made.examples.iter_mut().for_each(|example| example.desirable = *desirable);
                Ok(made)
            }
            Row::Labelled { label, .. } => Err(format!("label should be true or false, got {}", format::shown(label))),
            Row::Preference { chosen, rejected } => {
                let mut made = self.pair(chosen, rejected)?;
                made.examples.iter_mut().skip(1).for_each(|rejected| rejected.desirable = false);
                Ok(made)
            }
            Row::Text(_) => Err("a label needs a prompt and an answer, not `text`".into()),
            Row::Tokens { .. } => Err("a label needs a prompt and an answer, not `input_ids`".into()),
            _ => {
                Err("a row needs a label that is true or false, or chosen and rejected; a row without either is for sft"
                    .into())
            }
        }
    }

    /// The chosen and the rejected answer, each with the prompt; none if one of them has nothing left to learn.
    fn pair(&self, chosen: &Row, rejected: &Row) -> Result<TokenizedRow, String> {
        if self.length_policy == LengthPolicy::Split {
            return Err("length_policy should be truncate or drop, because a part of an answer can't be compared".into());
        }
        let alone = RowTokenizer { rows: RowUse::Answers, mask_prompt: true, ..self.clone() };
        let (mut made, other) = (alone.tokenize(chosen)?, alone.tokenize(rejected)?);
        if made.split || other.split {
            return Err(
                "an answer of several turns can't be used in a pair, because the template renders each turn differently"
                    .into(),
            );
        }
        made.examples.extend(other.examples);
        made.cut += other.cut;
        made.too_long += other.too_long;
        made.begun_inside += other.begun_inside;
        made.endless += other.endless;
        made.unread_reasoning |= other.unread_reasoning;
        made.unread_tools |= other.unread_tools;
        let incomplete = made.examples.len() < 2;
        made.dropped = usize::from(incomplete && made.too_long == 0);
        if incomplete {
            made.examples.clear();
        }
        Ok(made)
    }

    fn chat(
        &self,
        made: &mut TokenizedRow,
        messages: &[Message],
        tools: Option<&Value>,
        learn_from: usize,
        unlearned: &[usize],
    ) -> Result<(), String> {
        let template = self.template.ok_or("the model has no chat template, which rows of messages need")?;
        let taken = content::as_taken(template, messages, tools)?;
        let messages = &*taken;
        let conversation = template.conversation(messages, tools).map_err(|error| error.to_string())?;
        let reads_reasoning = template.reads_reasoning(tools).map_err(|error| error.to_string())?;
        made.unread_reasoning = !reads_reasoning && messages.iter().any(|message| message.reasoning().is_some());
        // The text already contains special tokens, so none are added.
        let encode = |text: &str| self.encode(text, false);
        if tools.is_some() || messages.iter().any(|message| message.extra.contains_key("tool_calls")) {
            let text = conversation.render(messages.len(), false).map_err(|error| error.to_string())?;
            made.unread_tools = content::leaves_out_tools(template, messages, tools, &text);
        }
        let turns = Turns { conversation, messages, learn_from, unlearned, encode: &encode };
        if self.mask_prompt {
            turns.render()?.into_iter().for_each(|rendered| self.label(made, rendered));
        } else {
            self.label(made, turns.render_whole()?);
        }
        Ok(())
    }

    /// Tokenises a text, up to the length of an example.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Start, String> {
        let needed = self.length_policy.needed(self.max_seq_length);
        self.tokenizer.encode_start(text, add_special_tokens, needed).map_err(|error| error.to_string())
    }

    /// Adds an example for a rendered conversation, with an end token if the template has none: without one, the model would never
    /// learn to stop.
    fn label(&self, made: &mut TokenizedRow, rendered: Rendered) {
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

    fn completion(&self, made: &mut TokenizedRow, prompt: &str, completion: &str) -> Result<(), String> {
        let start = if self.mask_prompt { prompt.len() } else { 0 };
        self.plain(made, &format!("{prompt}{completion}"), start)
    }

    /// Adds an example for text without a template: with the tokenizer's special tokens, and a learned end token.
    fn plain(&self, made: &mut TokenizedRow, text: &str, learned_from: usize) -> Result<(), String> {
        let begun = self.tokenizer.special().bos.as_ref().is_some_and(|(bos, _)| text.starts_with(bos.as_str()));
        let tokens = self.encode(text, !begun)?;
        let whole = tokens.whole;
        let mut example = with_labels(made, tokens, std::slice::from_ref(&(learned_from..text.len())));
        if whole {
            if example.input_ids.last().is_some_and(|last| Some(*last) == self.tokenizer.end_of_text()) {
                // An end token added by the tokenizer has no bytes in the text, so it would not be learned.
                example.input_ids.pop();
                example.labels.pop();
            }
            self.end(made, &mut example);
        }
        made.examples.push(example);
        Ok(())
    }

    /// Adds the examples of a part of a document, each of at most the maximum length. They have the tokens that begin every text; an end
    /// token is at the end of the document only.
    fn passage(&self, made: &mut TokenizedRow, text: &str, is_markdown: bool, is_last: bool) -> Result<(), String> {
        let (ids, offsets) = self.tokenizer.encode_with_offsets(text, false).map_err(|error| error.to_string())?;
        let before = self.begin()?;
        let room = self.max_seq_length.saturating_sub(before.len() + 1);
        for range in passage::cut(&offsets, &passage::beginnings(text, is_markdown), room) {
            made.examples.push(from_tokens(&[&before[..], &ids[range]].concat(), None));
        }
        if let Some(mut example) = made.examples.pop() {
            if is_last {
                self.end(made, &mut example);
            }
            made.examples.push(example);
        }
        Ok(())
    }

    /// The tokens that begin every text.
    fn begin(&self) -> Result<Vec<u32>, String> {
        let encode = |added: bool| self.tokenizer.encode("a", added).map_err(|error| error.to_string());
        let (mut with, without) = (encode(true)?, encode(false)?);
        let count = (0..with.len()).find(|at| with[*at..].starts_with(&without));
        with.truncate(count.unwrap_or(0));
        Ok(with)
    }

    /// Adds an Alpaca row as messages, or with Alpaca's own prompt if the model has no template. The answers of its history are
    /// learned too, unless only the last one is.
    fn alpaca(&self, made: &mut TokenizedRow, row: &Row, only_last: bool) -> Result<(), String> {
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
        let learn_from = if only_last { messages.len() - 1 } else { 0 };
        self.chat(made, &messages, tools.as_ref(), learn_from, &[])
    }

    fn end(&self, made: &mut TokenizedRow, example: &mut Example) {
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
            Some(label) => Err(format!("label {label} is neither -100 nor inside the model's vocabulary of {size}")),
            None => Ok(()),
        }
    }
}

fn from_tokens(input_ids: &[u32], labels: Option<&[i64]>) -> Example {
    let labels = labels.map_or_else(|| input_ids.iter().map(|id| i64::from(*id)).collect(), <[i64]>::to_vec);
    Example { input_ids: input_ids.to_vec(), labels, desirable: true }
}

/// A token is learned if any of its characters lies in a span: the first token of an answer may begin in the prompt, as in `Label: ` +
/// `yes`, where space and word are one token. (TRL and Unsloth count the prompt's tokens, so they would not learn such an answer.)
fn with_labels(made: &mut TokenizedRow, tokens: Start, learned: &[Range<usize>]) -> Example {
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
    Example { input_ids: tokens.ids, labels, desirable: true }
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

/// The parts of an example of at most `length` tokens that have something to learn.
fn parts(example: &Example, length: usize) -> Vec<Example> {
    let starts = (0..example.input_ids.len()).step_by(length.max(1));
    let parts = starts.map(|start| part(example, start..example.input_ids.len().min(start.saturating_add(length))));
    parts.filter(|part| part.target_tokens() > 0).collect()
}

fn part(example: &Example, range: Range<usize>) -> Example {
    Example {
        input_ids: example.input_ids[range.clone()].to_vec(),
        labels: example.labels[range].to_vec(),
        desirable: example.desirable,
    }
}
