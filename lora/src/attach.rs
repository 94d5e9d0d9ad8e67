//! Puts fresh adapters on the linear layers of a model.

use std::collections::BTreeSet;

use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::FusedBackend;
use burnish_models::weight::parameter_id;
use burnish_models::{LanguageModel, LowRank};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};

/// Attaches an adapter to every target: `A` uniform in `±1/√in`, `B` zero, so that the model starts unchanged. Both are f32,
/// whatever the model's dtype.
///
/// Returns how many layers got one.
///
/// # Errors
/// When a value is out of range or a target's name is no layer's.
///
/// # Source
/// PEFT 0.21 draws `A` by `kaiming_uniform_(a = √5)`, whose bound is `1/√in`.
pub fn attach<B: FusedBackend>(
    model: &mut LanguageModel<B>,
    config: &LoraConfig,
    seed: u64,
    device: &B::Device,
) -> Result<usize> {
    config.check()?;
    let first_layer = config.num_layers.map_or(0, |last| model.num_layers().saturating_sub(last));
    let layers: Vec<String> = model.linears().into_iter().map(|(name, _)| name).collect();
    check_targets(config, &layers)?;
    let names = config.target_modules.names();
    let mut attached = 0;
    for (name, linear) in model.linears_mut() {
        let wanted = names.as_ref().is_none_or(|names| names.iter().any(|target| is_named(&name, target)));
        if !wanted || layer_index(&name).is_some_and(|index| index < first_layer) {
            continue;
        }
        let [outputs, inputs] = linear.dims();
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ parameter_id(&name).val());
        let bound = 1.0 / (inputs as f64).sqrt();
        let uniform = |random: &mut ChaCha8Rng| f64::from(random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0;
        let lora_a: Vec<f32> = (0..config.rank * inputs).map(|_| (bound * uniform(&mut random)) as f32).collect();
        linear.adapter = Some(low_rank(
            &name,
            Tensor::from_data(TensorData::new(lora_a, [config.rank, inputs]), (device, DType::F32)),
            Tensor::zeros([outputs, config.rank], (device, DType::F32)),
            config,
        ));
        attached += 1;
    }
    Ok(attached)
}

/// An adapter whose parameters carry ids that its name decides.
pub(crate) fn low_rank<B: FusedBackend>(
    name: &str,
    lora_a: Tensor<B, 2>,
    lora_b: Tensor<B, 2>,
    config: &LoraConfig,
) -> LowRank<B> {
    let param = |part: &str, tensor: Tensor<B, 2>| {
        Param::initialized(parameter_id(&format!("{name}.{part}.weight")), tensor.require_grad())
    };
    LowRank {
        lora_a: param("lora_A", lora_a),
        lora_b: param("lora_B", lora_b),
        scale: config.scale(),
        dropout: config.dropout,
    }
}

/// Whether a target such as `q_proj` or `self_attn.q_proj` names the layer, as PEFT matches: by whole last parts.
fn is_named(layer: &str, target: &str) -> bool {
    layer == target || layer.strip_suffix(target).is_some_and(|head| head.ends_with('.'))
}

/// The block that a layer belongs to.
pub(crate) fn layer_index(name: &str) -> Option<usize> {
    let mut parts = name.split('.');
    parts.find(|part| *part == "layers")?;
    parts.next()?.parse().ok()
}

/// Checks that every target names one of the linear layers.
///
/// # Errors
/// [`LoraError::NoTarget`] with the names that don't.
pub fn check_targets(config: &LoraConfig, layers: &[String]) -> Result<()> {
    let Some(targets) = config.target_modules.names() else { return Ok(()) };
    let missing: Vec<String> = targets
        .iter()
        .filter(|target| !layers.iter().any(|layer| is_named(layer, target)))
        .map(|target| (*target).to_owned())
        .collect();
    if missing.is_empty() && !targets.is_empty() {
        return Ok(());
    }
    let present: BTreeSet<String> = layers.iter().filter_map(|layer| layer.rsplit('.').next()).map(str::to_owned).collect();
    Err(LoraError::NoTarget { missing, present: present.into_iter().collect() })
}
