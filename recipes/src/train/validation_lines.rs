//! `validation.jsonl`: one line per validation.

use serde::{Deserialize, Serialize};

use super::evaluate::Evaluation;
use super::step_lines::{StepFile, StepLine, number_or_nan};

/// The result of a validation: one line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ValidationLine {
    /// The step after which it was made, from 1.
    pub step: usize,
    /// Mean loss over all predicted tokens, or over the items that the objective counts.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f64,
    /// `exp(loss)`, if the loss is a mean over tokens.
    #[serde(default)]
    pub perplexity: Option<f64>,
    /// Predicted tokens.
    pub tokens: usize,
}

/// The file, opened for appending.
pub type ValidationsFile = StepFile<ValidationLine>;

impl ValidationLine {
    /// The line of an evaluation.
    pub fn of(step: usize, evaluation: &Evaluation) -> Self {
        let Evaluation { loss, perplexity, tokens } = *evaluation;
        Self { step, loss, perplexity, tokens }
    }
}

impl StepLine for ValidationLine {
    const FILE: &'static str = "validation.jsonl";

    fn step(&self) -> usize {
        self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validations_after_the_checkpoint_are_made_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ValidationsFile::read(folder.path()).unwrap(), []);
        let mut file = ValidationsFile::open(folder.path(), 0).unwrap();
        for (step, loss) in [(2, 0.5), (4, f64::NAN), (6, 0.25)] {
            file.write(&ValidationLine { step, loss, perplexity: Some(f64::exp(loss)), tokens: 8 }).unwrap();
        }
        ValidationsFile::open(folder.path(), 4).unwrap();
        let kept = ValidationsFile::read(folder.path()).unwrap();
        assert_eq!(kept.iter().map(|line| line.step).collect::<Vec<_>>(), [2, 4]);
        assert!(kept[1].loss.is_nan() && kept[1].perplexity.is_none());
    }
}
