//! The weights of a model as MLX quantises them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use burn::tensor::TensorData;
use burnish_kernels::packed::{Affine, Packed, PackedKind};
use burnish_models::error::Result as ModelResult;
use burnish_models::part::{Role, declared_tensors};
use burnish_models::{Checkpoint, FloatType, ModelConfig, ModelError};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::error::{ExportError, Result};
use crate::report::ExportReport;

/// Integers times a scale plus a bias, which a group of weights shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlxQuantisation {
    /// Bits of an integer: 4 or 8.
    pub bits: usize,
    /// Weights that share a scale and a bias: 32, 64 or 128.
    pub group: usize,
}

/// A checkpoint whose matrices are integers, scales and biases.
pub(super) struct Quantised<'a> {
    inner: &'a dyn Checkpoint,
    float: FloatType,
    setting: MlxQuantisation,
    /// The setting of each quantised weight, by its name without `.weight`.
    layers: BTreeMap<String, MlxQuantisation>,
    /// Those that have a setting whatever the user asks for.
    own: Vec<String>,
    /// Matrices that the group does not divide.
    left: Vec<String>,
    /// The last matrix: its three parts are read one after the other.
    last: Mutex<Option<(String, Affine)>>,
}

/// The ends of the names of the parts of a matrix.
const PARTS: [&str; 3] = [".weight", ".scales", ".biases"];

impl<'a> Quantised<'a> {
    pub(super) fn new(config: &ModelConfig, inner: &'a dyn Checkpoint, float: FloatType, setting: MlxQuantisation) -> Self {
        let (mut layers, mut own, mut left) = (BTreeMap::new(), Vec::new(), Vec::new());
        for tensor in declared_tensors(config) {
            let Some(layer) = tensor.name.strip_suffix(".weight").filter(|_| tensor.shape.len() == 2) else { continue };
            // mlx-lm asks by the group of the whole model, and then takes that of the layer.
            if tensor.shape[1].is_multiple_of(setting.group) {
                let fixed = own_setting(config, tensor.part.role).filter(|own| tensor.shape[1].is_multiple_of(own.group));
                own.extend(fixed.map(|_| layer.to_owned()));
                layers.insert(layer.to_owned(), fixed.unwrap_or(setting));
            } else {
                left.push(layer.to_owned());
            }
        }
        Self { inner, float, setting, layers, own, left, last: Mutex::new(None) }
    }

    /// Refuses matrices that are in few bits already, unless they are copied.
    pub(super) fn check_packed(&self, source: &str) -> Result<()> {
        for (layer, &MlxQuantisation { bits, group }) in &self.layers {
            let tensor = format!("{layer}.weight");
            let to = PackedKind::Affine { bits, group, scales: self.float.into() };
            if let Some(from) = self.inner.packed_kind(&tensor).filter(|from| *from != to) {
                return Err(ExportError::Requantizes { path: source.into(), tensor, from: from.name(), to: to.name() });
            }
        }
        Ok(())
    }

    /// `quantization` of `config.json`.
    pub(super) fn settings(&self) -> Value {
        let mut settings = Map::from_iter([
            ("group_size".to_owned(), json!(self.setting.group)),
            ("bits".to_owned(), json!(self.setting.bits)),
            ("mode".to_owned(), json!("affine")),
        ]);
        for (layer, own) in self.own.iter().filter_map(|layer| self.layers.get_key_value(layer)) {
            settings.insert(layer.clone(), json!({ "group_size": own.group, "bits": own.bits }));
        }
        Value::Object(settings)
    }

    /// Counts the tensors.
    pub(super) fn describe(&self, report: &mut ExportReport) {
        for setting in self.layers.values() {
            *report.tensors.entry(format!("int{}", setting.bits)).or_default() += 1;
        }
        let floats = self.inner.names().len() - self.layers.len();
        report.tensors.insert(self.float.safetensors_name().to_owned(), floats);
        if !self.left.is_empty() {
            let (count, group) = (self.left.len(), self.setting.group);
            report.notes.push(format!(
                "{count} matrices stay floats: their row length is not a multiple of {group}, for example {}",
                self.left[0]
            ));
        }
    }

