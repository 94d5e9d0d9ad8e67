//! What a check found.

use serde::Serialize;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything was as it must be.
    Passed,
    /// Something was not.
    Failed,
    /// It was not run, since the user or an earlier failure left it out.
    Skipped,
    /// This version can't do what would be checked.
    NotAvailable,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The part that is wrong: an operation with its dtype, a file, a step.
    pub part: String,
    /// What was found.
    pub what: String,
    /// What it means for the user.
    pub means: String,
    /// Whom to tell, or what to do.
    pub whom: String,
}

/// One of the many comparisons of a check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detail {
    /// What was compared.
    pub name: String,
    /// The dtype that it was computed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<&'static str>,
    /// Whether it is right.
    pub passed: bool,
    /// The largest distance from the reference, as a share of what is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_used: Option<f64>,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Findings {
    /// One line for the table.
    pub summary: String,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Every comparison, for reports.
    pub details: Vec<Detail>,
}

impl Findings {
    /// Adds a problem.
    pub(super) fn fail(
        &mut self,
        part: impl Into<String>,
        what: impl Into<String>,
        means: impl Into<String>,
        whom: impl Into<String>,
    ) {
        let problem = Problem { part: part.into(), what: what.into(), means: means.into(), whom: whom.into() };
        self.problems.push(problem);
    }

    /// Adds a comparison that has no tolerance.
    pub(super) fn detail(&mut self, name: impl Into<String>, passed: bool) {
        self.details.push(Detail { name: name.into(), dtype: None, passed, tolerance_used: None });
    }
}
