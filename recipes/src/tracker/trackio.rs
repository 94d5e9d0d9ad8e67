//! Runs of trackio, in the files that its dashboard imports.
//!
//! trackio keeps runs in SQLite, and also imports lines of JSON from its folder `inbox`, where it writes them itself on network file
//! systems. A file there is never appended to: the dashboard may be reading it, and deletes it afterwards. A line that was imported before
//! is ignored, by its `log_id`; here that depends on run and step, so that steps that a resumed run takes again are there once, also where
//! it replaces a file that the dashboard is reading.
//!
//! # Source
//! `trackio/fragments.py` of trackio 0.43; versions since 0.28 read it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use burnish_models::HubEnvironment;
use burnish_models::atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::metrics;
use super::{Begun, Writer};
use crate::train::{Evaluation, StepMetrics};

/// The version of the lines.
const VERSION: u32 = 1;
/// How often the dashboard looks into the inbox.
const LEAST_APART: Duration = Duration::from_secs(15);
/// Lines are kept back for this part of the run at most: a long run has only some hundred files.
const PART: u32 = 100;
/// The file in the run's folder that says which run of trackio it is.
const STATE: &str = "run.json";

/// Which run of trackio this is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    id: String,
    project: String,
    name: String,
    /// The last step that was written.
    last_step: usize,
}

impl State {
    fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(STATE)).ok()?).ok()
    }

    fn write(&self, folder: &Path) -> Result<()> {
        Ok(atomic::write_bytes(&folder.join(STATE), serde_json::to_string_pretty(self)?.as_bytes())?)
    }

    /// Its folder in trackio's inbox.
    fn inbox(&self, home: &Path) -> PathBuf {
        home.join("inbox").join(format!("burnish-{}", self.id))
    }
}

/// Writes the lines of a run into trackio's inbox.
pub(super) struct Inbox {
    state: State,
    /// The run's own folder for it.
    folder: PathBuf,
    inbox: PathBuf,
    /// Lines that are not written yet.
    lines: Vec<Value>,
    /// The run's configuration, until the first line has taken it along.
    config: Option<Value>,
    began: Instant,
    written: Instant,
    /// The number in the name of the last file.
    number: u128,
    /// Steps after the checkpoint that trackio has imported already, and keeps: the first and the last.
    pub kept: Option<(usize, usize)>,
}

/// trackio's own folder: `TRACKIO_DIR`, or else `trackio` in `HF_HOME`.
pub(super) fn home() -> PathBuf {
    match std::env::var("TRACKIO_DIR") {
        Ok(folder) if !folder.is_empty() => folder.into(),
        _ => hugging_face().join("trackio"),
    }
}

/// `HF_HOME`: the folder of the hub's cache, where no variable names another one for that.
fn hugging_face() -> PathBuf {
    let is_of_cache = |key: &str| ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].contains(&key);
    let hub = HubEnvironment::from_lookup(|key| std::env::var(key).ok().filter(|_| !is_of_cache(key)));
    hub.cache.parent().unwrap_or(&hub.cache).to_owned()
}

impl Inbox {
    /// Starts a run, or continues the one of the run's own folder.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn open(folder: &Path, home: &Path, run: &Begun<'_>) -> Result<Self> {
        let project = if run.project.is_empty() { "burnish" } else { run.project };
        let name = if run.name.is_empty() { run.folder_name } else { run.name };
        let old = State::read(folder).filter(|_| run.done > 0);
        let kept = match &old {
            Some(state) => cut_run(state, folder, home, run.done)?,
            None => None,
        };
        let state = match old {
            Some(state) => State { last_step: run.done.min(state.last_step), ..state },
            None => State { id: fresh_id(folder), project: project.to_owned(), name: name.to_owned(), last_step: 0 },
        };
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        state.write(folder)?;
        let inbox = state.inbox(home);
        // What is in the way is found before the first step.
        fs::create_dir_all(&inbox).with_context(|| inbox.display().to_string())?;
        let mut config: Map<String, Value> = run.config.iter().cloned().collect();
        config.insert("_Created".to_owned(), now().into());
        let now = Instant::now();
        let config = Some(config.into());
        Ok(Self {
            state,
            folder: folder.to_owned(),
            inbox,
            lines: Vec::new(),
            config,
            began: now,
            written: now,
            number: 0,
            kept,
        })
    }

    /// The name of the project.
    pub fn project(&self) -> &str {
        &self.state.project
    }

    fn line(&mut self, step: usize, kind: &str, values: Vec<(String, f64)>) {
        let State { id, project, name, .. } = &self.state;
        let metrics: Map<String, Value> = values.into_iter().map(|(name, value)| (name, number(value))).collect();
        self.lines.push(json!({
            "v": VERSION,
            "kind": "metric",
            "project": project,
            "run": name,
            "run_id": id,
            "metrics": metrics,
            "step": step,
            "timestamp": now(),
            "config": self.config.take(),
            "log_id": log_id(id, step, kind),
        }));
        self.state.last_step = self.state.last_step.max(step);
    }

    /// Writes the lines into a file of their own.
    fn flush(&mut self) -> Result<()> {
        self.written = Instant::now();
        if self.lines.is_empty() {
            return Ok(());
        }
        let bytes = joined(&self.lines);
        // The dashboard reads files in the order of their names.
        self.number = (self.number + 1).max(OffsetDateTime::now_utc().unix_timestamp_nanos().unsigned_abs() / 1_000_000);
        let path = self.inbox.join(format!("{:016}.jsonl", self.number));
        let write = || -> Result<()> {
            fs::create_dir_all(&self.inbox)?;
            Ok(atomic::write_bytes(&path, &bytes)?)
        };
        // The dashboard deletes the folder when it is empty, which may be just now.
        write().or_else(|_| write()).with_context(|| path.display().to_string())?;
        self.lines.clear();
        self.state.write(&self.folder)
    }
}

