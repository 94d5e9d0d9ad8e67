//! Reads GGUF files: metadata, tensors, tokenizer and chat templates in one file.
//!
//! Source: `ggml/docs/gguf.md` and `gguf.cpp` of llama.cpp.

pub(crate) mod architecture;
mod config;
mod header;
pub mod keys;
pub mod metadata;
mod rows;
mod shards;
mod tokenizer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burnish_kernels::packed::{GgufBlocks, Packed, PackedKind};

pub use burnish_kernels::packed::GgmlType;
pub use header::TensorInfo;
pub use metadata::{Metadata, Value};
pub use rows::{halves_apart, halves_interleaved};
pub use shards::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, shard_path};
pub use tokenizer::{DEFAULT_PATTERNS, GPT4O_PATTERN, LLAMA3_PATTERN, PATTERNS, QWEN2_PATTERN, TEKKEN_PATTERN};

use crate::chat_template::ChatTemplate;
use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::families;
use crate::float_type::FloatType;
use crate::part::{Part, Role, RowOrder, of_gguf, with_expert};
use crate::tokenizer::Tokenizer;
use shards::Shard;

/// Whether a path ends in `.gguf`.
pub fn is_gguf_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// A tensor of the file.
#[derive(Debug)]
struct Stored {
    info: TensorInfo,
    /// The part of the family that declares it, if one does.
    part: Option<&'static Part>,
}

/// The most experts of a layer; a file that claims more is refused, because they are missing.
const MOST_EXPERTS: usize = 4096;
/// The fewest bytes of the tensor of an expert, so that they don't take much more memory than the file.
const LEAST_OF_EXPERT: usize = 64;

/// The tensor of each expert, along the first dimension; one with the name in the file if it has no other.
fn of_experts(name: &str, part: &'static Part, info: &TensorInfo) -> Vec<(String, Stored)> {
    let (count, shape) = match info.shape.split_first() {
        Some((count @ 1..=MOST_EXPERTS, shape)) if !shape.is_empty() => (*count, shape.to_vec()),
        _ => return vec![(info.name.clone(), Stored { info: info.clone(), part: None })],
    };
    // The header has been checked: these bytes are there, and as many blocks as the rows have.
    let bytes = info.bytes / count;
    let of = |expert: usize| {
        let info = TensorInfo { shape: shape.clone(), offset: info.offset + expert * bytes, bytes, ..info.clone() };
        (with_expert(name, expert), Stored { info, part: Some(part) })
    };
    if bytes < LEAST_OF_EXPERT {
        return vec![(info.name.clone(), Stored { info: info.clone(), part: None })];
    }
    (0..count).map(of).collect()
}

/// A memory-mapped GGUF file, or the parts of a model. As a [`Checkpoint`], its tensors have the names and values of a Hugging Face
/// checkpoint.
#[derive(Debug)]
pub struct GgufFile {
    /// The file, or the parts in order; the first has all the metadata.
    shards: Vec<Shard>,
    metadata: Metadata,
    /// Where each value of the metadata lies, with its type, in the order of the file.
    entries: Vec<(String, Range<usize>)>,
    /// The tensors as they stand in the header.
    infos: Vec<TensorInfo>,
    /// By checkpoint name, or by the name in the file if no family declares the tensor.
    tensors: BTreeMap<String, Stored>,
    /// The offset that has been added to norms in the file.
    norm_offset: f32,
}

impl GgufFile {
    /// Opens a file and reads its header, without reading a tensor. If it is the first part of a model that `llama-gguf-split` divided,
    /// the other parts are opened too.
    ///
    /// # Errors
    /// [`ModelError::Format`] if a header is malformed, a tensor has an unknown type or ends after the file, a part is missing, or the
    /// file is a part but not the first.
    pub fn open(path: &Path) -> Result<Self> {
        let (shards, header) = shards::open(path)?;
        // The tokenizer of a file with an unknown architecture can be read; its configuration is refused.
        let family = header.metadata.text("general.architecture").and_then(|name| families::by_architecture(name).ok());
        let named = |info: &TensorInfo| match family.and_then(|family| of_gguf(family.parts, &info.name)) {
            Some((name, part)) if part.role.is_expert() => of_experts(&name, part, info),
            Some((name, part)) => vec![(name, Stored { info: info.clone(), part: Some(part) })],
            None => vec![(info.name.clone(), Stored { info: info.clone(), part: None })],
        };
        let all: Vec<_> = header.tensors.iter().flat_map(named).collect();
        let count = all.len();
        let tensors: BTreeMap<_, _> = all.into_iter().collect();
        if tensors.len() < count {
            return Err(ModelError::format(path, "two tensors have the same name"));
        }
        Ok(Self {
            shards,
            tensors,
            infos: header.tensors,
            norm_offset: family.map_or(0.0, |family| family.norm_offset as f32),
            metadata: header.metadata,
            entries: header.entries,
        })
    }

