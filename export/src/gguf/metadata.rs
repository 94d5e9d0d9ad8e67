//! The hyper-parameters as llama.cpp names them.

use burnish_models::gguf::{Metadata, Value, keys};
use burnish_models::{ModelConfig, Pretrained, RopeScaling};

use super::{number, set, text};
use crate::error::{ExportError, Result};
use crate::report::ExportReport;

pub(super) fn of_model(model: &Pretrained, file_type: u64, report: &mut ExportReport) -> Result<Metadata> {
    let config = &model.config;
    let architecture = config.family.gguf;
    let mut metadata = Metadata::default();
    set(&mut metadata, "general.architecture", text(architecture.name));
    set(&mut metadata, "general.type", text("model"));
    set(&mut metadata, "general.name", text(name_of(&model.source)));
    set(&mut metadata, "general.file_type", Value::Unsigned(file_type));
    set(&mut metadata, "general.quantization_version", number(2));
    let mut put = |key: &str, value: Value| set(&mut metadata, &format!("{}.{key}", architecture.name), value);
    put("vocab_size", number(config.vocab_size));
    for size in keys::SIZES {
        put(size.gguf, number((size.of)(config)));
    }
    put(keys::KEY_LENGTH, number(config.head_dim));
    put("attention.value_length", number(config.head_dim));
    put(keys::NORM_EPSILON, Value::Float(config.rms_norm_eps));
    put(keys::ROPE_DIMENSION_COUNT, number(config.head_dim));
    if let Some(rotary) = config.rotary.first() {
        put(keys::ROPE_FREQ_BASE, Value::Float(rotary.theta));
        if let Some(RopeScaling::Linear { factor }) = rotary.scaling {
            put(keys::ROPE_SCALING_TYPE, text("linear"));
            put(keys::ROPE_SCALING_FACTOR, Value::Float(factor));
        }
    }
    if let Some(window) = needless_window(config).filter(|_| !architecture.has_windows) {
        put(keys::CONTEXT_LENGTH, number(window));
        report.notes.push(format!(
            "llama.cpp computes no sliding window for `{}`: the context is {window} tokens, within which there is no difference",
            architecture.name
        ));
    }
    (architecture.write)(config, &mut metadata).map_err(ExportError::unsupported)?;
    Ok(metadata)
}

/// A window that is shorter than the context: within as many tokens it changes nothing.
fn needless_window(config: &ModelConfig) -> Option<usize> {
    let windows = (0..config.num_hidden_layers).filter_map(|layer| config.window(layer));
    windows.min().filter(|window| *window < config.max_position_embeddings)
}

/// The last part of a path or hub id.
fn name_of(source: &str) -> String {
    let trimmed = source.trim_end_matches('/');
    trimmed.rsplit('/').next().unwrap_or(trimmed).trim_end_matches(".gguf").to_owned()
}
