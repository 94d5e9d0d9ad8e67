//! A file of prepared rows: examples, which are read one by one, and what is known of their file.
//!
//! After [`MAGIC`] follow the examples. Each has its tokens, a bit for each of them that is learned, and its labels if they are not the
//! tokens themselves. Then come the lengths, the first line and the number of examples of each row, the report as JSON, and a footer.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};

use burnish_engine::IGNORE;
use crc32fast::Hasher;

use super::report::DataReport;
use super::tokenize::Example;

/// Begins and ends the file. Its last character is the version of the format.
const MAGIC: &[u8; 8] = b"BURNROW2";
/// Four numbers of 8 bytes, two checksums of 4, and [`MAGIC`].
const FOOTER: u64 = 48;
/// Bytes that are read at once when examples are read in order.
const BLOCK: u64 = 1 << 20;

/// Whether the answer of an example is one to unlearn.
const UNDESIRABLE: u32 = 1;
/// Whether labels differ from the tokens.
const RELABELLED: u32 = 2;

/// Where an example is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    start: u64,
    tokens: u32,
    flags: u32,
}

impl Entry {
    /// The bytes of the example.
    fn size(self) -> u64 {
        let tokens = u64::from(self.tokens);
        let labels = if self.flags & RELABELLED == 0 { tokens.div_ceil(8) } else { tokens * 8 };
        tokens * 4 + labels
    }
}

/// A row that became examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UsedRow {
    /// Its first line, from 1.
    pub(super) line: u64,
    /// The number of its examples.
    pub(super) examples: u32,
}

impl UsedRow {
    /// Its bytes in the file.
    const SIZE: u64 = 12;

    fn to_bytes(self) -> [u8; Self::SIZE as usize] {
        let mut bytes = [0; Self::SIZE as usize];
        bytes[..8].copy_from_slice(&self.line.to_le_bytes());
        bytes[8..].copy_from_slice(&self.examples.to_le_bytes());
        bytes
    }

    fn of(bytes: &[u8]) -> Self {
        let (line, examples) = bytes.split_at(8);
        Self {
            line: u64::from_le_bytes(line.try_into().unwrap_or_default()),
            examples: u32::from_le_bytes(examples.try_into().unwrap_or_default()),
        }
    }
}

/// Writes a file of prepared rows.
#[derive(Debug)]
pub(super) struct RowWriter {
    out: BufWriter<File>,
    entries: Vec<Entry>,
    end: u64,
    checksum: Hasher,
    buffer: Vec<u8>,
}

impl RowWriter {
    /// Begins a file, which is empty and can be read and written.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(BLOCK as usize, file);
        out.write_all(MAGIC)?;
        let (end, entries) = (MAGIC.len() as u64, Vec::new());
        Ok(Self { out, entries, end, checksum: Hasher::new(), buffer: Vec::new() })
    }

    pub(super) fn push(&mut self, example: &Example) -> io::Result<()> {
        let Example { input_ids, labels, desirable } = example;
        let is_plain = |(id, label): (&u32, &i64)| *label == IGNORE || *label == i64::from(*id);
        let is_plain = input_ids.iter().zip(labels).all(is_plain);
        let flags = if *desirable { 0 } else { UNDESIRABLE } | if is_plain { 0 } else { RELABELLED };
        let tokens = u32::try_from(input_ids.len()).map_err(io::Error::other)?;
        let entry = Entry { start: self.end, tokens, flags };
        self.buffer.clear();
        self.buffer.extend(input_ids.iter().flat_map(|id| id.to_le_bytes()));
        if is_plain {
            let bits = labels.chunks(8).map(|labels| {
                labels.iter().enumerate().fold(0_u8, |bits, (at, label)| bits | u8::from(*label != IGNORE) << at)
            });
            self.buffer.extend(bits);
        } else {
            self.buffer.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
        }
        self.checksum.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.end += entry.size();
        self.entries.push(entry);
        Ok(())
    }

    /// Writes the rest; when this returns, the file is on the disk.
    pub(super) fn finish(mut self, report: &DataReport, used: &[UsedRow]) -> io::Result<RowFile> {
        let report = serde_json::to_vec(report)?;
        let mut tail = Vec::with_capacity(8 * self.entries.len() + UsedRow::SIZE as usize * used.len() + report.len());
        tail.extend(self.entries.iter().flat_map(|entry| [entry.tokens.to_le_bytes(), entry.flags.to_le_bytes()].concat()));
        tail.extend(used.iter().flat_map(|row| row.to_bytes()));
        tail.extend(&report);
        let mut footer = Vec::with_capacity(FOOTER as usize);
        for number in [self.end, self.entries.len() as u64, used.len() as u64, report.len() as u64] {
            footer.extend(number.to_le_bytes());
        }
        footer.extend(self.checksum.finalize().to_le_bytes());
        footer.extend(crc32fast::hash(&tail).to_le_bytes());
        footer.extend(MAGIC);
        self.out.write_all(&tail)?;
        self.out.write_all(&footer)?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(RowFile::of(file, self.entries))
    }
}

