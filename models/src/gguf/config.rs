//! Makes a `config.json` from the metadata of a GGUF file.

use serde_json::{Map, Value, json};

use super::keys;
use crate::checkpoint::Checkpoint;
use crate::config::{Family, GgufArchitecture};
use crate::error::{ModelError, Result};
use crate::families;
use crate::gguf::metadata::{Metadata, shortest};
use crate::part::Role;

/// A `config.json` for a file with that metadata and those tensors.
pub(super) fn config_json(metadata: &Metadata, tensors: &dyn Checkpoint) -> Result<Value> {
    let missing = |key: &str| ModelError::Config { reason: format!("`{key}` is missing from the GGUF file") };
    let architecture = metadata.text("general.architecture").ok_or_else(|| missing("general.architecture"))?;
    let family = families::by_architecture(architecture)?;
    let key = |name: &str| format!("{architecture}.{name}");
    let refuse = |reason: String| ModelError::Config { reason };
    let optional = |name: &str| metadata.optional_number(&key(name)).map_err(refuse);
    let number = |name: &str| optional(name)?.ok_or_else(|| missing(&key(name)));
    let float = |name: &str| metadata.optional_float(&key(name)).map_err(refuse);
    refuse_unread(metadata, &family.gguf)?;
    let mut config = Map::new();
    let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
    set("architectures", json!([family.model_types[0].class]));
    set("model_type", json!(family.model_types[0].name));
    set("hidden_act", json!("silu"));
    for size in keys::SIZES {
        let found = match size.fallback {
            Some(fallback) => optional(size.gguf)?.map_or_else(|| number(fallback), Ok)?,
            None => number(size.gguf)?,
        };
        set(size.config, json!(found));
    }
    let (heads, hidden) = (number("attention.head_count")?, number("embedding_length")?);
    let head_dim = optional(keys::KEY_LENGTH)?.unwrap_or(hidden / heads.max(1));
    if let Some(rotated) = optional(keys::ROPE_DIMENSION_COUNT)?.filter(|rotated| *rotated != head_dim) {
        if family.reads.contains(&"partial_rotary_factor") {
            set("partial_rotary_factor", json!(rotated as f64 / head_dim as f64));
        } else {
            return Err(refuse(format!(
                "`{}`: expected {head_dim}, the size of a head, got {rotated}; rotating only a part of each head is not supported",
                key(keys::ROPE_DIMENSION_COUNT)
            )));
        }
    }
    set("head_dim", json!(head_dim));
    let vocab = stored(tensors, family, Role::Embedding, "weight").and_then(|shape| shape.first().copied());
    set("vocab_size", json!(vocab.ok_or_else(|| missing("token_embd.weight"))?));
    set("rms_norm_eps", json!(float(keys::NORM_EPSILON)?.map_or(1e-5, shortest)));
    set("rope_theta", json!(float(keys::ROPE_FREQ_BASE)?.map_or(10_000.0, shortest)));
    set("tie_word_embeddings", json!(stored(tensors, family, Role::Head, "weight").is_none()));
    set("attention_bias", json!(stored(tensors, family, Role::Query, "bias").is_some()));
    set("mlp_bias", json!(stored(tensors, family, Role::Up, "bias").is_some()));
    for (name, token) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        set(name, json!(metadata.number(&format!("tokenizer.ggml.{token}_token_id"))));
    }
    set("torch_dtype", json!("float32"));
    if let Some(scaling) = rope_scaling(metadata, tensors, &family.gguf)? {
        set("rope_scaling", scaling);
    }
    (family.gguf.read)(metadata, &mut config).map_err(refuse)?;
    Ok(Value::Object(config))
}

/// The shape of the tensor with that role, in the first block if it belongs to a block.
fn stored(tensors: &dyn Checkpoint, family: &Family, role: Role, kind: &str) -> Option<Vec<usize>> {
    let name = family.part(role)?.checkpoint_name(role.is_of_block().then_some(0));
    tensors.shape(&format!("{name}.{kind}"))
}

