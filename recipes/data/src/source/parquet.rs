//! Parquet files: the rows of their row groups, of which a page of each column is in memory at a time.

mod delta;
mod hybrid;
mod leaf;
mod schema;
mod thrift;
mod values;
mod varint;

use serde_json::{Map, Value as Json};

use super::budget::Budget;
use super::codec::Codec;
use super::flaw::Flaw;
use super::ranged::Ranged;
use leaf::{Chunk, Leaf};
use schema::{Node, Schema, Shape};
use thrift::Value;

/// Begins and ends the file.
pub(super) const MAGIC: &[u8] = b"PAR1";
/// The same of a file whose footer is encrypted.
pub(super) const ENCRYPTED: &[u8] = b"PARE";
/// The length of the header, which is at the end of the file, and [`MAGIC`].
const TAIL: u64 = 8;

/// Gives the rows of a file to `take`, each with its number from 1 and the memory that it takes.
///
/// # Errors
/// If the file can't be read, is damaged, or has what is not supported, and those of `take`.
pub(super) fn rows<E: From<Flaw>>(
    file: &Ranged,
    take: &mut dyn FnMut(usize, Map<String, Json>, usize) -> Result<(), E>,
) -> Result<(), E> {
    let header = header(file)?;
    let wrong = || Flaw::damaged("its footer is damaged");
    let (header, _) = Value::read(&header).ok_or_else(wrong)?;
    if header.field(8).is_some() {
        return Err(encrypted().into());
    }
    let schema = Schema::read(header.list(2).ok_or_else(wrong)?)?;
    let mut number = 0;
    for group in header.list(4).ok_or_else(wrong)? {
        let count = group.count(3).ok_or_else(wrong)?;
        let chunks = group.list(1).ok_or_else(wrong)?;
        if chunks.len() != schema.columns.len() {
            return Err(Flaw::damaged("a row group has other columns than the file").into());
        }
        let leaf = |(column, described)| Ok(Leaf::new(file, column, chunk(described)?));
        let leaves: Result<Vec<Leaf<'_>>, Flaw> = schema.columns.iter().zip(chunks).map(leaf).collect();
        let mut leaves = leaves?;
        for _ in 0..count {
            number += 1;
            let mut budget = Budget::new();
            let row = row(&schema, &mut leaves, &mut budget).map_err(|flaw| flaw.at(format!("row {number}")))?;
            take(number, row, budget.spent())?;
        }
        for leaf in &mut leaves {
            if leaf.peek()?.is_some() {
                return Err(Flaw::damaged("a column has more values than there are rows").into());
            }
        }
    }
    Ok(())
}

/// The bytes of the header of a file.
fn header(file: &Ranged) -> Result<Vec<u8>, Flaw> {
    let cut = || Flaw::damaged("it has no footer; it may be truncated");
    let start = file.size().checked_sub(TAIL).filter(|start| *start >= MAGIC.len() as u64).ok_or_else(cut)?;
    let tail = file.read(start, TAIL)?;
    let (length, magic) = tail.split_at(4);
    if magic == ENCRYPTED {
        return Err(encrypted());
    }
    if magic != MAGIC {
        return Err(cut());
    }
    let length = length.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    file.read(start.checked_sub(length.into()).ok_or_else(cut)?, length.into())
}

fn encrypted() -> Flaw {
    Flaw::Unsupported("it is encrypted".to_owned(), "write it again without encryption".to_owned())
}

