//! Files of a run with a line of JSON per step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burnish_models::atomic;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// A line of a file.
pub trait StepLine: Serialize + DeserializeOwned {
    /// The name of the file.
    const FILE: &'static str;

    /// The step that it is about, from 1.
    fn step(&self) -> usize;
}

/// A file of such lines, opened for appending.
pub struct StepFile<L> {
    file: File,
    lines: PhantomData<fn(&L)>,
}

/// For numbers that may not be finite: JSON has neither NaN nor infinity, so `serde_json` writes them as null.
pub fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl<L: StepLine> StepFile<L> {
    /// Opens the file of a run folder. Lines after step `done` are removed: a resumed run writes them again.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub fn open(folder: &Path, done: usize) -> Result<Self> {
        let path = folder.join(L::FILE);
        if path.exists() {
            let kept: Vec<String> = lines(&path)?
                .into_iter()
                .filter(|line| serde_json::from_str::<L>(line).is_ok_and(|line| line.step() <= done))
                .collect();
            let mut text = kept.join("\n");
            if !text.is_empty() {
                text.push('\n');
            }
            atomic::write_bytes(&path, text.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
        Ok(Self { file, lines: PhantomData })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&mut self, line: &L) -> Result<()> {
        let mut line = serde_json::to_string(line)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).with_context(|| format!("can't write {}", L::FILE))
    }

    /// Syncs the file to disk.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| format!("can't write {}", L::FILE))
    }

    /// Reads all lines of a run folder; none if there is no such file. A line that can't be read is left out: a crash may leave an
    /// incomplete one at the end.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read(folder: &Path) -> Result<Vec<L>> {
        let path = folder.join(L::FILE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        Ok(lines(&path)?.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

fn lines(path: &PathBuf) -> Result<Vec<String>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let lines = BufReader::new(file).split(b'\n');
    let text = |line: std::io::Result<Vec<u8>>| line.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    lines.map(text).collect::<std::io::Result<_>>().with_context(|| path.display().to_string())
}
