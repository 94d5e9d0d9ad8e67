//! A column of a row group, read value by value.

use std::rc::Rc;

use serde_json::Value as Json;

use super::hybrid::Hybrid;
use super::schema::{Column, Kind};
use super::thrift::Value;
use super::values::{Dictionary, Values};
use crate::source::codec::Codec;
use crate::source::flaw::Flaw;
use crate::source::ranged::Ranged;

/// Bytes of a page's header that are read at first, and at most.
const HEADER: u64 = 512;
const LONGEST_HEADER: u64 = 16 << 20;
/// Larger pages are refused.
const LARGEST_PAGE: u64 = 1 << 30;

/// Where the pages of a column are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) codec: Codec,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) values: u64,
}

/// A column of a row group. The page of the next value is in memory.
pub(super) struct Leaf<'a> {
    file: &'a Ranged,
    column: &'a Column,
    codec: Codec,
    at: u64,
    end: u64,
    /// Values of the pages that were not read.
    left: u64,
    page: Option<Page>,
    dictionary: Option<Dictionary>,
    next: Option<Levels>,
}

/// How a value is nested.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels {
    pub(super) repetition: u32,
    pub(super) definition: u32,
}

struct Page {
    left: u64,
    repetition: Option<Hybrid>,
    definition: Option<Hybrid>,
    values: Values,
}

/// The kind of a page.
const DATA: i64 = 0;
const DICTIONARY: i64 = 2;
const DATA_V2: i64 = 3;
/// The encoding of levels.
const RUNS: i64 = 3;

impl<'a> Leaf<'a> {
    pub(super) fn new(file: &'a Ranged, column: &'a Column, chunk: Chunk) -> Self {
        let Chunk { codec, start, end, values } = chunk;
        Self { file, column, codec, at: start, end, left: values, page: None, dictionary: None, next: None }
    }

    /// The levels of the next value; `None` after the last.
    pub(super) fn peek(&mut self) -> Result<Option<Levels>, Flaw> {
        if self.next.is_some() {
            return Ok(self.next);
        }
        let page = loop {
            match &mut self.page {
                Some(page) if page.left > 0 => break page,
                _ if self.left == 0 => return Ok(None),
                _ => self.read_page().map_err(|flaw| flaw.at(format!("column `{}`", self.column.name())))?,
            }
        };
        page.left -= 1;
        let level = |levels: &mut Option<Hybrid>, most: u32| match levels {
            Some(levels) => levels.next().filter(|level| *level <= most),
            None => Some(0),
        };
        let repetition = level(&mut page.repetition, self.column.max_repetition);
        let definition = level(&mut page.definition, self.column.max_definition);
        let Some((repetition, definition)) = repetition.zip(definition) else {
            return Err(Flaw::damaged(format!("column `{}`: the levels of a page are damaged", self.column.name())));
        };
        self.next = Some(Levels { repetition, definition });
        Ok(self.next)
    }

    /// Passes the next value, which is null or missing.
    pub(super) fn skip(&mut self) {
        self.next = None;
    }

    /// The next value, which [`Leaf::peek`] has found.
    pub(super) fn take(&mut self) -> Result<Json, Flaw> {
        let next = self.next.take();
        if next.is_none_or(|levels| levels.definition < self.column.max_definition) {
            return Ok(Json::Null);
        }
        let value = self.page.as_mut().and_then(|page| page.values.next());
        let wrong = || Flaw::damaged("a page ends before its values do");
        value.ok_or_else(wrong).flatten().map_err(|flaw| flaw.at(format!("column `{}`", self.column.name())))
    }

