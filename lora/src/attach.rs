//! Puts fresh adapters on the linear layers of a model.

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
    let layers: Vec<(String, [usize; 2])> =
        model.linears().into_iter().map(|(name, linear)| (name, linear.dims())).collect();
    check_layers(config, &layers)?;
    let targeted: BTreeSet<String> = targeted(config, &layers).map(|(name, _)| name.clone()).collect();
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

/// Checks an adapter against a model's configuration, before there is a model: the values, that every target names a linear
/// layer, and that the rank is within what the layers can use.
///
/// # Errors
/// [`LoraError::Config`] or [`LoraError::NoTarget`].
pub fn check_model<B: FusedBackend>(config: &LoraConfig, model: &ModelConfig) -> Result<()> {
    let names: BTreeSet<String> = LanguageModel::<B>::linear_names(model)?.into_iter().collect();
    let shapes = LanguageModel::<B>::tensor_shapes(model)?.into_iter();
    let layers: Vec<(String, [usize; 2])> = shapes
        .filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?.to_owned(), shape.try_into().ok()?)))
        .filter(|(name, _)| names.contains(name))
        .collect();
    check_layers(config, &layers)
}

/// As [`check_model`], with the layers and their `[out, in]`.
fn check_layers(config: &LoraConfig, layers: &[(String, [usize; 2])]) -> Result<()> {
    config.check()?;
    let names: Vec<String> = layers.iter().map(|(name, _)| name.clone()).collect();
    check_targets(config, &names)?;
    check_rank(config, layers)
}

/// A rank beyond `min(in, out)` adds nothing to a layer. It is refused where it is beyond that of all layers it is for: smaller
/// layers among larger ones may have it, as in PEFT.
fn check_rank(config: &LoraConfig, layers: &[(String, [usize; 2])]) -> Result<()> {
    let mut usable: BTreeMap<usize, usize> = BTreeMap::new();
    for (name, [outputs, inputs]) in targeted(config, layers) {
        let most = usable.entry(config.rank_of(name)).or_default();
        *most = (*outputs.min(inputs)).max(*most);
    }
    match usable.into_iter().find(|(rank, most)| rank > most) {
        Some((rank, most)) => {
            let reason = format!("rank {rank} is more than its layers can use: the largest of them has rank {most} itself");
            Err(LoraError::Config { reason })
        }
        None => Ok(()),
    }
}

/// The layers that get an adapter.
fn targeted<'a>(
    config: &'a LoraConfig,
    layers: &'a [(String, [usize; 2])],
) -> impl Iterator<Item = &'a (String, [usize; 2])> {
    let names = config.target_modules.names();
    let blocks = layers.iter().filter_map(|(name, _)| layer_index(name)).max().map_or(0, |last| last + 1);
    let first = config.num_layers.map_or(0, |last| blocks.saturating_sub(last));
    layers.iter().filter(move |(name, _)| {
        let is_target = names.as_ref().is_none_or(|names| names.iter().any(|target| is_named(name, target)));
        is_target && layer_index(name).is_none_or(|index| index >= first)
    })
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
        scale: config.scale_of(name),
        dropout: config.dropout,
        reference: None,
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
fn check_targets(config: &LoraConfig, layers: &[String]) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pattern;

    /// Two blocks, with keys and values that are smaller than the rest.
    fn layers() -> Vec<(String, [usize; 2])> {
        let of_block = |block: usize| {
            [("q_proj", [64, 64]), ("k_proj", [16, 64]), ("down_proj", [64, 160])]
                .map(|(name, dims)| (format!("model.layers.{block}.{name}"), dims))
        };
        (0..2).flat_map(of_block).collect()
    }

    fn check(rank: usize, targets: &[&str]) -> std::result::Result<(), String> {
        let target_modules = crate::TargetModules::Named(targets.iter().map(|name| (*name).to_owned()).collect());
        let config = LoraConfig { rank, target_modules, ..LoraConfig::default() };
        check_layers(&config, &layers()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_rank_beyond_its_layers_is_refused() {
        assert_eq!(check(64, &["all-linear"]), Ok(()));
        assert!(check(65, &["all-linear"]).unwrap_err().contains("rank 65"));
        assert_eq!(check(16, &["k_proj"]), Ok(()));
        for rank in [17, 70_000, 100_000, usize::MAX] {
            let error = check(rank, &["k_proj"]).unwrap_err();
            assert!(error.contains(&format!("rank {rank} ")) && error.contains("rank 16 itself"), "{error}");
        }
        assert!(check(0, &["k_proj"]).is_err());
        assert!(check(4, &["query"]).unwrap_err().contains("query"));
        let rank_pattern = vec![Pattern::new("k_proj", 17).unwrap()];
        let config = LoraConfig { rank_pattern, ..LoraConfig::default() };
        assert!(check_layers(&config, &layers()).unwrap_err().to_string().contains("rank 17"));
    }

    #[test]
    fn the_last_blocks_are_counted_from_the_end() {
        let config = LoraConfig { num_layers: Some(1), ..LoraConfig::default() };
        let layers = layers();
        assert!(targeted(&config, &layers).all(|(name, _)| name.contains(".1.")));
        assert_eq!(targeted(&config, &layers).count(), 3);
    }
}
