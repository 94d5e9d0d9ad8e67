//! PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod keys;
mod names;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use burnish_kernels::FusedBackend;
use burnish_models::part::StackedParameter;
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
use crate::pattern::Pattern;
use crate::sites::{LinearShape, Sites};
use config::AdaptedLayers;
use names::{WEIGHTS, wrapped};

/// The tensors of an adapter file, by name: bytes and shape.
type Tensors = BTreeMap<String, (Vec<u8>, Vec<usize>)>;

/// Writes the model's adapters as a PEFT folder; `base_model` is the id or path that PEFT will load the base from.
///
/// Tensors are f32: `lora_A` is `[rank, in]`, `lora_B` is `[out, rank]`; those of experts are `[experts · rank, in]` and
/// `[out, rank · experts]`. Factors whose initial values were taken out of the base are written beside those, negated, as an adapter of
/// the double rank on the base as it was. Equal adapters give equal bytes. Each file is written whole or not at all.
///
/// # Errors
/// If the folder can't be written, or the model has no adapter.
pub fn save_adapter<B: FusedBackend>(
    model: &LanguageModel<B>,
    config: &LoraConfig,
    base_model: &str,
    folder: &Path,
) -> Result<()> {
    let sites = Sites::of_model(model);
    let mut config = sites.resolved(config)?;
    let mut tensors = Tensors::new();
    let (modules, parameters) = add_linears(model, &mut config, &mut tensors)?;
    let stacks = add_stacks(model, &mut config, &mut tensors)?;
    if tensors.is_empty() {
        return Err(LoraError::Config { reason: "the model has no adapter to save".into() });
    }
    let mut is_tied = false;
    for matrix in model.matrices() {
        let MatrixWeight::Trainable(param) = &matrix.weight else { continue };
        // PEFT writes a matrix that is both under both names.
        is_tied = model.tied_head().is_some();
        for name in [Some(matrix.name.as_str()), model.tied_head()].into_iter().flatten() {
            tensors.insert(format!("{PREFIX}{name}"), stored(&values(param.val()), &matrix.weight.dims()));
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
    let all = sites.stacks.iter().map(StackedParameter::name).chain(sites.linears.iter().map(LinearShape::parameter));
    let target_parameters = AdaptedLayers::parameters(&[parameters, stacks].concat(), &all.collect::<Vec<_>>());
    let adapted = AdaptedLayers { target_parameters, is_tied, ..AdaptedLayers::new(&modules, &layers) };
    let text = format!("{:#}", config::to_json(&config, base_model, &adapted));
    Ok(atomic::write_bytes(&folder.join(CONFIG), text.as_bytes())?)
}

/// Adds the tensors of the linear layers, and returns the names of those that are targets as modules, and of the others' parameters.
fn add_linears<B: FusedBackend>(
    model: &LanguageModel<B>,
    config: &mut LoraConfig,
    tensors: &mut Tensors,
) -> Result<(Vec<String>, Vec<String>)> {
    let (mut modules, mut parameters) = (Vec::new(), Vec::new());
    let linears = model.linears().into_iter().map(|linear| (linear, false));
    let routers = model.routers().into_iter().map(|router| (router, true));
    for ((name, linear), is_router) in linears.chain(routers) {
        let Some(adapter) = &linear.adapter else { continue };
        let host = |factors: [Tensor<B, 2>; 2]| {
            let shapes = factors.each_ref().map(Tensor::dims);
            Factors { values: factors.map(values), shapes }
        };
        let mut factors = host([adapter.lora_a.val(), adapter.lora_b.val()]);
        let parameter = format!("{name}.weight");
        let key = if is_router || config.names_parameter(&parameter) { &parameter } else { &name };
        keep_values(config, &name, key, factors.shapes[0][0], adapter.scale)?;
        if let Some(initial) = &adapter.initial {
            factors = factors.minus(&host(initial.clone()));
        }
        for ((end, values), shape) in FACTORS.iter().zip(&factors.values).zip(factors.shapes) {
            tensors.insert(format!("{PREFIX}{name}{end}"), stored(values, &shape));
        }
        if let Some(magnitude) = &adapter.magnitude {
            let values: Vec<f32> = magnitude.lora_magnitude_vector.val().into_data().iter::<f32>().collect();
            tensors.insert(format!("{PREFIX}{name}{}", MAGNITUDES[0]), stored(&values, &[values.len()]));
        }
        if key == &name { modules.push(name) } else { parameters.push(parameter) }
    }
    Ok((modules, parameters))
}

/// Adds the tensors of the parameters that hold experts, and returns the names of these.
fn add_stacks<B: FusedBackend>(
    model: &LanguageModel<B>,
    config: &mut LoraConfig,
    tensors: &mut Tensors,
) -> Result<Vec<String>> {
    let adapters = model.stacks().into_iter().filter_map(|stack| Some((stack.parameter(), stack.adapter.as_ref()?)));
    let adapters: Vec<_> = adapters.collect();
    for module in adapters.chunk_by(|(one, _), (other, _)| one.module == other.module) {
        for (index, (parameter, adapter)) in module.iter().enumerate() {
            let (name, rank) = (parameter.name(), adapter.lora_a.dims()[0] / parameter.experts);
            keep_values(config, &name, &name, rank, adapter.scale)?;
            let stem = wrapped(&parameter.module, index, module.len());
            for (end, factor) in FACTORS.iter().zip([&adapter.lora_a, &adapter.lora_b]) {
                tensors.insert(format!("{PREFIX}{stem}{end}"), stored(&values(factor.val()), &factor.dims()));
            }
        }
    }
    Ok(adapters.iter().map(|(parameter, _)| parameter.name()).collect())
}

/// Makes the configuration say rank and scale of a layer, which an adapter that was read may have from patterns of its own; `key` is what
/// PEFT compares patterns with.
fn keep_values(config: &mut LoraConfig, layer: &str, key: &str, rank: usize, scale: f64) -> Result<()> {
    let refuse = |reason| LoraError::Config { reason };
    if config.rank_of(layer) != rank {
        config.rank_pattern.insert(0, Pattern::exactly(key, rank).map_err(refuse)?);
    }
    if (config.scale_of(layer) - scale).abs() > 1e-9 * scale.abs() {
        let alpha = config.alpha_for(rank, scale);
        config.alpha_pattern.insert(0, Pattern::exactly(key, alpha).map_err(refuse)?);
    }
    Ok(())
}

fn values<B: FusedBackend>(tensor: Tensor<B, 2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn stored(values: &[f32], shape: &[usize]) -> (Vec<u8>, Vec<usize>) {
    (values.iter().flat_map(|value| value.to_le_bytes()).collect(), shape.to_vec())
}
