//! A folder that transformers, vLLM, mlx-lm and llama.cpp's converter open.

use std::path::Path;

use burnish_models::checkpoint::Stacked;
use burnish_models::{Checkpoint, FloatType, Pretrained};
use serde_json::{Map, Value, json};

use crate::counted_file::write_text;
use crate::error::Result;
use crate::model_card::ModelCard;
use crate::report::ExportReport;
use crate::safetensors::{SHARD_BYTES, pretty, write_shards};
use crate::target::{inputs_of, write_folder};
use crate::{chat_templates, fit};

/// Options of [`export_hugging_face`].
#[derive(Debug, Clone)]
pub struct HuggingFaceOptions {
    /// The type that the weights are stored in.
    pub float: FloatType,
    /// The largest size of a shard in bytes; a single tensor may be larger.
    pub shard_bytes: u64,
    /// The model card, if there is to be one.
    pub card: Option<ModelCard>,
    /// Whether an existing target may be replaced.
    pub overwrite: bool,
}

impl Default for HuggingFaceOptions {
    fn default() -> Self {
        Self { float: FloatType::BF16, shard_bytes: SHARD_BYTES, card: None, overwrite: false }
    }
}

/// Writes a Hugging Face folder: configuration, tokenizer, chat template, the model card of the options, and `weights` as
/// safetensors.
///
/// `weights` are those of `model`, or the same with an adapter merged into them.
///
/// # Errors
/// [`ExportError::Exists`](crate::ExportError::Exists) or [`ExportError::Occupied`](crate::ExportError::Occupied) if the target
/// must not be replaced, and an error if a tensor is missing, can't be read, has another shape than the configuration says, or is
/// outside the range of f16, or the folder can't be written. The target is then unchanged.
pub fn export_hugging_face(
    model: &Pretrained,
    weights: &dyn Checkpoint,
    target: &Path,
    options: &HuggingFaceOptions,
) -> Result<ExportReport> {
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    fit::check(&model.config, weights)?;
    let stacked = Stacked::of(weights, &model.config);
    let weights: &dyn Checkpoint = match &stacked {
        Some(stacked) => stacked,
        None => weights,
    };
    write_folder(target, options.overwrite, &inputs_of(model, weights), |folder| -> Result<()> {
        report.bytes += write_all_but_weights(model, &config(model, options.float), folder)?;
        report.bytes += write_shards(weights, folder, options.float, options.shard_bytes)?;
        if let Some(card) = &options.card {
            report.bytes += card.write(folder)?;
        }
        Ok(())
    })?;
    for name in weights.names() {
        let stored =
            weights.integer_dtype(&name).map_or(options.float.safetensors_name().to_owned(), |kind| kind.to_string());
        *report.tensors.entry(stored).or_default() += 1;
    }
    Ok(report)
}

/// Writes configuration, tokenizer and chat templates, and returns the number of bytes.
pub(crate) fn write_all_but_weights(model: &Pretrained, config: &Value, folder: &Path) -> Result<u64> {
    let mut bytes = write_text(&folder.join("config.json"), &pretty(config))?;
    if let Some(generation) = generation_config(model) {
        bytes += write_text(&folder.join("generation_config.json"), &pretty(&generation))?;
    }
    bytes += write_text(&folder.join("tokenizer.json"), &model.tokenizer.to_json()?)?;
    bytes += write_text(&folder.join("tokenizer_config.json"), &pretty(&tokenizer_config(model)))?;
    if let Some(template) = &model.chat_template {
        bytes += chat_templates::write(folder, template)?;
    }
    Ok(bytes)
}

/// `config.json` of a model whose weights are stored as `float`.
pub(crate) fn config(model: &Pretrained, float: FloatType) -> Value {
    let mut config = model.config_json.clone();
    set_dtype(&mut config, float);
    if let Value::Object(map) = &mut config {
        let class = model.config.family.class_of(&model.config.model_type);
        map.entry("architectures").or_insert_with(|| json!([class]));
    }
    config
}

