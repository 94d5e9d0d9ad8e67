//! Learns how a chat template writes turns, and says the same in the template language of Go, which Ollama has.
//!
//! Source: `template/template.go` of Ollama: a template sees `.System`, the joined system messages, and `.Messages`.

use burnish_models::{ChatTemplate, Message};

/// The texts that stand around the messages of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turns {
    /// Before the first question of a conversation without a system message.
    begin: String,
    /// Between a question and its answer.
    answer: String,
    /// After the last question; the beginning of the answer to come.
    prompt: String,
    /// Between an answer and the next question.
    question: String,
    system: System,
}

/// Where a system message stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum System {
    /// Nowhere: the template refuses or leaves out such messages.
    None,
    /// At the beginning, between these texts, the second of which ends where the first question begins.
    First { before: String, after: String },
    /// Before the last question, between these texts.
    Last { before: String, after: String },
}

/// Messages that no template has in it.
const SYSTEM: &str = "Wybrane zasady.";
const QUESTIONS: [&str; 3] = ["Pierwsze pytanie?", "Drugie pytanie?", "Trzecie pytanie?"];
const ANSWERS: [&str; 2] = ["Pierwsze zdanie.", "Drugie zdanie."];

/// A conversation of so many questions and the answers between them.
fn conversation(questions: usize, system: bool) -> Vec<Message> {
    let mut messages: Vec<Message> = system.then(|| Message::new("system", SYSTEM)).into_iter().collect();
    for index in 0..questions {
        messages.push(Message::new("user", QUESTIONS[index]));
        if index + 1 < questions {
            messages.push(Message::new("assistant", ANSWERS[index]));
        }
    }
    messages
}

impl Turns {
    /// Learns the turns from a rendered conversation, and checks that longer and shorter ones are rendered the same way; `None` if they
    /// are not. `bos` is a text at the beginning that is left out.
    pub(super) fn learn(template: &ChatTemplate, bos: Option<&str>) -> Option<Self> {
        let render = |questions: usize, system: bool| -> Option<String> {
            let text = template.render(&conversation(questions, system), None, true).ok()?;
            Some(bos.and_then(|bos| text.strip_prefix(bos)).unwrap_or(&text).to_owned())
        };
        let plain = render(2, false)?;
        let (begin, rest) = plain.split_once(QUESTIONS[0])?;
        let (answer, rest) = rest.split_once(ANSWERS[0])?;
        let (question, prompt) = rest.split_once(QUESTIONS[1])?;
        let system = render(2, true).filter(|text| text.contains(SYSTEM));
        let system = match &system {
            Some(text) => place(text, begin, question)?,
            None => System::None,
        };
        let [begin, answer, prompt, question] = [begin, answer, prompt, question].map(str::to_owned);
        let turns = Self { begin, answer, prompt, question, system };
        let with_system: &[bool] = if turns.system == System::None { &[false] } else { &[false, true] };
        let mut cases =
            (1..=QUESTIONS.len()).flat_map(|questions| with_system.iter().map(move |system| (questions, *system)));
        cases.all(|(questions, system)| render(questions, system) == Some(turns.render(questions, system))).then_some(turns)
    }

    /// A conversation as these turns write it.
    fn render(&self, questions: usize, system: bool) -> String {
        let mut text = match &self.system {
            System::First { before, after } if system => format!("{before}{SYSTEM}{after}"),
            _ => self.begin.clone(),
        };
        for index in 0..questions {
            let is_last = index + 1 == questions;
            match &self.system {
                System::Last { before, after } if system && is_last => text.extend([before, SYSTEM, after]),
                _ => {}
            }
            text.push_str(QUESTIONS[index]);
            if is_last {
                text.push_str(&self.prompt);
            } else {
                text.extend([&self.answer, ANSWERS[index], &self.question]);
            }
        }
        text
    }

    /// The system message that the template adds to a conversation without one.
    pub(super) fn default_system(&self) -> Option<&str> {
        let System::First { before, after } = &self.system else { return None };
        let text = self.begin.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?;
        (!text.is_empty()).then_some(text)
    }

    /// The template in the language of Go; `None` if a text has marks of that language.
    pub(super) fn to_go(&self) -> Option<String> {
        let texts = [&self.begin, &self.answer, &self.prompt, &self.question];
        let of_system = match &self.system {
            System::None => Vec::new(),
            System::First { before, after } | System::Last { before, after } => vec![before, after],
        };
        let is_marked = |text: &&String| ["{{", "}}", "\"\"\""].iter().any(|mark| text.contains(mark));
        if texts.into_iter().chain(of_system).any(|text| is_marked(&text)) {
            return None;
        }
        let mut go = String::new();
        let begin = &self.begin;
        match &self.system {
            System::First { before, after } => match after.strip_suffix(begin.as_str()) {
                Some(between) => go.extend(["{{ if .System }}", before, "{{ .System }}", between, "{{ end }}", begin]),
                None => go.extend(["{{ if .System }}", before, "{{ .System }}", after, "{{ else }}", begin, "{{ end }}"]),
            },
            System::None | System::Last { .. } => go.push_str(begin),
        }
        go.push_str(
            "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ if eq .Role \"user\" }}",
        );
        if let System::Last { before, after } = &self.system {
            go.extend(["{{ if and $last $.System }}", before, "{{ $.System }}", after, "{{ end }}"]);
        }
        go.push_str("{{ .Content }}");
        if self.answer == self.prompt {
            go.push_str(&self.answer);
        } else {
            go.extend(["{{ if $last }}", &self.prompt, "{{ else }}", &self.answer, "{{ end }}"]);
        }
        let after_answer = ["{{ else if eq .Role \"assistant\" }}{{ .Content }}{{ if not $last }}", &self.question];
        go.extend(after_answer);
        go.push_str("{{ end }}{{ end }}{{ end }}");
        Some(go)
    }
}

/// Where the system message stands in a rendered conversation of two questions.
fn place(text: &str, begin: &str, question: &str) -> Option<System> {
    let (first, rest) = text.split_once(QUESTIONS[0])?;
    if let Some((before, after)) = first.split_once(SYSTEM) {
        return Some(System::First { before: before.to_owned(), after: after.to_owned() });
    }
    let (_, rest) = rest.split_once(ANSWERS[0])?;
    let (between, _) = rest.split_once(QUESTIONS[1])?;
    let (before, after) = between.strip_prefix(question)?.split_once(SYSTEM)?;
    (first == begin).then(|| System::Last { before: before.to_owned(), after: after.to_owned() })
}

#[cfg(test)]
mod tests;
