//! Thrift's compact protocol, in which the headers of a Parquet file are written.

use super::varint::{varint, zigzag};

/// Structures and lists that are nested deeper are refused.
const MAX_DEPTH: usize = 32;

/// A value.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    /// Numbers and values of the fields.
    Struct(Vec<(i64, Value<'a>)>),
    /// One that no header needs.
    Unread,
}

impl<'a> Value<'a> {
    /// Reads a structure; returns it and its bytes. `None` if it is damaged or does not end.
    pub(super) fn read(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let mut reader = Reader { bytes, at: 0 };
        let value = reader.structure(0)?;
        Some((value, reader.at))
    }

    /// A field of a structure.
    pub(super) fn field(&self, number: i64) -> Option<&Self> {
        let Self::Struct(fields) = self else { return None };
        fields.iter().find(|(found, _)| *found == number).map(|(_, value)| value)
    }

    /// A field that is a number.
    pub(super) fn int(&self, number: i64) -> Option<i64> {
        match self.field(number)? {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A field that is a number and not negative.
    pub(super) fn count(&self, number: i64) -> Option<u64> {
        self.int(number).and_then(|value| u64::try_from(value).ok())
    }

    /// A field that is a truth value.
    pub(super) fn flag(&self, number: i64) -> Option<bool> {
        match self.field(number)? {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A field that is text.
    pub(super) fn text(&self, number: i64) -> Option<&'a str> {
        match self.field(number)? {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// A field that is a list.
    pub(super) fn list(&self, number: i64) -> Option<&[Self]> {
        match self.field(number)? {
            Self::List(items) => Some(items),
            _ => None,
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn unsigned(&mut self) -> Option<u64> {
        varint(self.bytes, &mut self.at)
    }

    fn signed(&mut self) -> Option<i64> {
        self.unsigned().map(zigzag)
    }

    fn structure(&mut self, depth: usize) -> Option<Value<'a>> {
        let (mut fields, mut last) = (Vec::new(), 0_i64);
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Some(Value::Struct(fields));
            }
            last = match byte >> 4 {
                0 => self.signed()?,
                more => last.checked_add(i64::from(more))?,
            };
            fields.push((last, self.value(byte & 15, false, depth + 1)?));
        }
    }

    fn value(&mut self, kind: u8, in_list: bool, depth: usize) -> Option<Value<'a>> {
        if depth > MAX_DEPTH {
            return None;
        }
        Some(match kind {
            1 | 2 if in_list => Value::Bool(self.byte()? == 1),
            1 | 2 => Value::Bool(kind == 1),
            3 => Value::Int(i64::from(self.byte()? as i8)),
            4..=6 => Value::Int(self.signed()?),
            7 => {
                self.take(8)?;
                Value::Unread
            }
            8 => {
                let length = self.unsigned()?;
                Value::Bytes(self.take(length)?)
            }
            9 | 10 => {
                let (count, kind) = self.list()?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.value(kind, true, depth + 1)?);
                }
                Value::List(items)
            }
            11 => {
                let count = self.unsigned()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    self.value(kinds >> 4, true, depth + 1)?;
                    self.value(kinds & 15, true, depth + 1)?;
                }
                Value::Unread
            }
            12 => self.structure(depth)?,
            _ => return None,
        })
    }

    fn list(&mut self) -> Option<(u64, u8)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.unsigned()? } else { u64::from(byte >> 4) };
        Some((count, byte & 15))
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }
}
