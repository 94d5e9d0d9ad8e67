//! Folders whose weights are packed: bitsandbytes in NF4, MLX in four or eight bits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burnish_kernels::packed::codebook::{DYNAMIC_BLOCK, NF4, SIGNED};
use burnish_kernels::packed::nf4::{Absmax, DoubleAbsmax};
use burnish_kernels::packed::{Affine, Element, Nf4, Packed, PackedKind};
use half::{bf16, f16};
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::Checkpoint;
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;

/// What bitsandbytes puts beside a packed weight, after its name.
const BITSANDBYTES: [&str; 5] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", QUANT_STATE];

/// JSON in bytes, followed by the name of the code.
const QUANT_STATE: &str = ".quant_state.bitsandbytes__";

/// How a folder says that it is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Nf4,
    Mlx,
}

/// The method of a `config.json`, where it is one that is read.
fn method(config: &Value) -> Option<Method> {
    let object = |key: &str| config.get(key).filter(|value| value.is_object());
    if let Some(settings) = object("quantization_config").filter(|settings| settings["quant_method"] == "bitsandbytes") {
        let is_nf4 = settings["load_in_4bit"] == true && settings["bnb_4bit_quant_type"] == "nf4";
        return is_nf4.then_some(Method::Nf4);
    }
    let settings = object("quantization").or_else(|| object("quantization_config"))?;
    let is_affine = settings.get("mode").is_none_or(|mode| mode == "affine") && settings.get("quant_method").is_none();
    (is_affine && matches!(settings["bits"].as_u64(), Some(4 | 8))).then_some(Method::Mlx)
}

/// Whether a tensor is part of a packed weight that [`packed_folder`] reads.
pub(super) fn is_read(config: &Value, name: &str) -> bool {
    match method(config) {
        Some(Method::Nf4) => name.ends_with(".weight.absmax"),
        Some(Method::Mlx) => name.ends_with(".scales"),
        None => false,
    }
}

/// The checkpoint with each packed weight under its own name and shape, and without the parts that it consists of; itself where
/// `config.json` names no method that is read.
///
/// # Errors
/// [`ModelError::Mismatch`] with every packed weight that lacks a part or has one of another shape.
pub(super) fn packed_folder(folder: &Path, inner: Box<dyn Checkpoint>, config: &Value) -> Result<Box<dyn Checkpoint>> {
    let Some(method) = method(config) else { return Ok(inner) };
    let (mut weights, mut problems) = (BTreeMap::new(), Vec::new());
    let file = |name: &str| inner.file_of(name).unwrap_or_else(|| folder.to_owned()).display().to_string();
    let names = inner.names();
    for name in &names {
        let found = match method {
            Method::Nf4 => nf4_form(&*inner, name, &names),
            Method::Mlx => mlx_form(&*inner, name, config),
        };
        match found {
            Ok(Some(form)) => drop(weights.insert(name.clone(), form)),
            Ok(None) => {}
            Err(problem) => problems.push(format!("{}: {name}: {problem}", file(name))),
        }
    }
    let is_part = |name: &String| match method {
        Method::Nf4 => BITSANDBYTES.iter().any(|part| {
            name.find(part).is_some_and(|at| {
                let ends = *part == QUANT_STATE || at + part.len() == name.len();
                ends && weights.contains_key(&name[..at])
            })
        }),
        Method::Mlx => [".scales", ".biases"]
            .iter()
            .any(|part| name.strip_suffix(part).is_some_and(|layer| weights.contains_key(&format!("{layer}.weight")))),
    };
    let stray = names.iter().filter(|name| is_read(config, name) && !is_part(name) && problems.is_empty());
    let stray: Vec<String> =
        stray.map(|name| format!("{}: {name}: expected a packed weight that it is part of, got none", file(name))).collect();
    problems.extend(stray);
    if !problems.is_empty() {
        return Err(ModelError::Mismatch { problems });
    }
    if weights.is_empty() {
        return Ok(inner);
    }
    let names = names.into_iter().filter(|name| !is_part(name)).collect();
    Ok(Box::new(PackedFolder { inner, names, weights }))
}

