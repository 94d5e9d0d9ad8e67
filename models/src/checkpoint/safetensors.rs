//! A Hugging Face folder: one `model.safetensors`, or shards with an index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::SafeTensors;
use ::safetensors::tensor::{Dtype, Metadata};
use burn::tensor::TensorData;
use memmap2::Mmap;

use super::index::shard_paths;
use super::names::SAFETENSORS;
use super::{Checkpoint, element, mapped, release};
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;
use crate::json::check_size;

/// What the values of a header may take beyond four times its text: those of some ten thousand tensors.
const MOST_OF_HEADER: usize = 64 << 20;

/// Memory-mapped safetensors files: one, or several shards.
#[derive(Debug)]
pub struct SafetensorsFolder {
    shards: Vec<Shard>,
    /// For each tensor, the index of its shard.
    shard_of: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
    header_bytes: usize,
    metadata: Metadata,
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let (file, length) = mapped::open(path)?;
        if length < 8 {
            return Err(ModelError::format(path, format!("not a safetensors file: it has only {length} bytes")));
        }
        // SAFETY: the map is read-only. As with every memory-mapped reader, no other program may truncate the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
        let length =
            map.first_chunk().map_or(0, |length| usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX));
        let header =
            length.checked_add(8).and_then(|end| map.get(8..end)).and_then(|header| std::str::from_utf8(header).ok());
        check_size(header.unwrap_or_default(), MOST_OF_HEADER)
            .map_err(|reason| ModelError::format(path, format!("the header: {reason}")))?;
        let (header_bytes, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| ModelError::format(path, format!("not a complete safetensors file: {error}")))?;
        Ok(Self { path: path.to_owned(), map, header_bytes, metadata })
    }
}

impl SafetensorsFolder {
    /// Opens the weights of a folder.
    ///
    /// # Errors
    /// If there are none, a header is malformed, a shard is missing, or the index names a file outside the folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join(SAFETENSORS.single), folder.join(SAFETENSORS.index));
        if single.exists() {
            return Self::from_files(&[single]);
        }
        if index.exists() {
            return Self::from_files(&shard_paths(folder, &index)?);
        }
        Err(ModelError::format(folder, format!("expected {} or {}, found neither", SAFETENSORS.single, SAFETENSORS.index)))
    }

    /// Opens the named files as one checkpoint.
    ///
    /// # Errors
    /// If a file can't be read as safetensors, or two of them have a tensor of the same name.
    pub fn from_files(paths: &[PathBuf]) -> Result<Self> {
        let mut shards = Vec::with_capacity(paths.len());
        let mut shard_of = BTreeMap::new();
        for path in paths {
            let shard = Shard::open(path)?;
            for name in shard.metadata.tensors().keys() {
                if shard_of.insert(name.clone(), shards.len()).is_some() {
                    return Err(ModelError::format(path, format!("`{name}` is also in another shard")));
                }
            }
            shards.push(shard);
        }
        Ok(Self { shards, shard_of })
    }

    fn locate(&self, name: &str) -> Option<(&Shard, &::safetensors::tensor::TensorInfo)> {
        let shard = &self.shards[*self.shard_of.get(name)?];
        shard.metadata.info(name).map(|info| (shard, info))
    }

    /// Calls `read` with the bytes of a tensor and their type; `read` returns `None` if they are not floats.
    fn with_bytes<T>(&self, name: &str, read: impl FnOnce(&[u8], Dtype) -> Option<T>) -> Result<T> {
        self.with_part(name, None, read)
    }

    /// As [`SafetensorsFolder::with_bytes`], of some rows.
    fn with_part<T>(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        read: impl FnOnce(&[u8], Dtype) -> Option<T>,
    ) -> Result<T> {
        let (shard, info) =
            self.locate(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })?;
        let (begin, end) = info.data_offsets;
        let part = rows.map_or(Some(begin..end), |rows| {
            let row = info.shape.last()? * info.dtype.bitsize() / 8;
            let part = begin + rows.start.checked_mul(row)?..begin + rows.end.checked_mul(row)?;
            (part.start <= part.end && part.end <= end).then_some(part)
        });
        let start = 8 + shard.header_bytes;
        let bytes = part.as_ref().and_then(|part| shard.map.get(start + part.start..start + part.end));
        let (Some(part), Some(bytes)) = (&part, bytes) else {
            return Err(ModelError::format(&shard.path, format!("`{name}` lies beyond the end of the file")));
        };
        let values = read(bytes, info.dtype).ok_or_else(|| {
            ModelError::format(&shard.path, format!("`{name}`: expected F32, F64, F16 or BF16, got {}", info.dtype))
        })?;
        release(&shard.map, start + part.start, part.len());
        Ok(values)
    }
}

impl Checkpoint for SafetensorsFolder {
    fn names(&self) -> Vec<String> {
        self.shard_of.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.locate(name).map(|(_, info)| info.shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.with_bytes(name, element::to_f32)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>> {
        self.with_part(name, Some(rows), element::to_f32).map(Some)
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        element::float_type(self.locate(name)?.1.dtype)
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.locate(name).map(|(shard, _)| shard.path.clone())
    }

    fn is_float8(&self, name: &str) -> bool {
        self.locate(name).is_some_and(|(_, info)| element::is_float8(info.dtype))
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        let dtype = self.locate(name)?.1.dtype;
        element::is_integer(dtype).then_some(dtype)
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.with_bytes(name, |bytes, _| Some(bytes.to_vec()))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.shards.iter().map(|shard| shard.path.clone()).collect()
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        self.with_bytes(name, |bytes, stored| element::convert(name, bytes, stored, dtype))?
    }
}
