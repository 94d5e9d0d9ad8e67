//! Attaches new adapters to the linear layers of a model.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::FusedBackend;
use burnish_models::weight::parameter_id;
use burnish_models::{LanguageModel, LowRank, ModelConfig};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};

/// Attaches a new adapter to every target, and returns how many layers got one.
///
/// `A`, `[rank, in]`, is uniform in `±1/√in`, and `B`, `[out, rank]`, is zero, so the model computes what it did before. Both
/// are f32 whatever the model's type. The values depend on the seed and on the layer's name alone.
///
/// # Errors
/// [`LoraError::Config`] if a value is out of range, [`LoraError::NoTarget`] if a target names no layer.
///
/// # Source
/// PEFT 0.21 draws `A` by `kaiming_uniform_(a = √5)`, whose bound is `1/√in`.
pub fn attach<B: FusedBackend>(
    model: &mut LanguageModel<B>,
    config: &LoraConfig,
    seed: u64,
    device: &B::Device,
) -> Result<usize> {
    let layers = model.linears().into_iter().map(|(name, linear)| LinearShape::new(name, linear.dims()));
    let layers: Vec<LinearShape> = layers.collect();
    check_layers(config, &layers)?;
    let targeted: BTreeSet<String> = targeted(config, &layers).map(|layer| layer.name.clone()).collect();
    for (name, linear) in model.linears_mut() {
        if !targeted.contains(&name) {
            continue;
        }
        let ([outputs, inputs], rank) = (linear.dims(), config.rank_of(&name));
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ parameter_id(&name).val());
        let bound = 1.0 / (inputs as f64).sqrt();
        let uniform = |random: &mut ChaCha8Rng| f64::from(random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0;
        let lora_a: Vec<f32> = (0..rank * inputs).map(|_| (bound * uniform(&mut random)) as f32).collect();
        linear.adapter = Some(low_rank(
            &name,
            Tensor::from_data(TensorData::new(lora_a, [rank, inputs]), (device, DType::F32)),
            Tensor::zeros([outputs, rank], (device, DType::F32)),
            config,
        ));
    }
    Ok(targeted.len())
}

/// Checks an adapter's configuration against that of a model, before the model is loaded: every value is in range, every target
/// names a linear layer, and the layers can use the rank.
///
/// # Errors
/// As [`attach`].
pub fn check_model<B: FusedBackend>(config: &LoraConfig, model: &ModelConfig) -> Result<()> {
    let names: BTreeSet<String> = LanguageModel::<B>::linear_names(model).into_iter().collect();
    let shapes = LanguageModel::<B>::tensor_shapes(model).into_iter();
    let layers: Vec<LinearShape> = shapes
        .filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?.to_owned(), shape.try_into().ok()?)))
        .filter(|(name, _)| names.contains(name))
        .map(|(name, dims)| LinearShape::new(name, dims))
        .collect();
    check_layers(config, &layers)
}

/// A linear layer of a model, and its size.
#[derive(Debug, Clone)]
struct LinearShape {
    /// Its name in checkpoints, without `.weight`.
    name: String,
    outputs: usize,
    inputs: usize,
}

impl LinearShape {
    fn new(name: String, [outputs, inputs]: [usize; 2]) -> Self {
        Self { name, outputs, inputs }
    }
}

fn check_layers(config: &LoraConfig, layers: &[LinearShape]) -> Result<()> {
    config.check()?;
    check_targets(config, layers)?;
    check_rank(config, layers)
}

/// A rank above `min(in, out)` adds nothing to a layer. It is refused only if that holds for all layers that have this rank:
/// like PEFT, this allows it for small layers among larger ones.
fn check_rank(config: &LoraConfig, layers: &[LinearShape]) -> Result<()> {
    let mut usable: BTreeMap<usize, usize> = BTreeMap::new();
    for LinearShape { name, outputs, inputs } in targeted(config, layers) {
        let largest = usable.entry(config.rank_of(name)).or_default();
        *largest = (*outputs.min(inputs)).max(*largest);
    }
    match usable.into_iter().find(|(rank, largest)| rank > largest) {
        Some((rank, largest)) => {
            let reason = format!("rank: expected at most {largest}, which is all that its layers can use, got {rank}");
            Err(LoraError::Config { reason })
        }
        None => Ok(()),
    }
}

