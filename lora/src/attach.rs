//! Attaches new adapters to the linear layers of a model.

use std::collections::{BTreeMap, BTreeSet};

use burnish_kernels::FusedBackend;
use burnish_models::loader::normal;
use burnish_models::part::declared_tensors;
use burnish_models::weight::parameter_id;
use burnish_models::{Checkpoint, LanguageModel, ModelConfig};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::LoraConfig;
use crate::decompose::Matrix;
use crate::error::{LoraError, Result};
use crate::init::Init;
use crate::layer::{Factors, dense, low_rank, quantisation_error};
use crate::modules;
use crate::pattern::is_named;

/// Attaches a new adapter to every target, and returns how many layers got one.
///
/// The model computes what it did before, whatever [`Init`](crate::Init) the factors begin with: by default, `A`, `[rank, in]`,
/// is uniform in `±1/√in`, and `B`, `[out, rank]`, is zero. Both are f32 whatever the model's type. The values depend on the
/// seed and on the layer's name alone.
///
/// # Errors
/// [`LoraError::Config`] if a value is out of range or the base can't begin so, [`LoraError::NoTarget`] if a target names no
/// layer.
///
/// # Source
/// PEFT 0.21 draws `A` by `kaiming_uniform_(a = √5)`, whose bound is `1/√in`.
pub fn attach<B: FusedBackend>(
    model: &mut LanguageModel<B>,
    config: &LoraConfig,
    seed: u64,
    device: &B::Device,
) -> Result<usize> {
    attach_new(model, config, seed, None, device)
}

/// As [`attach`], to a model that was loaded from `base`: [`Init::Loftq`](crate::Init::Loftq) compares its packed weights with
/// those, and the model then computes more nearly what it would without quantisation.
///
/// # Errors
/// As [`attach`].
pub fn attach_to<B: FusedBackend>(
    model: &mut LanguageModel<B>,
    config: &LoraConfig,
    seed: u64,
    base: &dyn Checkpoint,
    device: &B::Device,
) -> Result<usize> {
    attach_new(model, config, seed, Some(base), device)
}

fn attach_new<B: FusedBackend>(
    model: &mut LanguageModel<B>,
    config: &LoraConfig,
    seed: u64,
    base: Option<&dyn Checkpoint>,
    device: &B::Device,
) -> Result<usize> {
    let layers = model.linears().into_iter().map(|(name, linear)| LinearShape::new(name, linear.dims()));
    let layers: Vec<LinearShape> = layers.collect();
    check_layers(config, &layers)?;
    modules::check(&config.modules_to_save, &modules::names(model))?;
    let targeted: BTreeSet<String> = targeted(config, &layers).map(|layer| layer.name.clone()).collect();
    let mut decomposed = 0;
    for (name, linear) in model.linears_mut() {
        if !targeted.contains(&name) {
            continue;
        }
        let ([outputs, inputs], rank) = (linear.dims(), config.rank_of(&name));
        let seed = seed ^ parameter_id(&name).val();
        let matrix = match config.init {
            Init::Default | Init::Gaussian => None,
            Init::Loftq => quantisation_error(&name, linear, base)?,
            Init::Pissa | Init::PissaNiter(_) | Init::Olora => Some(dense(&name, linear, config.init)?),
        };
        let factors = matrix.and_then(|values| {
            let matrix = Matrix::of_f32(outputs, inputs, &values);
            config.init.factors(&matrix, rank, config.scale_of(&name), seed)
        });
        decomposed += usize::from(factors.is_some());
        let factors = match factors {
            Some([lora_a, lora_b]) => [lora_a.to_f32(), lora_b.to_f32()],
            None => [drawn(config.init, [rank, inputs], seed), vec![0.0; outputs * rank]],
        };
        let factors = Factors { values: factors, shapes: [[rank, inputs], [outputs, rank]] };
        let initial = config.init.changes_base().then(|| factors.clone());
        linear.adapter = Some(low_rank(&name, linear, factors, initial, None, config, device)?);
    }
    if config.init == Init::Loftq && decomposed == 0 && !targeted.is_empty() {
        let reason = "init: \"loftq\" makes up for the quantisation of the base weights, and none of them is quantised while \
                      loading; set quantization = \"nf4\", or another init";
        return Err(LoraError::Config { reason: reason.into() });
    }
    modules::train(model, &config.modules_to_save, device);
    Ok(targeted.len())
}

/// The values of a new `A`.
fn drawn(init: Init, [rank, inputs]: [usize; 2], seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let bound = 1.0 / (inputs as f64).sqrt();
    let uniform = |random: &mut ChaCha8Rng| f64::from(random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0;
    let draw = |_| match init {
        Init::Gaussian => (normal(&mut random) / rank as f64) as f32,
        _ => (bound * uniform(&mut random)) as f32,
    };
    (0..rank * inputs).map(draw).collect()
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
    check_layers(config, &layers)?;
    modules::check(&config.modules_to_save, &modules::declared_names(model))
}

/// A linear layer that gets an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedLayer {
    /// Its name in checkpoints, without `.weight`.
    pub name: String,
    /// The block that it belongs to.
    pub block: Option<usize>,
    /// Features after it.
    pub outputs: usize,
    /// Features before it.
    pub inputs: usize,
    /// Rank of its adapter.
    pub rank: usize,
}

/// The linear layers of a model that get an adapter, in the order of the blocks; no model is loaded.
pub fn adapted_layers(config: &LoraConfig, model: &ModelConfig) -> Vec<AdaptedLayer> {
    let linear = declared_tensors(model).into_iter().filter(|tensor| tensor.part.role.is_linear());
    let layers: Vec<LinearShape> = linear
        .filter_map(|tensor| {
            let dims = tensor.shape.try_into().ok()?;
            Some(LinearShape::new(tensor.name.strip_suffix(".weight")?.to_owned(), dims))
        })
        .collect();
    let adapted = |LinearShape { name, outputs, inputs }: &LinearShape| AdaptedLayer {
        name: name.clone(),
        block: block_index(name),
        outputs: *outputs,
        inputs: *inputs,
        rank: config.rank_of(name),
    };
    targeted(config, &layers).map(adapted).collect()
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
    check_rank(config, layers)?;
    check_init(config, layers)
}

/// A decomposition of a weight has no more parts than its smaller side.
fn check_init(config: &LoraConfig, layers: &[LinearShape]) -> Result<()> {
    let small = targeted(config, layers).find(|LinearShape { name, outputs, inputs }| {
        config.init.decomposes() && config.rank_of(name) > *outputs.min(inputs)
    });
    match small {
        Some(LinearShape { name, outputs, inputs }) => {
            let (rank, largest) = (config.rank_of(name), outputs.min(inputs));
            let reason = format!("rank: `init = \"{}\"` needs at most {largest} for {name}, got {rank}", config.init);
            Err(LoraError::Config { reason })
        }
        None => Ok(()),
    }
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
