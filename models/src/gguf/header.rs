//! Reads the header of a GGUF file, which is not trusted.

use std::ops::Range;

use burnish_kernels::packed::GgmlType;

use crate::gguf::metadata::{Metadata, Value};

/// A tensor in the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// The shape, the slowest dimension first, as in PyTorch.
    pub shape: Vec<usize>,
    /// The storage type.
    pub kind: GgmlType,
    /// The position of its bytes after the start of the data.
    pub offset: usize,
    /// The number of bytes.
    pub bytes: usize,
    /// The file that it lies in, from 0, of a model in several parts.
    pub shard: usize,
}

pub(super) struct Header {
    pub metadata: Metadata,
    /// The keys in the order of the file, with the bytes of each value and its type.
    pub entries: Vec<(String, Range<usize>)>,
    pub tensors: Vec<TensorInfo>,
    pub data_start: usize,
}

/// A result whose error lacks the path.
type Read<T> = std::result::Result<T, String>;

/// The most tensors, the most keys, and the most items of all lists. No model has nearly as many; each takes more memory than it has bytes.
const MOST_TENSORS: usize = 1 << 16;
const MOST_KEYS: usize = 1 << 16;
const MOST_ITEMS: usize = 1 << 22;

/// A cursor that never reads past the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The items of lists that were read.
    items: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize, what: &str) -> Read<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(format!(
                "the file is cut off: at byte {}, {what} needs {length} bytes, got {}",
                self.at,
                self.left()
            ));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn array<const N: usize>(&mut self, what: &str) -> Read<[u8; N]> {
        let taken = self.take(N, what)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Read<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Read<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads a count of items of at least `least` bytes each. A count that is too large is refused before anything is allocated.
    fn count(&mut self, what: &str, least: usize) -> Read<usize> {
        let count = self.u64(what)?;
        let most = self.left() / least.max(1);
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= most)
            .ok_or_else(|| format!("{what}: {count} is more than the {} bytes that are left can hold", self.left()))
    }

    fn text(&mut self, what: &str) -> Read<String> {
        let length = self.count(what, 1)?;
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("{what} is not UTF-8"))
    }
}

const MAGIC: &[u8] = b"GGUF";

pub(super) fn read(bytes: &[u8]) -> Read<Header> {
    let mut cursor = Cursor { bytes, at: 0, items: 0 };
    if cursor.take(4, "the magic")? != MAGIC {
        return Err("not a GGUF file: expected `GGUF` at its beginning".to_owned());
    }
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(format!("expected GGUF version 2 or 3, got {version}"));
    }
    let tensor_count = cursor.count("the number of tensors", 24)?;
    let key_count = cursor.count("the number of keys", 12)?;
    for (count, most, what) in [(tensor_count, MOST_TENSORS, "tensors"), (key_count, MOST_KEYS, "keys")] {
        if count > most {
            return Err(format!("the file has {count} {what}: expected at most {most}"));
        }
    }
    let mut metadata = Metadata::default();
    let mut entries = Vec::new();
    for _ in 0..key_count {
        let key = cursor.text("a key")?;
        let start = cursor.at;
        let kind = cursor.u32(&key)?;
        let value = read_value(&mut cursor, kind, &key, 0)?;
        entries.push((key.clone(), start..cursor.at));
        metadata.insert(key, value);
    }
    let mut tensors = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        tensors.push(read_tensor(&mut cursor)?);
    }
    let alignment = metadata.number("general.alignment").unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(format!("`general.alignment`: expected a power of two, got {alignment}"));
    }
    let data_start = cursor.at.next_multiple_of(alignment);
    let mut left = bytes.len();
    for tensor in &tensors {
        let end = data_start.checked_add(tensor.offset).and_then(|start| start.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > bytes.len()) {
            return Err(format!("the file is cut off: `{}` ends after the file's {} bytes", tensor.name, bytes.len()));
        }
        left = left.checked_sub(tensor.bytes).ok_or("its tensors overlap: together they are larger than the file")?;
    }
    Ok(Header { metadata, entries, tensors, data_start })
}

