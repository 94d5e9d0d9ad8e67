//! What of a model can have an adapter, and how names of targets are read for models of experts.

use std::collections::{BTreeMap, BTreeSet};

use burnish_kernels::FusedBackend;
use burnish_models::config::Stacking;
use burnish_models::part::{DeclaredTensor, Role, StackedParameter, declared_tensors, stacked_parameters};
use burnish_models::{LanguageModel, ModelConfig};

use crate::config::{LoraConfig, TargetModules};
use crate::error::{LoraError, Result};
use crate::pattern::{Pattern, is_named};

/// A linear layer of a model, and its size.
#[derive(Debug, Clone)]
pub(crate) struct LinearShape {
    /// Its name in checkpoints, without `.weight`.
    pub(crate) name: String,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Whether it is a router, which is no linear layer in transformers: only its parameter can be named.
    pub(crate) is_router: bool,
}

impl LinearShape {
    pub(crate) fn new(name: String, [outputs, inputs]: [usize; 2]) -> Self {
        Self { name, outputs, inputs, is_router: false }
    }

    /// The name of its parameter.
    pub(crate) fn parameter(&self) -> String {
        format!("{}.weight", self.name)
    }
}

/// What of a model can have an adapter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sites {
    /// Its linear layers and routers, in the order of the blocks.
    pub(crate) linears: Vec<LinearShape>,
    /// The parameters that hold its experts.
    pub(crate) stacks: Vec<StackedParameter>,
}

impl Sites {
    /// Those of a loaded model.
    pub(crate) fn of_model<B: FusedBackend>(model: &LanguageModel<B>) -> Self {
        let linears = model.linears().into_iter().map(|(name, linear)| LinearShape::new(name, linear.dims()));
        let routers = model
            .routers()
            .into_iter()
            .map(|(name, router)| LinearShape { is_router: true, ..LinearShape::new(name, router.dims()) });
        let stacks = model.stacks().into_iter().map(|stack| stack.parameter().clone()).collect();
        Self { linears: linears.chain(routers).collect(), stacks }
    }

    /// Those of a model that is not loaded.
    pub(crate) fn of_config(model: &ModelConfig) -> Self {
        let site = |tensor: DeclaredTensor| {
            let is_router = tensor.part.role == Role::Router;
            let dims = tensor.shape.try_into().ok().filter(|_| tensor.part.role.is_linear() || is_router)?;
            let name = tensor.name.strip_suffix(".weight")?.to_owned();
            Some(LinearShape { is_router, ..LinearShape::new(name, dims) })
        };
        Self { linears: declared_tensors(model).into_iter().filter_map(site).collect(), stacks: stacked_parameters(model) }
    }

    /// The linear layers that get an adapter.
    pub(crate) fn targeted<'a>(&'a self, config: &'a LoraConfig) -> impl Iterator<Item = &'a LinearShape> {
        let names = config.target_modules.names();
        let first = self.first_block(config);
        self.linears.iter().filter(move |layer| {
            let is_module = names.as_ref().is_none_or(|names| names.iter().any(|target| is_named(&layer.name, target)));
            let is_target = (is_module && !layer.is_router) || config.names_parameter(&layer.parameter());
            is_target && block_index(&layer.name).is_none_or(|index| index >= first)
        })
    }

    /// The parameters of experts that get an adapter.
    pub(crate) fn targeted_stacks<'a>(&'a self, config: &'a LoraConfig) -> impl Iterator<Item = &'a StackedParameter> {
        let first = self.first_block(config);
        self.stacks.iter().filter(move |stack| config.names_parameter(&stack.name()) && stack.layer >= first)
    }

    /// The first block that gets adapters.
    fn first_block(&self, config: &LoraConfig) -> usize {
        config.num_layers.map_or(0, |last| self.blocks().saturating_sub(last))
    }

    /// The number of blocks of the model.
    pub(crate) fn blocks(&self) -> usize {
        self.linears.iter().filter_map(|layer| block_index(&layer.name)).max().map_or(0, |last| last + 1)
    }

    /// The configuration as PEFT reads it for this model: where experts were linear layers before transformers 5, names of those in
    /// `target_modules`, and `all-linear`, mean the parameters that hold them, and the router's. The rank of a parameter that holds two
    /// of them is doubled, so that each could have factors of its own.
    ///
    /// # Errors
    /// [`LoraError::Config`] if only one of two layers is named that one parameter holds.
    ///
    /// # Source
    /// `_convert_peft_config_moe` in `peft/utils/transformers_weight_conversion.py` of PEFT 0.21, on transformers 5.23.
    pub(crate) fn resolved(&self, config: &LoraConfig) -> Result<LoraConfig> {
        let Some(known) = self.known_layers() else { return Ok(config.clone()) };
        let targets: BTreeSet<String> = if let Some(names) = config.target_modules.names() {
            names.into_iter().map(str::to_owned).collect()
        } else {
            let linears = self.linears.iter().filter(|layer| !layer.is_router).map(|layer| last(&layer.name));
            linears.chain(known.keys().map(String::as_str)).map(str::to_owned).collect()
        };
        let mut resolved = config.clone();
        let mut remaining = Vec::new();
        let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for target in targets {
            match known.iter().find(|(old, _)| is_named(&target, old)) {
                None => remaining.push(target),
                Some((old, parameter)) => {
                    found.entry(parameter).or_default().insert(old);
                }
            }
        }
        resolved.target_modules = TargetModules::Named(remaining);
        for (parameter, present) in found {
            let all: Vec<&str> = known.iter().filter(|(_, own)| *own == parameter).map(|(old, _)| old.as_str()).collect();
            if let Some(missing) = all.iter().find(|old| !present.contains(*old)) {
                let reason = format!(
                    "target_modules: {} of experts needs {missing} too, because transformers has both in one parameter, {parameter}",
                    present.into_iter().collect::<Vec<_>>().join(", ")
                );
                return Err(LoraError::Config { reason });
            }
            if !resolved.names_parameter(parameter) {
                resolved.target_parameters.push(parameter.to_owned());
            }
            if all.len() > 1 {
                let pattern = format!(r".*\.{}", regex::escape(parameter));
                let refuse = |reason| LoraError::Config { reason };
                let rank = Pattern::new(pattern.as_str(), config.rank * all.len()).map_err(refuse)?;
                let alpha = Pattern::new(pattern.as_str(), config.alpha * all.len() as f64).map_err(refuse)?;
                replace(&mut resolved.rank_pattern, rank);
                replace(&mut resolved.alpha_pattern, alpha);
            }
        }
        Ok(resolved)
    }