/// The layers that get an adapter.
fn targeted<'a>(config: &'a LoraConfig, layers: &'a [LinearShape]) -> impl Iterator<Item = &'a LinearShape> {
    let names = config.target_modules.names();
    let blocks = layers.iter().filter_map(|layer| block_index(&layer.name)).max().map_or(0, |last| last + 1);
    let first = config.num_layers.map_or(0, |last| blocks.saturating_sub(last));
    layers.iter().filter(move |LinearShape { name, .. }| {
        let is_target = names.as_ref().is_none_or(|names| names.iter().any(|target| is_named(name, target)));
        is_target && block_index(name).is_none_or(|index| index >= first)
    })
}

/// An adapter of the layer `name`. The ids of its parameters depend on the name alone.
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
        scale: config.scale_of(name),
        dropout: config.dropout,
        reference: None,
    }
}

/// Whether a target such as `q_proj` or `self_attn.q_proj` names the layer: as in PEFT, by whole parts at the end of its name.
pub(crate) fn is_named(layer: &str, target: &str) -> bool {
    layer == target || layer.strip_suffix(target).is_some_and(|head| head.ends_with('.'))
}

/// The index of the block that a layer belongs to.
pub(crate) fn block_index(name: &str) -> Option<usize> {
    let mut parts = name.split('.');
    parts.find(|part| *part == "layers")?;
    parts.next()?.parse().ok()
}

/// Checks that every target names at least one of the layers.
fn check_targets(config: &LoraConfig, layers: &[LinearShape]) -> Result<()> {
    let Some(targets) = config.target_modules.names() else { return Ok(()) };
    let missing: Vec<String> = targets
        .iter()
        .filter(|target| !layers.iter().any(|layer| is_named(&layer.name, target)))
        .map(|target| (*target).to_owned())
        .collect();
    if missing.is_empty() && !targets.is_empty() {
        return Ok(());
    }
    let present: BTreeSet<String> =
        layers.iter().filter_map(|layer| layer.name.rsplit('.').next()).map(str::to_owned).collect();
    Err(LoraError::NoTarget { missing, present: present.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pattern;

    /// Two blocks; `k_proj` is smaller than the other layers.
    fn layers() -> Vec<LinearShape> {
        let of_block = |block: usize| {
            [("q_proj", [64, 64]), ("k_proj", [16, 64]), ("down_proj", [64, 160])]
                .map(|(name, dims)| LinearShape::new(format!("model.layers.{block}.{name}"), dims))
        };
        (0..2).flat_map(of_block).collect()
    }

    fn check(rank: usize, targets: &[&str]) -> std::result::Result<(), String> {
        let target_modules = crate::TargetModules::Named(targets.iter().map(|name| (*name).to_owned()).collect());
        let config = LoraConfig { rank, target_modules, ..LoraConfig::default() };
        check_layers(&config, &layers()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_rank_above_that_of_every_layer_is_refused() {
        assert_eq!(check(64, &["all-linear"]), Ok(()));
        assert!(check(65, &["all-linear"]).unwrap_err().contains("got 65"));
        assert_eq!(check(16, &["k_proj"]), Ok(()));
        for rank in [17, 70_000, 100_000, usize::MAX] {
            let error = check(rank, &["k_proj"]).unwrap_err();
            assert!(error.contains(&format!("got {rank}")) && error.contains("at most 16"), "{error}");
        }
        assert!(check(0, &["k_proj"]).is_err());
        assert!(check(4, &["query"]).unwrap_err().contains("query"));
        let rank_pattern = vec![Pattern::new("k_proj", 17).unwrap()];
        let config = LoraConfig { rank_pattern, ..LoraConfig::default() };
        assert!(check_layers(&config, &layers()).unwrap_err().to_string().contains("got 17"));
    }

    #[test]
    fn num_layers_counts_blocks_from_the_last() {
        let config = LoraConfig { num_layers: Some(1), ..LoraConfig::default() };
        let layers = layers();
        assert!(targeted(&config, &layers).all(|layer| layer.name.contains(".1.")));
        assert_eq!(targeted(&config, &layers).count(), 3);
    }
}
