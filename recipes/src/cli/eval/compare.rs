//! `burnish eval --compare`.

use std::process::ExitCode;

use anyhow::Result;
use burnish_engine::{Device, with_hint};
use burnish_models::{LoadOptions, Pretrained};
use serde_json::json;

use super::{Args, with_preparation};
use crate::data::RowTokenizer;
use crate::evaluation::answer::{AnswerOptions, prompts};
use crate::evaluation::bootstrap::Bootstrap;
use crate::evaluation::compare::{Comparison, Measured, Measures};
use crate::evaluation::subject::{Subject, SubjectWeights};
use crate::evaluation::task::TaskTokens;
use crate::evaluation::tokens::HeldOut;
use crate::report::OutputStyle;

/// A model ready to be measured: how it is loaded, and its tokens of the task.
struct Ready {
    options: LoadOptions,
    questions: Option<TaskTokens>,
}

impl Args {
    pub(super) fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, seed: self.seed }
    }

    pub(super) fn compare(&self, others: &[String], style: OutputStyle) -> Result<ExitCode> {
        let base = self.model.open()?;
        let subjects = others.iter().map(|name| Subject::open(name, &base)).collect::<Result<Vec<_>>>()?;
        let limit = self.limit(&base);
        let rows = self.rows(&base, &subjects, limit, style)?;
        let prompts = match &rows {
            Some(rows) => {
                let context = base.config.max_position_embeddings;
                let options = AnswerOptions { count: self.answers, max_tokens: self.max_tokens, context, limit };
                prompts(rows.batches.examples(), |_, _| true, &base.tokenizer, options)?
            }
            None => Vec::new(),
        };
        let task = self.task()?;
        let measures = Measures { rows: rows.as_ref(), prompts: &prompts, task: task.as_ref() };
        let ready = |model: &Pretrained| -> Result<Ready> {
            let questions = self.questions(task.as_ref(), model, style)?;
            let choice = self.model.choose(model, style)?;
            style.say(format!("{}: {}, {}", model.source, choice.dtype.dtype, choice.storage.line()));
            Ok(Ready { options: choice.storage.options, questions })
        };
        let of_base = ready(&base)?;
        let of_models = subjects.iter().map(|subject| match &subject.weights {
            SubjectWeights::Model(model) => ready(model).map(Some),
            SubjectWeights::Adapter { .. } => Ok(None),
        });
        let of_models = of_models.collect::<Result<Vec<_>>>()?;
        let measured = burnish_backends::enter(&self.model.backend, |device| {
            measure(device, &measures, (&base, &of_base), (&subjects, &of_models), style)
        })?;
        let comparison = Comparison::of(&measures, &measured, self.bootstrap());
        style.result(comparison.lines().join("\n"), &json!(comparison));
        Ok(ExitCode::SUCCESS)
    }

    /// The rows, which have the same tokens for every model.
    fn rows(&self, base: &Pretrained, subjects: &[Subject], limit: usize, style: OutputStyle) -> Result<Option<HeldOut>> {
        let Some(file) = self.file()? else { return Ok(None) };
        let row_tokenizer = self.row_tokenizer(base, limit);
        let rows = with_preparation(style, |preparation| {
            HeldOut::read(&file, preparation, &row_tokenizer, self.batch_options(base, limit))
        })?;
        for note in &rows.notes {
            style.say(format!("{}: {note}", file.display()));
        }
        for subject in subjects {
            let beside = subject.tokenizer_of_adapter()?;
            let (tokenizer, vocab_size) = match &subject.weights {
                SubjectWeights::Model(model) => (Some(&model.tokenizer), model.config.vocab_size),
                SubjectWeights::Adapter { .. } => (beside.as_ref(), base.config.vocab_size),
            };
            if let Some(tokenizer) = tokenizer {
                let other = RowTokenizer { tokenizer, vocab_size, ..row_tokenizer.clone() };
                with_preparation(style, |preparation| rows.check_tokens(preparation, &other, &subject.name, &base.source))?;
            }
            if let SubjectWeights::Model(model) = &subject.weights
                && self.limit(model) < limit
            {
                let theirs = self.limit(model);
                return Err(with_hint(
                    format!("{} reads {theirs} tokens, but {} reads {limit}", subject.name, base.source),
                    format!("use --max-seq-length {theirs}"),
                ));
            }
        }
        Ok(Some(rows))
    }
}

/// Measures the base and its adapters, which share its weights, and then the other models, one at a time.
fn measure(
    device: &dyn Device,
    measures: &Measures<'_>,
    (base, of_base): (&Pretrained, &Ready),
    (subjects, of_models): (&[Subject], &[Option<Ready>]),
    style: OutputStyle,
) -> Result<Vec<Measured>> {
    let mut say = |line: String| style.say(line);
    let mut found: Vec<Option<Measured>> = subjects.iter().map(|_| None).collect();
    let load = |model: &Pretrained, options| device.run(&model.config, &*model.checkpoint, options, None);
    let first = {
        let mut runner = load(base, of_base.options)?;
        style.say(format!("measuring {}", base.source));
        let first = measures.of(&mut *runner, base, of_base.questions.as_ref(), &mut say)?;
        for (subject, found) in subjects.iter().zip(&mut found) {
            if let SubjectWeights::Adapter { path, .. } = &subject.weights {
                style.say(format!("measuring {}", subject.name));
                let mut adapted = runner.with_adapter(path)?;
                *found = Some(measures.of(&mut *adapted, base, of_base.questions.as_ref(), &mut say)?);
            }
        }
        Measured { name: base.source.clone(), ..first }
    };
    for ((subject, ready), found) in subjects.iter().zip(of_models).zip(&mut found) {
        if let (SubjectWeights::Model(model), Some(ready)) = (&subject.weights, ready) {
            style.say(format!("measuring {}", subject.name));
            let mut runner = load(model, ready.options)?;
            *found = Some(measures.of(&mut *runner, model, ready.questions.as_ref(), &mut say)?);
        }
    }
    let named = |(subject, found): (&Subject, Option<Measured>)| {
        found.map(|found| Measured { name: subject.name.clone(), is_zero: subject.is_zero(), ..found })
    };
    Ok(std::iter::once(first).chain(subjects.iter().zip(found).filter_map(named)).collect())
}
