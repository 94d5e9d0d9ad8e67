//! One tensor for each expert, from those that have all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burnish_kernels::packed::{GgmlType, GgufBlocks, Packed, PackedKind};
use safetensors::Dtype;

use super::view::{Make, Source, View};
use super::{MXFP4, Place, Projection, SINKS, alternate};
use crate::checkpoint::{Checkpoint, element};
use crate::config::{ExpertsConfig, ModelConfig, Stacking};
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;
use crate::part::{Role, declared_tensors};

/// Elements of a block of MXFP4, and the bytes that hold them.
const BLOCK: [usize; 2] = [32, 16];

/// The checkpoint with one tensor for each expert, where it has those of all experts in one, and with sinks as other weights are
/// called; itself where it has neither.
pub fn experts_apart(inner: Box<dyn Checkpoint>, config: &ModelConfig) -> Box<dyn Checkpoint> {
    let Some(experts) = &config.experts else { return inner };
    let mut names: BTreeMap<String, Source<OfAll>> = BTreeMap::new();
    let mut used: Vec<String> = Vec::new();
    for tensor in declared_tensors(config) {
        if inner.shape(&tensor.name).is_some() {
            continue;
        }
        let found = if tensor.part.role == Role::Sinks {
            let stored = tensor.name.strip_suffix(".weight").filter(|name| name.ends_with(SINKS));
            stored.map(|stored| (stored.to_owned(), Source::Renamed(stored.to_owned())))
        } else {
            Place::of(&tensor.name).and_then(|(start, place)| source(&*inner, place.stacked(start), place))
        };
        if let Some((stored, source)) = found.filter(|(stored, _)| has(&*inner, stored)) {
            used.push(stored);
            names.insert(tensor.name, source);
        }
    }
    if names.is_empty() {
        return inner;
    }
    used.sort();
    used.dedup();
    let is_used = |name: &String| {
        let stem = MXFP4.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        used.iter().any(|used| used == name || used == stem)
    };
    let others = inner.names().into_iter().filter(|name| !is_used(name)).map(|name| (name.clone(), Source::Renamed(name)));
    names.extend(others);
    Box::new(View { names, make: Apart { inner, experts: experts.clone(), kept: Mutex::default() } })
}

/// Whether there is a tensor of that name, or its two parts in MXFP4.
fn has(inner: &dyn Checkpoint, stored: &str) -> bool {
    inner.shape(stored).is_some() || MXFP4.iter().all(|end| inner.shape(&format!("{stored}{end}")).is_some())
}

fn source(inner: &dyn Checkpoint, stored: String, place: Place) -> Option<(String, Source<OfAll>)> {
    let is_packed = !place.is_bias && inner.shape(&stored).is_none();
    has(inner, &stored).then(|| (stored.clone(), Source::Made(OfAll { stored, place, is_packed })))
}

/// The part of a tensor of all experts.
#[derive(Debug, Clone)]
struct OfAll {
    stored: String,
    place: Place,
    is_packed: bool,
}

/// The bytes of tensors of one layer.
#[derive(Debug, Default)]
struct Kept {
    /// The beginning of their names.
    layer: String,
    /// By name.
    tensors: BTreeMap<String, Arc<Vec<u8>>>,
}

/// See [`experts_apart`].
struct Apart {
    inner: Box<dyn Checkpoint>,
    experts: ExpertsConfig,
    /// The bytes of the tensors of one layer: the experts of a layer are read one after the other.
    kept: Mutex<Kept>,
}

impl Apart {
    /// The bytes of a tensor of the file.
    fn bytes(&self, stored: &str) -> Result<Arc<Vec<u8>>> {
        let layer = &stored[..stored.find(super::EXPERTS).unwrap_or(0)];
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.layer != layer {
            *kept = Kept { layer: layer.to_owned(), tensors: BTreeMap::new() };
        }
        if let Some(bytes) = kept.tensors.get(stored) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(self.inner.read_bytes(stored)?);
        kept.tensors.insert(stored.to_owned(), bytes.clone());
        Ok(bytes)
    }

