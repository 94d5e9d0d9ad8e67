//! The tensors of an adapter file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burnish_kernels::FusedBackend;
use burnish_models::LanguageModel;
use burnish_models::checkpoint::{in_text_model, is_of_text_part, open_files};
use burnish_models::error::Result as ModelResult;
use burnish_models::part::StackedParameter;

use super::names::{FACTORS, MAGNITUDES, PREFIX, adapter_files, module_name, wrapped};
use crate::config::{LoraConfig, TargetModules};
use crate::error::{LoraError, Result};
use crate::file::{AdapterFile, ModelLayout};
use crate::layer::Factors;
use crate::modules::{NAMES, module};
use crate::pattern::is_named;

/// What PEFT calls a module within another adapter.
const WRAPPED: &str = ".base_layer";

/// Why a tied matrix is refused.
const APART: &str = "the base uses its embedding as its head, and the adapter trained one of them apart (PEFT's \
                     `ensure_weight_tying` was off), which is not supported";

/// Opens the weights of an adapter: safetensors, or else what PEFT wrote by `torch.save`. The factors of parameters that hold experts are
/// found by their order, because their names do not say which they belong to.
pub(crate) fn open_weights(folder: &Path, stored: &LoraConfig, layout: Option<&ModelLayout>) -> Result<AdapterFile> {
    let [_, weights] = adapter_files(folder);
    let mut file = AdapterFile::plain(open_files(&[weights])?);
    let Some(layout) = layout else { return Ok(file) };
    let targeted: Vec<&Arc<StackedParameter>> =
        layout.parameters.iter().filter(|parameter| stored.names_parameter(&parameter.name())).collect();
    let tensors: BTreeMap<String, String> = file.names().into_iter().map(|name| (module_name(&name), name)).collect();
    for module in targeted.chunk_by(|one, other| one.module == other.module) {
        for (index, parameter) in module.iter().enumerate() {
            let stem = wrapped(&parameter.module, index, module.len());
            let found = FACTORS.map(|end| tensors.get(&format!("{stem}{end}")));
            if let [Some(lora_a), Some(lora_b)] = found {
                file.take_apart(parameter, [lora_a, lora_b], |matrix, factor| {
                    format!("{PREFIX}{matrix}{}", FACTORS[factor])
                });
            }
        }
    }
    Ok(file)
}

/// The names of the tensors of a layer in the file; an absent one is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LayerTensors {
    /// `A` and `B`.
    factors: [String; 2],
    /// The magnitude of a DoRA layer.
    magnitude: String,
    /// The name of the parameter that the layer is a part of, which has rank and scale.
    parameter: Option<String>,
}

impl LayerTensors {
    /// The factors of the layer `name`, as the file has them.
    pub(crate) fn factors(&self, name: &str, file: &AdapterFile, config: &LoraConfig) -> ModelResult<Factors> {
        let [a, b] = &self.factors;
        let (rank, values) = (self.rank(name, config), [file.read_f32(a)?, file.read_f32(b)?]);
        let shapes = [[rank, values[0].len() / rank], [values[1].len() / rank, rank]];
        Ok(Factors { values, shapes })
    }

    /// The rank of the layer `name`.
    pub(crate) fn rank(&self, name: &str, config: &LoraConfig) -> usize {
        config.rank_of(self.parameter.as_deref().unwrap_or(name))
    }

    /// The factor on the update of the layer `name`.
    pub(crate) fn scale(&self, name: &str, config: &LoraConfig) -> f64 {
        config.scale_of(self.parameter.as_deref().unwrap_or(name))
    }

    /// The magnitude, if the adapter is one of DoRA.
    pub(crate) fn magnitude(&self, file: &AdapterFile) -> ModelResult<Option<Vec<f32>>> {
        (!self.magnitude.is_empty()).then(|| file.read_f32(&self.magnitude)).transpose()
    }
}

/// The tensors of an adapter file, grouped by layer.
pub(crate) struct AdapterTensors<'a> {
    file: &'a AdapterFile,
    config: &'a LoraConfig,
    /// The tensors of each layer of the model.
    pub(crate) layers: BTreeMap<String, LayerTensors>,
    /// The tensor of each matrix that was trained as a whole, by its name without `.weight`.
    pub(crate) modules: BTreeMap<String, String>,
    /// What is wrong with each tensor that can't be used.
    unsupported: Vec<String>,
}