fn read_value(cursor: &mut Cursor, kind: u32, key: &str, depth: usize) -> Read<Value> {
    Ok(match kind {
        0 => Value::Unsigned(u64::from(cursor.array::<1>(key)?[0])),
        1 => Value::Signed(i64::from(i8::from_le_bytes(cursor.array(key)?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(cursor.array(key)?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(cursor.array(key)?))),
        4 => Value::Unsigned(u64::from(cursor.u32(key)?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(cursor.array(key)?))),
        6 => Value::Float(f64::from(f32::from_le_bytes(cursor.array(key)?))),
        7 => Value::Bool(cursor.array::<1>(key)?[0] != 0),
        8 => Value::Text(cursor.text(key)?),
        9 if depth < 4 => {
            let item = cursor.u32(key)?;
            let least = match item {
                0 | 1 | 7 => 1,
                2 | 3 => 2,
                4..=6 => 4,
                9 => 12,
                _ => 8,
            };
            let count = cursor.count(key, least)?;
            cursor.items += count;
            if cursor.items > MOST_ITEMS {
                return Err(format!("`{key}`: the lists have more than {MOST_ITEMS} items"));
            }
            Value::List((0..count).map(|_| read_value(cursor, item, key, depth + 1)).collect::<Read<_>>()?)
        }
        10 => Value::Unsigned(cursor.u64(key)?),
        11 => Value::Signed(i64::from_le_bytes(cursor.array(key)?)),
        12 => Value::Float(f64::from_le_bytes(cursor.array(key)?)),
        other => return Err(format!("`{key}` has the unknown type {other}")),
    })
}

/// The name of a storage type that is not read, or its number.
fn unread(id: u32) -> String {
    const NAMES: [(u32, &str); 18] = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (40, "NVFP4"),
        (41, "Q1_0"),
    ];
    NAMES.iter().find(|(known, _)| *known == id).map_or_else(|| id.to_string(), |(_, name)| (*name).to_owned())
}

fn read_tensor(cursor: &mut Cursor) -> Read<TensorInfo> {
    let name = cursor.text("a tensor's name")?;
    let rank = cursor.u32(&name)?;
    if rank == 0 || rank > 4 {
        return Err(format!("`{name}`: expected 1 to 4 dimensions, got {rank}"));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        let dim = cursor.u64(&name)?;
        shape.push(usize::try_from(dim).map_err(|_| format!("`{name}` has a dimension of {dim}"))?);
    }
    // The file has the fastest dimension first.
    shape.reverse();
    let kind = GgmlType::from_id(cursor.u32(&name)?).map_err(|id| {
        format!(
            "`{name}` has the storage type {} of ggml, which is not supported; choose a file of another quantisation",
            unread(id)
        )
    })?;
    let offset = cursor.u64(&name)?;
    let elements = shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
    let row = shape.last().copied().unwrap_or(1);
    let bytes = elements
        .filter(|_| row.is_multiple_of(kind.block_elements()))
        .and_then(|elements| (elements / kind.block_elements()).checked_mul(kind.block_bytes()))
        .ok_or_else(|| format!("`{name}`: the shape {shape:?} is not possible with the type {kind:?}"))?;
    let offset = usize::try_from(offset).map_err(|_| format!("`{name}` has the offset {offset}"))?;
    Ok(TensorInfo { name, shape, kind, offset, bytes, shard: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    /// A file with one key and one F32 tensor of 2 × 3.
    fn file() -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        text(&mut bytes, "general.architecture");
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, "llama");
        text(&mut bytes, "output_norm.weight");
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(3u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend((0..6).flat_map(|i| (i as f32).to_le_bytes()));
        bytes
    }

    #[test]
    fn a_complete_file_is_read() {
        let header = read(&file()).unwrap();
        assert_eq!(header.metadata.text("general.architecture"), Some("llama"));
        assert_eq!(header.tensors[0].shape, [2, 3]);
        assert_eq!(header.tensors[0].bytes, 24);
    }

    #[test]
    fn a_file_that_is_cut_off_is_an_error() {
        let whole = file();
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes passed");
        }
    }

    #[test]
    fn wrong_bytes_never_panic() {
        let whole = file();
        for at in 0..whole.len() - 24 {
            for bits in [0xff, 0x80, 0x01] {
                let mut bytes = whole.clone();
                bytes[at] ^= bits;
                let _ = read(&bytes);
            }
        }
    }

    #[test]
    fn a_count_that_is_too_large_is_refused() {
        let mut bytes = file();
        bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        let reason = read(&bytes).err().unwrap();
        assert!(reason.contains("number of tensors"), "{reason}");
    }
}