    /// The keys and values of the header.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors as they stand in the header.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.infos.iter()
    }

    /// The keys in the order of the file, each with the bytes of its value and of the number of its type before that.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        // The header was read from these bytes.
        let map = &self.first().map;
        self.entries.iter().map(|(key, range)| (key.as_str(), map.get(range.clone()).unwrap_or_default()))
    }

    /// Calls `read` with the bytes of some rows of a tensor; a row is a stretch of its fastest dimension.
    ///
    /// # Errors
    /// [`ModelError::Format`] if the file has no such rows.
    pub fn with_rows<T>(&self, info: &TensorInfo, rows: Range<usize>, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let count = info.shape.iter().rev().skip(1).product::<usize>().max(1);
        let row = info.bytes / count;
        let part = (rows.start <= rows.end && rows.end <= count).then(|| TensorInfo {
            offset: info.offset + rows.start * row,
            bytes: rows.len() * row,
            ..info.clone()
        });
        let part = part.ok_or_else(|| ModelError::format(self.path(), format!("`{}` has no rows {rows:?}", info.name)))?;
        self.with_bytes(&part, read)
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.first().path
    }

    fn first(&self) -> &Shard {
        // There is no file without one.
        &self.shards[0]
    }

    /// A `config.json` for the model.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] if no family has the architecture; [`ModelError::Config`] names a key that is missing or
    /// asks for something that is not supported.
    pub fn config_json(&self) -> Result<serde_json::Value> {
        config::config_json(&self.metadata, self)
    }

    /// The tokenizer that the metadata describes.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if it is incomplete or of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer::build(&self.metadata)
    }

    /// The chat templates; `None` if the file has none.
    ///
    /// # Errors
    /// [`ModelError::Template`] if the default one does not compile.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let special = tokenizer::special_tokens(&self.metadata)?;
        let templates = self.metadata.chat_templates();
        if templates.is_empty() { Ok(None) } else { ChatTemplate::named(templates, &special).map(Some) }
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })
    }

    /// Calls `read` with the bytes of a tensor.
    fn with_bytes<T>(&self, info: &TensorInfo, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        self.shards[info.shard].with_bytes(&info.name, info.offset, info.bytes, read)
    }

    /// The elements, or their bytes, with rows in the order of checkpoints; `None` if they have that order already.
    fn reordered<T: Copy + Default>(&self, Stored { info, part }: &Stored, values: &[T]) -> Result<Option<Vec<T>>> {
        let Some(heads) = part.and_then(|part| self.heads_of(part)) else { return Ok(None) };
        let moved = rows::halves_apart(values, info.shape[0], heads).ok_or_else(|| {
            ModelError::format(
                self.path(),
                format!("`{}`: expected rows for {heads} heads, got {} rows", info.name, info.shape[0]),
            )
        })?;
        Ok(Some(moved))
    }

    /// The number of heads of a part with interleaved rows; `None` for other parts.
    fn heads_of(&self, part: &Part) -> Option<usize> {
        if part.rows != RowOrder::Interleaved {
            return None;
        }
        let architecture = self.metadata.text("general.architecture")?;
        let number = |key: &str| self.metadata.number(&format!("{architecture}.attention.{key}"));
        let heads = number("head_count")?;
        Some(if part.role == Role::Key { number("head_count_kv").unwrap_or(heads) } else { heads })
    }

    /// The offset that has been added to the values of a tensor.
    fn offset_of(&self, stored: &Stored) -> f32 {
        stored.part.filter(|part| part.role.is_norm()).map_or(0.0, |_| self.norm_offset)
    }
}

impl Checkpoint for GgufFile {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|stored| stored.info.shape.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        self.shards.iter().map(|shard| shard.path.clone()).collect()
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.tensors.get(name).map(|stored| self.shards[stored.info.shard].path.clone())
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        let stored = self.tensors.get(name).filter(|stored| self.offset_of(stored) == 0.0)?;
        match stored.info.kind {
            GgmlType::F32 => Some(FloatType::F32),
            GgmlType::F16 => Some(FloatType::F16),
            GgmlType::BF16 => Some(FloatType::BF16),
            _ => None,
        }
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        let values = self.with_bytes(&stored.info, |bytes| stored.info.kind.dequantize(bytes))?;
        let mut values = self.reordered(stored, &values)?.unwrap_or(values);
        let offset = self.offset_of(stored);
        if offset != 0.0 {
            for value in &mut values {
                *value -= offset;
            }
        }
        Ok(values)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>> {
        let stored = self.stored(name)?;
        let is_moved = stored.part.is_some_and(|part| part.rows == RowOrder::Interleaved);
        if is_moved || self.offset_of(stored) != 0.0 {
            return Ok(None);
        }
        self.with_rows(&stored.info, rows, |bytes| Some(stored.info.kind.dequantize(bytes)))
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        let info = &self.tensors.get(name)?.info;
        (info.kind.is_packed() && info.shape.len() == 2).then_some(PackedKind::Gguf(info.kind))
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        let stored = self.stored(name)?;
        let (Some(PackedKind::Gguf(kind)), &[rows, columns]) = (self.packed_kind(name), &stored.info.shape[..]) else {
            return Ok(None);
        };
        // Rows are whole blocks, so that they move as bytes do.
        let bytes =
            self.with_bytes(&stored.info, |bytes| Ok(self.reordered(stored, bytes)?.unwrap_or_else(|| bytes.to_vec())))??;
        let blocks = GgufBlocks::new(name, [rows, columns], kind, bytes);
        blocks.map(|blocks| Some(Packed::Gguf(blocks))).map_err(|error| ModelError::format(self.path(), error.to_string()))
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        if self.float_type(name) != Some(dtype) {
            return dtype.convert(name, self.read_f32(name)?);
        }
        let stored = self.stored(name)?;
        self.with_bytes(&stored.info, |bytes| {
            let moved = self.reordered(stored, bytes)?;
            Ok(dtype.read(moved.as_deref().unwrap_or(bytes)))
        })?
    }
}
