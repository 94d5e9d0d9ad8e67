//! Folders whose weights are 8-bit floats with scales: `fp8` of transformers and vLLM, `float-quantized` of compressed-tensors. The
//! weights are multiplied by their scales when they are read.
//!
//! # Source
//! `Fp8Dequantize` in `integrations/finegrained_fp8.py` of transformers 5.23, and `_dequantize` in
//! `quantization/lifecycle/forward_helpers.py` of compressed-tensors 0.20, which rounds to the type of the scales.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burnish_kernels::packed::{Packed, PackedKind};
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;

use super::Checkpoint;
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;

/// The scales of a weight, after the name of its layer.
const SCALES: [&str; 2] = [".weight_scale_inv", ".weight_scale"];
/// The scales of activations and of the key-value cache, which only a model that computes in 8 bits needs.
const UNUSED: [&str; 6] =
    [".input_scale", ".activation_scale", ".output_scale", ".k_scale", ".v_scale", ".input_activation_scale"];

/// How a folder says that it has 8-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Method {
    /// The weights that share a scale.
    shared: Shared,
    /// Whether products are rounded to the type of the scales.
    rounds: bool,
}

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shared {
    /// Blocks of that many rows and columns.
    Block([usize; 2]),
    /// As many as the number of scales says.
    Equal,
}

impl Shared {
    /// From a setting, which may be absent or null; `None` if it has another form.
    fn of(setting: Option<&Value>) -> Option<Self> {
        let Some(setting) = setting.filter(|setting| !setting.is_null()) else { return Some(Self::Equal) };
        let [rows, columns] = setting.as_array()?.as_slice() else { return None };
        let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        Some(Self::Block([size(rows)?, size(columns)?]))
    }
}

/// The method of a `config.json`; `None` if it is another one, or has settings that are not read.
fn method(config: &Value) -> Option<Method> {
    let of_part = config.get("text_config").and_then(|part| part.get("quantization_config"));
    let settings = config.get("quantization_config").or(of_part).filter(|value| value.is_object())?;
    match settings.get("quant_method")?.as_str()? {
        "fp8" => Some(Method { shared: Shared::of(settings.get("weight_block_size"))?, rounds: false }),
        "compressed-tensors" => compressed_tensors(settings),
        _ => None,
    }
}

fn compressed_tensors(settings: &Value) -> Option<Method> {
    const FORMAT: &str = "float-quantized";
    let sparsity = settings.get("sparsity_config").and_then(Value::as_object);
    let is_sparse = sparsity.and_then(|sparsity| sparsity.get("format")).is_some_and(|format| format != "dense");
    let mut found = None;
    for group in settings.get("config_groups")?.as_object()?.values() {
        let weights = &group["weights"];
        let is_scaled = matches!(weights["strategy"].as_str(), Some("tensor" | "channel" | "block"));
        let is_float8 = weights["type"] == "float" && weights["num_bits"] == 8 && weights["symmetric"] != false;
        let is_own = group.get("format").is_none_or(|format| format.is_null() || format == FORMAT);
        let shared = Shared::of(weights.get("block_structure")).filter(|_| is_scaled && is_float8 && is_own)?;
        if found.is_some_and(|other| other != shared) {
            return None;
        }
        found = Some(shared);
    }
    let is_read = settings.get("format")? == FORMAT && !is_sparse;
    found.filter(|_| is_read).map(|shared| Method { shared, rounds: true })
}

/// Whether a tensor is part of a weight that [`fp8_folder`] reads.
pub(super) fn is_read(config: &Value, name: &str) -> bool {
    method(config).is_some() && SCALES.iter().any(|end| name.ends_with(end))
}

/// The checkpoint with each weight of 8-bit floats times its scales, and without the scales; itself where there are no such
/// weights.
///
/// # Errors
/// [`ModelError::Mismatch`] with every weight that lacks its scales or has them in another shape, and [`ModelError::Unsupported`] if
/// there are 8-bit floats, but no method that is read says how they are scaled.
pub(super) fn fp8_folder(folder: &Path, inner: Box<dyn Checkpoint>, config: &Value) -> Result<Box<dyn Checkpoint>> {
    let Some(method) = method(config) else { return without_method(folder, inner) };
    let (mut weights, mut problems) = (BTreeMap::new(), Vec::new());
    let names = inner.names();
    let file = |name: &str| inner.file_of(name).unwrap_or_else(|| folder.to_owned()).display().to_string();
    let mut left_out = Vec::new();
    let mut kept = Vec::new();
    for name in names {
        let layer = SCALES.iter().find_map(|end| name.strip_suffix(end));
        if UNUSED.iter().any(|end| name.ends_with(end)) {
            left_out.push(name);
        } else if let Some(layer) = layer {
            let weight = format!("{layer}.weight");
            match scaled(&*inner, &weight, &name, method) {
                Ok(scaled) => drop(weights.insert(weight, scaled)),
                Err(problem) => problems.push(format!("{}: {name}: {problem}", file(&name))),
            }
        } else {
            kept.push(name);
        }
    }
    let bare = kept.iter().filter(|name| inner.is_float8(name) && !weights.contains_key(*name) && problems.is_empty());
    let bare: Vec<String> = bare.map(|name| format!("{}: {name}: has 8-bit floats, but no scales", file(name))).collect();
    problems.extend(bare);
    if !problems.is_empty() {
        return Err(ModelError::Mismatch { problems });
    }
    if let Some(first) = left_out.first() {
        tracing::warn!(
            "{}: the scales of activations ({first}, {} in all) are not used: the model computes in floats",
            folder.display(),
            left_out.len()
        );
    }
    Ok(if weights.is_empty() && left_out.is_empty() { inner } else { Box::new(Fp8Folder { inner, names: kept, weights }) })
}

