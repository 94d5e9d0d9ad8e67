//! Safetensors, written one tensor at a time.

use std::path::Path;

use burnish_models::Checkpoint;
use serde_json::{Map, Value, json};

use crate::error::{ExportError, Result};
use crate::float::FloatType;
use crate::place::{CountedFile, small};

/// Files that `write_shards` makes are no larger, unless one tensor is.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes `model.safetensors` into a folder.
///
/// # Errors
/// When a tensor can't be read, is beyond f16, or the disk refuses.
pub fn write_safetensors(weights: &dyn Checkpoint, folder: &Path, float: FloatType) -> Result<()> {
    write_shards(weights, folder, float, u64::MAX).map(|_| ())
}

/// Writes `model.safetensors`, or shards with an index where they would be larger than `most`; returns the bytes. Integers and
/// booleans, such as buffers of positions, are copied as they are.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_shards(weights: &dyn Checkpoint, folder: &Path, float: FloatType, most: u64) -> Result<u64> {
    let mut names = weights.names();
    names.sort_unstable();
    let size = |name: &String| -> u64 {
        let elements: usize = weights.shape(name).unwrap_or_default().iter().product();
        (elements * stored(weights, name, float).1) as u64
    };
    let mut shards: Vec<(u64, Vec<&String>)> = vec![(0, Vec::new())];
    for name in &names {
        let bytes = size(name);
        match shards.last_mut() {
            Some((filled, shard)) if *filled + bytes <= most || shard.is_empty() => {
                *filled += bytes;
                shard.push(name);
            }
            _ => shards.push((bytes, vec![name])),
        }
    }
    if let [(_, shard)] = shards.as_slice() {
        return write_file(weights, shard, &folder.join("model.safetensors"), float);
    }
    let (count, mut written, mut places) = (shards.len(), 0, Map::new());
    let total: u64 = shards.iter().map(|(bytes, _)| bytes).sum();
    for (index, (_, shard)) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        written += write_file(weights, shard, &folder.join(&file), float)?;
        places.extend(shard.iter().map(|name| ((*name).clone(), Value::from(file.clone()))));
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
    written += small(&folder.join("model.safetensors.index.json"), &pretty(&index))?;
    Ok(written)
}

/// Writes a file of all tensors, one after another; returns the bytes. Floats are converted, as in [`write_safetensors`].
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_file(weights: &dyn Checkpoint, path: &Path, float: FloatType) -> Result<u64> {
    let mut names = weights.names();
    names.sort_unstable();
    write_file(weights, &names.iter().collect::<Vec<_>>(), path, float)
}

fn write_file(weights: &dyn Checkpoint, names: &[&String], path: &Path, float: FloatType) -> Result<u64> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0usize;
    for name in names {
        let shape = weights.shape(name).ok_or_else(|| ExportError::unsupported(format!("`{name}` has no shape")))?;
        let (dtype, size) = stored(weights, name, float);
        let end = offset + shape.iter().product::<usize>() * size;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
        header.insert((*name).clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = CountedFile::create(path)?;
    file.put(&(header.len() as u64).to_le_bytes())?;
    file.put(&header)?;
    for name in names {
        match weights.integer_dtype(name) {
            Some(_) => file.put(&weights.read_bytes(name)?)?,
            None => file.put(&float.encode(name, &weights.read_f32(name)?)?)?,
        }
    }
    file.finish()
}

/// The dtype that a tensor is stored in, with the bytes of an element: integers and booleans stay as they are.
fn stored(weights: &dyn Checkpoint, name: &str, float: FloatType) -> (String, usize) {
    match weights.integer_dtype(name) {
        Some(dtype) => (dtype.to_string(), dtype.bitsize() / 8),
        None => (float.safetensors_name().to_owned(), float.size()),
    }
}

/// JSON for people.
pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

#[cfg(test)]
mod tests {
    use burnish_models::checkpoint::SafetensorsFolder;
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    #[test]
    fn integers_are_copied_as_they_are() {
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
        for most in [u64::MAX, 8] {
            write_shards(&SafetensorsFolder::from_files(&from).unwrap(), &to, FloatType::BF16, most).unwrap();
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
