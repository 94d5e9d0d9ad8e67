//! Adapters of mlx-lm: `adapter_config.json` and `adapters.safetensors`.
//!
//! Source: `mlx_lm/tuner` of mlx-lm 0.32.2.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burnish_models::Checkpoint;
use burnish_models::checkpoint::SafetensorsFolder;
use serde_json::{Map, Value};

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use crate::file::{AdapterFile, ModelLayout, Order, StoredTensor};
use crate::peft::{CONFIG, FACTORS, MAGNITUDES, PREFIX};

/// The file of the tensors.
pub const MLX_WEIGHTS: &str = "adapters.safetensors";
/// The ends of the names of a layer's factors, `[in, rank]` and `[rank, out]`.
pub const MLX_FACTORS: [&str; 2] = [".lora_a", ".lora_b"];
/// The end of the name of a `DoRA` layer's magnitude.
pub const MLX_MAGNITUDE: &str = ".m";

/// The configuration. `alpha` is `scale · rank`, because mlx-lm multiplies the update by `scale` itself.
///
/// # Errors
/// If a key is missing, malformed, or asks for something else than LoRA or `DoRA`.
pub(crate) fn config(folder: &Path, json: &Value) -> Result<LoraConfig> {
    of_json(json).map_err(|reason| LoraError::format(folder.join(CONFIG), reason))
}

fn of_json(json: &Value) -> std::result::Result<LoraConfig, String> {
    let dora = match json.get("fine_tune_type") {
        None | Some(Value::Null) => false,
        Some(kind) if kind == "lora" => false,
        Some(kind) if kind == "dora" => true,
        Some(kind) if kind == "full" => {
            return Err(
                "`fine_tune_type` is \"full\", so this is a whole model, not an adapter; mlx_lm.fuse writes it as one, \
                        to be used as --model"
                    .to_owned(),
            );
        }
        Some(kind) => return Err(format!("`fine_tune_type`: expected \"lora\" or \"dora\", got {kind}")),
    };
    let parameters = json.get("lora_parameters").and_then(Value::as_object).ok_or("`lora_parameters` is missing")?;
    let rank = parameters.get("rank").ok_or("`lora_parameters.rank` is missing")?;
    let rank = rank
        .as_u64()
        .filter(|rank| (1..=crate::peft::MAX_RANK).contains(rank))
        .ok_or_else(|| format!("`lora_parameters.rank`: expected a whole number, got {rank}"))? as usize;
    let scale = number(parameters, "scale")?.ok_or("`lora_parameters.scale` is missing")?;
    // mlx-lm before 0.19 multiplied by `scale · alpha / rank`, and later versions ignore `alpha`.
    if let Some(alpha) = number(parameters, "alpha")?.filter(|alpha| (alpha - rank as f64).abs() > 0.0) {
        return Err(format!(
            "`lora_parameters` has `alpha` {alpha} beside `scale` {scale}: old versions of mlx-lm multiply by both, new ones by \
             `scale` alone; remove `alpha`, and in the first case set `scale` to {}",
            scale * alpha / rank as f64
        ));
    }
    let config = LoraConfig {
        rank,
        alpha: scale * rank as f64,
        dropout: number(parameters, "dropout")?.unwrap_or(0.0),
        dora,
        ..LoraConfig::default()
    };
    config.check().map_err(|error| error.to_string())?;
    Ok(config)
}

fn number(parameters: &Map<String, Value>, key: &str) -> std::result::Result<Option<f64>, String> {
    match parameters.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            value.as_f64().map(Some).ok_or_else(|| format!("`lora_parameters.{key}`: expected a number, got {value}"))
        }
    }
}