    /// The last names of the linear layers that experts and routers were before transformers 5, with the parameters that have them now;
    /// `None` if there never were such layers.
    fn known_layers(&self) -> Option<BTreeMap<String, String>> {
        let layer = self.stacks.iter().find(|stack| stack.stacking == Stacking::Rows)?.layer;
        let of_layer = self.stacks.iter().filter(|stack| stack.layer == layer);
        let parts = of_layer
            .flat_map(|stack| stack.parts.iter().map(move |part| (last(part.name).to_owned(), stack.parameter.to_owned())));
        let routers = self.linears.iter().filter(|layer| layer.is_router).take(1);
        let routers = routers.map(|router| (last(&router.name).to_owned(), format!("{}.weight", last(&router.name))));
        Some(parts.chain(routers).collect())
    }
}

/// The last part of a name.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

/// Puts a pattern where the same one was, or at the end.
fn replace<T>(patterns: &mut Vec<Pattern<T>>, pattern: Pattern<T>) {
    match patterns.iter_mut().find(|own| own.pattern == pattern.pattern) {
        Some(own) => *own = pattern,
        None => patterns.push(pattern),
    }
}

/// The index of the block that a layer belongs to.
pub(crate) fn block_index(name: &str) -> Option<usize> {
    let mut parts = name.split('.');
    parts.find(|part| *part == "layers")?;
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn sites(case: &str) -> Sites {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity").join(case);
        let json = std::fs::read_to_string(folder.join("config.json")).unwrap();
        Sites::of_config(&ModelConfig::from_json(&serde_json::from_str(&json).unwrap()).unwrap())
    }

    fn config(target_modules: &[&str]) -> LoraConfig {
        let target_modules = TargetModules::Named(target_modules.iter().map(|name| (*name).to_owned()).collect());
        LoraConfig { rank: 2, alpha: 6.0, target_modules, ..LoraConfig::default() }
    }

    /// What `get_peft_model` of PEFT 0.21 makes of the same configurations on transformers 5.23.
    #[test]
    fn names_of_layers_that_transformers_no_longer_has_mean_parameters() {
        let sites = sites("qwen3moe");
        for (targets, modules, parameters, rank) in [
            (&["all-linear"][..], "k_proj,o_proj,q_proj,v_proj", "down_proj,gate.weight,gate_up_proj", 4),
            (&["gate_proj", "up_proj", "down_proj"], "", "down_proj,gate_up_proj", 4),
            (&["q_proj", "down_proj"], "q_proj", "down_proj", 2),
            (&["q_proj"], "q_proj", "", 2),
        ] {
            let resolved = sites.resolved(&config(targets)).unwrap();
            assert_eq!(resolved.target_modules.list().join(","), modules, "{targets:?}");
            assert_eq!(resolved.target_parameters.join(","), parameters, "{targets:?}");
            let name = "model.layers.1.mlp.experts.gate_up_proj";
            assert_eq!((resolved.rank_of(name), resolved.scale_of(name)), (rank, 3.0), "{targets:?}");
            assert_eq!(resolved.rank_of("model.layers.1.mlp.experts.down_proj"), 2);
            assert_eq!(sites.resolved(&resolved).unwrap(), resolved);
        }
        let error = sites.resolved(&config(&["q_proj", "gate_proj"])).unwrap_err().to_string();
        assert!(error.contains("gate_proj of experts needs up_proj"), "{error}");
    }

    #[test]
    fn experts_that_never_were_layers_are_named_by_their_parameters_alone() {
        let sites = sites("gpt-oss");
        let all = config(&["all-linear"]);
        assert_eq!(sites.resolved(&all).unwrap(), all);
        assert_eq!(sites.targeted(&all).count(), 8);
        assert_eq!(sites.targeted_stacks(&all).count(), 0);
        let target_parameters = vec!["experts.down_proj".to_owned(), "mlp.router.weight".to_owned()];
        let named = LoraConfig { target_parameters, num_layers: Some(1), ..config(&[]) };
        let linears: Vec<&str> = sites.targeted(&named).map(|layer| layer.name.as_str()).collect();
        assert_eq!(linears, ["model.layers.1.mlp.router"]);
        let stacks: Vec<String> = sites.targeted_stacks(&named).map(StackedParameter::name).collect();
        assert_eq!(stacks, ["model.layers.1.mlp.experts.down_proj"]);
    }
}
