//! The files of a model: one, or the parts that `llama-gguf-split` writes.
//!
//! Source: `tools/gguf-split` and `src/llama-model-loader.cpp` of llama.cpp.

use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::header::{self, Header};
use crate::checkpoint::{open_file, release};
use crate::error::{ModelError, Result};

/// The key with the number of a part, from 0.
pub const SPLIT_NO: &str = "split.no";
/// The key with the number of parts.
pub const SPLIT_COUNT: &str = "split.count";
/// The key with the number of tensors of all parts.
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// The most parts: llama.cpp counts them in 16 bits.
const MOST: usize = u16::MAX as usize;

/// The name of a part of a model, from 0, beside the file that the model would have as a whole: `m-00001-of-00003.gguf`.
pub fn shard_path(whole: &Path, number: usize, count: usize) -> PathBuf {
    let stem = whole.file_stem().unwrap_or_default().to_string_lossy();
    let ending = whole.extension().map_or_else(|| "gguf".into(), |ending| ending.to_string_lossy());
    whole.with_file_name(format!("{stem}-{:05}-of-{count:05}.{ending}", number + 1))
}

/// The file that the model would have as a whole, if the path is that of its part with this number.
fn whole_path(path: &Path, number: usize, count: usize) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_str()?.strip_suffix(&format!("-{:05}-of-{count:05}", number + 1))?;
    let name = path.extension().map_or_else(|| stem.to_owned(), |ending| format!("{stem}.{}", ending.to_string_lossy()));
    Some(path.with_file_name(name))
}

/// A memory-mapped file.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) map: Mmap,
    data_start: usize,
}

impl Shard {
    /// Maps a file, and reads its header.
    fn open(path: &Path) -> Result<(Self, Header)> {
        let (file, length) = open_file(path)?;
        if length < 24 {
            return Err(ModelError::format(path, format!("not a GGUF file: it has only {length} bytes")));
        }
        // SAFETY: the map is read-only. As with every memory-mapped reader, no other program may truncate the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
        let header = header::read(&map).map_err(|reason| ModelError::format(path, reason))?;
        let data_start = header.data_start;
        Ok((Self { path: path.to_owned(), map, data_start }, header))
    }

    /// Calls `read` with bytes of a tensor, from `offset` after the start of the data.
    pub(super) fn with_bytes<T>(&self, name: &str, offset: usize, bytes: usize, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let start = self.data_start + offset;
        let found = self
            .map
            .get(start..start + bytes)
            .ok_or_else(|| ModelError::format(&self.path, format!("`{name}` lies beyond the end of the file")))?;
        let values = read(found);
        release(&self.map, start, bytes);
        Ok(values)
    }
}

/// Opens a file and, if it is the first part of a model, the other parts. The header is the first one's, with the tensors of all.
pub(super) fn open(path: &Path) -> Result<(Vec<Shard>, Header)> {
    let (first, mut header) = Shard::open(path)?;
    let mut shards = vec![first];
    let number = |header: &Header, key: &str| header.metadata.number(key);
    let count = number(&header, SPLIT_COUNT).unwrap_or(1);
    if count <= 1 {
        return Ok((shards, header));
    }
    let own = number(&header, SPLIT_NO).unwrap_or(0);
    let refuse = |path: &Path, reason: String| Err(ModelError::format(path, reason));
    if own >= count || count > MOST {
        return refuse(path, format!("`{SPLIT_NO}` is {own} and `{SPLIT_COUNT}` {count}: no part of a model has these"));
    }
    let Some(whole) = whole_path(path, own, count) else {
        let (part, end) = (own + 1, shard_path(Path::new("….gguf"), own, count));
        return refuse(path, format!("is part {part} of {count} of a model, so its name must end as {}", end.display()));
    };
    if own != 0 {
        let first = shard_path(&whole, 0, count);
        return refuse(path, format!("is part {} of {count} of a model: open the first, {}", own + 1, first.display()));
    }
    for at in 1..count {
        let path = shard_path(&whole, at, count);
        if !path.exists() {
            return refuse(&path, format!("part {} of the {count} parts of the model is missing", at + 1));
        }
        let (shard, other) = Shard::open(&path)?;
        if (number(&other, SPLIT_NO), number(&other, SPLIT_COUNT).unwrap_or(count)) != (Some(at), count) {
            return refuse(&path, format!("expected part {} of {count}: `{SPLIT_NO}` or `{SPLIT_COUNT}` differs", at + 1));
        }
        header.tensors.extend(other.tensors.into_iter().map(|tensor| header::TensorInfo { shard: at, ..tensor }));
        shards.push(shard);
    }
    let (expected, found) = (number(&header, SPLIT_TENSORS), header.tensors.len());
    if expected.is_some_and(|expected| expected != found) {
        return refuse(path, format!("`{SPLIT_TENSORS}` is {}, but its parts have {found}", expected.unwrap_or_default()));
    }
    Ok((shards, header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_parts_are_those_of_llama_cpp() {
        let whole = Path::new("folder/m.q4.gguf");
        let third = shard_path(whole, 2, 12);
        assert_eq!(third, Path::new("folder/m.q4-00003-of-00012.gguf"));
        assert_eq!(whole_path(&third, 2, 12).as_deref(), Some(whole));
        assert_eq!(whole_path(&third, 1, 12), None);
        assert_eq!(whole_path(whole, 0, 12), None);
    }
}
