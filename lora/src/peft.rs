//! PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::FusedBackend;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, LanguageModel};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::attach::{layer_index, low_rank};
use crate::config::{LoraConfig, TargetModules};
use crate::error::{LoraError, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The files of a PEFT folder.
pub const ADAPTER_FILES: [&str; 2] = [CONFIG, WEIGHTS];
/// What PEFT puts before the names of the base model.
const PREFIX: &str = "base_model.model.";

/// Writes the model's adapters as a PEFT folder.
///
/// The bytes depend on the values alone: names are sorted, nothing else is recorded.
///
/// # Errors
/// When the folder can't be written, or the model has no adapter.
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
        for (part, param) in [("lora_A", &adapter.lora_a), ("lora_B", &adapter.lora_b)] {
            let data = param.val().into_data();
            let shape = data.shape.to_vec();
            let bytes = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            tensors.insert(format!("{PREFIX}{name}.{part}.weight"), (bytes, shape));
        }
        adapted.push(name);
    }
    if tensors.is_empty() {
        return Err(LoraError::Config { reason: "the model has no adapter to save".into() });
    }
    fs::create_dir_all(folder).map_err(|error| LoraError::io(folder, error))?;
    let weights = folder.join(WEIGHTS);
    let views: Vec<(&String, TensorView)> = tensors
        .iter()
        .map(|(name, (bytes, shape))| TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view)))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| LoraError::format(&weights, error.to_string()))?;
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata).map_err(|error| LoraError::format(&weights, error.to_string()))?;
    write(&weights, &bytes)?;
    let layers: Vec<String> = model.linears().into_iter().map(|(name, _)| name).collect();
    let text = format!("{:#}", config_json(config, base_model, &Adapted::of(&adapted, &layers)));
    write(&folder.join(CONFIG), text.as_bytes())
}

/// Which layers have an adapter, as PEFT's configuration says it.
#[derive(Debug, PartialEq, Eq)]
struct Adapted {
    target_modules: Vec<String>,
    /// The blocks, where not all of them.
    layers_to_transform: Option<Vec<usize>>,
}

impl Adapted {
    /// From the layers that have one, and all layers that might. Names and blocks apart serve where every block has the same
    /// ones; else each layer is named in full.
    fn of(adapted: &[String], layers: &[String]) -> Self {
        let split = |names: &[String]| -> (BTreeSet<usize>, BTreeSet<String>) {
            let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
            (names.iter().filter_map(|name| layer_index(name)).collect(), names.iter().map(last).collect())
        };
        let (blocks, parts) = split(adapted);
        let (all_blocks, _) = split(layers);
        let meant = layers.iter().filter(|layer| {
            layer_index(layer).is_some_and(|block| blocks.contains(&block))
                && layer.rsplit('.').next().is_some_and(|part| parts.contains(part))
        });
        if meant.count() != adapted.len() {
            return Self { target_modules: adapted.to_vec(), layers_to_transform: None };
        }
        let some = (blocks != all_blocks).then(|| blocks.into_iter().collect());
        Self { target_modules: parts.into_iter().collect(), layers_to_transform: some }
    }
}

/// `adapter_config.json` as PEFT 0.21 reads it.
fn config_json(config: &LoraConfig, base_model: &str, adapted: &Adapted) -> Value {
    let layers = &adapted.layers_to_transform;
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "target_modules": adapted.target_modules,
        "layers_to_transform": layers,
        "layers_pattern": layers.as_ref().map(|_| "layers"),
        "modules_to_save": null,
    })
}

/// Reads `adapter_config.json`. Which blocks have adapters, their tensors say: `num_layers` stays unset.
///
/// # Errors
/// When it is missing, malformed, or asks for something that is not LoRA as computed here.
pub fn read_config(folder: &Path) -> Result<LoraConfig> {
    let path = folder.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(|error| LoraError::io(&path, error))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| LoraError::format(&path, format!("not JSON: {error}")))?;
    let refuse = |reason: String| LoraError::format(&path, reason);
    if json.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(refuse(format!("`peft_type` is {}, not LORA", json.get("peft_type").unwrap_or(&Value::Null))));
    }
    for key in ["use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"] {
        if json.get(key).and_then(Value::as_bool) == Some(true) {
            return Err(refuse(format!("`{key}` is not supported")));
        }
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if json.get(key).and_then(Value::as_object).is_some_and(|pattern| !pattern.is_empty()) {
            return Err(refuse(format!("`{key}` is not supported: every layer has one rank and one alpha")));
        }
    }
    let rank = json
        .get("r")
        .and_then(Value::as_u64)
        .filter(|rank| (1..=65_536).contains(rank))
        .ok_or_else(|| refuse("`r` is missing or no positive number".into()))?;
    // Absent keys have PEFT's defaults.
    let number = |key: &str, default: f64| match json.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| refuse(format!("`{key}` is {value}, which is no number"))),
    };
    let rslora = match json.get("use_rslora") {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or_else(|| refuse(format!("`use_rslora` is {value}, not true or false")))?,
    };
    let target_modules = match json.get("target_modules") {
        Some(value @ (Value::String(_) | Value::Array(_))) => serde_json::from_value(value.clone())
            .map_err(|_| refuse("`target_modules` is neither a name nor a list of names".into()))?,
        _ => TargetModules::all_linear(),
    };
    let config = LoraConfig {
        rank: rank as usize,
        alpha: number("lora_alpha", 8.0)?,
        dropout: number("lora_dropout", 0.0)?,
        rslora,
        target_modules,
        num_layers: None,
    };
    config.check()?;
    Ok(config)
}

