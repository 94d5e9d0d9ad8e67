//! The values of a column in a record batch.

use std::ops::Range;

use serde_json::{Map, Value as Json};

use super::buffer::Buffer;
use super::schema::{Field, Kind};
use crate::source::budget::Budget;
use crate::source::codec::Codec;
use crate::source::flaw::Flaw;
use crate::source::number;
use crate::source::ranged::Ranged;

/// The values of a column.
pub(super) struct Array<'a> {
    name: String,
    is_json: bool,
    length: u64,
    /// A bit for each value that is not null; `None` if none is null.
    validity: Option<Buffer<'a>>,
    data: Data<'a>,
}

enum Data<'a> {
    Null,
    Bool(Buffer<'a>),
    Int { values: Buffer<'a>, bytes: usize, signed: bool },
    Float { values: Buffer<'a>, bytes: usize },
    Text { offsets: Buffer<'a>, offset: usize, text: Buffer<'a> },
    View { views: Buffer<'a>, texts: Vec<Buffer<'a>> },
    List { offsets: Buffer<'a>, offset: usize, element: Box<Array<'a>> },
    Fixed { length: u64, element: Box<Array<'a>> },
    Struct(Vec<Array<'a>>),
    Dictionary { number: i64, indices: Buffer<'a>, bytes: usize, signed: bool },
}

/// The numbers and the values of dictionaries; a dictionary may come in several parts.
pub(super) type Dictionaries<'a> = Vec<(i64, Vec<Array<'a>>)>;

/// What a batch has for its columns, in their order.
pub(super) struct Parts<'a> {
    pub(super) file: &'a Ranged,
    pub(super) codec: Option<Codec>,
    /// Where its buffers are in the file.
    pub(super) body: Range<u64>,
    /// Length and number of nulls of each column.
    pub(super) nodes: std::vec::IntoIter<[i64; 2]>,
    /// Start and length of each buffer, which begin in the body.
    pub(super) buffers: std::vec::IntoIter<[i64; 2]>,
    /// Numbers of the buffers of views.
    pub(super) texts: std::vec::IntoIter<[i64; 1]>,
}

impl<'a> Parts<'a> {
    fn buffer(&mut self) -> Result<Buffer<'a>, Flaw> {
        let [start, length] = self.buffers.next().ok_or_else(|| Flaw::damaged("a batch has too few buffers"))?;
        let range = u64::try_from(start).ok().zip(u64::try_from(length).ok());
        let range = range.and_then(|(start, length)| Some((self.body.start.checked_add(start)?, length)));
        let range = range.filter(|(start, length)| start.checked_add(*length).is_some_and(|end| end <= self.body.end));
        let (start, length) = range.ok_or_else(|| Flaw::damaged("a buffer is outside of its batch"))?;
        Buffer::new(self.file, start, length, self.codec)
    }

    /// The values of a column.
    ///
    /// # Errors
    /// If something is missing.
    pub(super) fn array(&mut self, field: &Field) -> Result<Array<'a>, Flaw> {
        let wrong = || Flaw::damaged(format!("column `{}`: its length is damaged", field.name));
        let [length, nulls] = self.nodes.next().ok_or_else(|| Flaw::damaged("a batch has too few columns"))?;
        let length = u64::try_from(length).map_err(|_| wrong())?;
        let validity = match field.kind {
            Kind::Null => None,
            _ => Some(self.buffer()?).filter(|buffer| nulls != 0 && buffer.length() > 0),
        };
        let data = match &field.kind {
            Kind::Null => Data::Null,
            Kind::Bool => Data::Bool(self.buffer()?),
            Kind::Int { bytes, signed } => Data::Int { values: self.buffer()?, bytes: *bytes, signed: *signed },
            Kind::Float { bytes } => Data::Float { values: self.buffer()?, bytes: *bytes },
            Kind::Text { offset } => Data::Text { offsets: self.buffer()?, offset: *offset, text: self.buffer()? },
            Kind::View => {
                let views = self.buffer()?;
                let [count] = self.texts.next().ok_or_else(|| Flaw::damaged("a batch has too few buffers"))?;
                let mut texts = Vec::new();
                for _ in 0..count {
                    texts.push(self.buffer()?);
                }
                Data::View { views, texts }
            }
            Kind::List { offset, element } => {
                Data::List { offsets: self.buffer()?, offset: *offset, element: Box::new(self.array(element)?) }
            }
            Kind::Fixed { length, element } => {
                Data::Fixed { length: *length as u64, element: Box::new(self.array(element)?) }
            }
            Kind::Struct(fields) => Data::Struct(fields.iter().map(|field| self.array(field)).collect::<Result<_, _>>()?),
            Kind::Dictionary { number, bytes, signed } => {
                Data::Dictionary { number: *number, indices: self.buffer()?, bytes: *bytes, signed: *signed }
            }
        };
        Ok(Array { name: field.name.clone(), is_json: field.is_json, length, validity, data })
    }
}

impl Array<'_> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether its length is that of a buffer, not only a number in a header.
    pub(super) fn has_bytes(&self) -> bool {
        match &self.data {
            Data::Null => false,
            Data::Struct(fields) => self.validity.is_some() || fields.iter().any(Array::has_bytes),
            Data::Fixed { length, element } => self.validity.is_some() || (*length > 0 && element.has_bytes()),
            _ => true,
        }
    }

    /// Reads all of it into memory, for values in any order.
    ///
    /// # Errors
    /// If the file can't be read.
    pub(super) fn keep(&self) -> Result<(), Flaw> {
        self.validity.as_ref().map_or(Ok(()), Buffer::keep)?;
        match &self.data {
            Data::Null => Ok(()),
            Data::Bool(values) | Data::Int { values, .. } | Data::Float { values, .. } => values.keep(),
            Data::Text { offsets, text, .. } => offsets.keep().and_then(|()| text.keep()),
            Data::View { views, texts } => views.keep().and_then(|()| texts.iter().try_for_each(Buffer::keep)),
            Data::List { offsets, element, .. } => offsets.keep().and_then(|()| element.keep()),
            Data::Fixed { element, .. } => element.keep(),
            Data::Struct(fields) => fields.iter().try_for_each(Array::keep),
            Data::Dictionary { indices, .. } => indices.keep(),
        }
    }

    /// A value.
    ///
    /// # Errors
    /// If the file is damaged there.
    pub(super) fn value(&self, at: u64, dictionaries: &Dictionaries<'_>, budget: &mut Budget) -> Result<Json, Flaw> {
        self.found(at, dictionaries, budget).map_err(|flaw| match flaw {
            Flaw::Damaged(what) if !what.starts_with("column `") => Flaw::Damaged(format!("column `{}`: {what}", self.name)),
            other => other,
        })
    }

    fn found(&self, at: u64, dictionaries: &Dictionaries<'_>, budget: &mut Budget) -> Result<Json, Flaw> {
        if at >= self.length {
            return Err(Flaw::damaged("it has fewer values than there are rows"));
        }
        budget.spend(self.name.len())?;
        if let Some(validity) = &self.validity
            && !validity.bit(at)?
        {
            return Ok(Json::Null);
        }
        Ok(match &self.data {
            Data::Null => Json::Null,
            Data::Bool(values) => values.bit(at)?.into(),
            Data::Int { values, bytes: 8, signed: false } => (values.number(at, 8, false)? as u64).into(),
            Data::Int { values, bytes, signed } => values.number(at, *bytes, *signed)?.into(),
            Data::Float { values, bytes } => {
                let size = *bytes as u64;
                let start = at.saturating_mul(size);
                let wrong = || Flaw::damaged("a number has the wrong size");
                values.with(start..start.saturating_add(size), |bytes| number::of_float(bytes).ok_or_else(wrong))?
            }
            Data::Text { offsets, offset, text } => {
                let range = offsets.range(at, *offset)?;
                budget.spend(usize::try_from(range.end - range.start).unwrap_or(usize::MAX))?;
                text.with(range, |bytes| self.text(bytes))?
            }
            Data::View { views, texts } => self.view(views, texts, at, budget)?,
            Data::List { offsets, offset, element } => {
                let range = offsets.range(at, *offset)?;
                element.values(range, dictionaries, budget)?
            }
            Data::Fixed { length, element } => {
                let start = at.saturating_mul(*length);
                element.values(start..start.saturating_add(*length), dictionaries, budget)?
            }
            Data::Struct(fields) => {
                let fields = fields.iter().map(|field| Ok((field.name.clone(), field.value(at, dictionaries, budget)?)));
                Json::Object(fields.collect::<Result<Map<_, _>, Flaw>>()?)
            }
            Data::Dictionary { number, indices, bytes, signed } => {
                let index = indices.number(at, *bytes, *signed)?;
                let mut index = u64::try_from(index).map_err(|_| Flaw::damaged("an index is negative"))?;
                let missing = || Flaw::damaged("a value is not in its dictionary");
                let parts = dictionaries.iter().find(|(found, _)| found == number).ok_or_else(missing)?;
                for part in &parts.1 {
                    if index < part.length {
                        return part.value(index, dictionaries, budget);
                    }
                    index -= part.length;
                }
                return Err(missing());
            }
        })
    }

    fn values(&self, range: Range<u64>, dictionaries: &Dictionaries<'_>, budget: &mut Budget) -> Result<Json, Flaw> {
        let mut items = Vec::new();
        for at in range {
            items.push(self.value(at, dictionaries, budget)?);
        }
        Ok(Json::Array(items))
    }

    /// A text of up to 12 bytes, or where the text is.
    fn view(&self, views: &Buffer<'_>, texts: &[Buffer<'_>], at: u64, budget: &mut Budget) -> Result<Json, Flaw> {
        let start = at.saturating_mul(16);
        let view = views.with(start..start.saturating_add(16), |bytes| {
            bytes.first_chunk::<16>().copied().ok_or_else(|| Flaw::damaged("a view has the wrong size"))
        })?;
        let word = |at: usize| u32::from_le_bytes([view[at], view[at + 1], view[at + 2], view[at + 3]]);
        let length = word(0) as usize;
        budget.spend(length)?;
        if length <= 12 {
            return self.text(&view[4..4 + length]);
        }
        let text = texts.get(word(8) as usize).ok_or_else(|| Flaw::damaged("a text is in a buffer that is missing"))?;
        let start = u64::from(word(12));
        text.with(start..start + length as u64, |bytes| self.text(bytes))
    }

    fn text(&self, bytes: &[u8]) -> Result<Json, Flaw> {
        let text = std::str::from_utf8(bytes).map_err(|_| Flaw::damaged("it is not UTF-8"))?;
        if self.is_json { number::of_json(text) } else { Ok(Json::from(text)) }
    }
}
