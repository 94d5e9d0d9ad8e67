//! Writes folders that mlx-lm opens: models, optionally quantised, and adapters.

mod adapter;
mod config;
mod quantised;

use std::path::Path;
use std::str::FromStr;

use burnish_models::config::Stacking;
use burnish_models::part::declared_tensors;
use burnish_models::{Checkpoint, FloatType, ModelConfig, Pretrained};
use serde_json::{Map, Value, json};

pub use adapter::{MlxAdapterOptions, export_mlx_adapter};
pub use quantised::MlxQuantisation;

use crate::error::{ExportError, Result};
use crate::fit;
use crate::hugging_face::{config as config_json, write_all_but_weights};
use crate::model_card::ModelCard;
use crate::report::ExportReport;
use crate::safetensors::{Layout, write_layout};
use crate::target::{inputs_of, write_folder};
use quantised::Quantised;

/// The largest size of a shard in bytes, as in mlx-lm.
const SHARD_BYTES: u64 = 5 << 30;

/// Options of [`export_mlx`].
#[derive(Debug, Clone)]
pub struct MlxOptions {
    /// The type of the weights that stay floats, and of scales and biases.
    pub float: FloatType,
    /// How matrices are quantised; `None` if they stay floats.
    pub quantisation: Option<MlxQuantisation>,
    /// Whether matrices that are in few bits already may be quantised again.
    pub requantize: bool,
    /// The largest size of a shard in bytes; a single tensor may be larger.
    pub shard_bytes: u64,
    /// The model card, if there is to be one.
    pub card: Option<ModelCard>,
    /// Whether an existing target may be replaced.
    pub overwrite: bool,
}

impl Default for MlxOptions {
    fn default() -> Self {
        Self {
            float: FloatType::BF16,
            quantisation: None,
            requantize: false,
            shard_bytes: SHARD_BYTES,
            card: None,
            overwrite: false,
        }
    }
}

/// How the weights of an MLX folder are stored: `f32`, `f16`, `bf16`, `int4` or `int8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlxType {
    /// As floats.
    Float(FloatType),
    /// As integers of that many bits.
    Integer(usize),
}

impl FromStr for MlxType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "int4" => Ok(Self::Integer(4)),
            "int8" => Ok(Self::Integer(8)),
            float => float
                .parse()
                .map(Self::Float)
                .map_err(|_: String| format!("expected f32, f16, bf16, int4 or int8, got `{float}`")),
        }
    }
}

/// Which folders of a model mlx-lm opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlxFit {
    /// All.
    All,
    /// Those of floats, because it divides or joins matrices of the model, of which this is one, only as floats.
    Floats(&'static str),
    /// None of those that are written.
    Nothing,
}

impl MlxFit {
    /// Of models of that configuration.
    pub fn of(config: &ModelConfig) -> Self {
        if config.experts.as_ref().is_some_and(|experts| experts.stacking == Stacking::Columns) {
            return Self::Nothing;
        }
        let mut parts = config.family.parts.iter();
        let other = parts.find(|part| part.halves.is_some() || (part.role.is_expert() && config.experts.is_some()));
        other.map_or(Self::All, |part| Self::Floats(part.name))
    }

    /// Refuses what mlx-lm would not open.
    fn check(self, kind: &str, is_quantised: bool) -> Result<()> {
        match self {
            Self::Floats(name) if is_quantised => Err(ExportError::unsupported(format!(
                "a quantised MLX folder can't have `{name}`, which mlx-lm divides or joins only as floats; --quant f16 or bf16 writes \
                 those"
            ))),
            Self::Nothing => Err(ExportError::unsupported(format!(
                "mlx-lm reads `{kind}` only with experts in MXFP4, which are not written"
            ))),
            Self::All | Self::Floats(_) => Ok(()),
        }
    }
}

/// Writes a model as a folder that mlx-lm opens.
///
/// `weights` are those of `model`, or the same with an adapter merged into them. Embedding, head and linear layers are quantised, if
/// the group divides their rows; the rest, and all of a folder without quantisation, are floats. Weights that `weights` has in the
/// same groups already are copied.
///
/// # Errors
/// As [`export_hugging_face`](crate::export_hugging_face), and if MLX does not have the bits or the group.
/// [`ExportError::Requantizes`](crate::ExportError::Requantizes) if a matrix is in few bits already, and the options don't allow
/// quantising it again.
///
/// # Source
/// `convert`, `quantize_model` and `save` of mlx-lm 0.32.2.
pub fn export_mlx(
    model: &Pretrained,
    weights: &dyn Checkpoint,
    target: &Path,
    options: &MlxOptions,
) -> Result<ExportReport> {
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    fit::check(&model.config, weights)?;
    MlxFit::of(&model.config).check(&model.config.model_type, options.quantisation.is_some())?;
    let mut json = config_json(model, options.float);
    report.notes = config::adapt(&mut json, &model.config).map_err(ExportError::unsupported)?;
    let quantised = options.quantisation.map(|setting| Quantised::new(&model.config, weights, options.float, setting));
    if let Some(quantised) = quantised.as_ref().filter(|_| !options.requantize) {
        quantised.check_packed(&model.source)?;
    }
    if let (Some(quantised), Value::Object(map)) = (&quantised, &mut json) {
        let settings = quantised.settings();
        map.insert("quantization".to_owned(), settings.clone());
        map.insert("quantization_config".to_owned(), settings);
    }
    let stored: &dyn Checkpoint = match &quantised {
        Some(quantised) => quantised,
        None => weights,
    };
    let parameters: usize =
        declared_tensors(&model.config).iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    let index = Map::from_iter([("total_parameters".to_owned(), json!(parameters))]);
    let layout = Layout { float: options.float, shard_bytes: options.shard_bytes, format: "mlx", index: Some(&index) };
    write_folder(target, options.overwrite, &inputs_of(model, weights), |folder| -> Result<()> {
        report.bytes += write_all_but_weights(model, &json, folder)?;
        report.bytes += write_layout(stored, folder, &layout)?;
        if let Some(card) = &options.card {
            report.bytes += card.write(folder)?;
        }
        Ok(())
    })?;
    match &quantised {
        Some(quantised) => quantised.describe(&mut report),
        None => {
            report.tensors.insert(options.float.safetensors_name().to_owned(), weights.names().len());
        }
    }
    Ok(report)
}
