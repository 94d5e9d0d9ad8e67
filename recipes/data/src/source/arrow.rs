//! Arrow files and streams: the rows of their record batches, of which parts are in memory.

mod array;
mod buffer;
mod flat;
mod schema;

use serde_json::{Map, Value as Json};

use super::budget::Budget;
use super::codec::Codec;
use super::flaw::Flaw;
use super::ranged::Ranged;
use array::{Array, Dictionaries, Parts};
use flat::Table;
use schema::{Field, Schema};

/// Begins and ends a file that is not a stream.
pub(super) const MAGIC: &[u8] = b"ARROW1";
/// Precedes each message of a stream.
pub(super) const CONTINUATION: &[u8] = b"\xff\xff\xff\xff";

/// Kinds of messages.
const SCHEMA: u8 = 1;
const DICTIONARY: u8 = 2;
const BATCH: u8 = 3;

/// The header of a message, and where its body is.
struct Message {
    header: Vec<u8>,
    body: u64,
    end: u64,
}

/// Takes each row, with its number from 1 and the memory that it takes.
type Take<'a, E> = dyn FnMut(usize, Map<String, Json>, usize) -> Result<(), E> + 'a;

/// Gives the rows of a file to `take`, each with its number from 1 and the memory that it takes.
///
/// # Errors
/// If the file can't be read, is damaged, or has what is not supported, and those of `take`.
pub(super) fn rows<E: From<Flaw>>(file: &Ranged, take: &mut Take<'_, E>) -> Result<(), E> {
    let start = file.read(0, (MAGIC.len() as u64).min(file.size()))?;
    if start == MAGIC { of_file(file, take) } else { of_stream(file, take) }
}

fn of_stream<E: From<Flaw>>(file: &Ranged, take: &mut Take<'_, E>) -> Result<(), E> {
    let (mut at, mut number, mut schema) = (0, 0, None);
    let mut dictionaries = Dictionaries::new();
    while let Some(message) = message(file, at)? {
        at = message.end;
        let table = Table::root(&message.header).ok_or_else(damaged)?;
        let kind = table.byte(1).unwrap_or(0);
        if kind == SCHEMA {
            if schema.is_some() {
                return Err(Flaw::damaged("it has two schemas").into());
            }
            schema = Some(Schema::read(table.table(2).ok_or_else(damaged)?)?);
            continue;
        }
        let schema = schema.as_ref().ok_or_else(|| Flaw::damaged("it does not begin with a schema"))?;
        match kind {
            DICTIONARY => learn(file, schema, &message, &mut dictionaries)?,
            BATCH => batch(file, schema, &message, &dictionaries, &mut number, take)?,
            _ => {}
        }
    }
    if schema.is_none() {
        return Err(Flaw::damaged("it has no schema").into());
    }
    if file.size() > at + 8 {
        return Err(Flaw::damaged("there are other bytes after the end of the stream").into());
    }
    Ok(())
}

fn of_file<E: From<Flaw>>(file: &Ranged, take: &mut Take<'_, E>) -> Result<(), E> {
    let cut = || Flaw::damaged("it has no footer; it may be truncated");
    let tail = file.size().checked_sub(MAGIC.len() as u64 + 4).ok_or_else(cut)?;
    let bytes = file.read(tail, MAGIC.len() as u64 + 4)?;
    if !bytes.ends_with(MAGIC) {
        return Err(cut().into());
    }
    let length = bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let footer = file.read(tail.checked_sub(length.into()).ok_or_else(cut)?, length.into())?;
    let footer = Table::root(&footer).ok_or_else(damaged)?;
    let schema = Schema::read(footer.table(1).ok_or_else(damaged)?)?;
    let mut dictionaries = Dictionaries::new();
    let messages = |field: usize| -> Result<Vec<u64>, Flaw> {
        let blocks = footer.longs::<3>(field).ok_or_else(damaged)?;
        blocks.iter().map(|[start, ..]| u64::try_from(*start).map_err(|_| damaged())).collect()
    };
    for start in messages(2)? {
        let message = message(file, start)?.ok_or_else(damaged)?;
        learn(file, &schema, &message, &mut dictionaries)?;
    }
    let mut number = 0;
    for start in messages(3)? {
        let message = message(file, start)?.ok_or_else(damaged)?;
        batch(file, &schema, &message, &dictionaries, &mut number, take)?;
    }
    Ok(())
}

fn damaged() -> Flaw {
    Flaw::damaged("the header of a message is damaged")
}