    /// The layer and the part of it that a tensor is.
    fn part<'n>(&self, name: &'n str) -> Option<(&'n str, usize, MlxQuantisation)> {
        PARTS.iter().enumerate().find_map(|(part, end)| {
            let layer = name.strip_suffix(end)?;
            Some((layer, part, *self.layers.get(layer)?))
        })
    }

    /// Calls `read` with a matrix.
    fn with<T>(&self, layer: &str, setting: MlxQuantisation, read: impl FnOnce(&Affine) -> T) -> ModelResult<T> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, affine)) = last.as_ref().filter(|(name, _)| name == layer) {
            return Ok(read(affine));
        }
        let affine = self.quantise(layer, setting)?;
        let value = read(&affine);
        *last = Some((layer.to_owned(), affine));
        Ok(value)
    }

    fn quantise(&self, layer: &str, MlxQuantisation { bits, group }: MlxQuantisation) -> ModelResult<Affine> {
        let name = format!("{layer}.weight");
        if let Some(Packed::Affine(affine)) = self.inner.read_packed(&name)?
            && (affine.bits(), affine.group()) == (bits, group)
            && affine.scales().dtype() == self.float.into()
            && affine.biases().dtype() == self.float.into()
        {
            return Ok(affine);
        }
        let shape = self.inner.shape(&name).unwrap_or_default();
        let refuse = |problem: String| ModelError::Mismatch { problems: vec![problem] };
        let dims =
            <[usize; 2]>::try_from(shape).map_err(|shape| refuse(format!("{name}: expected a matrix, got {shape:?}")))?;
        let kind = PackedKind::Affine { bits, group, scales: self.float.into() };
        match kind.quantize(&name, &self.inner.read(&name, self.float)?, dims) {
            Ok(Packed::Affine(affine)) => Ok(affine),
            Ok(other) => Err(refuse(format!("{name}: expected integers, got {}", other.name()))),
            Err(error) => Err(refuse(error.to_string())),
        }
    }
}

/// The setting that a layer has whatever the user asks for, as in `quant_predicate` of mlx-lm's models.
fn own_setting(config: &ModelConfig, role: Role) -> Option<MlxQuantisation> {
    config.family.mlx.in_eight_bits.contains(&role).then_some(MlxQuantisation { bits: 8, group: 64 })
}

impl Checkpoint for Quantised<'_> {
    fn names(&self) -> Vec<String> {
        let parts = self.layers.keys().flat_map(|layer| PARTS[1..].iter().map(move |part| format!("{layer}{part}")));
        self.inner.names().into_iter().chain(parts).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let Some((layer, part, setting)) = self.part(name) else { return self.inner.shape(name) };
        let shape = self.inner.shape(&format!("{layer}.weight"))?;
        let columns = if part == 0 { shape[1] * setting.bits / 32 } else { shape[1] / setting.group };
        Some(vec![shape[0], columns])
    }

    fn read_f32(&self, name: &str) -> ModelResult<Vec<f32>> {
        match self.part(name) {
            Some((layer, 1, setting)) => self.with(layer, setting, |affine| affine.scales().to_f32()),
            Some((layer, _, setting)) => self.with(layer, setting, |affine| affine.biases().to_f32()),
            None => self.inner.read_f32(name),
        }
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> ModelResult<Option<Vec<f32>>> {
        if self.part(name).is_some() { Ok(None) } else { self.inner.read_rows(name, rows) }
    }

    fn read(&self, name: &str, dtype: FloatType) -> ModelResult<TensorData> {
        if self.part(name).is_some() { dtype.convert(name, self.read_f32(name)?) } else { self.inner.read(name, dtype) }
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        if self.part(name).is_some() { None } else { self.inner.packed_kind(name) }
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        match self.part(name) {
            Some((_, part, _)) => (part > 0).then_some(self.float),
            None => self.inner.float_type(name),
        }
    }

    fn is_float8(&self, name: &str) -> bool {
        self.part(name).is_none() && self.inner.is_float8(name)
    }

    fn read_packed(&self, name: &str) -> ModelResult<Option<Packed>> {
        if self.part(name).is_some() { Ok(None) } else { self.inner.read_packed(name) }
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        match self.part(name) {
            Some((_, part, _)) => (part == 0).then_some(Dtype::U32),
            None => self.inner.integer_dtype(name),
        }
    }

    fn read_bytes(&self, name: &str) -> ModelResult<Vec<u8>> {
        match self.part(name) {
            Some((layer, 0, setting)) => self.with(layer, setting, |affine| bytemuck::cast_slice(affine.words()).to_vec()),
            _ => self.inner.read_bytes(name),
        }
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.inner.file_of(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.inner.files()
    }
}
