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
use burnish_models::{Checkpoint, LanguageModel, Linear, LowRank, atomic};
use safetensors::tensor::{Dtype, TensorView};

pub(crate) use config::read_stored;
pub use config::{config_notes, read_config};
pub use names::ADAPTER_FILES;
pub(crate) use tensors::{AdapterTensors, LayerTensors, open_weights};

use crate::config::LoraConfig;
use crate::decompose::Matrix;
use crate::error::{LoraError, Result};
use crate::layer::{Factors, dense, low_rank};
use crate::modules::{module, trainable};
use config::AdaptedLayers;
use names::{CONFIG, FACTORS, MAGNITUDES, PREFIX, WEIGHTS};

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

/// Attaches the adapters of a PEFT folder to the model and returns their configuration; `dropout` replaces the folder's.
///
/// The factors are f32 whatever the file has. An adapter of a multimodal model, such as `Gemma3ForConditionalGeneration`, is
/// read as that of its text part; a warning counts the tensors that are left out. One whose initial factors were taken out of its
/// base is read as [`read_config`] says.
///
/// # Errors
/// [`LoraError::Mismatch`] lists every tensor with another shape and every layer that the model lacks or that has only one of
/// its two factors; [`LoraError::Unsupported`] lists every tensor that is not a factor of a linear layer.
pub fn load_adapter<B: FusedBackend>(
    model: &mut LanguageModel<B>,
    folder: &Path,
    dropout: Option<f64>,
    device: &B::Device,
) -> Result<LoraConfig> {
    let mut stored = config::read_stored(folder)?;
    if let Some(dropout) = dropout {
        stored.dropout = dropout;
        stored.check()?;
    }
    let config = stored.converted();
    attach_stored(model, folder, &stored, &config, device, |name, linear, factors| {
        if !stored.init.changes_base() {
            return Ok((factors, None));
        }
        let [rank, inputs] = factors.shapes[0];
        let weight = Matrix::of_f32(linear.dims()[0], inputs, &dense(name, linear, stored.init)?);
        Ok((factors.minus(&initial(&stored, name, &weight, rank)), None))
    })?;
    Ok(config)
}

/// Attaches the adapters of a checkpoint to the model, as they were in training with this configuration.
///
/// Where the initial factors were taken out of the base ([`Init::changes_base`](crate::Init::changes_base)), they are taken out
/// again, to the bit: the checkpoint has them beside the trained ones.
///
/// # Errors
/// As [`load_adapter`], and [`LoraError::Config`] if the folder has another rank.
pub fn resume_adapter<B: FusedBackend>(
    model: &mut LanguageModel<B>,
    config: &LoraConfig,
    folder: &Path,
    device: &B::Device,
) -> Result<()> {
    let stored = LoraConfig { dropout: config.dropout, ..config::read_stored(folder)? };
    if !config.init.changes_base() {
        return attach_stored(model, folder, &stored, &stored, device, |_, _, factors| Ok((factors, None)));
    }
    let expected = config.converted();
    // Reading a number of JSON may change its last digit.
    let is_same_scale = (stored.scale() - expected.scale()).abs() <= 1e-9 * expected.scale().abs();
    if stored.rank != expected.rank || !is_same_scale {
        let reason = format!(
            "{}: expected the rank {} and the alpha {} of a checkpoint with init = \"{}\", got {} and {}",
            folder.display(),
            expected.rank,
            expected.alpha,
            config.init,
            stored.rank,
            stored.alpha
        );
        return Err(LoraError::Config { reason });
    }
    attach_stored(model, folder, &stored, config, device, |name, _, factors| {
        let [trained, initial] = factors.split(config.rank_of(name));
        Ok((trained, Some(initial)))
    })
}

/// Attaches the tensors of a folder, which has the configuration `stored`, as adapters of the configuration `config`. `adapt`
/// returns the factors of a layer as they are attached, and those that are taken out of its weight.
fn attach_stored<B: FusedBackend>(
    model: &mut LanguageModel<B>,
    folder: &Path,
    stored: &LoraConfig,
    config: &LoraConfig,
    device: &B::Device,
    adapt: impl Fn(&str, &Linear<B>, Factors) -> Result<(Factors, Option<Factors>)>,
) -> Result<()> {
    let file = open_weights(folder)?;
    let found = AdapterTensors::new(folder, &file, stored);
    found.check_model(folder, model)?;
    for (name, linear) in model.linears_mut() {
        let Some(tensors) = found.layers.get(&name) else { continue };
        let (factors, initial) = adapt(&name, linear, tensors.factors(&name, &file, stored)?)?;
        let magnitude = tensors.magnitude(&file)?;
        // Loading an adapter does not change the reference model.
        let reference = linear.adapter.take().and_then(|adapter| adapter.reference);
        let adapter = low_rank(&name, linear, factors, initial, magnitude, config, device)?;
        linear.adapter = Some(LowRank { reference, ..adapter });
    }
    for matrix in model.matrices_mut() {
        if let Some(tensor) = found.modules.get(module(&matrix.name)) {
            matrix.weight = trainable(&matrix.name, file.read_f32(tensor)?, matrix.weight.dims(), device);
        }
    }
    Ok(())
}

/// The initial factors of a layer of an adapter that was stored without them.
pub(crate) fn initial(stored: &LoraConfig, name: &str, weight: &Matrix, rank: usize) -> Factors {
    let [rows, columns] = [weight.rows, weight.columns];
    let values = match stored.init.factors(weight, rank, stored.scale_of(name), 0) {
        Some([lora_a, lora_b]) => [lora_a.to_f32(), lora_b.to_f32()],
        None => [vec![0.0; rank * columns], vec![0.0; rows * rank]],
    };
    Factors { values, shapes: [[rank, columns], [rows, rank]] }
}
