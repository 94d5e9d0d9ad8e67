//! The answers of several runs to the same prompts, side by side.

use serde::Serialize;

use super::record::RunRecord;
use crate::train::Sample;

/// A prompt, with the answers of each run that has it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Prompt<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// The answer of the validation row.
    pub expected: &'a str,
    /// The answers before training; one if all runs began with the same.
    pub before: Vec<Answer<'a>>,
    /// The answers after training.
    pub after: Vec<Answer<'a>>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer<'a> {
    /// The name of the run; `None` if it is that of all.
    pub run: Option<&'a str>,
    /// The colour of the run.
    pub colour: usize,
    /// The text.
    pub text: &'a str,
    /// Whether it is the expected one.
    pub right: bool,
}

/// The prompts in the order of the runs, at most so many.
pub fn side_by_side(runs: &[RunRecord], most: usize) -> Vec<Prompt<'_>> {
    let mut prompts: Vec<Prompt<'_>> = Vec::new();
    for (colour, run) in runs.iter().enumerate() {
        for Sample { prompt, expected, before, after, right_before, right_after } in &run.samples {
            let at = prompts.iter().position(|known| known.prompt == prompt && known.expected == expected);
            if at.is_none() && prompts.len() == most {
                continue;
            }
            let at = at.unwrap_or_else(|| {
                prompts.push(Prompt { prompt, expected, before: Vec::new(), after: Vec::new() });
                prompts.len() - 1
            });
            let answer = |text, right| Answer { run: Some(run.name.as_str()), colour, text, right };
            prompts[at].before.push(answer(before, *right_before));
            prompts[at].after.push(answer(after, *right_after));
        }
    }
    for Prompt { before, .. } in &mut prompts {
        if before.iter().all(|answer| answer.text == before[0].text) {
            before.truncate(1);
            before[0].run = None;
        }
    }
    prompts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, answers: &[(&str, &str, &str)]) -> RunRecord {
        let sample = |(prompt, before, after): &(&str, &str, &str)| Sample {
            prompt: (*prompt).to_owned(),
            expected: "yes".to_owned(),
            before: (*before).to_owned(),
            after: (*after).to_owned(),
            right_before: *before == "yes",
            right_after: *after == "yes",
        };
        RunRecord {
            name: name.to_owned(),
            settings: toml::Table::new(),
            steps: Vec::new(),
            validations: Vec::new(),
            samples: answers.iter().map(sample).collect(),
            facts: None,
            results: Vec::new(),
            checkpoints: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn answers_to_the_same_prompt_are_together() {
        let runs =
            [run("a", &[("p", "no", "yes"), ("q", "no", "no")]), run("b", &[("q", "well", "yes"), ("p", "no", "so")])];
        let prompts = side_by_side(&runs, 9);
        assert_eq!(prompts.iter().map(|prompt| prompt.prompt).collect::<Vec<_>>(), ["p", "q"]);
        let of = |answers: &[Answer<'_>]| -> Vec<_> {
            answers.iter().map(|answer| format!("{:?} {} {}", answer.run, answer.text, answer.right)).collect()
        };
        assert_eq!(of(&prompts[0].before), ["None no false"]);
        assert_eq!(of(&prompts[0].after), [r#"Some("a") yes true"#, r#"Some("b") so false"#]);
        assert_eq!(of(&prompts[1].before), [r#"Some("a") no false"#, r#"Some("b") well false"#]);
        assert_eq!(side_by_side(&runs, 1).len(), 1);
    }
}