impl<'a> AdapterTensors<'a> {
    /// Groups the tensors of the adapter in `folder` by layer.
    ///
    /// The adapter of a multimodal model is read as that of its text part, as its base is.
    pub(crate) fn new(folder: &Path, file: &'a AdapterFile, config: &'a LoraConfig) -> Self {
        let mut found = Self { file, config, layers: BTreeMap::new(), modules: BTreeMap::new(), unsupported: Vec::new() };
        let stored = file.names();
        let is_multimodal = stored.iter().any(|tensor| is_of_text_part(&module_name(tensor)));
        let mut left_out = 0;
        for tensor in stored {
            let name = module_name(&tensor);
            if !is_multimodal {
                found.add(tensor, &name, &name);
            } else if let Some(own) = in_text_model(&name) {
                found.add(tensor, &own, &name);
            } else {
                left_out += 1;
            }
        }
        if left_out > 0 {
            tracing::warn!(
                "{}: this adapter is for a multimodal model; {left_out} tensors outside its text part are not read",
                folder.display()
            );
        }
        found
    }

    /// Adds a tensor that is called `own` in the model, and `name` in the model that the adapter was trained on.
    fn add(&mut self, tensor: String, own: &str, name: &str) {
        let factor = FACTORS.iter().position(|end| own.ends_with(end));
        let magnitude = MAGNITUDES.iter().find(|end| self.config.dora && own.ends_with(*end));
        if let Some(module) = own.strip_suffix(".weight").filter(|module| self.is_trained(module)) {
            self.modules.insert(module.to_owned(), tensor);
            return;
        }
        let Some(end) = factor.map(|index| FACTORS[index]).or(magnitude.copied()) else {
            self.unsupported.push(format!("{tensor}: {}", describe_unsupported(own)));
            return;
        };
        let [layer, trained] = [own, name].map(|name| &name[..name.len() - end.len()]);
        let values = |layer: &str| (self.config.rank_of(layer), self.config.scale_of(layer).to_bits());
        if values(layer) != values(trained) {
            self.unsupported.push(format!(
                "{tensor}: `rank_pattern` or `alpha_pattern` names it as a layer of a multimodal model, which is not supported"
            ));
        }
        let parameter = self.file.parameter_of(&tensor).map(|parameter| parameter.name());
        if trained.ends_with(WRAPPED) {
            self.unsupported.push(format!("{tensor}: `target_parameters` does not say which parameter's it is"));
        } else if let TargetModules::Named(targets) = &self.config.target_modules
            && !targets.iter().any(|target| is_named(trained, target))
            && parameter.is_none()
            && !self.config.names_parameter(&format!("{trained}.weight"))
        {
            self.unsupported.push(format!("{tensor}: `target_modules` does not name its layer, so that PEFT ignores it"));
        }
        let found = self.layers.entry(layer.to_owned()).or_default();
        found.parameter = parameter;
        let slot = factor.map_or(&mut found.magnitude, |index| &mut found.factors[index]);
        if slot.is_empty() {
            *slot = tensor;
        } else {
            self.unsupported.push(format!("{tensor}: the file also has {slot}, which is the same"));
        }
    }

    /// Whether this is the embedding or the head, trained as a whole. PEFT lists one name of the two if they are one matrix.
    fn is_trained(&self, module: &str) -> bool {
        let is_outer = NAMES.iter().any(|name| is_named(module, name));
        is_outer && self.config.modules_to_save.iter().any(|name| NAMES.iter().any(|outer| is_named(name, outer)))
    }

    /// Checks that the adapter, which is in `folder`, fits the layers of a model.
    pub(crate) fn check_model<B: FusedBackend>(&self, folder: &Path, model: &LanguageModel<B>) -> Result<()> {
        let linears = model.linears().into_iter().chain(model.routers()).map(|(name, linear)| (name, linear.dims()));
        let mut dims: BTreeMap<String, [usize; 2]> = linears.collect();
        for stack in model.stacks() {
            let of_matrix = stack.parameter().matrix_dims();
            dims.extend(stack.parameter().matrix_names().map(|name| (name, of_matrix)));
        }
        let matrices = model.matrices().into_iter().map(|matrix| (module(&matrix.name).to_owned(), matrix.weight.dims()));
        let dims: BTreeMap<String, [usize; 2]> = dims.into_iter().chain(matrices).collect();
        self.check(folder, |layer| dims.get(layer).copied())
    }

