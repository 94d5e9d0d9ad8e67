//! The files that others are made of.

use std::collections::BTreeSet;

use crate::random::Random;
use crate::target::Target;

/// The files of faults that were fixed, each with its target.
const FIXED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/corpus.rs"));
/// Larger files are not kept: they would slow down all that follow.
const KEPT: usize = 64 << 10;
/// Bytes of all files and outcomes that are kept, so that hours of reading take no more memory than minutes.
const ALL_KEPT: usize = 64 << 20;

/// The files of a target.
pub struct Corpus {
    files: Vec<Vec<u8>>,
    outcomes: BTreeSet<String>,
    /// Bytes of the files and outcomes that were learnt.
    learnt: usize,
}

impl Corpus {
    /// The fixtures of a target, and the files of its faults that were fixed.
    pub fn of(target: &Target) -> Self {
        let fixed = FIXED.iter().filter(|(name, _)| *name == target.name).map(|(_, bytes)| bytes.to_vec());
        Self { files: (target.seeds)().into_iter().chain(fixed).collect(), outcomes: BTreeSet::new(), learnt: 0 }
    }

    /// The files.
    pub fn files(&self) -> &[Vec<u8>] {
        &self.files
    }

    /// One of the files.
    pub fn pick(&self, random: &mut Random) -> &[u8] {
        random.pick(&self.files).map_or(&[], Vec::as_slice)
    }

    /// Keeps a file that led to an outcome which none before it led to. Outcomes that differ only in numbers or in what is quoted are one.
    pub fn learn(&mut self, bytes: &[u8], outcome: &str) {
        if self.learnt >= ALL_KEPT {
            return;
        }
        let outcome = kind(outcome);
        let length = outcome.len();
        if self.outcomes.insert(outcome) {
            self.learnt += length;
            if bytes.len() <= KEPT {
                self.learnt += bytes.len();
                self.files.push(bytes.to_vec());
            }
        }
    }
}

/// An outcome without its numbers, and without what it quotes of the file.
fn kind(outcome: &str) -> String {
    let mut kind = String::new();
    let mut quoted = None;
    for character in outcome.chars() {
        match quoted {
            Some(quote) if character == quote => quoted = None,
            Some(_) => {}
            None if matches!(character, '`' | '"') => {
                quoted = Some(character);
                kind.push(character);
            }
            None if character.is_ascii_digit() => {
                if !kind.ends_with('0') {
                    kind.push('0');
                }
            }
            None => kind.push(character),
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_that_differ_in_numbers_or_quotes_are_one() {
        assert_eq!(kind("tensor `a\u{1}b`: offset 17 of 256"), kind("tensor `c`: offset 9 of 4096"));
        assert_ne!(kind("tensor `a`: offset 1"), kind("tensor `a`: length 1"));
        assert_eq!(kind("`unclosed 12"), "`");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut corpus = Corpus { files: Vec::new(), outcomes: BTreeSet::new(), learnt: 0 };
        let file = vec![0; KEPT];
        for number in 0..2000u32 {
            let name: String = (0..11).map(|bit| if number >> bit & 1 == 1 { 'a' } else { 'b' }).collect();
            corpus.learn(&file, &name);
        }
        let bytes: usize = corpus.files.iter().map(Vec::len).sum();
        assert!(bytes > ALL_KEPT / 2 && bytes <= ALL_KEPT + KEPT, "{bytes}");
    }
}
