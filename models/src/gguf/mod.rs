//! GGUF files: metadata, tensors, tokenizer and chat template in one file.
//!
//! Source: `ggml/docs/gguf.md` and `gguf.cpp` of llama.cpp.

mod config;
mod header;
pub mod keys;
mod metadata;
mod rows;
mod tokenizer;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burnish_kernels::packed::{GgufBlocks, Packed};
use memmap2::Mmap;

pub use burnish_kernels::packed::GgmlType;
pub use header::TensorInfo;
pub use metadata::{Metadata, Value};
pub use rows::halves_interleaved;
pub use tokenizer::{DEFAULT_PATTERNS, LLAMA3_PATTERN, QWEN2_PATTERN};

use crate::chat_template::ChatTemplate;
use crate::checkpoint::{Checkpoint, release};
use crate::dtype::ComputeType;
use crate::error::{ModelError, Result};
use crate::families;
use crate::part::{Part, Role, RowOrder, of_gguf};
use crate::tokenizer::Tokenizer;

/// A tensor, and the part of its family that declares it.
type Stored = (TensorInfo, Option<&'static Part>);

/// A memory-mapped GGUF file; tensors carry the names that checkpoints of their family have.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// By checkpoint name, or by the file's own where no family declares it.
    tensors: BTreeMap<String, Stored>,
    /// What the file's norms have beyond those of checkpoints.
    norm_offset: f32,
    data_start: usize,
}

impl GgufFile {
    /// Opens a file and reads its header; no tensor is touched.
    ///
    /// # Errors
    /// [`ModelError::Format`] when the header is cut off, lies about lengths, or names a type not known here.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| ModelError::io(path, error))?;
        let length = file.metadata().map_err(|error| ModelError::io(path, error))?.len();
        if length < 24 {
            return Err(ModelError::format(path, format!("{length} bytes are too few for a GGUF file")));
        }
        // SAFETY: the map is read-only; a file that another program truncates meanwhile is that program's fault,
        // as it is with every memory-mapped reader.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
        let header = header::read(&map).map_err(|reason| ModelError::format(path, reason))?;
        // A file of another architecture is still read for its tokenizer; its configuration is refused.
        let family = header.metadata.text("general.architecture").and_then(|name| families::by_architecture(name).ok());
        let named = |info: TensorInfo| match family.and_then(|family| of_gguf(family.parts, &info.name)) {
            Some((name, part)) => (name, (info, Some(part))),
            None => (info.name.clone(), (info, None)),
        };
        Ok(Self {
            path: path.to_owned(),
            map,
            tensors: header.tensors.into_iter().map(named).collect(),
            norm_offset: family.map_or(0.0, |family| family.norm_offset as f32),
            metadata: header.metadata,
            data_start: header.data_start,
        })
    }

    /// Keys and values of the header.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors as the file has them.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.values().map(|(info, _)| info)
    }

    /// What `config.json` would say.
    ///
    /// # Errors
    /// [`ModelError::Config`] when a key is missing.
    pub fn config_json(&self) -> Result<serde_json::Value> {
        config::config_json(self)
    }

    /// The tokenizer that the metadata describes.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when it is incomplete or of a kind not known here.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer::build(&self.metadata)
    }

    /// The chat template, where there is one.
    ///
    /// # Errors
    /// [`ModelError::Template`] when it does not compile.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let special = tokenizer::special_tokens(&self.metadata)?;
        let templates = self.metadata.chat_templates();
        if templates.is_empty() { Ok(None) } else { ChatTemplate::named(templates, &special).map(Some) }
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| ModelError::Misfit { problems: vec![format!("{name}: missing")] })
    }

    /// Hands the bytes of a tensor to a reader.
    fn with_bytes<T>(&self, info: &TensorInfo, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let start = self.data_start + info.offset;
        let bytes = self
            .map
            .get(start..start + info.bytes)
            .ok_or_else(|| ModelError::format(&self.path, format!("`{}` lies beyond the end of the file", info.name)))?;
        let values = read(bytes);
        release(&self.map, start, info.bytes);
        Ok(values)
    }

    /// Elements, or their bytes, with rows as checkpoints order them; `None` leaves them as they are.
    fn reordered<T: Copy + Default>(&self, (info, part): &Stored, values: &[T]) -> Result<Option<Vec<T>>> {
        let Some(heads) = part.and_then(|part| self.heads_of(part)) else { return Ok(None) };
        let moved = rows::halves_apart(values, info.shape[0], heads).ok_or_else(|| {
            ModelError::format(
                &self.path,
                format!("`{}` has {} rows, which {heads} heads do not share", info.name, info.shape[0]),
            )
        })?;
        Ok(Some(moved))
    }

    /// The heads of a part whose rows are interleaved.
    fn heads_of(&self, part: &Part) -> Option<usize> {
        if part.rows != RowOrder::Interleaved {
            return None;
        }
        let architecture = self.metadata.text("general.architecture")?;
        let number = |key: &str| self.metadata.number(&format!("{architecture}.attention.{key}"));
        let heads = number("head_count")?;
        Some(if part.role == Role::Key { number("head_count_kv").unwrap_or(heads) } else { heads })
    }

    /// What the values of a tensor have beyond those of a checkpoint.
    fn offset_of(&self, (_, part): &Stored) -> f32 {
        part.filter(|part| part.role.is_norm()).map_or(0.0, |_| self.norm_offset)
    }
}

impl Checkpoint for GgufFile {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|(info, _)| info.shape.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        let values = self.with_bytes(&stored.0, |bytes| stored.0.kind.dequantize(bytes))?;
        let mut values = self.reordered(stored, &values)?.unwrap_or(values);
        let offset = self.offset_of(stored);
        if offset != 0.0 {
            for value in &mut values {
                *value -= offset;
            }
        }
        Ok(values)
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        let stored = self.stored(name)?;
        let (kind, &[rows, columns]) = (stored.0.kind, &stored.0.shape[..]) else { return Ok(None) };
        if !kind.is_packed() {
            return Ok(None);
        }
        // Rows are whole blocks, so that they move as bytes do.
        let bytes =
            self.with_bytes(&stored.0, |bytes| Ok(self.reordered(stored, bytes)?.unwrap_or_else(|| bytes.to_vec())))??;
        let blocks = GgufBlocks::new(name, [rows, columns], kind, bytes);
        blocks.map(|blocks| Some(Packed::Gguf(blocks))).map_err(|error| ModelError::format(&self.path, error.to_string()))
    }

    fn read(&self, name: &str, dtype: ComputeType) -> Result<TensorData> {
        let stored = self.stored(name)?;
        match (stored.0.kind, dtype) {
            (GgmlType::F32, ComputeType::F32) | (GgmlType::F16, ComputeType::F16) | (GgmlType::BF16, ComputeType::BF16)
                if self.offset_of(stored) == 0.0 =>
            {
                self.with_bytes(&stored.0, |bytes| {
                    let moved = self.reordered(stored, bytes)?;
                    Ok(dtype.read(moved.as_deref().unwrap_or(bytes)))
                })?
            }
            _ => dtype.convert(name, self.read_f32(name)?),
        }
    }
}
