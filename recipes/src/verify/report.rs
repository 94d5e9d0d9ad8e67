//! The report of all checks, as a table or as JSON.

use std::collections::BTreeMap;

use anyhow::Result;
use burnish_bench::machine::VERSIONS;
use burnish_models::FloatType;
use serde::Serialize;

use super::check::Check;
use super::findings::{Detail, Findings, Outcome, Problem};
use super::issues::whom;
use crate::system::repairs;

/// Columns of a line.
const WIDTH: usize = 100;

/// Problems of one cause that are listed.
const LISTED: usize = 12;

/// A check with what it found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// Its number, from 1.
    pub number: usize,
    /// The check.
    pub check: Check,
    /// How it came out.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// One line.
    pub summary: String,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Every comparison.
    pub details: Vec<Detail>,
}

/// The report of all checks.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this program.
    pub burnish: &'static str,
    /// The backend.
    pub backend: &'static str,
    /// Why it was chosen.
    pub why: &'static str,
    /// The dtype.
    pub dtype: &'static str,
    /// Whether everything was checked.
    pub full: bool,
    /// Whether nothing failed, and something was checked.
    pub passed: bool,
    /// The repairs of Metal code that kernels met, with the number of kernels.
    pub repairs: BTreeMap<&'static str, usize>,
    /// The repairs that the user switched off.
    pub skipped_repairs: Vec<&'static str>,
    /// The checks.
    pub checks: Vec<CheckReport>,
}

impl CheckReport {
    fn new(check: Check, outcome: Outcome, summary: impl Into<String>) -> Self {
        let (problems, details) = (Vec::new(), Vec::new());
        Self { number: 0, check, outcome, seconds: 0.0, summary: summary.into(), problems, details }
    }

    /// Of a check that was not run.
    pub(super) fn skipped(check: Check, reason: &str) -> Self {
        Self::new(check, Outcome::Skipped, reason)
    }

    /// Of a check of what this version can't do.
    pub(super) fn not_available(check: Check, reason: &str) -> Self {
        Self::new(check, Outcome::NotAvailable, reason)
    }

    /// Of a check that was run.
    pub(super) fn of(check: Check, found: Result<Findings>) -> Self {
        let findings = found.unwrap_or_else(|error| {
            let mut findings = Findings::default();
            let means = "the check ended early, so that more may be wrong";
            findings.fail(check.name(), format!("{error:#}"), means, whom());
            findings
        });
        let Findings { summary, problems, details } = findings;
        let (outcome, summary) = match problems.len() {
            0 => (Outcome::Passed, summary),
            1 => (Outcome::Failed, problems[0].part.clone()),
            count => (Outcome::Failed, format!("{} and {} more", problems[0].part, count - 1)),
        };
        Self { problems, details, ..Self::new(check, outcome, summary) }
    }

    /// Its line in the table, wrapped.
    pub fn row(&self) -> String {
        let outcome = match self.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
            Outcome::NotAvailable => "not available",
        };
        let time = match self.outcome {
            Outcome::Passed | Outcome::Failed => format!("{:.1} s", self.seconds),
            Outcome::Skipped | Outcome::NotAvailable => String::new(),
        };
        let start = format!("{}  {:<13}  {outcome:<13}  {time:>7}  ", self.number, self.check.name());
        wrapped(&start, &self.summary)
    }

    /// What is wrong, what it means and whom to tell; problems with the same answers together.
    pub fn explained(&self) -> Vec<String> {
        let mut groups: Vec<(&str, &str, Vec<&Problem>)> = Vec::new();
        for problem in &self.problems {
            match groups.iter_mut().find(|(means, whom, _)| *means == problem.means && *whom == problem.whom) {
                Some((_, _, problems)) => problems.push(problem),
                None => groups.push((&problem.means, &problem.whom, vec![problem])),
            }
        }
        let mut lines = Vec::new();
        for (means, whom, problems) in groups {
            lines.push(String::new());
            for problem in problems.iter().take(LISTED) {
                lines.push(wrapped("FAILED    ", &format!("{}: {}", problem.part, problem.what)));
            }
            if problems.len() > LISTED {
                lines.push(format!("          and {} more (--json lists all)", problems.len() - LISTED));
            }
            lines.push(wrapped("it means  ", means));
            lines.push(wrapped("tell      ", whom));
        }
        lines
    }
}

