//! PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod keys;
mod names;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::FusedBackend;
use burnish_models::{Checkpoint, LanguageModel, LowRank, atomic};
use safetensors::tensor::{Dtype, TensorView};

pub use config::{config_notes, read_config};
pub use names::ADAPTER_FILES;
pub(crate) use tensors::{AdapterTensors, open_weights};

use crate::attach::low_rank;
use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use config::AdaptedLayers;
use names::{CONFIG, FACTORS, PREFIX, WEIGHTS};

/// Writes the model's adapters as a PEFT folder; `base_model` is the id or path that PEFT will load the base from.
///
/// Tensors are f32: `lora_A` is `[rank, in]`, `lora_B` is `[out, rank]`. Equal adapters give equal bytes. Each file is written
/// whole or not at all.
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
        for (end, param) in FACTORS.iter().zip([&adapter.lora_a, &adapter.lora_b]) {
            let data = param.val().into_data();
            let shape = data.shape.to_vec();
            let bytes = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            tensors.insert(format!("{PREFIX}{name}{end}"), (bytes, shape));
        }
        adapted.push(name);
    }
    if tensors.is_empty() {
        return Err(LoraError::Config { reason: "the model has no adapter to save".into() });
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
    let text = format!("{:#}", config::to_json(config, base_model, &AdaptedLayers::new(&adapted, &layers)));
    Ok(atomic::write_bytes(&folder.join(CONFIG), text.as_bytes())?)
}

/// Attaches the adapters of a PEFT folder to the model and returns their configuration; `dropout` replaces the folder's.
///
/// The factors are f32 whatever the file has. An adapter of a multimodal model, such as `Gemma3ForConditionalGeneration`, is
/// read as that of its text part; a warning counts the tensors that are left out.
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
    let mut config = read_config(folder)?;
    if let Some(dropout) = dropout {
        config.dropout = dropout;
        config.check()?;
    }
    let tensors = open_weights(folder)?;
    let found = AdapterTensors::new(folder, &tensors, &config);
    found.check_model(folder, model)?;
    for (name, linear) in model.linears_mut() {
        let Some([a, b]) = found.layers.get(&name) else { continue };
        let [outputs, inputs] = linear.dims();
        let read = |tensor: &str, shape: [usize; 2]| -> Result<Tensor<B, 2>> {
            Ok(Tensor::from_data(TensorData::new(tensors.read_f32(tensor)?, shape), (device, DType::F32)))
        };
        let rank = config.rank_of(&name);
        let (lora_a, lora_b) = (read(a, [rank, inputs])?, read(b, [outputs, rank])?);
        // Loading an adapter does not change the reference model.
        let reference = linear.adapter.take().and_then(|adapter| adapter.reference);
        linear.adapter = Some(LowRank { reference, ..low_rank(&name, lora_a, lora_b, &config) });
    }
    Ok(config)
}