    fn refuse(&self, stored: &str, reason: &str) -> ModelError {
        let path = self.inner.file_of(stored).unwrap_or_default();
        ModelError::format(path, format!("`{stored}`: {reason}"))
    }

    /// The part of a tensor's bytes that is that of one expert.
    fn of_expert<'a>(&self, stored: &str, bytes: &'a [u8], expert: usize) -> Result<&'a [u8]> {
        let count = self.inner.shape(stored).and_then(|shape| shape.first().copied()).unwrap_or_default();
        let each = bytes.len().checked_div(count).filter(|each| each * count == bytes.len());
        let found = each.and_then(|each| bytes.get(expert * each..(expert + 1) * each));
        found.ok_or_else(|| self.refuse(stored, &format!("expected that of expert {expert}, got {count} experts")))
    }

    /// The shape of an expert's tensor; `None` if the stored one has another number of dimensions.
    fn shape_of(&self, stored: &str, place: Place, is_packed: bool) -> Option<Vec<usize>> {
        let shape = if is_packed {
            let blocks = self.inner.shape(&format!("{stored}{}", MXFP4[0]))?;
            let [experts, rows, count, bytes] = blocks[..] else { return None };
            let scales = self.inner.shape(&format!("{stored}{}", MXFP4[1]))?;
            (bytes == BLOCK[1] && scales == [experts, rows, count]).then(|| vec![rows, count * BLOCK[0]])?
        } else {
            match (&self.inner.shape(stored)?[..], place.is_bias, self.experts.stacking) {
                ([_, length], true, _) => vec![*length],
                ([_, rows, columns], false, Stacking::Rows) | ([_, columns, rows], false, Stacking::Columns) => {
                    vec![*rows, *columns]
                }
                _ => return None,
            }
        };
        let halved = if place.projection == Projection::Down { shape[0] } else { shape[0] / 2 };
        Some([&[halved][..], &shape[1..]].concat())
    }

    /// The elements of an expert's tensor.
    fn floats_of(&self, stored: &str, place: Place) -> Result<Vec<f32>> {
        let bytes = self.bytes(stored)?;
        let own = self.of_expert(stored, &bytes, place.expert)?;
        let dtype = match self.inner.float_type(stored) {
            Some(FloatType::F32) => Dtype::F32,
            Some(FloatType::F16) => Dtype::F16,
            Some(FloatType::BF16) => Dtype::BF16,
            None => return Err(self.refuse(stored, "expected F32, F16 or BF16")),
        };
        let values = element::to_f32(own, dtype).unwrap_or_default();
        let shape = self.inner.shape(stored).unwrap_or_default();
        let rows = match (self.experts.stacking, place.is_bias, &shape[..]) {
            (Stacking::Columns, false, [_, inputs, outputs]) => transposed(&values, *inputs, *outputs),
            _ => values,
        };
        Ok(self.half(&rows, place, if place.is_bias { 1 } else { self.columns(&shape) }))
    }

    /// Elements of a row of an expert's matrix.
    fn columns(&self, shape: &[usize]) -> usize {
        match (self.experts.stacking, shape) {
            (Stacking::Columns, [_, inputs, _]) | (Stacking::Rows, [_, _, inputs]) => *inputs,
            _ => 1,
        }
    }

    /// The rows of the gate, or of what it is multiplied by, among those of both; all rows of another projection.
    fn half<T: Copy>(&self, rows: &[T], place: Place, columns: usize) -> Vec<T> {
        let index = match place.projection {
            Projection::Gate => 0,
            Projection::Up => 1,
            Projection::Down => return rows.to_vec(),
        };
        match self.experts.stacking {
            Stacking::Rows => rows[index * rows.len() / 2..(index + 1) * rows.len() / 2].to_vec(),
            Stacking::Columns => {
                let rows: Vec<&[T]> = rows.chunks_exact(columns.max(1)).collect();
                alternate(&rows, index).concat()
            }
        }
    }

    /// The blocks of an expert's matrix, as GGUF files have them.
    fn blocks(&self, name: &str, stored: &str, place: Place) -> Result<GgufBlocks> {
        let [blocks, scales] = MXFP4.map(|end| format!("{stored}{end}"));
        let wrong = || self.refuse(&blocks, "expected blocks of 16 bytes, each with a scale of one byte");
        let shape = self.shape_of(stored, place, true).ok_or_else(wrong)?;
        let (block_bytes, scale_bytes) = (self.bytes(&blocks)?, self.bytes(&scales)?);
        let bytes = self.of_expert(&blocks, &block_bytes, place.expert)?;
        let powers = self.of_expert(&scales, &scale_bytes, place.expert)?;
        let count = shape[1] / BLOCK[0];
        let (bytes, powers) = (self.half(bytes, place, count * BLOCK[1]), self.half(powers, place, count));
        let joined = bytes.as_chunks::<16>().0.iter().zip(powers).flat_map(|(block, power)| joined(*block, power)).collect();
        let blocks = GgufBlocks::new(name, [shape[0], shape[1]], GgmlType::MXFP4, joined);
        blocks.map_err(|error| self.refuse(stored, &error.to_string()))
    }
}