fn rope_scaling(metadata: &Metadata, tensors: &dyn Checkpoint, architecture: &GgufArchitecture) -> Result<Option<Value>> {
    let key = |name: &str| format!("{}.{name}", architecture.name);
    let has_long = architecture.reads.contains(&keys::ROPE_SCALING_ATTENTION);
    if has_long && tensors.shape(keys::ROPE_FACTORS_LONG).is_some() {
        let attention = metadata.optional_float(&key(keys::ROPE_SCALING_ATTENTION));
        let attention = attention.map_err(|reason| ModelError::Config { reason })?;
        let original = metadata.number(&key(keys::ROPE_SCALING_ORIGINAL));
        return Ok(Some(json!({
            "rope_type": "longrope", "attention_factor": attention.map_or(1.0, shortest),
            "short_factor": tensors.read_f32(keys::ROPE_FACTORS_SHORT)?,
            "long_factor": tensors.read_f32(keys::ROPE_FACTORS_LONG)?,
            "original_max_position_embeddings": original.or_else(|| metadata.number(&key(keys::CONTEXT_LENGTH))),
        })));
    }
    if tensors.shape(keys::ROPE_FREQS).is_some() {
        // In transformers, divisors of frequencies are the scaling `longrope`, which can have others for long texts.
        let factors = tensors.read_f32(keys::ROPE_FREQS)?;
        return Ok(Some(json!({
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
            "original_max_position_embeddings": metadata.number(&key(keys::CONTEXT_LENGTH)),
        })));
    }
    scaling_of_keys(metadata, architecture)
}

