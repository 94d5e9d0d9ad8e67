//! GGUF files: metadata, tensors, tokenizer and chat template in one file.
//!
//! Source: `ggml/docs/gguf.md` and `gguf.cpp` of llama.cpp.

mod config;
mod header;
mod metadata;
pub mod names;
mod quants;
mod tokenizer;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use memmap2::Mmap;

pub use header::TensorInfo;
pub use metadata::{Metadata, Value};
pub use quants::GgmlType;
pub use tokenizer::{LLAMA3_PATTERN, QWEN2_PATTERN};

use crate::chat_template::ChatTemplate;
use crate::checkpoint::{Checkpoint, release};
use crate::dtype::ComputeType;
use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;

/// A memory-mapped GGUF file; tensors carry Hugging Face names.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Hugging Face name to the tensor.
    tensors: BTreeMap<String, TensorInfo>,
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
        let architecture = header.metadata.text("general.architecture").unwrap_or("").to_owned();
        let tensors =
            header.tensors.into_iter().map(|info| (names::to_hugging_face(&info.name, &architecture), info)).collect();
        Ok(Self { path: path.to_owned(), map, metadata: header.metadata, tensors, data_start: header.data_start })
    }

    /// Keys and values of the header.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors as the file has them.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.values()
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

    fn info(&self, name: &str) -> Result<&TensorInfo> {
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

    /// Elements, or their bytes, as Hugging Face orders the rows; `None` leaves them as they are.
    fn reordered<T: Copy + Default>(&self, info: &TensorInfo, values: &[T]) -> Result<Option<Vec<T>>> {
        let Some(heads) = self.heads_of(info) else { return Ok(None) };
        let moved = names::halves_apart(values, info.shape[0], heads).ok_or_else(|| {
            ModelError::format(
                &self.path,
                format!("`{}` has {} rows, which {heads} heads do not share", info.name, info.shape[0]),
            )
        })?;
        Ok(Some(moved))
    }

    /// Query and key rows of `llama` files are stored with the two halves of each head interleaved.
    fn heads_of(&self, info: &TensorInfo) -> Option<usize> {
        if self.metadata.text("general.architecture") != Some("llama") {
            return None;
        }
        let heads = self.metadata.number("llama.attention.head_count")?;
        if info.name.contains(".attn_q.") {
            Some(heads)
        } else if info.name.contains(".attn_k.") {
            Some(self.metadata.number("llama.attention.head_count_kv").unwrap_or(heads))
        } else {
            None
        }
    }
}

impl Checkpoint for GgufFile {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|info| info.shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let values = self.with_bytes(info, |bytes| info.kind.dequantize(bytes))?;
        Ok(self.reordered(info, &values)?.unwrap_or(values))
    }

    fn read(&self, name: &str, dtype: ComputeType) -> Result<TensorData> {
        let info = self.info(name)?;
        match (info.kind, dtype) {
            (GgmlType::F32, ComputeType::F32) | (GgmlType::F16, ComputeType::F16) | (GgmlType::BF16, ComputeType::BF16) => {
                self.with_bytes(info, |bytes| {
                    let moved = self.reordered(info, bytes)?;
                    Ok(dtype.read(moved.as_deref().unwrap_or(bytes)))
                })?
            }
            _ => dtype.convert(name, self.read_f32(name)?),
        }
    }
}