/// A block as GGUF files have it: the power of two, then in each byte an element of the first half and one of the second, where the
/// checkpoint has two adjacent elements.
fn joined(block: [u8; 16], power: u8) -> [u8; 17] {
    let element = |at: usize| (block[at / 2] >> (4 * (at % 2))) & 15;
    let mut joined = [power; 17];
    for at in 0..16 {
        joined[1 + at] = element(at) | (element(at + 16) << 4);
    }
    joined
}

/// The transpose of a row-major matrix.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

impl Make for Apart {
    type Key = OfAll;

    fn inner(&self) -> &dyn Checkpoint {
        &*self.inner
    }

    fn shape(&self, OfAll { stored, place, is_packed }: &OfAll) -> Option<Vec<usize>> {
        self.shape_of(stored, *place, *is_packed)
    }

    fn floats(&self, name: &str, OfAll { stored, place, is_packed }: &OfAll) -> Result<Vec<f32>> {
        if *is_packed {
            return Ok(Packed::Gguf(self.blocks(name, stored, *place)?).dequantize());
        }
        self.floats_of(stored, *place)
    }

    fn packed_kind(&self, key: &OfAll) -> Option<PackedKind> {
        key.is_packed.then_some(PackedKind::Gguf(GgmlType::MXFP4))
    }

    fn packed(&self, name: &str, OfAll { stored, place, is_packed }: &OfAll) -> Result<Option<Packed>> {
        is_packed.then(|| self.blocks(name, stored, *place).map(Packed::Gguf)).transpose()
    }

    fn float_type(&self, key: &OfAll) -> Option<FloatType> {
        self.inner.float_type(&key.stored).filter(|_| !key.is_packed)
    }

    fn file_of(&self, OfAll { stored, is_packed, .. }: &OfAll) -> Option<PathBuf> {
        let end = if *is_packed { MXFP4[0] } else { "" };
        self.inner.file_of(&format!("{stored}{end}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_are_put_where_gguf_files_have_them() {
        // Elements 0 to 15, twice.
        let block: [u8; 16] = std::array::from_fn(|at| (2 * (at as u8) % 16) | ((2 * (at as u8) % 16 + 1) << 4));
        let joined = joined(block, 130);
        assert_eq!(joined[0], 130);
        assert_eq!(joined[1..], std::array::from_fn::<u8, 16, _>(|at| at as u8 | ((at as u8) << 4)));
    }

    #[test]
    fn places_are_read_from_names() {
        let start = "model.layers.3.mlp.experts.";
        let place = Place { expert: 12, projection: Projection::Up, is_bias: true };
        assert_eq!(Place::of("model.layers.3.mlp.experts.12.up_proj.bias"), Some((start, place)));
        assert_eq!(place.stacked(start), "model.layers.3.mlp.experts.gate_up_proj_bias");
        assert_eq!(Place::of("model.layers.3.mlp.up_proj.bias"), None);
        assert_eq!(Place::of("model.layers.3.mlp.experts.x.up_proj.bias"), None);
    }
}