    /// As [`AdapterTensors::check_model`]; `dims` returns the `[out, in]` of a layer that the model has.
    pub(crate) fn check(&self, folder: &Path, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Result<()> {
        // A checkpoint has these weights too: merging would use an adapter that an attached one can't have.
        let outside = self.layers.keys().filter(|layer| {
            let last = layer.rsplit('.').next().unwrap_or_default();
            NAMES.contains(&last)
        });
        let outside = outside.map(|layer| format!("{layer}: only linear layers of the blocks can have an adapter"));
        let apart = self.check_tied(&dims)?;
        let unsupported: Vec<String> = self.unsupported.iter().cloned().chain(outside).chain(apart).collect();
        if !unsupported.is_empty() {
            return Err(LoraError::Unsupported { path: folder.to_owned(), problems: unsupported });
        }
        let problems = [self.mismatches(&dims), self.module_mismatches(&dims)].concat();
        if problems.is_empty() { Ok(()) } else { Err(LoraError::Mismatch { path: folder.to_owned(), problems }) }
    }

    /// Where the base uses its embedding as its head, the adapter must have the same for both.
    fn check_tied(&self, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Result<Option<String>> {
        let Some((head, tensor)) = self.modules.iter().find(|(name, _)| is_named(name, NAMES[1])) else {
            let embedding = self.modules.keys().find(|name| is_named(name, NAMES[0]));
            let is_tied = dims(NAMES[1]).is_none();
            return Ok(embedding.filter(|_| is_tied).map(|name| format!("{name}: {APART}")));
        };
        if dims(head).is_some() {
            return Ok(None);
        }
        let embedding = self.modules.iter().find(|(name, _)| is_named(name, NAMES[0])).map(|(_, tensor)| tensor);
        let is_same = match embedding {
            Some(embedding) => self.file.is_same(embedding, tensor)?,
            None => false,
        };
        Ok((!is_same).then(|| format!("{head}: {APART}")))
    }

    /// The tensor of each matrix that the base stores and that was trained as a whole, by its name without `.weight`.
    pub(crate) fn trained(&self, dims: impl Fn(&str) -> Option<[usize; 2]>) -> BTreeMap<String, String> {
        let stored = self.modules.iter().filter(|(name, _)| dims(name).is_some());
        stored.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    }

    fn module_mismatches(&self, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Vec<String> {
        let mut problems = Vec::new();
        for name in &self.config.modules_to_save {
            if !self.modules.keys().any(|module| is_named(module, name) || is_named(name, module)) {
                problems.push(format!("{name}: `modules_to_save` names it, but it has no tensor"));
            }
        }
        for (name, tensor) in &self.modules {
            let shape = self.file.shape(tensor);
            if let Some(expected) = dims(name).filter(|expected| shape != expected) {
                problems.push(format!("{tensor}: expected {expected:?}, got {shape:?}"));
            }
        }
        problems
    }

    fn mismatches(&self, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.layers.is_empty() {
            problems.push("it has no tensors".to_owned());
        }
        for (layer, tensors) in &self.layers {
            let LayerTensors { factors: [a, b], magnitude, .. } = tensors;
            if a.is_empty() || b.is_empty() {
                problems.push(format!("{layer}: expected lora_A and lora_B, got only one of them"));
                continue;
            }
            if self.config.dora && magnitude.is_empty() {
                problems.push(format!("{layer}: `use_dora` is true, but lora_magnitude_vector is missing"));
                continue;
            }
            let Some([outputs, inputs]) = dims(layer) else {
                problems.push(format!("{layer}: the model has no such layer"));
                continue;
            };
            let rank = tensors.rank(layer, self.config);
            let magnitude = (!magnitude.is_empty()).then(|| (magnitude, vec![outputs]));
            for (tensor, expected) in [(a, vec![rank, inputs]), (b, vec![outputs, rank])].into_iter().chain(magnitude) {
                let shape = self.file.shape(tensor);
                if shape != expected {
                    problems.push(format!("{tensor}: expected {expected:?}, got {shape:?}"));
                }
            }
        }
        problems
    }
}

/// Says what a tensor is that is not a factor of a linear layer.
fn describe_unsupported(name: &str) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or_default();
    match (name.contains("lora_"), last) {
        _ if name.contains("lora_embedding_") => {
            "an adapter of the embedding; only linear layers of the blocks can have an adapter"
        }
        _ if name.contains("lora_magnitude_vector") => "the magnitude of a DoRA adapter, but `use_dora` is not set",
        (true, "bias") => "a bias in the adapter itself (`lora_bias`), which is not supported",
        (false, "bias") => "a bias that was trained beside the adapter (`bias`), which is not supported",
        (false, "weight") => {
            "a whole layer beside the adapter; only the embedding and the head can be one, if `modules_to_save` names them"
        }
        _ => "neither lora_A nor lora_B",
    }
}
