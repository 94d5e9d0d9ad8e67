//! Offline runs of Weights & Biases, which `wandb sync` uploads.
//!
//! # Source
//! `wandb/proto/wandb_internal.proto` of wandb 0.31, and the files that it writes with `mode="offline"`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use burnish_models::atomic;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::datastore::{DataStore, file_of, records};
use super::metrics;
use super::protobuf::{Message, Value, field, fields};
use super::{Begun, Writer, seconds};
use crate::train::{Evaluation, StepMetrics};

const PREFIX: &str = "offline-run-";

/// Numbers of the fields of a `Record`, of which each has one.
mod kind {
    pub const HISTORY: u32 = 2;
    pub const SUMMARY: u32 = 3;
    pub const RUN: u32 = 17;
    pub const EXIT: u32 = 18;
    pub const HEADER: u32 = 21;
}

/// An offline run. A run that is continued has the folder of the one that was stopped, and keeps its rows up to the checkpoint.
pub(super) struct OfflineRun {
    store: DataStore,
    /// Records so far.
    count: u64,
    /// The row of the current step: a validation adds to it.
    row: Option<(usize, Vec<(String, f64)>)>,
    began: Instant,
    /// Seconds that the run took before this process.
    before: f64,
    pub folder: PathBuf,
}

/// What `variable` of the environment says, if it is set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl OfflineRun {
    /// Starts a run in a folder, or continues the newest one there.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn open(folder: &Path, run: &Begun<'_>) -> Result<Self> {
        let old = newest(folder).filter(|_| run.done > 0);
        let (path, kept) = match old {
            Some(path) => {
                let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
                (path, kept(records(&bytes), run.done))
            }
            None => (fresh(folder)?, Vec::new()),
        };
        let folder = path.parent().unwrap_or(folder).to_owned();
        let before = kept.last().map_or(0.0, |record| runtime(record));
        let bytes = file_of(&kept);
        rewrite(&path, &bytes)?;
        let store = DataStore::append_to(&path, &bytes)?;
        let count = match kept.last().and_then(|record| field(record, 1)) {
            Some(Value::Integer(number)) => number,
            _ => 0,
        };
        let mut offline = Self { store, count, row: None, began: Instant::now(), before, folder };
        if kept.is_empty() {
            let id = path.file_stem().unwrap_or_default().to_string_lossy();
            let version = Message::default().text(1, env!("CARGO_PKG_VERSION"));
            offline.record(kind::HEADER, &Message::default().message(1, &version))?;
            offline.record(kind::RUN, &run_record(id.strip_prefix("run-").unwrap_or(&id), run))?;
        }
        Ok(offline)
    }

    fn record(&mut self, kind: u32, message: &Message) -> Result<()> {
        self.count += 1;
        self.store.write(Message::default().integer(1, self.count).message(kind, message).as_bytes())
    }

    /// Writes the row of the last step, as part of the history and as its summary.
    fn flush(&mut self) -> Result<()> {
        let Some((step, row)) = self.row.take() else { return Ok(()) };
        let runtime = self.before + self.began.elapsed().as_secs_f64();
        let own = [("_timestamp", seconds()), ("_runtime", runtime)].map(|(name, value)| (name.to_owned(), number(value)));
        let row = row.into_iter().map(|(name, value)| (name, number(value))).chain(own);
        let row: Vec<(String, String)> = row.chain([("_step".to_owned(), step.to_string())]).collect();
        let items = row.iter().fold(Message::default(), |message, (name, value)| message.message(1, &item(2, name, value)));
        self.record(kind::SUMMARY, &items)?;
        self.record(kind::HISTORY, &items.message(2, &Message::default().integer(1, step as u64)))
    }
}

impl Writer for OfflineRun {
    fn name(&self) -> &'static str {
        "wandb"
    }

    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.flush()?;
        let mut row = metrics::of_step(metrics);
        row.push(("train/global_step".to_owned(), metrics.step as f64));
        self.row = Some((metrics.step, row));
        Ok(())
    }

    fn evaluation(&mut self, step: usize, evaluation: &Evaluation) -> Result<()> {
        let (_, row) = self.row.get_or_insert_with(|| (step, Vec::new()));
        row.extend(metrics::of_evaluation(evaluation));
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.store.sync()
    }

    fn end(&mut self, _step: usize, finished: bool) -> Result<()> {
        self.flush()?;
        let runtime = (self.before + self.began.elapsed().as_secs_f64()) as u64;
        let exit = Message::default().integer(1, u64::from(!finished)).integer(2, runtime);
        self.record(kind::EXIT, &exit)?;
        self.store.sync()
    }
}

/// Writes a run's file again. What was uploaded in part has to be uploaded again.
fn rewrite(path: &Path, bytes: &[u8]) -> Result<()> {
    for mark in ["synced", "syncstate"] {
        let mark = PathBuf::from(format!("{}.{mark}", path.display()));
        if mark.exists() {
            fs::remove_file(&mark).with_context(|| mark.display().to_string())?;
        }
    }
    Ok(atomic::write_bytes(path, bytes)?)
}

