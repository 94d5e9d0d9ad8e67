//! Reads one file, and judges that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::allocator;
use crate::target::Target;

/// What a reader may allocate for each byte of a file, beyond what its target says.
pub const EACH: usize = 4;
/// What it may take for any file.
pub const LONGEST: Duration = Duration::from_secs(10);

/// What is wrong with a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It panicked with this message.
    Panic(String),
    /// It allocated this many bytes.
    Allocation(usize),
    /// It took this long.
    Slow(Duration),
}

impl Fault {
    /// A word for the name of a file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Panic(_) => "panic",
            Self::Allocation(_) => "allocation",
            Self::Slow(_) => "slow",
        }
    }
}

/// The reading of one file.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What the reader said, without the numbers in it.
    pub outcome: String,
    /// The most bytes that it had allocated.
    pub peak: usize,
    /// Those beyond the fixed amount of the target, for each byte of the file.
    pub ratio: f64,
    /// How long it took.
    pub time: Duration,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

/// The folder in which a target reads its files.
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// Writes into the folder what a target's file has beside it.
    ///
    /// # Errors
    /// If that can't be written.
    pub fn new(target: &Target, folder: &Path) -> Result<Self> {
        let path = folder.join(target.file);
        for (name, bytes) in target.beside {
            let path = folder.join(name);
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
        Ok(Self { path })
    }

    /// The file that is being read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file and reads it. A panic is caught.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn read(&self, target: &Target, bytes: &[u8]) -> Result<Attempt> {
        // A file that is emptied and written again is written to the disk at once.
        std::fs::remove_file(&self.path).ok();
        std::fs::write(&self.path, bytes).with_context(|| self.path.display().to_string())?;
        let (before, started) = (allocator::watch(), Instant::now());
        let read = catch_unwind(AssertUnwindSafe(|| (target.read)(&self.path)));
        let (peak, time) = (allocator::peak(before), started.elapsed());
        let beyond = peak.saturating_sub(target.fixed);
        let (outcome, panic) = match read {
            Ok(outcome) => (without_numbers(&outcome.replace(&self.path.display().to_string(), "FILE")), None),
            Err(payload) => {
                let text = payload.downcast_ref::<String>().map(String::as_str);
                let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                (String::new(), Some(Fault::Panic(text.to_owned())))
            }
        };
        let fault = match panic {
            Some(panic) => Some(panic),
            None if beyond > EACH * bytes.len() => Some(Fault::Allocation(peak)),
            None if time > LONGEST => Some(Fault::Slow(time)),
            None => None,
        };
        Ok(Attempt { outcome, peak, ratio: beyond as f64 / bytes.len().max(1) as f64, time, fault })
    }
}

/// A text without digits and what stands between quotes, so that texts which differ in nothing else are the same.
pub fn without_numbers(text: &str) -> String {
    let mut quoted = false;
    let kept = text.chars().filter(|character| {
        let is_quote = matches!(character, '`' | '"');
        quoted ^= is_quote;
        !(quoted || is_quote || character.is_ascii_digit())
    });
    kept.take(160).collect()
}