    fn read_page(&mut self) -> Result<(), Flaw> {
        let mut size = HEADER;
        let left = self.end.checked_sub(self.at).ok_or_else(|| Flaw::damaged("its pages end too early"))?;
        let (bytes, header_size) = loop {
            let bytes = self.file.read(self.at, size.min(left))?;
            if let Some((_, read)) = Value::read(&bytes) {
                break (bytes, read);
            }
            if size >= left || size >= LONGEST_HEADER {
                return Err(Flaw::damaged("the header of a page is damaged"));
            }
            size *= 16;
        };
        let Some((header, _)) = Value::read(&bytes) else { return Err(Flaw::damaged("the header of a page is damaged")) };
        let counts = header.count(2).zip(header.count(3)).filter(|(whole, packed)| whole.max(packed) <= &LARGEST_PAGE);
        let (whole, packed) = counts.ok_or_else(|| Flaw::damaged("the header of a page has no sizes"))?;
        let start = self.at + header_size as u64;
        if start + packed > self.end {
            return Err(Flaw::damaged("a page ends after its column"));
        }
        self.at = start + packed;
        let kind = header.int(1);
        if !matches!(kind, Some(DATA | DICTIONARY | DATA_V2)) {
            return Ok(());
        }
        let bytes = self.file.read(start, packed)?;
        if let Some(checksum) = header.int(4)
            && crc32fast::hash(&bytes) != checksum as u32
        {
            return Err(Flaw::damaged("the checksum of a page is wrong"));
        }
        match (kind, header.field(5), header.field(7), header.field(8)) {
            (Some(DATA), Some(data), ..) => self.data(bytes, whole, data),
            (Some(DICTIONARY), _, Some(dictionary), _) => {
                let (count, encoding) = (dictionary.count(1).unwrap_or(0), dictionary.int(2));
                if !matches!(encoding, Some(0 | 2)) || self.column.kind == Kind::Bool {
                    return Err(Flaw::damaged("its dictionary has an unknown encoding"));
                }
                let bytes = self.codec.unpack(bytes, whole as usize)?;
                self.dictionary = Some(Dictionary::new(bytes, count, self.column.kind)?);
                Ok(())
            }
            (Some(DATA_V2), .., Some(data)) => self.data_v2(bytes, whole, data),
            _ => Err(Flaw::damaged("the header of a page is incomplete")),
        }
    }

    fn data(&mut self, bytes: Vec<u8>, whole: u64, header: &Value<'_>) -> Result<(), Flaw> {
        let bytes = Rc::new(self.codec.unpack(bytes, whole as usize)?);
        let mut start = 0;
        let mut levels = |most: u32, encoding: i64| -> Result<Option<Hybrid>, Flaw> {
            if most == 0 {
                return Ok(None);
            }
            if header.int(encoding).is_some_and(|encoding| encoding != RUNS) {
                return Err(Flaw::Unsupported(
                    "its levels are packed bit by bit, which is not supported".to_owned(),
                    "write the file again, such as with pyarrow or datasets".to_owned(),
                ));
            }
            let wrong = || Flaw::damaged("the levels of a page are damaged");
            let length = bytes.get(start..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
            let from = start + 4;
            start = from + length.ok_or_else(wrong)? as usize;
            Hybrid::new(bytes.clone(), from..start, width(most)).map(Some).ok_or_else(wrong)
        };
        let repetition = levels(self.column.max_repetition, 4)?;
        let definition = levels(self.column.max_definition, 3)?;
        let range = start..bytes.len();
        let values = Values::new(bytes, range, self.column.kind, header.int(2).unwrap_or(-1), self.dictionary.as_ref())?;
        self.begin(header, repetition, definition, values)
    }

    fn data_v2(&mut self, bytes: Vec<u8>, whole: u64, header: &Value<'_>) -> Result<(), Flaw> {
        let wrong = || Flaw::damaged("the levels of a page are damaged");
        let size = |number: i64| header.count(number).and_then(|size| usize::try_from(size).ok()).ok_or_else(wrong);
        let (of_definition, of_repetition) = (size(5)?, size(6)?);
        let levels_size = of_definition.checked_add(of_repetition).filter(|size| *size <= bytes.len()).ok_or_else(wrong)?;
        let levels = Rc::new(bytes[..levels_size].to_vec());
        let of = |most: u32, from: usize, to: usize| match most {
            0 => Ok(None),
            most => Hybrid::new(levels.clone(), from..to, width(most)).map(Some).ok_or_else(wrong),
        };
        let repetition = of(self.column.max_repetition, 0, of_repetition)?;
        let definition = of(self.column.max_definition, of_repetition, levels_size)?;
        let values = bytes[levels_size..].to_vec();
        let whole = (whole as usize).checked_sub(levels_size).ok_or_else(wrong)?;
        // A page of nulls may have nothing to unpack.
        let is_packed = header.flag(7).unwrap_or(true) && !(values.is_empty() && whole == 0);
        let values = Rc::new(if is_packed { self.codec.unpack(values, whole)? } else { values });
        let range = 0..values.len();
        let values = Values::new(values, range, self.column.kind, header.int(4).unwrap_or(-1), self.dictionary.as_ref())?;
        self.begin(header, repetition, definition, values)
    }

    fn begin(
        &mut self,
        header: &Value<'_>,
        repetition: Option<Hybrid>,
        definition: Option<Hybrid>,
        values: Values,
    ) -> Result<(), Flaw> {
        let count = header.count(1).unwrap_or(0);
        self.left = self.left.checked_sub(count).ok_or_else(|| Flaw::damaged("it has more values than it announces"))?;
        self.page = Some(Page { left: count, repetition, definition, values });
        Ok(())
    }
}

/// Bits of a level.
fn width(most: u32) -> u32 {
    32 - most.leading_zeros()
}