/// The message at a position; `None` at the mark that ends a stream. A stream without it may be truncated between two messages.
fn message(file: &Ranged, at: u64) -> Result<Option<Message>, Flaw> {
    let bytes = file.read(at, 8.min(file.size().saturating_sub(at)))?;
    if bytes.is_empty() {
        return Err(Flaw::damaged("its end is missing; it may be truncated"));
    }
    if !bytes.starts_with(CONTINUATION) {
        return Err(damaged());
    }
    let length = bytes.get(4..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
    let length = length.ok_or_else(damaged)?;
    if length == 0 {
        return Ok(None);
    }
    let header = file.read(at + 8, length.into())?;
    let body = at + 8 + u64::from(length);
    let size = Table::root(&header).and_then(|table| u64::try_from(table.long(3).unwrap_or(0)).ok());
    let end = body.checked_add(size.ok_or_else(damaged)?).filter(|end| *end <= file.size());
    let end = end.ok_or_else(|| Flaw::damaged("it ends too early; it may be truncated"))?;
    Ok(Some(Message { header, body, end }))
}

/// The columns of a record batch with its number of rows.
fn columns<'a>(
    file: &'a Ranged,
    fields: &[Field],
    batch: Table<'_>,
    message: &Message,
) -> Result<(u64, Vec<Array<'a>>), Flaw> {
    let codec = match batch.table(3) {
        None => None,
        Some(compression) => Some(match compression.byte(0).unwrap_or(0) {
            0 => Codec::Lz4Frame,
            1 => Codec::Zstd,
            _ => return Err(damaged()),
        }),
    };
    let mut parts = Parts {
        file,
        codec,
        body: message.body..message.end,
        nodes: batch.longs::<2>(1).ok_or_else(damaged)?.into_iter(),
        buffers: batch.longs::<2>(2).ok_or_else(damaged)?.into_iter(),
        texts: batch.longs::<1>(4).ok_or_else(damaged)?.into_iter(),
    };
    let arrays: Result<Vec<_>, Flaw> = fields.iter().map(|field| parts.array(field)).collect();
    let rows = u64::try_from(batch.long(0).unwrap_or(0)).map_err(|_| damaged())?;
    let arrays = arrays?;
    if let Some(array) = arrays.iter().find(|array| array.length() != rows) {
        return Err(Flaw::damaged(format!("column `{}` has {} values in {rows} rows", array.name(), array.length())));
    }
    if rows > 0 && !arrays.iter().any(Array::has_bytes) {
        return Err(Flaw::damaged("a batch has rows without values"));
    }
    Ok((rows, arrays))
}

/// Reads the values of a dictionary.
fn learn<'a>(file: &'a Ranged, schema: &Schema, message: &Message, dictionaries: &mut Dictionaries<'a>) -> Result<(), Flaw> {
    let table = Table::root(&message.header).and_then(|table| table.table(2)).ok_or_else(damaged)?;
    let (number, is_more) = (table.long(0).unwrap_or(0), table.byte(2).unwrap_or(0) != 0);
    let Some((_, field)) = schema.dictionaries.iter().find(|(found, _)| *found == number) else { return Ok(()) };
    let batch = table.table(1).ok_or_else(damaged)?;
    let (_, arrays) = columns(file, std::slice::from_ref(field), batch, message)?;
    arrays.iter().try_for_each(Array::keep)?;
    match dictionaries.iter_mut().find(|(found, _)| *found == number) {
        Some((_, known)) if is_more => known.extend(arrays),
        Some((_, known)) => *known = arrays,
        None => dictionaries.push((number, arrays)),
    }
    Ok(())
}

fn batch<E: From<Flaw>>(
    file: &Ranged,
    schema: &Schema,
    message: &Message,
    dictionaries: &Dictionaries<'_>,
    number: &mut usize,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    let batch = Table::root(&message.header).and_then(|table| table.table(2)).ok_or_else(damaged)?;
    let (rows, arrays) = columns(file, &schema.fields, batch, message)?;
    for at in 0..rows {
        *number += 1;
        let mut budget = Budget::new();
        let value = |array: &Array<'_>| Ok((array.name().to_owned(), array.value(at, dictionaries, &mut budget)?));
        let row: Result<Map<_, _>, Flaw> = arrays.iter().map(value).collect();
        let row = row.map_err(|flaw| flaw.at(format!("row {number}")))?;
        take(*number, row, budget.spent())?;
    }
    Ok(())
}
