//! Recognises folders that hold something other than a supported model, so that errors can say what they hold.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::{is_read, names};
use crate::error::{ModelError, Result};
use crate::json_file;

/// Checks that a folder is not a PEFT or MLX adapter, a folder of GGUF files, or a model whose tokenizer is in another format.
/// `named` is the path or hub id for the error.
///
/// # Errors
/// [`ModelError::IsAdapter`] or [`ModelError::Unsupported`] if it is one of these.
pub fn check_folder(folder: &Path, named: &Path) -> Result<()> {
    let has = |name: &str| folder.join(name).exists();
    let unsupported = |reason: String| Err(ModelError::Unsupported { path: named.to_owned(), reason });
    if has("adapter_config.json") && !(has("config.json") && has_weights(folder)) {
        // An adapter is recognised even if its configuration is damaged.
        let config = json_file::read(&folder.join("adapter_config.json")).unwrap_or_default();
        return Err(ModelError::IsAdapter {
            path: named.to_owned(),
            base: base_of(&config),
            format: if is_mlx_adapter(&config) { "MLX" } else { "PEFT" },
        });
    }
    if !has("config.json") && has("config.toml") {
        match (has("model"), has("adapter")) {
            (true, _) => return unsupported("is a run folder; its model is in the folder `model` inside it".to_owned()),
            (_, true) => return unsupported("is a run folder; pass the folder `adapter` inside it as --adapter".to_owned()),
            _ => {}
        }
    }
    if !has("config.json") {
        return match gguf_files(folder).as_slice() {
            [] => Ok(()),
            files => unsupported(format!("has GGUF files; choose one of them as the model: {}", files.join(", "))),
        };
    }
    if has("tokenizer.json") || has("tokenizer.model") {
        return Ok(());
    }
    let way_out = "to convert it, call AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers";
    if has("vocab.json") && has("merges.txt") {
        return unsupported(format!("has vocab.json and merges.txt but no tokenizer.json; {way_out}"));
    }
    Ok(())
}

/// Whether an `adapter_config.json` was written by mlx-lm.
pub fn is_mlx_adapter(config: &Value) -> bool {
    config.get("peft_type").is_none_or(Value::is_null)
        && ["lora_parameters", "fine_tune_type", "lora_layers"].iter().any(|key| config.get(key).is_some())
}

/// Checks that no tensor is quantised in a way that is not read; `config` is `config.json`, `named` the path or hub id for the error.
///
/// # Errors
/// [`ModelError::Unsupported`] names the method of quantisation if there are any.
pub fn check_quantised(named: &Path, config: &Value, tensors: &[String]) -> Result<()> {
    const PACKED: [&str; 11] = [
        ".qweight",
        ".scales",
        ".weight.absmax",
        ".SCB",
        ".weight_packed",
        ".weight_scale",
        ".weight_scale_inv",
        ".W_q",
        ".codes",
        "_proj_blocks",
        ".weight._data",
    ];
    let refused = |name: &&String| PACKED.iter().any(|end| name.ends_with(end)) && !is_read(config, name);
    let Some(packed) = tensors.iter().find(refused) else { return Ok(()) };
    let method = method_of(config).unwrap_or_else(|| "method not named in config.json".to_owned());
    let reason = format!(
        "is quantised ({method}; it has `{packed}`), which is not supported; choose the model that it was made from, or a \
         .gguf file of it"
    );
    Err(ModelError::Unsupported { path: named.to_owned(), reason })
}

/// The name of a quantisation and its bits, as MLX (`quantization`) and transformers (`quantization_config`) write them.
fn method_of(config: &Value) -> Option<String> {
    let nested = config.get("text_config");
    let find = |key: &str| config.get(key).or_else(|| nested?.get(key)).filter(|value| value.is_object());
    let bits = |value: &Value| {
        let flag = |key: &str| value.get(key).and_then(Value::as_bool) == Some(true);
        let named = value.get("bits").and_then(Value::as_u64);
        named.or_else(|| flag("load_in_4bit").then_some(4)).or_else(|| flag("load_in_8bit").then_some(8))
    };
    let (name, value) = match (find("quantization_config"), find("quantization")) {
        (Some(value), _) if value.get("quant_method").is_some() => {
            (value["quant_method"].as_str().unwrap_or("unknown"), value)
        }
        (_, Some(value)) => ("MLX", value),
        (Some(value), None) => ("unknown method", value),
        (None, None) => return None,
    };
    Some(bits(value).map_or_else(|| name.to_owned(), |bits| format!("{name}, {bits} bits")))
}

fn base_of(config: &Value) -> Option<String> {
    let named = |key: &str| config.get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
    named("base_model_name_or_path").or_else(|| named("model")).map(str::to_owned)
}

fn has_weights(folder: &Path) -> bool {
    names::ALL.iter().any(|names| folder.join(names.single).exists() || folder.join(names.index).exists())
}