impl Report {
    pub(super) fn new(backend: &'static str, why: &'static str, dtype: FloatType, full: bool) -> Self {
        Self {
            burnish: VERSIONS.burnish,
            backend,
            why,
            dtype: dtype.name(),
            full,
            passed: false,
            repairs: BTreeMap::new(),
            skipped_repairs: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Whether a check failed.
    pub(super) fn has_failed(&self, check: Check) -> bool {
        self.checks.iter().any(|report| report.check == check && report.outcome == Outcome::Failed)
    }

    /// Sums up.
    pub(super) fn finish(&mut self) {
        let has = |outcome| self.checks.iter().any(|report| report.outcome == outcome);
        self.passed = has(Outcome::Passed) && !has(Outcome::Failed);
        self.repairs = repairs::met();
        self.skipped_repairs = repairs::skipped();
    }

    /// Everything after the table.
    pub fn conclusion(&self) -> String {
        let mut lines: Vec<String> = self.checks.iter().flat_map(CheckReport::explained).collect();
        lines.push(String::new());
        if !self.repairs.is_empty() {
            let met: Vec<String> = self.repairs.iter().map(|(rule, kernels)| format!("{rule} ({kernels})")).collect();
            lines.push(wrapped("repairs of Metal code, with kernels: ", &met.join(", ")));
        }
        if !self.skipped_repairs.is_empty() {
            lines.push(format!("repairs SKIPPED by BURNISH_SKIP_REPAIR: {}", self.skipped_repairs.join(", ")));
        }
        let count = |outcome| self.checks.iter().filter(|report| report.outcome == outcome).count();
        let mut parts = vec![format!("{} passed", count(Outcome::Passed))];
        for (outcome, word) in
            [(Outcome::Failed, "FAILED"), (Outcome::Skipped, "skipped"), (Outcome::NotAvailable, "not available")]
        {
            if count(outcome) > 0 {
                parts.push(format!("{} {word}", count(outcome)));
            }
        }
        lines.push(format!("{} checks on `{}`: {}", self.checks.len(), self.backend, parts.join(", ")));
        lines.join("\n").trim_start_matches('\n').to_owned()
    }
}

/// A text after a start, whose further lines are indented like the first.
fn wrapped(start: &str, text: &str) -> String {
    let indent = start.chars().count();
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && indent + line + 1 + word.chars().count() > WIDTH {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    format!("{start}{}", lines.join(&format!("\n{}", " ".repeat(indent))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(count: usize) -> CheckReport {
        let mut findings = Findings::default();
        for index in 0..count {
            findings.fail(format!("kernel {index}"), "it is wrong", "nothing works", "us");
        }
        CheckReport::of(Check::Kernels, Ok(findings))
    }

    #[test]
    fn lines_are_wrapped_and_indented() {
        let words = ["word"; 30].join(" ");
        let text = wrapped("start  ", &words);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(lines[1].starts_with("       word"), "{text}");
        assert_eq!(text.split_whitespace().count(), 31);
    }

    #[test]
    fn problems_of_one_cause_are_explained_together() {
        let report = failing(20);
        assert_eq!((report.outcome, report.summary.as_str()), (Outcome::Failed, "kernel 0 and 19 more"));
        let text = report.explained().join("\n");
        assert_eq!((text.matches("it means").count(), text.matches("tell").count()), (1, 1), "{text}");
        assert!(text.contains("and 8 more") && text.matches("FAILED").count() == LISTED, "{text}");
        let early = CheckReport::of(Check::Gguf, Err(anyhow::anyhow!("no space")));
        assert!(early.outcome == Outcome::Failed && early.explained().join("\n").contains("no space"));
    }

    #[test]
    fn nothing_passes_without_a_check_that_passed() {
        let mut report = Report::new("cpu", "requested", FloatType::F32, false);
        report.checks.push(CheckReport::not_available(Check::Vision, "text only"));
        report.checks.push(CheckReport::skipped(Check::System, "not asked for"));
        report.finish();
        assert!(!report.passed);
        report.checks.push(CheckReport::of(Check::Gguf, Ok(Findings::default())));
        report.finish();
        assert!(report.passed && report.conclusion().ends_with("1 passed, 1 skipped, 1 not available"));
        report.checks.push(failing(1));
        report.finish();
        assert!(!report.passed && report.conclusion().contains("1 FAILED"), "{}", report.conclusion());
        assert!(report.checks[0].row().contains("vision         not available"), "{}", report.checks[0].row());
    }
}
