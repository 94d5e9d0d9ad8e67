//! Attaches adapters on disk to a model.

use std::path::Path;

use burnish_kernels::FusedBackend;
use burnish_models::{LanguageModel, Linear, LowRank, StackedLowRank};

use crate::config::LoraConfig;
use crate::decompose::Matrix;
use crate::error::{LoraError, Result};
use crate::file::ModelLayout;
use crate::layer::{Factors, dense, initial, low_rank};
use crate::modules::{module, trainable};
use crate::peft::AdapterTensors;
use crate::stacked::{stacked_low_rank, stored_factors};
use crate::stored::{open_weights, read_stored};

/// Attaches the adapters of a PEFT or MLX folder, or of a GGUF file, to the model and returns their configuration; `dropout` replaces
/// that of the folder.
///
/// The factors are f32 whatever the file has. An adapter of a multimodal model, such as `Gemma3ForConditionalGeneration`, is
/// read as that of its text part; a warning counts the tensors that are left out. One whose initial factors were taken out of its
/// base is read as [`read_config`](crate::read_config) says.
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
    let mut stored = read_stored(folder)?;
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
    let stored = LoraConfig { dropout: config.dropout, ..read_stored(folder)? };
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
    let parameters = model.stacks().into_iter().map(|stack| stack.parameter().clone());
    let file = open_weights(folder, stored, Some(&ModelLayout::new(model.head_dim(), parameters)))?;
    let found = AdapterTensors::new(folder, &file, stored);
    found.check_model(folder, model)?;
    for (name, linear) in model.adaptable_mut() {
        let Some(tensors) = found.layers.get(&name) else { continue };
        let (factors, initial) = adapt(&name, linear, tensors.factors(&name, &file, stored)?)?;
        let magnitude = tensors.magnitude(&file)?;
        // Loading an adapter does not change the reference model.
        let reference = linear.adapter.take().and_then(|adapter| adapter.reference);
        let adapter = low_rank(&name, linear, factors, initial, magnitude, config, device)?;
        linear.adapter = Some(LowRank { reference, ..adapter });
    }
    for stack in model.stacks_mut() {
        let Some((factors, scale)) = stored_factors(stack.parameter(), &found, &file, stored, folder)? else { continue };
        let reference = stack.adapter.take().and_then(|adapter| adapter.reference);
        let adapter = stacked_low_rank(&stack.parameter().name(), factors, scale, device);
        stack.adapter = Some(StackedLowRank { reference, ..adapter });
    }
    for matrix in model.matrices_mut() {
        if let Some(tensor) = found.modules.get(module(&matrix.name)) {
            matrix.weight = trainable(&matrix.name, file.read_f32(tensor)?, matrix.weight.dims(), device);
        }
    }
    Ok(())
}
