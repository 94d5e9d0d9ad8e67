//! `run.json`: what a run found when it started, beyond its configuration.

use std::path::Path;

use anyhow::Result;
use burnish_models::{Pretrained, atomic};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::data::DataReport;
use crate::storage::StorageChoice;

/// The name of the file.
pub const FACTS: &str = "run.json";

/// What a run found when it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The version of the program.
    #[serde(default)]
    pub version: String,
    /// The kind of the model, as in its configuration.
    #[serde(default)]
    pub model_type: String,
    /// Its parameters, without adapters.
    #[serde(default)]
    pub parameters: u64,
    /// How its weights are stored.
    #[serde(default)]
    pub storage: String,
    /// Optimizer steps of the whole run.
    #[serde(default)]
    pub steps: usize,
    /// Bytes that its largest step was expected to take.
    #[serde(default)]
    pub planned_bytes: u64,
    /// The shapes of its micro-batches.
    #[serde(default)]
    pub shapes: String,
    /// The rows for training and for validation, by file.
    #[serde(default)]
    pub rows: Vec<RowFacts>,
}

/// The rows of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFacts {
    /// The file.
    pub file: String,
    /// Rows read.
    pub rows: usize,
    /// Examples made of them.
    pub examples: usize,
    /// Tokens of all examples.
    pub tokens: usize,
    /// Those that are trained on.
    pub target_tokens: usize,
    /// Examples that were truncated.
    pub truncated: usize,
    /// Whether these are most of them.
    #[serde(default)]
    pub is_mostly_truncated: bool,
    /// Bad rows, and examples that are too long or without anything to learn, that were left out.
    pub left_out: usize,
}

impl RowFacts {
    /// The rows of a file, by the report on them.
    pub fn of(file: &Path, report: &DataReport) -> Self {
        Self {
            file: file.display().to_string(),
            rows: report.rows,
            examples: report.examples,
            tokens: report.tokens,
            target_tokens: report.target_tokens,
            truncated: report.truncated,
            is_mostly_truncated: report.is_mostly_truncated(),
            left_out: report.skipped + report.dropped + report.too_long,
        }
    }
}

impl RunFacts {
    /// The facts about a run of this plan.
    pub fn of(model: &Pretrained, storage: &StorageChoice, plan: &Plan, planned_bytes: u64, rows: Vec<RowFacts>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model_type: model.config.model_type.clone(),
            parameters: model.config.parameter_count() as u64,
            storage: storage.line(),
            steps: plan.total,
            planned_bytes,
            shapes: plan.shapes().to_string(),
            rows,
        }
    }

    /// Writes them into a run folder.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        Ok(atomic::write_bytes(&run.join(FACTS), serde_json::to_string_pretty(self)?.as_bytes())?)
    }

    /// Those of a run folder; `None` if it has none that can be read.
    pub fn read(run: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(run.join(FACTS)).ok()?).ok()
    }
}