/// Attaches the adapters of a PEFT folder, in f32; `dropout` replaces that of its configuration.
///
/// # Errors
/// [`LoraError::Misfit`] with every tensor that has no layer, no partner, or another shape.
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
    let tensors = SafetensorsFolder::from_files(&[folder.join(WEIGHTS)])?;
    let found = AdapterTensors::new(&tensors, config.rank);
    let problems = found.problems(model);
    if !problems.is_empty() {
        return Err(LoraError::Misfit { path: folder.to_owned(), problems });
    }
    for (name, linear) in model.linears_mut() {
        let Some([a, b]) = found.layers.get(&name) else { continue };
        let [outputs, inputs] = linear.dims();
        let read = |tensor: &str, shape: [usize; 2]| -> Result<Tensor<B, 2>> {
            Ok(Tensor::from_data(TensorData::new(tensors.read_f32(tensor)?, shape), (device, DType::F32)))
        };
        let lora_a = read(a, [config.rank, inputs])?;
        let lora_b = read(b, [outputs, config.rank])?;
        linear.adapter = Some(low_rank(&name, lora_a, lora_b, &config));
    }
    Ok(config)
}

/// The tensors of an adapter file, paired by layer.
pub(crate) struct AdapterTensors<'a> {
    checkpoint: &'a SafetensorsFolder,
    rank: usize,
    /// Layer to the names of its `A` and `B`.
    pub(crate) layers: BTreeMap<String, [String; 2]>,
    strange: Vec<String>,
}

impl<'a> AdapterTensors<'a> {
    pub(crate) fn new(checkpoint: &'a SafetensorsFolder, rank: usize) -> Self {
        let mut layers: BTreeMap<String, [String; 2]> = BTreeMap::new();
        let mut strange = Vec::new();
        for tensor in checkpoint.names() {
            let name = tensor.strip_prefix(PREFIX).unwrap_or(&tensor);
            let name = name.replace(".default.", ".");
            let part = [".lora_A.weight", ".lora_B.weight"].iter().position(|part| name.ends_with(part));
            match part {
                Some(index) => {
                    let layer = &name[..name.len() - ".lora_A.weight".len()];
                    layers.entry(layer.to_owned()).or_default()[index] = tensor;
                }
                None => strange.push(format!("{tensor}: neither lora_A nor lora_B")),
            }
        }
        Self { checkpoint, rank, layers, strange }
    }

    /// Everything that keeps the adapter from fitting layers of these dims.
    fn problems<B: FusedBackend>(&self, model: &LanguageModel<B>) -> Vec<String> {
        let dims: BTreeMap<String, [usize; 2]> =
            model.linears().into_iter().map(|(name, linear)| (name, linear.dims())).collect();
        self.misfits(|layer| dims.get(layer).copied())
    }

    /// As `problems`, with the dims of a layer given by a function.
    pub(crate) fn misfits(&self, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Vec<String> {
        let mut problems = self.strange.clone();
        if self.layers.is_empty() {
            problems.push("it has no tensors".to_owned());
        }
        for (layer, [a, b]) in &self.layers {
            if a.is_empty() || b.is_empty() {
                problems.push(format!("{layer}: only one of lora_A and lora_B is there"));
                continue;
            }
            let Some([outputs, inputs]) = dims(layer) else {
                problems.push(format!("{layer}: the model has no such layer"));
                continue;
            };
            for (tensor, wanted) in [(a, [self.rank, inputs]), (b, [outputs, self.rank])] {
                let shape = self.checkpoint.shape(tensor).unwrap_or_default();
                if shape != wanted {
                    problems.push(format!("{tensor}: {shape:?} found, {wanted:?} wanted"));
                }
            }
        }
        problems
    }
}

/// Writes a file whole and to the disk.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let run = || {
        let mut file = fs::File::create(path)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    };
    run().map_err(|error| LoraError::io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_said_as_peft_reads_them() {
        let name = |block: usize, part: &str| format!("model.layers.{block}.self_attn.{part}");
        let layers: Vec<String> = (0..3).flat_map(|block| ["q_proj", "v_proj"].map(|part| name(block, part))).collect();
        let of = |names: &[String]| Adapted::of(names, &layers);
        let parts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = Adapted { target_modules: parts(&["q_proj", "v_proj"]), layers_to_transform: None };
        assert_eq!(of(&layers), all);
        let some = [name(0, "v_proj"), name(2, "v_proj")];
        assert_eq!(of(&some), Adapted { target_modules: parts(&["v_proj"]), layers_to_transform: Some(vec![0, 2]) });
        let mixed = [name(0, "q_proj"), name(1, "v_proj")];
        assert_eq!(of(&mixed), Adapted { target_modules: mixed.to_vec(), layers_to_transform: None });
    }
}
