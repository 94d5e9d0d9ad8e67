//! A folder that transformers, vLLM, mlx-lm and llama.cpp's converter open.

use std::path::Path;

use burnish_models::{Checkpoint, Pretrained};
use serde_json::{Map, Value, json};

use crate::chat_templates;
use crate::error::Result;
use crate::float::FloatType;
use crate::place::{folder, small};
use crate::report::ExportReport;
use crate::safetensors::{SHARD_BYTES, pretty, write_shards};

/// How the folder is written.
#[derive(Debug, Clone, Copy)]
pub struct HuggingFaceOptions {
    /// Storage of the weights.
    pub float: FloatType,
    /// Shards are no larger, unless one tensor is.
    pub shard_bytes: u64,
    /// Replace what is there.
    pub overwrite: bool,
}

impl Default for HuggingFaceOptions {
    fn default() -> Self {
        Self { float: FloatType::BF16, shard_bytes: SHARD_BYTES, overwrite: false }
    }
}

/// Writes config, tokenizer, chat template and weights.
///
/// # Errors
/// When the target exists, a tensor is beyond f16, or the disk refuses; nothing is left then.
pub fn export_hugging_face(
    model: &Pretrained,
    weights: &dyn Checkpoint,
    target: &Path,
    options: &HuggingFaceOptions,
) -> Result<ExportReport> {
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    folder(target, options.overwrite, |folder| {
        report.bytes += small(&folder.join("config.json"), &pretty(&config(model, options.float)))?;
        if let Some(generation) = &model.generation_config {
            report.bytes += small(&folder.join("generation_config.json"), &pretty(generation))?;
        }
        let tokenizer = model.tokenizer.to_json()?;
        report.bytes += small(&folder.join("tokenizer.json"), &tokenizer)?;
        report.bytes += small(&folder.join("tokenizer_config.json"), &pretty(&tokenizer_config(model)))?;
        if let Some(template) = &model.chat_template {
            report.bytes += chat_templates::write(folder, template)?;
        }
        report.bytes += write_shards(weights, folder, options.float, options.shard_bytes)?;
        Ok(())
    })?;
    report.tensors.insert(options.float.safetensors_name().to_owned(), weights.names().len());
    Ok(report)
}

fn config(model: &Pretrained, float: FloatType) -> Value {
    let mut config = model.config_json.clone();
    if let Value::Object(map) = &mut config {
        map.insert("torch_dtype".to_owned(), json!(float.torch_name()));
        map.remove("quantization_config");
        map.entry("architectures").or_insert_with(|| {
            json!([if model.config.model_type == "mistral" { "MistralForCausalLM" } else { "LlamaForCausalLM" }])
        });
    }
    config
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