/// The model's own. For a GGUF, which has none, one with its end tokens, which would otherwise be lost.
fn generation_config(model: &Pretrained) -> Option<Value> {
    let special = model.tokenizer.special();
    model.generation_config.clone().or_else(|| {
        let id = |token: &Option<(String, u32)>| token.as_ref().map(|(_, id)| *id);
        (!special.end.is_empty()).then(|| {
            json!({
                "bos_token_id": id(&special.bos),
                "eos_token_id": model.config.eos_token_id,
                "pad_token_id": id(&special.pad),
            })
        })
    })
}

/// Sets the type of the weights under both its names, `dtype` of transformers 5 and `torch_dtype` of earlier versions, also in
/// nested configurations such as `text_config`. Removes the keys of quantisation, since the weights are written as floats.
fn set_dtype(config: &mut Value, float: FloatType) {
    let Value::Object(map) = config else { return };
    for key in ["dtype", "torch_dtype"] {
        map.insert(key.to_owned(), json!(float.torch_name()));
    }
    for key in ["quantization_config", "quantization"] {
        map.remove(key);
    }
    for (key, part) in map.iter_mut() {
        if key.ends_with("_config") {
            set_dtype(part, float);
        }
    }
}

fn tokenizer_config(model: &Pretrained) -> Value {
    let special = model.tokenizer.special();
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    config.insert("model_max_length".to_owned(), json!(model.config.max_position_embeddings));
    config.insert("add_bos_token".to_owned(), json!(special.add_bos));
    config.insert("add_eos_token".to_owned(), json!(special.add_eos));
    for (key, token) in
        [("bos_token", &special.bos), ("eos_token", &special.eos), ("pad_token", &special.pad), ("unk_token", &special.unk)]
    {
        if let Some((text, _)) = token {
            config.insert(key.to_owned(), json!(text));
        }
    }
    if let Some(template) = &model.chat_template {
        config.insert("chat_template".to_owned(), chat_templates::configured(template));
    }
    Value::Object(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_not_replaced_by_its_own_export() {
        let root = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/assets/quickstart/model");
        let (base, target) = (Pretrained::open(source).unwrap(), root.path().join("base"));
        let options = HuggingFaceOptions { overwrite: true, ..HuggingFaceOptions::default() };
        let write = |model: &Pretrained, target: &Path| export_hugging_face(model, &*model.checkpoint, target, &options);
        write(&base, &target).unwrap();
        let copy = Pretrained::open(&target).unwrap();
        let error = write(&copy, &target).unwrap_err().to_string();
        assert!(error.contains("is an input of this export"), "{error}");
        write(&copy, &root.path().join("again")).unwrap();
        write(&base, &target).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
        assert_eq!(copy.config_json["dtype"], "bfloat16");
        assert_eq!(copy.config_json["torch_dtype"], "bfloat16");
        // The weights may be merged ones, of which the model's own card would be wrong.
        assert!(!target.join("README.md").exists());
    }

    #[test]
    fn both_names_of_the_dtype_agree_in_nested_configurations() {
        let mut config = json!({
            "dtype": "bfloat16", "quantization": { "bits": 4 },
            "text_config": { "dtype": "bfloat16", "torch_dtype": "bfloat16", "quantization_config": {} },
            "vision_config": { "hidden_size": 4 }, "rope_scaling": { "type": "linear" }
        });
        set_dtype(&mut config, FloatType::F32);
        for part in [&config, &config["text_config"], &config["vision_config"]] {
            assert_eq!((&part["dtype"], &part["torch_dtype"]), (&json!("float32"), &json!("float32")), "{part}");
            assert!(part.get("quantization_config").is_none() && part.get("quantization").is_none());
        }
        assert_eq!(config["rope_scaling"], json!({ "type": "linear" }));
    }
}
