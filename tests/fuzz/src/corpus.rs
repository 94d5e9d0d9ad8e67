//! The files that others are made of.

use std::collections::BTreeSet;

use crate::random::Random;
use crate::target::Target;

/// The files of faults that were fixed, each with its target.
const FIXED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/corpus.rs"));
/// Larger files are not kept: they would slow down all that follow.
const KEPT: usize = 64 << 10;

/// The files of a target.
pub struct Corpus {
    files: Vec<Vec<u8>>,
    outcomes: BTreeSet<String>,
}

impl Corpus {
    /// The fixtures of a target, and the files of its faults that were fixed.
    pub fn of(target: &Target) -> Self {
        let fixed = FIXED.iter().filter(|(name, _)| *name == target.name).map(|(_, bytes)| bytes.to_vec());
        Self { files: (target.seeds)().into_iter().chain(fixed).collect(), outcomes: BTreeSet::new() }
    }

    /// The files.
    pub fn files(&self) -> &[Vec<u8>] {
        &self.files
    }

    /// One of the files.
    pub fn pick(&self, random: &mut Random) -> &[u8] {
        random.pick(&self.files).map_or(&[], Vec::as_slice)
    }

    /// Keeps a file that led to an outcome which none before it led to.
    pub fn learn(&mut self, bytes: &[u8], outcome: &str) {
        if !self.outcomes.contains(outcome) {
            self.outcomes.insert(outcome.to_owned());
            if bytes.len() <= KEPT {
                self.files.push(bytes.to_vec());
            }
        }
    }
}