impl Writer for Inbox {
    fn name(&self) -> &'static str {
        "trackio"
    }

    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.line(metrics.step, "step", metrics::of_step(metrics));
        let apart = LEAST_APART.max(self.began.elapsed() / PART);
        if self.written.elapsed() >= apart { self.flush() } else { Ok(()) }
    }

    fn evaluation(&mut self, step: usize, evaluation: &Evaluation) -> Result<()> {
        self.line(step, "evaluation", metrics::of_evaluation(evaluation));
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.flush()
    }

    fn end(&mut self, _step: usize, _finished: bool) -> Result<()> {
        self.flush()
    }
}

/// Removes the steps after step `done` from what trackio has not imported yet of a run that is not continued.
///
/// # Errors
/// When a file can't be written.
pub(super) fn cut(folder: &Path, home: &Path, done: usize) -> Result<()> {
    match State::read(folder) {
        Some(state) => cut_run(&state, folder, home, done).map(|_| ()),
        None => Ok(()),
    }
}

/// The same; returns the first and the last of those steps that trackio has imported already.
fn cut_run(state: &State, folder: &Path, home: &Path, done: usize) -> Result<Option<(usize, usize)>> {
    let mut found = BTreeSet::new();
    let files = fs::read_dir(state.inbox(home)).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")) {
        // The dashboard may have imported and deleted it by now.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let step = |line: &Value| line["step"].as_u64().unwrap_or(0) as usize;
        let (kept, dropped): (Vec<Value>, Vec<Value>) = lines.into_iter().partition(|line| step(line) <= done);
        found.extend(dropped.iter().map(step));
        match (dropped.is_empty(), kept.is_empty()) {
            (true, _) => {}
            (false, true) => match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| path.display().to_string());
                }
                _ => {}
            },
            (false, false) => atomic::write_bytes(&path, &joined(&kept))?,
        }
    }
    if state.last_step > done {
        State { last_step: done, ..state.clone() }.write(folder)?;
    }
    let mut imported = (done + 1..=state.last_step).filter(|step| !found.contains(step));
    let first = imported.next();
    Ok(first.map(|first| (first, imported.next_back().unwrap_or(first))))
}

/// A line of JSON for each value.
fn joined(lines: &[Value]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

/// 32 digits of base 16, as trackio draws them.
fn fresh_id(folder: &Path) -> String {
    let now = OffsetDateTime::now_utc().unix_timestamp_nanos();
    hexadecimal(&format!("{now} {} {}", std::process::id(), folder.display()))
}

/// The id of a line.
fn log_id(run: &str, step: usize, kind: &str) -> String {
    hexadecimal(&format!("{run} {step} {kind}"))
}

fn hexadecimal(text: &str) -> String {
    let digits = Sha256::digest(text.as_bytes());
    let digits = digits.iter().take(16).flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

/// The time, as Python's `isoformat` writes it.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second, micro) = now.to_hms_micro();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}+00:00", u8::from(month))
}

/// A number as trackio keeps it.
fn number(value: f64) -> Value {
    if value.is_finite() {
        json!(value)
    } else if value.is_nan() {
        "NaN".into()
    } else {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_those_of_python() {
        assert!(now().len() == "2026-01-02T03:04:05.000006+00:00".len() && now().ends_with("+00:00"));
        assert_eq!(
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(number),
            ["NaN", "Infinity", "-Infinity"].map(Value::from)
        );
        assert_eq!(number(0.5), json!(0.5));
        assert_eq!(log_id("a", 1, "step").len(), 32);
        assert!(log_id("a", 1, "step") != log_id("a", 1, "evaluation") && log_id("a", 1, "step") != log_id("b", 1, "step"));
    }
}