/// The checkpoint itself, if it has no 8-bit floats: their scales may have any name, and without them the values mean nothing.
fn without_method(folder: &Path, inner: Box<dyn Checkpoint>) -> Result<Box<dyn Checkpoint>> {
    let Some(name) = inner.names().into_iter().find(|name| inner.is_float8(name)) else { return Ok(inner) };
    let reason = format!(
        "has 8-bit floats in `{name}`, but no `quantization_config` in config.json that is read and says how they are scaled; choose \
         the model that it was made from, or one with the method fp8 or compressed-tensors (float-quantized)"
    );
    Err(ModelError::Unsupported { path: folder.to_owned(), reason })
}

/// The scales of a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scaled {
    /// Their tensor.
    scales: String,
    /// How many of them there are in a row.
    columns: usize,
    /// Rows and columns of the weights that share one.
    block: [usize; 2],
    /// The columns of the weight.
    width: usize,
    /// The type that products are rounded to.
    rounded: Option<FloatType>,
}

fn scaled(inner: &dyn Checkpoint, weight: &str, scales: &str, method: Method) -> std::result::Result<Scaled, String> {
    let shape = inner.shape(weight).ok_or("expected the weight that it belongs to, got none")?;
    let &[rows, width] = &shape[..] else { return Err(format!("expected a matrix to scale, got the shape {shape:?}")) };
    let found = inner.shape(scales).unwrap_or_default();
    if !inner.is_float8(weight) {
        return Err(format!("expected 8-bit floats in {weight}, got another type"));
    }
    if inner.integer_dtype(scales).is_some() {
        return Err("expected scales that are floats, got integers".to_owned());
    }
    let grid = match &found[..] {
        [] | [1] => [1, 1],
        [count] if *count == rows => [rows, 1],
        [down, across] => [*down, *across],
        _ => return Err(format!("expected a scale, or one for each row or block of {shape:?}, got the shape {found:?}")),
    };
    let fits = |block: [usize; 2]| [rows.div_ceil(block[0]), width.div_ceil(block[1])] == grid;
    let even = (grid[0] > 0 && grid[1] > 0 && rows.is_multiple_of(grid[0]) && width.is_multiple_of(grid[1]))
        .then(|| [(rows / grid[0]).max(1), (width / grid[1]).max(1)]);
    let is_blocks = grid[1] > 1 || (grid[0] > 1 && grid[0] != rows);
    let block = match method.shared {
        Shared::Block(block) if fits(block) => block,
        // One scale for each row or for all of them, beside layers with blocks.
        Shared::Block(block) if is_blocks => {
            return Err(format!("expected scales for blocks of {block:?} of {shape:?}, got the shape {found:?}"));
        }
        _ => even.ok_or_else(|| format!("expected scales that divide {shape:?}, got the shape {found:?}"))?,
    };
    let rounded = method.rounds.then(|| inner.float_type(scales).unwrap_or_default());
    Ok(Scaled { scales: scales.to_owned(), columns: grid[1], block, width, rounded })
}

impl Scaled {
    /// Multiplies a weight by its scales.
    fn apply(&self, values: &mut [f32], scales: &[f32]) {
        for (row, values) in values.chunks_mut(self.width.max(1)).enumerate() {
            let scales = &scales[row / self.block[0] * self.columns..][..self.columns];
            for (values, scale) in values.chunks_mut(self.block[1]).zip(scales) {
                for value in values {
                    let product = *value * scale;
                    *value = match self.rounded {
                        Some(FloatType::F16) => f16::from_f32(product).to_f32(),
                        Some(FloatType::BF16) => bf16::from_f32(product).to_f32(),
                        _ => product,
                    };
                }
            }
        }
    }
}

/// See [`fp8_folder`].
struct Fp8Folder {
    inner: Box<dyn Checkpoint>,
    names: Vec<String>,
    weights: BTreeMap<String, Scaled>,
}

impl Checkpoint for Fp8Folder {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.inner.shape(name)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut values = self.inner.read_f32(name)?;
        if let Some(scaled) = self.weights.get(name) {
            scaled.apply(&mut values, &self.inner.read_f32(&scaled.scales)?);
        }
        Ok(values)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>> {
        if self.weights.contains_key(name) { Ok(None) } else { self.inner.read_rows(name, rows) }
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        if self.weights.contains_key(name) {
            return dtype.convert(name, self.read_f32(name)?);
        }
        self.inner.read(name, dtype)
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        self.inner.packed_kind(name)
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        self.inner.read_packed(name)
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        self.inner.float_type(name)
    }

    fn is_float8(&self, name: &str) -> bool {
        !self.weights.contains_key(name) && self.inner.is_float8(name)
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        self.inner.integer_dtype(name)
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        if self.weights.contains_key(name) {
            return Err(ModelError::Mismatch {
                problems: vec![format!("{name}: expected a tensor that is stored as it is, got 8-bit floats with scales")],
            });
        }
        self.inner.read_bytes(name)
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.inner.file_of(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.inner.files()
    }
}
