//! PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod keys;
mod names;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use burnish_kernels::FusedBackend;
use burnish_models::weight::MatrixWeight;
use burnish_models::{LanguageModel, atomic};
use safetensors::tensor::{Dtype, TensorView};

pub(crate) use config::{MAX_RANK, config_notes, read_stored};
pub use names::ADAPTER_FILES;
pub(crate) use names::{CONFIG, FACTORS, MAGNITUDES, PREFIX, adapter_files};
pub(crate) use tensors::{AdapterTensors, LayerTensors, open_weights};

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use crate::layer::Factors;
use config::AdaptedLayers;
use names::WEIGHTS;

/// Writes the model's adapters as a PEFT folder; `base_model` is the id or path that PEFT will load the base from.
///
/// Tensors are f32: `lora_A` is `[rank, in]`, `lora_B` is `[out, rank]`. Factors whose initial values were taken out of the base
/// are written beside those, negated, as an adapter of the double rank on the base as it was. Equal adapters give equal bytes.
/// Each file is written whole or not at all.
///
/// # Errors
/// If the folder can't be written, or the model has no adapter.
pub fn save_adapter<B: FusedBackend>(
    model: &LanguageModel<B>,
    config: &LoraConfig,
    base_model: &str,
    folder: &Path,
) -> Result<()> {
    let mut tensors: BTreeMap<String, (Vec<u8>, Vec<usize>)> = BTreeMap::new();
    let mut adapted: Vec<String> = Vec::new();
    for (name, linear) in model.linears() {
        let Some(adapter) = &linear.adapter else { continue };
        let host = |factors: [Tensor<B, 2>; 2]| {
            let shapes = factors.each_ref().map(Tensor::dims);
            Factors { values: factors.map(|tensor| tensor.into_data().iter::<f32>().collect()), shapes }
        };
        let mut factors = host([adapter.lora_a.val(), adapter.lora_b.val()]);
        if let Some(initial) = &adapter.initial {
            factors = factors.minus(&host(initial.clone()));
        }
        let mut insert = |end: &str, values: &[f32], shape: &[usize]| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.insert(format!("{PREFIX}{name}{end}"), (bytes, shape.to_vec()));
        };
        for ((end, values), shape) in FACTORS.iter().zip(&factors.values).zip(factors.shapes) {
            insert(end, values, &shape);
        }
        if let Some(magnitude) = &adapter.magnitude {
            let values: Vec<f32> = magnitude.lora_magnitude_vector.val().into_data().iter::<f32>().collect();
            insert(MAGNITUDES[0], &values, &[values.len()]);
        }
        adapted.push(name);
    }
    if tensors.is_empty() {
        return Err(LoraError::Config { reason: "the model has no adapter to save".into() });
    }
    let mut is_tied = false;
    for matrix in model.matrices() {
        let MatrixWeight::Trainable(param) = &matrix.weight else { continue };
        let (values, shape) = (param.val().into_data().iter::<f32>().collect::<Vec<_>>(), matrix.weight.dims());
        // PEFT writes a matrix that is both under both names.
        is_tied = model.tied_head().is_some();
        for name in [Some(matrix.name.as_str()), model.tied_head()].into_iter().flatten() {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.insert(format!("{PREFIX}{name}"), (bytes, shape.to_vec()));
        }
    }
    let weights = folder.join(WEIGHTS);
    let views: Vec<(&String, TensorView)> = tensors
        .iter()
        .map(|(name, (bytes, shape))| TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view)))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| LoraError::format(&weights, error.to_string()))?;
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata).map_err(|error| LoraError::format(&weights, error.to_string()))?;
    atomic::write_bytes(&weights, &bytes)?;
    let layers: Vec<String> = model.linears().into_iter().map(|(name, _)| name).collect();
    let adapted = AdaptedLayers { is_tied, ..AdaptedLayers::new(&adapted, &layers) };
    let text = format!("{:#}", config::to_json(config, base_model, &adapted));
    Ok(atomic::write_bytes(&folder.join(CONFIG), text.as_bytes())?)
}