/// How a packed weight is stored.
#[derive(Debug, Clone)]
enum Form {
    Nf4 { dims: [usize; 2], block: usize, offset: Option<f32> },
    Mlx { dims: [usize; 2], bits: usize, group: usize, layer: String },
}

impl Form {
    fn dims(&self) -> [usize; 2] {
        match self {
            Self::Nf4 { dims, .. } | Self::Mlx { dims, .. } => *dims,
        }
    }
}

/// What bitsandbytes writes about a weight.
#[derive(Debug, Deserialize)]
struct QuantState {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

/// The form of a weight of bitsandbytes; `None` of a dense one and of parts.
fn nf4_form(inner: &dyn Checkpoint, name: &str, names: &[String]) -> std::result::Result<Option<Form>, String> {
    if !name.ends_with(".weight") || inner.shape(&format!("{name}.absmax")).is_none() {
        let is_packed = name.ends_with(".weight") && inner.integer_dtype(name).is_some();
        return if is_packed { Err("expected `absmax` beside its integers, got none".to_owned()) } else { Ok(None) };
    }
    let start = format!("{name}{QUANT_STATE}");
    let state =
        names.iter().find(|name| name.starts_with(&start)).ok_or("expected `quant_state` beside its `absmax`, got none")?;
    let bytes = inner.read_bytes(state).map_err(|error| error.to_string())?;
    let state: QuantState = serde_json::from_slice(&bytes).map_err(|error| format!("`quant_state`: {error}"))?;
    if state.quant_type != "nf4" {
        return Err(format!("expected nf4, got {}", state.quant_type));
    }
    let dims: [usize; 2] =
        state.shape.try_into().map_err(|shape: Vec<usize>| format!("expected a matrix, got the shape {shape:?}"))?;
    let map = |part: &str| inner.read_f32(&format!("{name}.{part}")).map_err(|error| error.to_string());
    if map("quant_map")? != NF4 {
        return Err("expected the `quant_map` of nf4, got another".to_owned());
    }
    let offset = match (state.nested_blocksize, state.nested_offset) {
        (None, None) => None,
        (Some(DYNAMIC_BLOCK), Some(offset)) => {
            // torch's `linspace`, which it comes from, rounds differently on other processors.
            let is_alike = |(found, own): (&f32, &f32)| (found - own).abs() <= 1e-6;
            let nested = map("nested_quant_map")?;
            if nested.len() != SIGNED.values().len() || !nested.iter().zip(SIGNED.values()).all(is_alike) {
                return Err("expected the dynamic `nested_quant_map`, got another".to_owned());
            }
            Some(offset as f32)
        }
        (block, _) => {
            return Err(format!("expected an offset and nested blocks of {DYNAMIC_BLOCK}, got blocks of {block:?}"));
        }
    };
    Ok(Some(Form::Nf4 { dims, block: state.blocksize, offset }))
}

/// The form of a weight of MLX; `None` of a dense one and of parts.
fn mlx_form(inner: &dyn Checkpoint, name: &str, config: &Value) -> std::result::Result<Option<Form>, String> {
    let Some(layer) = name.strip_suffix(".weight").filter(|_| inner.integer_dtype(name) == Some(Dtype::U32)) else {
        return Ok(None);
    };
    let shape = |part: &str| {
        inner.shape(&format!("{layer}.{part}")).ok_or(format!("expected `{part}` beside its integers, got none"))
    };
    let (scales, biases) = (shape("scales")?, shape("biases")?);
    let words = inner.shape(name).unwrap_or_default();
    let settings = config.get("quantization").or_else(|| config.get("quantization_config")).unwrap_or(&Value::Null);
    // A layer may have settings of its own.
    let setting = |key: &str| {
        let own = settings.get(layer).and_then(|own| own.get(key));
        own.or_else(|| settings.get(key)).and_then(Value::as_u64).map_or(0, |value| value as usize)
    };
    let (bits, group) = (setting("bits"), setting("group_size"));
    match (&words[..], &scales[..]) {
        ([rows, words], [scale_rows, groups])
            if scales == biases
                && rows == scale_rows
                && words.checked_mul(32) == groups.checked_mul(group).and_then(|columns| columns.checked_mul(bits)) =>
        {
            Ok(Some(Form::Mlx { dims: [*rows, groups * group], bits, group, layer: layer.to_owned() }))
        }
        _ => Err(format!(
            "expected words, scales and biases of {bits} bits in groups of {group}, got words {words:?}, scales {scales:?} and biases \
             {biases:?}"
        )),
    }
}

/// See [`packed_folder`].
struct PackedFolder {
    inner: Box<dyn Checkpoint>,
    names: Vec<String>,
    weights: BTreeMap<String, Form>,
}

impl PackedFolder {
    fn packed(&self, name: &str, form: &Form) -> Result<Packed> {
        let inner = &self.inner;
        let bytes = inner.read_bytes(name)?;
        let packed = match form {
            Form::Nf4 { dims, block, offset } => {
                let absmax = match offset {
                    None => Absmax::Single(inner.read_f32(&format!("{name}.absmax"))?),
                    Some(offset) => Absmax::Double(DoubleAbsmax {
                        codes: inner.read_bytes(&format!("{name}.absmax"))?,
                        scales: inner.read_f32(&format!("{name}.nested_absmax"))?,
                        offset: *offset,
                    }),
                };
                Nf4::new(name, *dims, *block, bytes, absmax).map(Packed::Nf4)
            }
            Form::Mlx { dims, bits, group, layer } => {
                let words = bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
                let floats = |part: &str| {
                    let name = format!("{layer}.{part}");
                    let values = inner.read_f32(&name)?;
                    Ok::<_, ModelError>(match inner.float_type(&name) {
                        Some(FloatType::F16) => f16::floats(values),
                        Some(FloatType::BF16) => bf16::floats(values),
                        _ => f32::floats(values),
                    })
                };
                Affine::new(name, *dims, [*bits, *group], words, floats("scales")?, floats("biases")?).map(Packed::Affine)
            }
        };
        packed.map_err(|error| ModelError::format(self.file_of(name).unwrap_or_default(), error.to_string()))
    }
}

impl Checkpoint for PackedFolder {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.weights.get(name) {
            Some(form) => Some(form.dims().to_vec()),
            None => self.inner.shape(name),
        }
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.weights.get(name) {
            Some(form) => Ok(self.packed(name, form)?.dequantize()),
            None => self.inner.read_f32(name),
        }
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

    fn float_type(&self, name: &str) -> Option<FloatType> {
        if self.weights.contains_key(name) { None } else { self.inner.float_type(name) }
    }

    fn is_float8(&self, name: &str) -> bool {
        self.inner.is_float8(name)
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.inner.file_of(name)
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        Some(match self.weights.get(name)? {
            Form::Nf4 { block, offset, .. } => PackedKind::Nf4 { block: *block, double: offset.is_some() },
            Form::Mlx { bits, group, layer, .. } => {
                let of = |part: &str| self.inner.float_type(&format!("{layer}.{part}")).unwrap_or_default();
                let (scales, biases) = (of("scales"), of("biases"));
                let scales = if scales == biases { scales } else { FloatType::F32 };
                PackedKind::Affine { bits: *bits, group: *group, scales: scales.into() }
            }
        })
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        self.weights.get(name).map(|form| self.packed(name, form)).transpose()
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        if self.weights.contains_key(name) { None } else { self.inner.integer_dtype(name) }
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        if self.weights.contains_key(name) {
            return Err(ModelError::Mismatch {
                problems: vec![format!("{name}: expected a tensor that is stored as it is, got a packed weight")],
            });
        }
        self.inner.read_bytes(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.inner.files()
    }
}
