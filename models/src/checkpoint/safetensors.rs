//! A Hugging Face folder: one `model.safetensors`, or shards with an index.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use ::safetensors::SafeTensors;
use ::safetensors::tensor::{Dtype, Metadata};
use burn::tensor::TensorData;
use half::{bf16, f16};
use memmap2::Mmap;

use super::{Checkpoint, release};
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;
use crate::json_file;

/// The file of a checkpoint that is not sharded.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The file that lists the shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

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
        let file = File::open(path).map_err(|error| ModelError::io(path, error))?;
        let length = file.metadata().map_err(|error| ModelError::io(path, error))?.len();
        if length < 8 {
            return Err(ModelError::format(path, format!("not a safetensors file: it has only {length} bytes")));
        }
        // SAFETY: the map is read-only. As with every memory-mapped reader, no other program may truncate the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
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
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() {
            return Self::from_files(&[single]);
        }
        if index.exists() {
            return Self::from_files(&shard_paths(folder, &index)?);
        }
        Err(ModelError::format(folder, format!("expected {SINGLE} or {INDEX}, found neither")))
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
        let (shard, info) =
            self.locate(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })?;
        let (begin, end) = info.data_offsets;
        let start = 8 + shard.header_bytes;
        let bytes = shard
            .map
            .get(start + begin..start + end)
            .ok_or_else(|| ModelError::format(&shard.path, format!("`{name}` lies beyond the end of the file")))?;
        let values = read(bytes, info.dtype).ok_or_else(|| {
            ModelError::format(&shard.path, format!("`{name}`: expected F32, F64, F16 or BF16, got {}", info.dtype))
        })?;
        release(&shard.map, start + begin, end - begin);
        Ok(values)
    }
}

/// The tensors that an index lists.
pub(crate) fn tensor_names(index: &Path) -> Result<Vec<String>> {
    Ok(weight_map(index)?.into_iter().map(|(tensor, _)| tensor).collect())
}

fn weight_map(index: &Path) -> Result<serde_json::Map<String, serde_json::Value>> {
    let mut json = json_file::read(index)?;
    match json.get_mut("weight_map").map(serde_json::Value::take) {
        Some(serde_json::Value::Object(map)) => Ok(map),
        _ => Err(ModelError::format(index, "`weight_map` is missing")),
    }
}

/// The files that an index names. Each must lie in the folder itself.
pub(crate) fn shard_paths(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let map = weight_map(index)?;
    let mut names: Vec<&str> = Vec::new();
    for (tensor, file) in &map {
        let file =
            file.as_str().ok_or_else(|| ModelError::format(index, format!("`{tensor}`: expected the name of a file")))?;
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(ModelError::format(index, format!("`{tensor}` points outside the folder: {file}")));
        }
        names.push(file);
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(ModelError::format(index, "`weight_map` is empty"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

impl Checkpoint for SafetensorsFolder {
    fn names(&self) -> Vec<String> {
        self.shard_of.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.locate(name).map(|(_, info)| info.shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.with_bytes(name, to_f32)
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        match self.locate(name)?.1.dtype {
            Dtype::F32 => Some(FloatType::F32),
            Dtype::F16 => Some(FloatType::F16),
            Dtype::BF16 => Some(FloatType::BF16),
            _ => None,
        }
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.locate(name).map(|(shard, _)| shard.path.clone())
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        let dtype = self.locate(name)?.1.dtype;
        let is_integer = matches!(
            dtype,
            Dtype::BOOL
                | Dtype::U8
                | Dtype::I8
                | Dtype::U16
                | Dtype::I16
                | Dtype::U32
                | Dtype::I32
                | Dtype::U64
                | Dtype::I64
        );
        is_integer.then_some(dtype)
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.with_bytes(name, |bytes, _| Some(bytes.to_vec()))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.shards.iter().map(|shard| shard.path.clone()).collect()
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        if self.float_type(name) == Some(dtype) {
            return self.with_bytes(name, |bytes, _| Some(dtype.read(bytes)));
        }
        self.with_bytes(name, |bytes, stored| {
            // Whole elements of any dtype.
            const PART: usize = 1 << 22;
            to_f32(&[], stored)?;
            let parts = bytes.chunks(PART).filter_map(|part| to_f32(part, stored));
            Some(dtype.convert_parts(name, bytes.len() * 8 / stored.bitsize(), parts))
        })?
    }
}

/// Little-endian floats as f32; `None` for other types.
fn to_f32(bytes: &[u8], dtype: Dtype) -> Option<Vec<f32>> {
    let values = match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => return None,
    };
    Some(values)
}
