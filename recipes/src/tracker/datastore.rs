//! The `.wandb` file: records in blocks of 32 KiB, as in the logs of LevelDB, but with the checksum of zlib.
//!
//! # Source
//! `wandb/sdk/internal/datastore.py` of wandb 0.19.11.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

const HEADER: &[u8; 7] = b":W&B\xe1\xbe\0";
const BLOCK: usize = 32 << 10;
/// Checksum, length and kind of a record's part.
const PART_HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// A file that records are appended to.
pub(super) struct DataStore {
    file: File,
    position: usize,
}

impl DataStore {
    /// Opens a file that exists, and whose contents are `bytes`, for appending.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn append_to(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path).with_context(|| path.display().to_string())?;
        Ok(Self { file, position: bytes.len() })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&mut self, record: &[u8]) -> Result<()> {
        let bytes = encoded(record, self.position);
        self.position += bytes.len();
        self.file.write_all(&bytes).context("can't write the .wandb file")
    }

    /// Syncs the file to disk.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().context("can't write the .wandb file")
    }
}

/// A file with these records.
pub(super) fn file_of(records: &[Vec<u8>]) -> Vec<u8> {
    records.iter().fold(HEADER.to_vec(), |mut bytes, record| {
        let more = encoded(record, bytes.len());
        bytes.extend(more);
        bytes
    })
}

/// A record at a position of the file.
fn encoded(mut record: &[u8], position: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(record.len() + 2 * PART_HEADER);
    let mut left = BLOCK - position % BLOCK;
    if left < PART_HEADER {
        bytes.resize(left, 0);
        left = BLOCK;
    }
    let mut is_first = true;
    loop {
        let (part, rest) = record.split_at(record.len().min(left - PART_HEADER));
        let kind = match (is_first, rest.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        bytes.extend(checksum(kind, part).to_le_bytes());
        bytes.extend((part.len() as u16).to_le_bytes());
        bytes.push(kind);
        bytes.extend(part);
        if rest.is_empty() {
            return bytes;
        }
        (record, left, is_first) = (rest, BLOCK, false);
    }
}

fn checksum(kind: u8, part: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(part);
    hasher.finalize()
}

/// The records of a file, up to the first that is damaged: a killed run may leave half a record.
pub(super) fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, mut record) = (Vec::new(), Vec::new());
    if !bytes.starts_with(HEADER) {
        return found;
    }
    let mut position = HEADER.len();
    loop {
        let left = BLOCK - position % BLOCK;
        if left < PART_HEADER {
            position += left;
        }
        let Some((header, rest)) = bytes.get(position..).and_then(<[u8]>::split_first_chunk::<PART_HEADER>) else { break };
        let [a, b, c, d, low, high, kind] = *header;
        let Some(part) = rest.get(..usize::from(u16::from_le_bytes([low, high]))) else { break };
        if checksum(kind, part) != u32::from_le_bytes([a, b, c, d]) {
            break;
        }
        position += PART_HEADER + part.len();
        if matches!(kind, FULL | FIRST) {
            record.clear();
        }
        record.extend(part);
        if matches!(kind, FULL | LAST) {
            found.push(std::mem::take(&mut record));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_any_length_are_read_back_and_half_of_one_is_not() {
        let record = |length: usize| (0..length).map(|index| (index * 7 + length) as u8).collect::<Vec<u8>>();
        // The ends fall before, on, and just after the end of a block, and into its last seven bytes.
        let rest = BLOCK - HEADER.len() - 2 * PART_HEADER - 1;
        for lengths in [
            vec![0, 1, 100],
            vec![1, rest, 5],
            vec![1, rest - 1, 5],
            vec![1, rest - 6, 5],
            vec![1, rest - 7, 5],
            vec![1, rest + 1, 5],
            vec![3 * BLOCK, 9, 2 * BLOCK],
        ] {
            let all: Vec<Vec<u8>> = lengths.iter().map(|length| record(*length)).collect();
            let bytes = file_of(&all);
            assert_eq!(records(&bytes), all, "{lengths:?}");
            assert_eq!(records(&bytes[..bytes.len() - 1]), all[..all.len() - 1], "{lengths:?}");
        }
        assert!(records(b"").is_empty() && records(b":W&B\0\0\0\0").is_empty());
        let mut damaged = file_of(&[record(4), record(5)]);
        damaged[HEADER.len() + PART_HEADER] ^= 1;
        assert!(records(&damaged).is_empty());
    }

    #[test]
    fn the_header_and_the_checksum_are_those_of_wandb() {
        // `zlib.crc32(data, zlib.crc32(bytes([kind])))` in Python.
        assert_eq!(checksum(FULL, b"123456789"), 0x21b5_2ec0);
        let whole = file_of(&[b"123456789".to_vec()]);
        assert_eq!(whole, b":W&B\xe1\xbe\0\xc0\x2e\xb5\x21\x09\0\x01123456789");
    }
}