fn gguf_files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut files: Vec<String> = names.filter(|name| name.to_ascii_lowercase().ends_with(".gguf")).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    /// The error for a folder of these files; empty if there is none.
    fn error_for(files: &[(&str, &str)]) -> String {
        let folder = folder(files);
        let named = Path::new("what/was/named");
        let text = check_folder(folder.path(), named).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.is_empty() || text.contains("what/was/named"), "{text}");
        text
    }

    #[test]
    fn an_adapter_is_not_a_model() {
        let peft = json!({ "peft_type": "LORA", "base_model_name_or_path": "owner/base" }).to_string();
        let mlx = json!({ "fine_tune_type": "lora", "lora_parameters": { "rank": 8 }, "model": "mlx/base" }).to_string();
        let text = error_for(&[("adapter_config.json", &peft), ("tokenizer.json", "{}")]);
        assert!(text.contains("PEFT adapter") && text.contains("owner/base"), "{text}");
        let text = error_for(&[("adapter_config.json", &mlx), ("config.json", "{}")]);
        assert!(text.contains("MLX adapter") && text.contains("mlx/base"), "{text}");
        // A model with the configuration of an adapter beside it is a model.
        let whole =
            [("config.json", "{}"), ("tokenizer.json", ""), ("model.safetensors", ""), ("adapter_config.json", &peft)];
        assert_eq!(error_for(&whole), "");
    }

    #[test]
    fn unsupported_formats_are_named() {
        assert_eq!(error_for(&[("config.json", "{}"), ("tokenizer.model", "")]), "");
        let text = error_for(&[("config.json", "{}"), ("vocab.json", ""), ("merges.txt", "")]);
        assert!(text.contains("vocab.json and merges.txt") && text.contains("save_pretrained"), "{text}");
        let text = error_for(&[("m-Q4_0.gguf", ""), ("README.md", "")]);
        assert!(text.contains("m-Q4_0.gguf"), "{text}");
        assert_eq!(error_for(&[("config.json", "{}"), ("tokenizer.json", "")]), "");
        assert_eq!(error_for(&[]), "");
        let text = error_for(&[("config.toml", ""), ("adapter", "")]);
        assert!(text.contains("is a run folder; pass the folder `adapter`"), "{text}");
        let text = error_for(&[("config.toml", ""), ("model", "")]);
        assert!(text.contains("its model is in the folder `model`"), "{text}");
    }

    #[test]
    fn quantised_weights_are_refused_by_the_name_of_the_method() {
        let mlx = json!({ "quantization": { "group_size": 64, "bits": 3 } });
        let both = json!({ "quantization": { "bits": 6 }, "quantization_config": { "group_size": 64, "bits": 6 } });
        let mxfp4 = json!({ "quantization": { "group_size": 32, "bits": 4, "mode": "mxfp4" } });
        let gptq = json!({ "quantization_config": { "quant_method": "gptq", "bits": 8 } });
        let bnb = json!({ "quantization_config": { "quant_method": "bitsandbytes", "load_in_4bit": true } });
        let fbgemm = json!({ "quantization_config": { "quant_method": "fbgemm_fp8" } });
        for (config, tensor, method) in [
            (&mlx, "model.layers.0.mlp.up_proj.scales", "MLX, 3 bits"),
            (&both, "lm_head.scales", "MLX, 6 bits"),
            (&mxfp4, "lm_head.scales", "MLX, 4 bits"),
            (&gptq, "model.layers.0.mlp.up_proj.qweight", "gptq, 8 bits"),
            (&bnb, "model.layers.0.mlp.up_proj.weight.absmax", "bitsandbytes, 4 bits"),
            (&fbgemm, "model.layers.0.mlp.up_proj.weight_scale", "fbgemm_fp8"),
            (&json!({}), "a.qweight", "not named in config.json"),
        ] {
            let tensors = ["model.embed_tokens.weight".to_owned(), tensor.to_owned()];
            let text = check_quantised(Path::new("m"), config, &tensors).unwrap_err().to_string();
            assert!(text.contains(method) && text.contains(tensor), "{text}");
        }
        // What is read is not refused.
        let nf4 = json!({
            "quantization_config": { "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" },
        });
        let int4 = json!({ "quantization": { "group_size": 64, "bits": 4 } });
        let fp8 = json!({ "quantization_config": { "quant_method": "fp8", "weight_block_size": [128, 128] } });
        for (config, tensor) in [(nf4, "q_proj.weight.absmax"), (int4, "q_proj.scales"), (fp8, "q_proj.weight_scale_inv")] {
            check_quantised(Path::new("m"), &config, &[tensor.to_owned()]).unwrap();
        }
        // The weights are floats, whatever the configuration says.
        check_quantised(Path::new("m"), &gptq, &["model.embed_tokens.weight".to_owned()]).unwrap();
    }
}