/// Removes the rows after step `done` from the newest run of a folder, which is not continued.
///
/// # Errors
/// When its file can't be written.
pub(super) fn cut(folder: &Path, done: usize) -> Result<()> {
    let Some(path) = newest(folder) else { return Ok(()) };
    let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    let all = records(&bytes);
    let count = all.len();
    let kept = kept(all, done);
    if kept.len() == count { Ok(()) } else { rewrite(&path, &file_of(&kept)) }
}

/// The newest run of a folder.
fn newest(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let runs = entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)));
    let file = |run: PathBuf| {
        let files = fs::read_dir(run).ok()?.flatten().map(|entry| entry.path());
        files.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "wandb"))
    };
    runs.filter_map(file).max()
}

/// The path of a new run's file, in a folder as wandb names it. The file is empty.
fn fresh(folder: &Path) -> Result<PathBuf> {
    let now = time::OffsetDateTime::now_utc();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    let seed = format!("{} {} {}", now.unix_timestamp_nanos(), std::process::id(), folder.display());
    // Eight digits of base 36, as wandb draws them.
    let digits = Sha256::digest(seed.as_bytes());
    let digits = digits.iter().take(8).map(|byte| char::from_digit(u32::from(*byte) % 36, 36).unwrap_or('0'));
    let id = variable("WANDB_RUN_ID").unwrap_or_else(|| digits.collect());
    let id: String = id.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let stamp = format!("{year:04}{:02}{day:02}_{hour:02}{minute:02}{second:02}", u8::from(month));
    let run = folder.join(format!("{PREFIX}{stamp}-{id}"));
    for part in ["files", "logs"] {
        let part = run.join(part);
        fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
    }
    Ok(run.join(format!("run-{id}.wandb")))
}

fn run_record(id: &str, run: &Begun<'_>) -> Message {
    let chosen = |key: &str, name: &str| if key.is_empty() { variable(name) } else { Some(key.to_owned()) };
    let project = chosen(run.project, "WANDB_PROJECT").unwrap_or_else(|| "burnish".to_owned());
    let name = chosen(run.name, "WANDB_NAME").unwrap_or_else(|| run.folder_name.to_owned());
    let config = run
        .config
        .iter()
        .fold(Message::default(), |message, (key, value)| message.message(1, &item(1, key, &value.to_string())));
    let now = seconds();
    let started = Message::default().integer(1, now as u64).integer(2, (now.fract() * 1e9) as u64);
    let message = Message::default()
        .text(1, id)
        .text(2, &variable("WANDB_ENTITY").unwrap_or_default())
        .text(3, &project)
        .message(4, &config)
        .text(6, &variable("WANDB_RUN_GROUP").unwrap_or_default())
        .text(7, &variable("WANDB_JOB_TYPE").unwrap_or_default())
        .text(8, &name)
        .text(9, &variable("WANDB_NOTES").unwrap_or_default());
    let tags = variable("WANDB_TAGS").unwrap_or_default();
    let tags = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    tags.fold(message, |message, tag| message.text(10, tag)).message(17, &started)
}

/// An item of a configuration, a history or a summary. Keys of the latter are nested, and so may contain a point.
fn item(key: u32, name: &str, json: &str) -> Message {
    Message::default().text(key, name).text(16, json)
}

/// A number as Python's `json` writes it.
fn number(value: f64) -> String {
    if value.is_finite() {
        json!(value).to_string()
    } else if value.is_nan() {
        "NaN".to_owned()
    } else {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    }
}

/// The records of a run that was stopped, up to a step. Its exit is left out.
fn kept(records: Vec<Vec<u8>>, done: usize) -> Vec<Vec<u8>> {
    let (mut kept, mut summary) = (Vec::new(), None);
    for record in records {
        if let Some(Value::Bytes(history)) = field(&record, kind::HISTORY) {
            let step = match field(history, 2) {
                Some(Value::Bytes(step)) => field(step, 1),
                _ => None,
            };
            let summary = summary.take();
            if matches!(step, Some(Value::Integer(step)) if step <= done as u64) {
                kept.extend(summary.into_iter().chain([record]));
            }
        } else if field(&record, kind::SUMMARY).is_some() {
            // It says the same as the row that follows it.
            summary = Some(record);
        } else if field(&record, kind::EXIT).is_none() {
            kept.push(record);
        }
    }
    kept
}

/// The `_runtime` of a row, or 0.
fn runtime(record: &[u8]) -> f64 {
    let Some(Value::Bytes(history)) = field(record, kind::HISTORY) else { return 0.0 };
    let items = fields(history).filter_map(|(number, value)| match (number, value) {
        (1, Value::Bytes(item)) => Some(item),
        _ => None,
    });
    let value = |item: &[u8]| match (field(item, 2), field(item, 16)) {
        (Some(Value::Bytes(b"_runtime")), Some(Value::Bytes(json))) => std::str::from_utf8(json).ok()?.parse().ok(),
        _ => None,
    };
    items.into_iter().find_map(value).unwrap_or(0.0)
}
