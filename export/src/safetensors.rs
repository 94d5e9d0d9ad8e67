//! Writes safetensors files, one tensor at a time.

use std::path::Path;

use burnish_models::checkpoint::for_rows;
use burnish_models::{Checkpoint, FloatType};
use serde_json::{Map, Value, json};

use crate::counted_file::{CountedFile, write_text};
use crate::error::{ExportError, Result};

/// The default size of a shard in bytes, as in `huggingface_hub`.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes `model.safetensors` into a folder, with the weights stored as `float`.
///
/// # Errors
/// If a tensor can't be read or is outside the range of f16, or the file can't be written.
pub fn write_safetensors(weights: &dyn Checkpoint, folder: &Path, float: FloatType) -> Result<()> {
    write_shards(weights, folder, float, u64::MAX).map(|_| ())
}

/// Writes `model.safetensors`, or shards with an index if it would be larger than `shard_bytes`. Returns the number of bytes of
/// all files. Integers and booleans, such as buffers of positions, are copied unchanged.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_shards(weights: &dyn Checkpoint, folder: &Path, float: FloatType, shard_bytes: u64) -> Result<u64> {
    write_layout(weights, folder, &Layout { float, shard_bytes, format: "pt", index: None })
}

/// How the weights of a folder are written.
pub(crate) struct Layout<'a> {
    /// The type of floats.
    pub(crate) float: FloatType,
    /// The largest size of a shard in bytes; a single tensor may be larger.
    pub(crate) shard_bytes: u64,
    /// `format` in the metadata of each file.
    pub(crate) format: &'static str,
    /// More keys for the metadata of the index, which is then written for a single file too.
    pub(crate) index: Option<&'a Map<String, Value>>,
}

/// As [`write_shards`].
pub(crate) fn write_layout(weights: &dyn Checkpoint, folder: &Path, layout: &Layout<'_>) -> Result<u64> {
    let (float, shard_bytes) = (layout.float, layout.shard_bytes);
    let mut names = weights.names();
    names.sort_unstable();
    let size = |name: &String| -> u64 {
        let elements: usize = weights.shape(name).unwrap_or_default().iter().product();
        (elements * storage(weights, name, float).element_bytes) as u64
    };
    let mut shards = vec![Shard::default()];
    for name in &names {
        let bytes = size(name);
        match shards.last_mut() {
            Some(shard) if shard.bytes + bytes <= shard_bytes || shard.names.is_empty() => {
                shard.bytes += bytes;
                shard.names.push(name);
            }
            _ => shards.push(Shard { bytes, names: vec![name] }),
        }
    }
    if let ([shard], None) = (shards.as_slice(), layout.index) {
        return write_file(weights, &shard.names, &folder.join("model.safetensors"), layout);
    }
    let (count, mut written, mut weight_map) = (shards.len(), 0, Map::new());
    let total: u64 = shards.iter().map(|shard| shard.bytes).sum();
    for (index, Shard { names, .. }) in shards.iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        written += write_file(weights, names, &folder.join(&file), layout)?;
        weight_map.extend(names.iter().map(|name| ((*name).clone(), Value::from(file.clone()))));
    }
    let mut metadata = layout.index.cloned().unwrap_or_default();
    metadata.insert("total_size".to_owned(), json!(total));
    let index = json!({ "metadata": metadata, "weight_map": weight_map });
    written += write_text(&folder.join("model.safetensors.index.json"), &pretty(&index))?;
    Ok(written)
}

/// The tensors of one file, and their bytes.
#[derive(Default)]
struct Shard<'a> {
    bytes: u64,
    names: Vec<&'a String>,
}

/// Writes all tensors to one file, one at a time, and returns its number of bytes. Floats are converted as by
/// [`write_safetensors`].
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_file(weights: &dyn Checkpoint, path: &Path, float: FloatType) -> Result<u64> {
    let mut names = weights.names();
    names.sort_unstable();
    let layout = Layout { float, shard_bytes: u64::MAX, format: "pt", index: None };
    write_file(weights, &names.iter().collect::<Vec<_>>(), path, &layout)
}

/// Creates a file with this header; the tensors follow.
pub(crate) fn create(path: &Path, header: Map<String, Value>) -> Result<CountedFile> {
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = CountedFile::create(path)?;
    file.put(&(header.len() as u64).to_le_bytes())?;
    file.put(&header)?;
    Ok(file)
}

fn write_file(weights: &dyn Checkpoint, names: &[&String], path: &Path, layout: &Layout<'_>) -> Result<u64> {
    let float = layout.float;
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": layout.format }));
    let mut offset = 0usize;
    for name in names {
        let shape = weights.shape(name).ok_or_else(|| ExportError::unsupported(format!("`{name}` has no shape")))?;
        let Storage { dtype, element_bytes } = storage(weights, name, float);
        let end = offset + shape.iter().product::<usize>() * element_bytes;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
        header.insert((*name).clone(), entry);
        offset = end;
    }
    let mut file = create(path, header)?;
    for name in names {
        match weights.integer_dtype(name) {
            Some(_) => file.put(&weights.read_bytes(name)?)?,
            None => for_rows(weights, name, |values| file.put(&float.encode(name, values)?))?,
        }
    }
    file.finish()
}

/// How a tensor is stored.
struct Storage {
    /// The name of its type in the header.
    dtype: String,
    element_bytes: usize,
}

/// Floats are stored as `float`; integers and booleans keep their type.
fn storage(weights: &dyn Checkpoint, name: &str, float: FloatType) -> Storage {
    match weights.integer_dtype(name) {
        Some(dtype) => Storage { dtype: dtype.to_string(), element_bytes: dtype.bitsize() / 8 },
        None => Storage { dtype: float.safetensors_name().to_owned(), element_bytes: float.size() },
    }
}

/// Indented JSON.
pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

#[cfg(test)]
mod tests {
    use burnish_models::checkpoint::SafetensorsFolder;
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    #[test]
    fn integers_are_copied_unchanged() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = ([root.path().join("from.safetensors")], root.path().join("to"));
        let positions: Vec<u8> = (0i64..5).flat_map(|position| (position << 33).to_le_bytes()).collect();
        let floats: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let views = [
            ("mask", TensorView::new(Dtype::BOOL, vec![3], &[1, 0, 1]).unwrap()),
            ("position_ids", TensorView::new(Dtype::I64, vec![1, 5], &positions).unwrap()),
            ("weight", TensorView::new(Dtype::F32, vec![2], &floats).unwrap()),
        ];
        std::fs::write(&from[0], safetensors::serialize(views, None).unwrap()).unwrap();
        std::fs::create_dir(&to).unwrap();
        for shard_bytes in [u64::MAX, 8] {
            write_shards(&SafetensorsFolder::from_files(&from).unwrap(), &to, FloatType::BF16, shard_bytes).unwrap();
            let written = SafetensorsFolder::open(&to).unwrap();
            assert_eq!(written.integer_dtype("position_ids"), Some(Dtype::I64));
            assert_eq!(written.read_bytes("position_ids").unwrap(), positions);
            assert_eq!(
                (written.integer_dtype("mask"), written.read_bytes("mask").unwrap()),
                (Some(Dtype::BOOL), vec![1, 0, 1])
            );
            assert_eq!(written.read_f32("weight").unwrap(), [1.5, -2.0]);
            std::fs::remove_file(to.join("model.safetensors")).ok();
        }
    }
}