/// Reads examples from a file of prepared rows.
#[derive(Debug)]
pub(super) struct RowFile {
    entries: Vec<Entry>,
    reader: Mutex<Reader>,
}

/// The file, and the part of it that was read last.
#[derive(Debug)]
struct Reader {
    file: File,
    start: u64,
    block: Vec<u8>,
    /// The end of the example that was read last.
    last: u64,
}

/// What a file of prepared rows holds.
pub(super) struct Kept {
    pub(super) rows: RowFile,
    pub(super) report: DataReport,
    pub(super) used: Vec<UsedRow>,
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the file of prepared rows is damaged")
}

impl RowFile {
    fn of(file: File, entries: Vec<Entry>) -> Self {
        Self { entries, reader: Mutex::new(Reader { file, start: 0, block: Vec::new(), last: 0 }) }
    }

    /// Opens a file, and reads all of it once to check it.
    ///
    /// # Errors
    /// When it can't be read or is damaged.
    pub(super) fn open(mut file: File) -> io::Result<Kept> {
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.checked_sub(FOOTER).ok_or_else(damaged)?))?;
        let mut footer = [0; FOOTER as usize];
        file.read_exact(&mut footer)?;
        let number = |at: usize| u64::from_le_bytes(footer[8 * at..8 * at + 8].try_into().unwrap_or_default());
        let checksum = |at: usize| u32::from_le_bytes(footer[at..at + 4].try_into().unwrap_or_default());
        let [end, examples, rows, report] = [0, 1, 2, 3].map(number);
        let lengths = examples.checked_mul(8).zip(rows.checked_mul(UsedRow::SIZE)).and_then(|(a, b)| a.checked_add(b));
        let tail = lengths.and_then(|lengths| lengths.checked_add(report)).ok_or_else(damaged)?;
        let whole = end.checked_add(tail).and_then(|bytes| bytes.checked_add(FOOTER));
        if footer[40..] != *MAGIC || whole != Some(size) || end < MAGIC.len() as u64 {
            return Err(damaged());
        }
        file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
        let mut hasher = Hasher::new();
        let mut data = (&file).take(end - MAGIC.len() as u64);
        let mut block = vec![0; BLOCK as usize];
        loop {
            match data.read(&mut block)? {
                0 => break,
                count => hasher.update(&block[..count]),
            }
        }
        let mut bytes = Vec::new();
        (&file).take(tail).read_to_end(&mut bytes)?;
        if hasher.finalize() != checksum(32) || crc32fast::hash(&bytes) != checksum(36) {
            return Err(damaged());
        }
        let (lengths, rest) = bytes.split_at(8 * examples as usize);
        let (used, report) = rest.split_at((UsedRow::SIZE * rows) as usize);
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap_or_default());
        let mut start = MAGIC.len() as u64;
        let mut entries = Vec::with_capacity(examples as usize);
        for pair in lengths.chunks_exact(8) {
            let entry = Entry { start, tokens: word(&pair[..4]), flags: word(&pair[4..]) };
            start += entry.size();
            entries.push(entry);
        }
        let used: Vec<UsedRow> = used.chunks_exact(UsedRow::SIZE as usize).map(UsedRow::of).collect();
        if start != end || used.iter().map(|row| u64::from(row.examples)).sum::<u64>() != examples {
            return Err(damaged());
        }
        let report = serde_json::from_slice(report).map_err(|_| damaged())?;
        Ok(Kept { rows: Self::of(file, entries), report, used })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn tokens(&self, index: usize) -> usize {
        self.entries[index].tokens as usize
    }

    /// One example.
    ///
    /// # Panics
    /// If the file, which was read before, can't be read any more.
    pub(super) fn get(&self, index: usize) -> Example {
        let entry = self.entries[index];
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = reader.bytes(entry.start, entry.size());
        example(entry, bytes.unwrap_or_else(|error| panic!("the prepared rows can't be read any more: {error}")))
    }
}

