//! The values of a page.

use std::ops::Range;
use std::rc::Rc;

use serde_json::Value;

use super::delta::Delta;
use super::hybrid::Hybrid;
use super::schema::Kind;
use crate::source::flaw::Flaw;
use crate::source::number;

/// Values that others refer to by their index.
#[derive(Debug, Clone)]
pub(super) struct Dictionary {
    bytes: Rc<Vec<u8>>,
    /// Where each value begins, and the end of the last; `None` if all have the same size.
    starts: Option<Rc<Vec<u32>>>,
    count: usize,
}

impl Dictionary {
    /// Values that are not compressed.
    pub(super) fn new(bytes: Vec<u8>, count: u64, kind: Kind) -> Result<Self, Flaw> {
        let wrong = || Flaw::damaged("its dictionary has fewer values than it announces");
        let (bytes, count) = (Rc::new(bytes), usize::try_from(count).map_err(|_| wrong())?);
        if let Some(size) = size(kind) {
            let is_whole = count.checked_mul(size).is_some_and(|needed| needed <= bytes.len());
            return is_whole.then_some(Self { bytes, starts: None, count }).ok_or_else(wrong);
        }
        let (mut starts, mut at) = (Vec::new(), 0);
        for _ in 0..count {
            let range = prefixed(&bytes, at..bytes.len()).ok_or_else(wrong)?;
            starts.push(u32::try_from(range.start).map_err(|_| wrong())?);
            at = range.end;
        }
        Ok(Self { bytes, starts: Some(Rc::new(starts)), count })
    }

    fn bytes(&self, index: u32, kind: Kind) -> Option<&[u8]> {
        let index = index as usize;
        if index >= self.count {
            return None;
        }
        if let Some(starts) = &self.starts {
            let start = starts[index] as usize;
            prefixed(&self.bytes, start - 4..self.bytes.len()).map(|range| &self.bytes[range])
        } else {
            let size = size(kind)?;
            self.bytes.get(index * size..(index + 1) * size)
        }
    }
}

/// Bytes of each value, if all have the same.
fn size(kind: Kind) -> Option<usize> {
    match kind {
        Kind::Int { bytes, .. } | Kind::Float { bytes } => Some(bytes),
        Kind::Null => Some(4),
        Kind::Bool | Kind::Text | Kind::Json => None,
    }
}

/// The bytes after their length, which has 4 bytes.
fn prefixed(bytes: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    let length = bytes.get(range.clone())?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
    let start = range.start + 4;
    let end = start.checked_add(length as usize).filter(|end| *end <= range.end)?;
    Some(start..end)
}

/// How the values of a page are written.
#[derive(Debug)]
enum Form {
    Plain,
    /// The next bit.
    Bits(usize),
    Dictionary(Dictionary, Hybrid),
    Runs(Hybrid),
    Differences(Delta),
    Lengths(Delta),
    /// Lengths of what is common with the text before, lengths of the rest, and the text before.
    Prefixes(Delta, Delta, Vec<u8>),
    /// The first bytes of all values, then the second, and so on: the index of the next value.
    Split(usize),
}

/// The values of a page, read one by one.
#[derive(Debug)]
pub(super) struct Values {
    bytes: Rc<Vec<u8>>,
    /// What is not read yet.
    range: Range<usize>,
    kind: Kind,
    form: Form,
}

impl Values {
    /// Begins to read values with the number of their encoding.
    pub(super) fn new(
        bytes: Rc<Vec<u8>>,
        mut range: Range<usize>,
        kind: Kind,
        encoding: i64,
        dictionary: Option<&Dictionary>,
    ) -> Result<Self, Flaw> {
        let wrong = || Flaw::damaged("the values of a page do not fit its header");
        let lengths = |range: &mut Range<usize>| -> Option<Delta> {
            let mut skipped = Delta::new(bytes.clone(), range.clone())?;
            while skipped.left() > 0 {
                skipped.next()?;
            }
            let lengths = Delta::new(bytes.clone(), range.clone());
            range.start = skipped.end();
            lengths
        };
        let form = match encoding {
            0 if kind == Kind::Bool => Some(Form::Bits(range.start * 8)),
            0 => Some(Form::Plain),
            2 | 8 if kind != Kind::Bool => {
                let dictionary = dictionary.ok_or_else(|| Flaw::damaged("a page has no dictionary"))?;
                // A page in which every value is null may end here.
                let width = bytes[range.clone()].first().copied().unwrap_or(0);
                let start = (range.start + 1).min(range.end);
                let indices = Hybrid::new(bytes.clone(), start..range.end, width.into());
                indices.map(|indices| Form::Dictionary(dictionary.clone(), indices))
            }
            3 if kind == Kind::Bool => {
                let within = if range.is_empty() { Some(range.clone()) } else { prefixed(&bytes, range.clone()) };
                within.and_then(|within| Hybrid::new(bytes.clone(), within, 1)).map(Form::Runs)
            }
            5 if matches!(kind, Kind::Int { .. }) => Delta::new(bytes.clone(), range.clone()).map(Form::Differences),
            6 if matches!(kind, Kind::Text | Kind::Json) => lengths(&mut range).map(Form::Lengths),
            7 if matches!(kind, Kind::Text | Kind::Json) => {
                lengths(&mut range).and_then(|common| Some(Form::Prefixes(common, lengths(&mut range)?, Vec::new())))
            }
            9 if size(kind).is_some() => Some(Form::Split(0)),
            2..=9 => None,
            other => {
                return Err(Flaw::Unsupported(
                    format!("its values are written by the encoding {other}, which is not supported"),
                    "write the file again, such as with pyarrow or datasets".to_owned(),
                ));
            }
        };
        Ok(Self { form: form.ok_or_else(wrong)?, bytes, range, kind })
    }