/// YaRN, with the bounds and the factor on cosines and sines that llama.cpp assumes, or that the file has if the architecture reads
/// them.
fn yarn(metadata: &Metadata, architecture: &GgufArchitecture, factor: f64) -> Result<Value> {
    let float = |name: &str| {
        let found = metadata.optional_float(&format!("{}.{name}", architecture.name));
        found.map_err(|reason| ModelError::Config { reason })
    };
    let length = |name: &str| metadata.number(&format!("{}.{name}", architecture.name));
    let original = length(keys::ROPE_SCALING_ORIGINAL).or_else(|| length(keys::CONTEXT_LENGTH));
    let mut scaling = json!({ "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original });
    let reads = architecture.reads.contains(&keys::ROPE_YARN_LOG_MULTIPLIER);
    for (name, config, assumed) in [
        (keys::ROPE_YARN_BETA_FAST, "beta_fast", 32.0),
        (keys::ROPE_YARN_BETA_SLOW, "beta_slow", 1.0),
        (keys::ROPE_YARN_LOG_MULTIPLIER, "mscale_all_dim", 0.0),
    ] {
        let Some(found) = float(name)?.map(shortest).filter(|found| (found - assumed).abs() > 0.0) else { continue };
        if !reads {
            let reason = format!("`{}.{name}`: expected {assumed}, got {found}", architecture.name);
            return Err(ModelError::Config { reason });
        }
        scaling[config] = json!(found);
    }
    if scaling.get("mscale_all_dim").is_some() {
        scaling["mscale"] = json!(1.0);
    }
    Ok(scaling)
}

/// Linear scaling, which is also what llama.cpp assumes for a factor without a type, or YaRN.
fn scaling_of_keys(metadata: &Metadata, architecture: &GgufArchitecture) -> Result<Option<Value>> {
    let key = |name: &str| format!("{}.{name}", architecture.name);
    let float = |name: &str| metadata.optional_float(&key(name)).map_err(|reason| ModelError::Config { reason });
    let factor = match float(keys::ROPE_SCALING_FACTOR)? {
        Some(factor) => Some(factor),
        None => float(keys::ROPE_SCALE_LINEAR)?,
    };
    let factor = factor.filter(|factor| *factor != 0.0);
    match metadata.text(&key(keys::ROPE_SCALING_TYPE)) {
        Some("none") => Ok(None),
        None | Some("linear") => Ok(factor.map(|factor| json!({ "rope_type": "linear", "factor": factor }))),
        Some("yarn") => match factor {
            Some(factor) => yarn(metadata, architecture, factor).map(Some),
            None => Ok(None),
        },
        Some(other) => Err(ModelError::Config { reason: format!("rotary scaling `{other}` is not supported") }),
    }
}

/// Keys that change what llama.cpp computes. An architecture that reads one has it in [`GgufArchitecture::reads`].
const UNREAD: &[&str] = &[
    "attention.clamp_kqv",
    "attention.scale",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "rope.scaling.attn_factor",
];

/// Refuses these keys by name, unless the architecture reads them or their value has no effect.
fn refuse_unread(metadata: &Metadata, architecture: &GgufArchitecture) -> Result<()> {
    for name in UNREAD.iter().filter(|name| !architecture.reads.contains(name)) {
        let key = format!("{}.{name}", architecture.name);
        if let Some(value) = metadata.float(&key).filter(|value| ![0.0, 1.0].contains(value)) {
            return Err(ModelError::Config { reason: format!("`{key}` is {value}, which is not supported") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::metadata::Value as GgufValue;

    #[test]
    fn unsupported_keys_are_refused_by_name() {
        let with = |key: &str, value: f64| {
            let mut metadata = Metadata::default();
            metadata.insert(key, GgufValue::Float(value));
            let family = families::by_architecture(key.split_once('.').unwrap().0).unwrap();
            refuse_unread(&metadata, &family.gguf)
        };
        assert!(with("gemma3.final_logit_softcapping", 30.0).unwrap_err().to_string().contains("final_logit_softcapping"));
        assert!(with("gemma3.logit_scale", 1.0).is_ok() && with("gemma3.other_scale", 2.0).is_ok());
        assert!(with("llama.logit_scale", 2.0).unwrap_err().to_string().contains("`llama.logit_scale` is 2"));
    }

    #[test]
    fn a_factor_without_a_type_is_linear_scaling() {
        let of = |architecture: &str, entries: &[(&str, GgufValue)]| {
            let mut metadata = Metadata::default();
            for (key, value) in entries {
                metadata.insert(format!("{architecture}.{key}"), value.clone());
            }
            scaling_of_keys(&metadata, &families::by_architecture(architecture).unwrap().gguf)
        };
        let read = |entries: &[(&str, GgufValue)]| of("llama", entries);
        let linear = Some(json!({ "rope_type": "linear", "factor": 4.0 }));
        let (factor, old) = (("rope.scaling.factor", GgufValue::Float(4.0)), ("rope.scale_linear", GgufValue::Float(4.0)));
        let kind = |name: &str| ("rope.scaling.type", GgufValue::Text(name.to_owned()));
        assert_eq!(read(std::slice::from_ref(&factor)).unwrap(), linear);
        assert_eq!(read(&[old]).unwrap(), linear);
        assert_eq!(read(&[kind("linear"), factor.clone()]).unwrap(), linear);
        assert_eq!(read(&[kind("none"), factor.clone()]).unwrap(), None);
        let original = ("rope.scaling.original_context_length", GgufValue::Unsigned(512));
        let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512 });
        assert_eq!(read(&[kind("yarn"), factor.clone(), original]).unwrap(), Some(yarn));
        // Unlike this architecture, few read them.
        for name in [keys::ROPE_YARN_BETA_FAST, keys::ROPE_YARN_LOG_MULTIPLIER] {
            let other = (name, GgufValue::Float(16.0));
            assert!(read(&[kind("yarn"), factor.clone(), other]).unwrap_err().to_string().contains(name));
        }
        assert!(read(&[kind("longrope"), factor]).unwrap_err().to_string().contains("longrope"));
    }
}