/// Where a column of a row group is.
fn chunk(described: &Value<'_>) -> Result<Chunk, Flaw> {
    let wrong = || Flaw::damaged("the position of a column is damaged");
    if described.field(1).is_some() {
        let what = "its columns are in other files, which is not supported".to_owned();
        return Err(Flaw::Unsupported(what, "write the rows into one file".to_owned()));
    }
    let found = described.field(3).ok_or_else(encrypted)?;
    let data = found.count(9).ok_or_else(wrong)?;
    // Some writers give 0 where there is no dictionary.
    let start = found.count(11).filter(|start| (4..data).contains(start)).unwrap_or(data);
    let end = found.count(7).and_then(|size| start.checked_add(size)).ok_or_else(wrong)?;
    let codec = match found.int(4) {
        Some(0) => Codec::Plain,
        Some(1) => Codec::Snappy,
        Some(2) => Codec::Gzip,
        Some(5) => Codec::Lz4Hadoop,
        Some(6) => Codec::Zstd,
        Some(7) => Codec::Lz4,
        other => {
            let name = if other == Some(4) { "brotli" } else { "an unknown method" };
            let what = format!("its columns are compressed by {name}, which is not supported");
            let way = "write the file again, compressed by zstd or snappy: write_table(table, FILE, compression=\"zstd\")";
            return Err(Flaw::Unsupported(what, way.to_owned()));
        }
    };
    Ok(Chunk { codec, start, end, values: found.count(5).ok_or_else(wrong)? })
}

fn row(schema: &Schema, leaves: &mut [Leaf<'_>], budget: &mut Budget) -> Result<Map<String, Json>, Flaw> {
    for (leaf, column) in leaves.iter_mut().zip(&schema.columns) {
        match leaf.peek()? {
            Some(levels) if levels.repetition == 0 => {}
            Some(_) => return Err(Flaw::damaged(format!("column `{}` continues the row before", column.name()))),
            None => return Err(Flaw::damaged(format!("column `{}` has fewer values than there are rows", column.name()))),
        }
    }
    schema.fields.iter().map(|field| Ok((field.name.clone(), value(field, leaves, budget)?))).collect()
}

/// The value of a part of the schema, at which all of its columns are.
fn value(node: &Node, leaves: &mut [Leaf<'_>], budget: &mut Budget) -> Result<Json, Flaw> {
    let definition = agreed(node, leaves, node.definition)?;
    budget.spend(node.name.len())?;
    if definition < node.definition {
        leaves[node.columns.clone()].iter_mut().for_each(Leaf::skip);
        return Ok(Json::Null);
    }
    match &node.shape {
        Shape::Column => {
            let value = leaves[node.columns.start].take()?;
            budget.spend(value.as_str().map_or(0, str::len))?;
            Ok(value)
        }
        Shape::Struct(fields) => {
            let fields = fields.iter().map(|field| Ok((field.name.clone(), value(field, leaves, budget)?)));
            fields.collect::<Result<Map<_, _>, Flaw>>().map(Json::Object)
        }
        Shape::List { definition: of_element, repetition, element } => {
            if agreed(node, leaves, *of_element)? < *of_element {
                leaves[node.columns.clone()].iter_mut().for_each(Leaf::skip);
                return Ok(Json::Array(Vec::new()));
            }
            let mut items = Vec::new();
            loop {
                items.push(value(element, leaves, budget)?);
                if !continues(node, leaves, *repetition)? {
                    return Ok(Json::Array(items));
                }
            }
        }
    }
}

/// The definition level of the next value. All columns must be on the same side of `level`.
fn agreed(node: &Node, leaves: &mut [Leaf<'_>], level: u32) -> Result<u32, Flaw> {
    let mut found = None;
    for leaf in &mut leaves[node.columns.clone()] {
        let levels = leaf.peek()?.ok_or_else(|| Flaw::damaged(format!("`{}` ends in the middle of a row", node.name)))?;
        if found.is_some_and(|found: u32| (found < level) != (levels.definition < level)) {
            return Err(Flaw::damaged(format!("the columns of `{}` contradict each other", node.name)));
        }
        found.get_or_insert(levels.definition);
    }
    Ok(found.unwrap_or(0))
}

/// Whether a list has another element.
fn continues(node: &Node, leaves: &mut [Leaf<'_>], repetition: u32) -> Result<bool, Flaw> {
    let mut found = None;
    for leaf in &mut leaves[node.columns.clone()] {
        let next = leaf.peek()?.map_or(0, |levels| levels.repetition);
        if next > repetition || found.is_some_and(|found| found != (next == repetition)) {
            return Err(Flaw::damaged(format!("the columns of `{}` contradict each other", node.name)));
        }
        found.get_or_insert(next == repetition);
    }
    Ok(found.unwrap_or(false))
}