    /// The next value; `None` if the bytes are damaged or end.
    pub(super) fn next(&mut self) -> Option<Result<Value, Flaw>> {
        let Self { bytes, range, kind, form } = self;
        let mut take = |count: usize| -> Option<Range<usize>> {
            let end = range.start.checked_add(count).filter(|end| *end <= range.end)?;
            Some(std::mem::replace(&mut range.start, end)..end)
        };
        let found = match form {
            Form::Plain => {
                if let Some(size) = size(*kind) {
                    take(size)?
                } else {
                    let found = prefixed(bytes, range.clone())?;
                    range.start = found.end;
                    found
                }
            }
            Form::Bits(bit) => {
                let byte = *bytes[..range.end].get(*bit / 8)?;
                let value = byte >> (*bit % 8) & 1 == 1;
                *bit += 1;
                return Some(Ok(Value::Bool(value)));
            }
            Form::Dictionary(dictionary, indices) => {
                return dictionary.bytes(indices.next()?, *kind).map(|bytes| of_bytes(*kind, bytes));
            }
            Form::Runs(runs) => return Some(Ok(Value::Bool(runs.next()? == 1))),
            Form::Differences(delta) => return Some(Ok(of_int(*kind, delta.next()?))),
            Form::Lengths(lengths) => take(usize::try_from(lengths.next()?).ok()?)?,
            Form::Prefixes(common, lengths, before) => {
                let common = usize::try_from(common.next()?).ok().filter(|common| *common <= before.len())?;
                let rest = take(usize::try_from(lengths.next()?).ok()?)?;
                before.truncate(common);
                before.extend_from_slice(&bytes[rest]);
                return Some(of_bytes(*kind, before));
            }
            Form::Split(index) => {
                let (size, all) = (size(*kind)?, &bytes[range.clone()]);
                let count = all.len() / size;
                if *index >= count {
                    return None;
                }
                let value: Vec<u8> = (0..size).map(|byte| all[byte * count + *index]).collect();
                *index += 1;
                return Some(of_bytes(*kind, &value));
            }
        };
        Some(of_bytes(*kind, &bytes[found]))
    }
}

fn of_int(kind: Kind, value: i64) -> Value {
    match kind {
        Kind::Int { bytes: 4, signed: true } => Value::from(value as i32),
        Kind::Int { bytes: 4, .. } => Value::from(value as u32),
        Kind::Int { signed: false, .. } => Value::from(value as u64),
        _ => Value::from(value),
    }
}

fn of_bytes(kind: Kind, bytes: &[u8]) -> Result<Value, Flaw> {
    let wrong = || Flaw::damaged("a value has the wrong size");
    Ok(match kind {
        Kind::Null => Value::Null,
        Kind::Bool => return Err(wrong()),
        Kind::Int { bytes: 4, .. } => of_int(kind, i32::from_le_bytes(bytes.try_into().map_err(|_| wrong())?).into()),
        Kind::Int { .. } => of_int(kind, i64::from_le_bytes(bytes.try_into().map_err(|_| wrong())?)),
        Kind::Float { .. } => number::of_float(bytes).ok_or_else(wrong)?,
        Kind::Text | Kind::Json => {
            let text = std::str::from_utf8(bytes).map_err(|_| Flaw::damaged("it is not UTF-8"))?;
            if kind == Kind::Text { Value::from(text) } else { number::of_json(text)? }
        }
    })
}