/// Opens the tensors.
///
/// # Errors
/// If the file can't be read as safetensors.
pub(crate) fn open_weights(folder: &Path, layout: Option<&ModelLayout>) -> Result<AdapterFile> {
    let inner = SafetensorsFolder::from_files(&[weights(folder)])?;
    let mut tensors: BTreeMap<String, StoredTensor> = BTreeMap::new();
    let experts: BTreeMap<String, Vec<String>> = layout.map(experts_of).unwrap_or_default();
    for name in inner.names() {
        let of_experts = MLX_FACTORS.iter().zip(FACTORS).find_map(|(end, peft)| {
            let matrices = experts.get(name.strip_suffix(end)?)?;
            Some((matrices, peft))
        });
        let Some((matrices, end)) = of_experts else {
            let (peft, stored) = peft_tensor(name);
            tensors.insert(peft, stored);
            continue;
        };
        for (index, matrix) in matrices.iter().enumerate() {
            let stored = StoredTensor { name: name.clone(), order: Order::One { index } };
            tensors.insert(format!("{PREFIX}{matrix}{end}"), stored);
        }
    }
    Ok(AdapterFile::new(Box::new(inner), tensors))
}

/// The matrices of the experts that a layer of mlx-lm has, by its name. Its factors are `[experts, rank, in]` and
/// `[experts, out, rank]`.
///
/// # Source
/// `LoRASwitchLinear` in `mlx_lm/tuner/lora.py`.
fn experts_of(layout: &ModelLayout) -> BTreeMap<String, Vec<String>> {
    let of_parameter = layout.parameters.iter().flat_map(|parameter| {
        parameter.parts.iter().map(|part| {
            let name = part.mlx_name_in(parameter.layer);
            (name, (0..parameter.experts).map(|expert| parameter.matrix_name(part, expert)).collect())
        })
    });
    of_parameter.collect()
}

/// The file of the tensors in a folder.
pub(crate) fn weights(folder: &Path) -> PathBuf {
    folder.join(MLX_WEIGHTS)
}

/// A tensor with its name in PEFT.
fn peft_tensor(name: String) -> (String, StoredTensor) {
    let stored =
        |layer: &str, end: &str, order| (format!("{PREFIX}{layer}{end}"), StoredTensor { name: name.clone(), order });
    for (end, peft) in MLX_FACTORS.iter().zip(FACTORS) {
        if let Some(layer) = name.strip_suffix(end) {
            return stored(layer, peft, Order::Transposed);
        }
    }
    match name.strip_suffix(MLX_MAGNITUDE) {
        Some(layer) => stored(layer, MAGNITUDES[0], Order::Same),
        None => stored(&name, "", Order::Same),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_scale_is_a_factor_and_not_an_alpha() {
        let json = json!({ "fine_tune_type": "lora", "lora_parameters": { "rank": 8, "scale": 20.0, "dropout": 0.1 } });
        let config = of_json(&json).unwrap();
        assert_eq!((config.rank, config.alpha, config.scale(), config.dropout), (8, 160.0, 20.0, 0.1));
        let mut old = json.clone();
        old["lora_parameters"]["alpha"] = json!(16);
        assert!(of_json(&old).unwrap_err().contains("set `scale` to 40"));
        old["lora_parameters"]["alpha"] = json!(8);
        assert_eq!(of_json(&old).unwrap(), config);
    }

    #[test]
    fn what_is_no_adapter_is_refused_by_its_key() {
        for (key, value) in [
            ("fine_tune_type", json!("full")),
            ("fine_tune_type", json!("ia3")),
            ("lora_parameters", json!({ "rank": 8 })),
            ("lora_parameters", json!({ "rank": 0, "scale": 1.0 })),
            ("lora_parameters", json!({ "rank": 8, "scale": "20" })),
            ("lora_parameters", json!(null)),
        ] {
            let mut json = json!({ "lora_parameters": { "rank": 8, "scale": 20.0 } });
            json[key] = value;
            let error = of_json(&json).unwrap_err();
            assert!(error.contains(&format!("`{key}")), "{error}");
        }
    }

    #[test]
    fn tensors_have_the_names_of_peft() {
        let peft = |name: &str| {
            let (peft, stored) = peft_tensor(name.to_owned());
            (peft, stored.order)
        };
        let layer = "base_model.model.model.layers.0.mlp.up_proj";
        assert_eq!(peft("model.layers.0.mlp.up_proj.lora_a"), (format!("{layer}.lora_A.weight"), Order::Transposed));
        assert_eq!(peft("model.layers.0.mlp.up_proj.m"), (format!("{layer}.lora_magnitude_vector"), Order::Same));
        assert_eq!(peft("model.norm.weight").0, "base_model.model.model.norm.weight");
    }
}
