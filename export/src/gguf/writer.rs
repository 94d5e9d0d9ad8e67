//! Writes the header of a GGUF file.

use std::borrow::Cow;

use burnish_models::gguf::{GgmlType, Metadata, Value};

use crate::counted_file::CountedFile;
use crate::error::{ExportError, Result};

/// Each tensor begins at a multiple of this many bytes: llama.cpp's default.
pub(super) const ALIGNMENT: u64 = 32;

/// A tensor that follows the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedTensor {
    pub name: String,
    /// The slowest dimension first.
    pub shape: Vec<usize>,
    pub kind: GgmlType,
}

impl PlannedTensor {
    /// Elements of a row.
    pub(super) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    pub(super) fn bytes(&self) -> u64 {
        let elements: usize = self.shape.iter().product();
        (elements / self.kind.block_elements() * self.kind.block_bytes()) as u64
    }
}

/// Bytes of a tensor. In a test of what reads the file, those of the embedding are moved by one element, if `BURNISH_BREAK` names
/// `gguf`; never in a build without the feature `breakable`.
pub(super) fn broken<'a>(tensor: &PlannedTensor, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    let is_asked = || std::env::var("BURNISH_BREAK").is_ok_and(|parts| parts.split(',').any(|part| part == "gguf"));
    if !cfg!(feature = "breakable") || tensor.name != "token_embd.weight" || !is_asked() {
        return Cow::Borrowed(bytes);
    }
    let mut bytes = bytes.to_vec();
    bytes.rotate_left(2);
    Cow::Owned(bytes)
}

/// A key with the number of its value's type and the bytes of the value.
pub(super) type Entry<'a> = (&'a str, Cow<'a, [u8]>);

/// The entries of metadata.
pub(super) fn entries(metadata: &Metadata) -> Result<Vec<Entry<'_>>> {
    metadata.iter().map(|(key, value)| entry(key, value)).collect()
}

/// The entry of a key and its value.
pub(super) fn entry<'a>(key: &'a str, value: &Value) -> Result<Entry<'a>> {
    let mut bytes = kind_of(value)?.to_le_bytes().to_vec();
    put_value(&mut bytes, value)?;
    Ok((key, Cow::Owned(bytes)))
}

/// Writes the header up to the first tensor.
pub(super) fn write_header(file: &mut CountedFile, entries: &[Entry<'_>], tensors: &[PlannedTensor]) -> Result<()> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        put_text(&mut bytes, key);
        bytes.extend(value.iter());
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        for dim in tensor.shape.iter().rev() {
            bytes.extend((*dim as u64).to_le_bytes());
        }
        bytes.extend(tensor.kind.id().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    file.put(&bytes)?;
    file.align(ALIGNMENT)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// The number of a value's type. Integers are written as u32 and i32 and floats as f32, which is what llama.cpp expects.
fn kind_of(value: &Value) -> Result<u32> {
    Ok(match value {
        Value::Unsigned(_) => 4,
        Value::Signed(_) => 5,
        Value::Float(_) => 6,
        Value::Bool(_) => 7,
        Value::Text(_) => 8,
        Value::List(list) if list.is_empty() => {
            return Err(ExportError::unsupported("GGUF metadata can't have an empty list"));
        }
        Value::List(_) => 9,
    })
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) -> Result<()> {
    match value {
        Value::Unsigned(number) => bytes.extend((*number as u32).to_le_bytes()),
        Value::Signed(number) => bytes.extend((*number as i32).to_le_bytes()),
        Value::Float(number) => bytes.extend((*number as f32).to_le_bytes()),
        Value::Bool(flag) => bytes.push(u8::from(*flag)),
        Value::Text(text) => put_text(bytes, text),
        Value::List(list) => {
            bytes.extend(kind_of(&list[0])?.to_le_bytes());
            bytes.extend((list.len() as u64).to_le_bytes());
            for item in list {
                put_value(bytes, item)?;
            }
        }
    }
    Ok(())
}
