//! Attaches new adapters to the linear layers of a model.

use std::collections::{BTreeMap, BTreeSet};

use burnish_kernels::FusedBackend;
use burnish_models::loader::normal;
use burnish_models::part::StackedParameter;
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
use crate::sites::{LinearShape, Sites, block_index};
use crate::stacked::stacked_low_rank;

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
    let sites = Sites::of_model(model);
    let config = &checked(config, &sites)?;
    modules::check(&config.modules_to_save, &modules::names(model))?;
    let targeted: BTreeSet<String> = sites.targeted(config).map(|layer| layer.name.clone()).collect();
    let mut decomposed = 0;
    for (name, linear) in model.adaptable_mut() {
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
            None => [drawn(config.init, rank, [rank, inputs], seed), vec![0.0; outputs * rank]],
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
    let stacks: BTreeSet<String> = sites.targeted_stacks(config).map(StackedParameter::name).collect();
    for stack in model.stacks_mut() {
        let StackedParameter { experts, outputs, inputs, .. } = *stack.parameter();
        let name = stack.parameter().name();
        if !stacks.contains(&name) {
            continue;
        }
        let rank = config.rank_of(&name);
        let shapes = [[experts * rank, inputs], [outputs, rank * experts]];
        let lora_a = drawn(config.init, rank, shapes[0], seed ^ parameter_id(&name).val());
        let factors = Factors { values: [lora_a, vec![0.0; outputs * rank * experts]], shapes };
        stack.adapter = Some(stacked_low_rank(&name, factors, config.scale_of(&name), device));
    }
    modules::train(model, &config.modules_to_save, device);
    Ok(targeted.len() + stacks.len())
}

/// The values of a new `A`.
fn drawn(init: Init, rank: usize, [rows, inputs]: [usize; 2], seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let bound = 1.0 / (inputs as f64).sqrt();
    let uniform = |random: &mut ChaCha8Rng| f64::from(random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0;
    let draw = |_| match init {
        Init::Gaussian => (normal(&mut random) / rank as f64) as f32,
        _ => (bound * uniform(&mut random)) as f32,
    };
    (0..rows * inputs).map(draw).collect()
}

/// Checks an adapter's configuration against that of a model, before the model is loaded: every value is in range, every target
/// names a linear layer, and the layers can use the rank.
///
/// # Errors
/// As [`attach`].
pub fn check_model(config: &LoraConfig, model: &ModelConfig) -> Result<()> {
    checked(config, &Sites::of_config(model))?;
    modules::check(&config.modules_to_save, &modules::declared_names(model))
}

/// A linear layer that gets an adapter, or a parameter that holds the experts of a layer.
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
    /// How many matrices have factors of their own: 1, or the number of experts.
    pub copies: usize,
    /// How many of them a token uses.
    pub used: usize,
}

impl AdaptedLayer {
    /// The elements of both factors.
    pub fn elements(&self) -> usize {
        self.copies * self.rank * (self.inputs + self.outputs)
    }
}

/// What of a model gets an adapter, in the order of the blocks, experts last; no model is loaded. Nothing if [`check_model`] fails
/// because of the names of targets.
pub fn adapted_layers(config: &LoraConfig, model: &ModelConfig) -> Vec<AdaptedLayer> {
    let sites = Sites::of_config(model);
    let Ok(config) = sites.resolved(config) else { return Vec::new() };
    let linear = |LinearShape { name, outputs, inputs, .. }: &LinearShape| AdaptedLayer {
        name: name.clone(),
        block: block_index(name),
        outputs: *outputs,
        inputs: *inputs,
        rank: config.rank_of(name),
        copies: 1,
        used: 1,
    };
    let stack = |stack: &StackedParameter| AdaptedLayer {
        name: stack.name(),
        block: Some(stack.layer),
        outputs: stack.outputs,
        inputs: stack.inputs,
        rank: config.rank_of(&stack.name()),
        copies: stack.experts,
        used: stack.per_token,
    };
    sites.targeted(&config).map(linear).chain(sites.targeted_stacks(&config).map(stack)).collect()
}

/// The configuration as it is read for a model, if every value is in range, every target names something, and the layers can use the
/// rank.
fn checked(config: &LoraConfig, sites: &Sites) -> Result<LoraConfig> {
    config.check()?;
    let config = sites.resolved(config)?;
    config.check()?;
    check_layers(&config, sites)?;
    check_targets(&config, sites)?;
    check_rank(&config, sites)?;
    check_init(&config, sites)?;
    Ok(config)
}

/// There can't be adapters in more blocks than the model has. mlx-lm refuses that too.
fn check_layers(config: &LoraConfig, sites: &Sites) -> Result<()> {
    match config.num_layers.filter(|layers| *layers > sites.blocks()) {
        Some(layers) => {
            let reason = format!("num_layers: expected at most {}, the number of blocks, got {layers}", sites.blocks());
            Err(LoraError::Config { reason })
        }
        None => Ok(()),
    }
}

