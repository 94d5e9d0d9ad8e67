//! A plan for users.

use std::fmt;

use anyhow::Result;
use burnish_engine::{gib, with_hint};
use burnish_memory::Moment;

use super::{Change, MemoryPlan};

impl fmt::Display for MemoryPlan {
    /// A table of what takes memory, what there is, and what would fit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (memory, peak) = (&self.memory, &self.memory.peak);
        let (MemoryPlan { dtype, tokens, trains, backend, .. }, kept) = (self, self.activations);
        writeln!(f, "{trains}, micro-batches of {tokens} tokens, {dtype} on {backend}\n")?;
        writeln!(f, "{:<14}{:>12}{:>14}", "", "at most", "at the peak")?;
        let checkpointed = format!("{} with grad_checkpoint, {} without", gib(kept.checkpointed), gib(kept.all));
        for (name, most, at_peak, remark) in [
            ("weights", memory.weights, memory.weights, self.storage.as_str()),
            ("adapters", memory.adapters, memory.adapters, ""),
            ("gradients", memory.gradients, peak.gradients, ""),
            ("optimizer", memory.optimizer, memory.optimizer, ""),
            ("activations", memory.activations, peak.activations, &checkpointed),
            ("logits", memory.logits, peak.logits, "of the tokens whose loss is computed together"),
            ("workspace", memory.workspace, peak.workspace, ""),
            ("process", memory.process, memory.process, "the program itself"),
        ] {
            if most > 0 {
                let line = format!("{name:<14}{:>12}{:>14}   {remark}", gib(most), gib(at_peak));
                writeln!(f, "{}", line.trim_end())?;
            }
        }
        let moment = match peak.moment {
            Moment::WithoutGradients => "in the passes without gradients before the step's own",
            Moment::Loss => "while the loss is computed",
            Moment::BackwardBegins => "as the backward begins",
            Moment::BackwardEnds => "as the backward ends",
            Moment::Update => "in the optimizer's update",
        };
        writeln!(f, "{:<14}{:>12}{:>14}   {moment}", "total", "", gib(self.total))?;
        let Some(budget) = &self.budget else {
            return write!(f, "\n`{backend}` does not tell how much memory it may use; --memory GIB plans for so much");
        };
        writeln!(f, "{:<14}{:>12}{:>14}   of {}: {}", "budget", "", gib(budget.available), gib(budget.memory), budget.why)?;
        match self.fits {
            Some(false) => {
                writeln!(f, "\nit does not fit: {} are missing", gib(self.total.saturating_sub(budget.available)))?;
                for change in &self.changes {
                    writeln!(f, "  {change}")?;
                }
            }
            _ => writeln!(f, "\nit fits: {} are left", gib(budget.available.saturating_sub(self.total)))?,
        }
        let of = |size: Option<usize>| match size {
            Some(size @ 1..) => size.to_string(),
            _ => "none".to_owned(),
        };
        write!(f, "largest that fits, all else as it is: batch_size {}", of(self.largest_batch_size))?;
        write!(f, ", max_seq_length {}", of(self.largest_max_seq_length))?;
        if self.largest_rank.is_some() {
            write!(f, ", rank {}", of(self.largest_rank))?;
        }
        if !self.stored.is_empty() {
            write!(f, "\n\nthe same in other types and storages of the frozen weights:")?;
        }
        for stored in &self.stored {
            write!(f, "\n  {stored}")?;
        }
        match &self.step_time {
            Some(time) => write!(f, "\n\n{time}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.fits { "and fits" } else { "which alone is not enough" };
        write!(f, "{} saves {}, {verdict}", self.change, gib(self.saves))
    }
}

impl MemoryPlan {
    /// The plan's total against the budget, in a line.
    pub fn line(&self) -> String {
        let budget = self.budget.as_ref().map_or_else(String::new, |budget| format!(" of {}", gib(budget.available)));
        format!("memory: about {}{budget} at the peak of a step; `burnish plan` says what takes it", gib(self.total))
    }

    /// The plan, of a run that may begin.
    ///
    /// # Errors
    /// If it exceeds the budget, with what to change, unless that is allowed.
    pub fn allowed(self, over_budget: bool) -> Result<Self> {
        match self.refusal() {
            Some((reason, changes)) if !over_budget => {
                Err(with_hint(reason, format!("{changes}; --allow-over-budget trains anyway")))
            }
            _ => Ok(self),
        }
    }

    /// Why the run should not begin, and what to change; `None` if it fits or the budget is not known.
    fn refusal(&self) -> Option<(String, String)> {
        let budget = self.budget.as_ref().filter(|_| self.fits == Some(false))?;
        let (total, available) = (gib(self.total), gib(budget.available));
        let reason = format!("a step takes about {total} of memory, but `{}` may use only {available} here", self.backend);
        let changes: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        Some((reason, if changes.is_empty() { "use a smaller model".to_owned() } else { changes.join("; ") }))
    }
}