impl Reader {
    fn bytes(&mut self, start: u64, size: u64) -> io::Result<&[u8]> {
        let is_within = |reader: &Self| start >= reader.start && start + size <= reader.start + reader.block.len() as u64;
        if !is_within(self) {
            // Examples that are read in order are read in large blocks.
            let count = if start == self.last { size.max(BLOCK) } else { size };
            self.block.clear();
            self.start = start;
            self.file.seek(SeekFrom::Start(start))?;
            (&self.file).take(count).read_to_end(&mut self.block)?;
        }
        if !is_within(self) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.last = start + size;
        let at = (start - self.start) as usize;
        Ok(&self.block[at..at + size as usize])
    }
}

fn example(entry: Entry, bytes: &[u8]) -> Example {
    let (ids, labels) = bytes.split_at(4 * entry.tokens as usize);
    let input_ids: Vec<u32> =
        ids.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default())).collect();
    let labels = if entry.flags & RELABELLED == 0 {
        let is_learned = |at: usize| labels[at / 8] >> (at % 8) & 1 == 1;
        input_ids.iter().enumerate().map(|(at, id)| if is_learned(at) { i64::from(*id) } else { IGNORE }).collect()
    } else {
        labels.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap_or_default())).collect()
    };
    Example { input_ids, labels, desirable: entry.flags & UNDESIRABLE == 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn examples() -> impl Strategy<Value = Vec<Example>> {
        let token = (any::<u32>(), prop_oneof![Just(0), Just(1), Just(2)]);
        let example =
            (prop::collection::vec(token, 0..40), any::<bool>(), any::<bool>()).prop_map(|(tokens, desirable, own)| {
                let label = |(id, kind): &(u32, i32)| match kind {
                    0 => IGNORE,
                    1 if !own => 7,
                    _ => i64::from(*id),
                };
                let labels = tokens.iter().map(label).collect();
                Example { input_ids: tokens.into_iter().map(|(id, _)| id).collect(), labels, desirable }
            });
        prop::collection::vec(example, 1..20)
    }

    fn used(examples: &[Example]) -> UsedRow {
        UsedRow { line: (1 << 40) + 7, examples: examples.len() as u32 }
    }

    fn written(examples: &[Example]) -> (Vec<u8>, RowFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = RowWriter::new(file.reopen().unwrap()).unwrap();
        examples.iter().for_each(|example| writer.push(example).unwrap());
        let report = DataReport { rows: 3, first_skipped: Some((2, "é".to_owned())), ..DataReport::default() };
        let rows = writer.finish(&report, &[used(examples)]).unwrap();
        (std::fs::read(file.path()).unwrap(), rows)
    }

    fn opened(bytes: &[u8]) -> io::Result<Kept> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        RowFile::open(file)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn examples_are_read_as_they_were_written(examples in examples(), order in prop::collection::vec(any::<prop::sample::Index>(), 40)) {
            let (bytes, written) = written(&examples);
            let kept = opened(&bytes).unwrap();
            prop_assert_eq!(kept.used, vec![used(&examples)]);
            prop_assert_eq!(kept.report.first_skipped, Some((2, "é".to_owned())));
            for rows in [&written, &kept.rows] {
                prop_assert_eq!(&(0..rows.len()).map(|index| rows.get(index)).collect::<Vec<_>>(), &examples);
                for index in &order {
                    let at = index.index(examples.len());
                    prop_assert_eq!(&rows.get(at), &examples[at]);
                    prop_assert_eq!(rows.tokens(at), examples[at].input_ids.len());
                }
            }
        }

        #[test]
        fn a_damaged_file_is_refused(examples in examples(), at in any::<prop::sample::Index>(), bit in 0..8_u32, cut in any::<bool>()) {
            let (mut bytes, _) = written(&examples);
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else if at >= MAGIC.len() {
                bytes[at] ^= 1 << bit;
            } else {
                return Ok(());
            }
            prop_assert!(opened(&bytes).is_err());
        }
    }
}