/// A decomposition of a weight has no more parts than its smaller side.
fn check_init(config: &LoraConfig, sites: &Sites) -> Result<()> {
    let small = sites.targeted(config).find(|LinearShape { name, outputs, inputs, .. }| {
        config.init.decomposes() && config.rank_of(name) > *outputs.min(inputs)
    });
    match small {
        Some(LinearShape { name, outputs, inputs, .. }) => {
            let (rank, largest) = (config.rank_of(name), outputs.min(inputs));
            let reason = format!("rank: `init = \"{}\"` needs at most {largest} for {name}, got {rank}", config.init);
            Err(LoraError::Config { reason })
        }
        None => Ok(()),
    }
}

/// A rank above `min(in, out)` adds nothing to a layer. It is refused only if that holds for all layers that have this rank:
/// like PEFT, this allows it for small layers among larger ones.
fn check_rank(config: &LoraConfig, sites: &Sites) -> Result<()> {
    let linears = sites.targeted(config).map(|layer| (layer.name.clone(), layer.outputs.min(layer.inputs)));
    let stacks = sites.targeted_stacks(config).map(|stack| (stack.name(), stack.outputs.min(stack.inputs)));
    let mut usable: BTreeMap<usize, usize> = BTreeMap::new();
    for (name, smaller) in linears.chain(stacks) {
        let largest = usable.entry(config.rank_of(&name)).or_default();
        *largest = smaller.max(*largest);
    }
    match usable.into_iter().find(|(rank, largest)| rank > largest) {
        Some((rank, largest)) => {
            let reason = format!("rank: expected at most {largest}, which is all that its layers can use, got {rank}");
            Err(LoraError::Config { reason })
        }
        None => Ok(()),
    }
}

/// Checks that every target names at least one of the layers.
fn check_targets(config: &LoraConfig, sites: &Sites) -> Result<()> {
    let names_one = |target: &&String| {
        let of_stacks = sites.stacks.iter().any(|stack| is_named(&stack.name(), target));
        of_stacks || sites.linears.iter().any(|layer| is_named(&layer.parameter(), target))
    };
    if let Some(target) = config.target_parameters.iter().find(|target| !names_one(target)) {
        let mut present: Vec<&str> = sites.stacks.iter().map(|stack| stack.parameter).collect();
        present.sort_unstable();
        present.dedup();
        let present = if present.is_empty() {
            "it has no experts; name linear layers in target_modules".to_owned()
        } else {
            format!("those of its experts are {}", present.join(", "))
        };
        return Err(LoraError::Config {
            reason: format!("target_parameters: no parameter of the model is named {target}; {present}"),
        });
    }
    let Some(targets) = config.target_modules.names() else { return Ok(()) };
    let layers = || sites.linears.iter().filter(|layer| !layer.is_router);
    let missing: Vec<String> = targets
        .iter()
        .filter(|target| !layers().any(|layer| is_named(&layer.name, target)))
        .map(|target| (*target).to_owned())
        .collect();
    if missing.is_empty() && !(targets.is_empty() && config.target_parameters.is_empty()) {
        return Ok(());
    }
    let present: BTreeSet<String> = layers().filter_map(|layer| layer.name.rsplit('.').next()).map(str::to_owned).collect();
    Err(LoraError::NoTarget { missing, present: present.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pattern;

    /// Two blocks; `k_proj` is smaller than the other layers.
    fn sites() -> Sites {
        let of_block = |block: usize| {
            [("q_proj", [64, 64]), ("k_proj", [16, 64]), ("down_proj", [64, 160])]
                .map(|(name, dims)| LinearShape::new(format!("model.layers.{block}.{name}"), dims))
        };
        Sites { linears: (0..2).flat_map(of_block).collect(), stacks: Vec::new() }
    }

    fn check(rank: usize, targets: &[&str]) -> std::result::Result<(), String> {
        let target_modules = crate::TargetModules::Named(targets.iter().map(|name| (*name).to_owned()).collect());
        let config = LoraConfig { rank, target_modules, ..LoraConfig::default() };
        checked(&config, &sites()).map(drop).map_err(|error| error.to_string())
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
        assert!(checked(&config, &sites()).unwrap_err().to_string().contains("got 17"));
    }

    #[test]
    fn num_layers_counts_blocks_from_the_last() {
        let config = LoraConfig { num_layers: Some(1), ..LoraConfig::default() };
        let sites = sites();
        assert!(sites.targeted(&config).all(|layer| layer.name.contains(".1.")));
        assert_eq!(sites.targeted(&config).count(), 3);
        let more = LoraConfig { num_layers: Some(3), ..LoraConfig::default() };
        let error = checked(&more, &sites).unwrap_err().to_string();
        assert!(error.contains("num_layers: expected at most 2, the number of blocks, got 3"), "{error}");
    }
}
