//! Reads damaged files of one target until the time is over.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::attempt::{Fault, LONGEST, Place};
use crate::corpus::Corpus;
use crate::mutate::mutate;
use crate::random::Random;
use crate::target::Target;

/// What a run found.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Files that were read.
    pub executions: u64,
    /// Files that others were made of.
    pub corpus: usize,
    /// The most bytes allocated beyond the fixed amount, for each byte of the file.
    pub ratio: f64,
    /// The most bytes allocated.
    pub peak: usize,
    /// The longest time.
    pub slowest: Duration,
}

impl Stats {
    /// For the process that waits.
    pub fn to_json(&self) -> Value {
        json!({ "executions": self.executions, "corpus": self.corpus, "ratio": self.ratio, "peak": self.peak,
            "slowest": self.slowest.as_secs_f64() })
    }

    /// As [`Stats::to_json`] wrote it.
    pub fn from_json(json: &Value) -> Self {
        let number = |key: &str| json.get(key).and_then(Value::as_u64).unwrap_or_default();
        let float = |key: &str| json.get(key).and_then(Value::as_f64).unwrap_or_default();
        Self {
            executions: number("executions"),
            corpus: number("corpus") as usize,
            ratio: float("ratio"),
            peak: number("peak") as usize,
            slowest: Duration::from_secs_f64(float("slowest")),
        }
    }

    /// Those of both runs.
    pub fn add(&mut self, other: &Self) {
        self.executions += other.executions;
        self.corpus = self.corpus.max(other.corpus);
        self.ratio = self.ratio.max(other.ratio);
        self.peak = self.peak.max(other.peak);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// How long a run lasts.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// The seconds.
    Time(Duration),
    /// The damaged files, besides the corpus.
    Files(u64),
}

/// Reads the corpus and then damaged files in `folder`; `found` gets the bytes of each that shows a fault, and `tell` the figures once a
/// second. A file that is read for much longer than it may ends the process.
///
/// # Errors
/// If a file can't be written.
pub fn fuzz(
    target: &Target,
    folder: &Path,
    seed: u64,
    limit: Limit,
    mut found: impl FnMut(&[u8], &Fault),
    mut tell: impl FnMut(&Stats),
) -> Result<Stats> {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    static WATCHED: AtomicBool = AtomicBool::new(false);
    let (place, clock) = (Place::new(target, folder)?, Instant::now());
    if !WATCHED.swap(true, Ordering::SeqCst) && matches!(limit, Limit::Time(_)) {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                let now = clock.elapsed().as_millis() as u64;
                if now.saturating_sub(STARTED.load(Ordering::SeqCst)) > 2 * LONGEST.as_millis() as u64 {
                    eprintln!("a file has been read for {} seconds", 2 * LONGEST.as_secs());
                    std::process::abort();
                }
            }
        });
    }
    let (mut random, mut corpus, mut stats) = (Random::new(seed), Corpus::of(target), Stats::default());
    let (seeds, mut told) = (corpus.files().to_vec(), Instant::now());
    let mut at = 0;
    loop {
        let is_over = match limit {
            Limit::Time(time) => clock.elapsed() > time,
            Limit::Files(count) => stats.executions >= count + seeds.len() as u64,
        };
        if is_over {
            return Ok(stats);
        }
        let bytes = match seeds.get(at) {
            Some(seed) => seed.clone(),
            None => mutate(corpus.pick(&mut random), corpus.pick(&mut random.clone()), target.words, &mut random),
        };
        at += 1;
        STARTED.store(clock.elapsed().as_millis() as u64, Ordering::SeqCst);
        let attempt = place.read(target, &bytes)?;
        stats.add(&Stats {
            executions: 1,
            corpus: corpus.files().len(),
            ratio: attempt.ratio,
            peak: attempt.peak,
            slowest: attempt.time,
        });
        match &attempt.fault {
            Some(fault) => found(&bytes, fault),
            None => corpus.learn(&bytes, &attempt.outcome),
        }
        if told.elapsed() > Duration::from_secs(1) {
            tell(&stats);
            told = Instant::now();
        }
    }
}
