//! The hyper-parameters of a model under llama.cpp's names.

use burnish_models::gguf::{Metadata, Value, keys};
use burnish_models::{ModelConfig, Pretrained, RopeScaling};

use crate::error::{ExportError, Result};
use crate::report::ExportReport;

/// The key and the value of the version of ggml's blocks.
pub(super) const QUANTIZATION_VERSION: (&str, usize) = ("general.quantization_version", 2);

/// The hyper-parameters of a model; `file_type` is llama.cpp's number for the storage of most matrices.
pub(super) fn of_model(model: &Pretrained, file_type: u64, report: &mut ExportReport) -> Result<Metadata> {
    let config = &model.config;
    let architecture = config.family.gguf;
    let mut metadata = Metadata::default();
    metadata.insert(keys::ARCHITECTURE, architecture.name);
    metadata.insert("general.type", "model");
    metadata.insert("general.name", name_of(&model.source));
    metadata.insert("general.file_type", file_type);
    metadata.insert(QUANTIZATION_VERSION.0, QUANTIZATION_VERSION.1);
    let mut put = |key: &str, value: Value| metadata.insert(format!("{}.{key}", architecture.name), value);
    put("vocab_size", config.vocab_size.into());
    for size in keys::SIZES {
        put(size.gguf, (size.of)(config).into());
    }
    put(keys::KEY_LENGTH, config.head_dim.into());
    put("attention.value_length", config.head_dim.into());
    put(keys::NORM_EPSILON, config.rms_norm_eps.into());
    put(keys::ROPE_DIMENSION_COUNT, config.rotated_elements().into());
    if let Some(rotary) = config.rotary.first() {
        put(keys::ROPE_FREQ_BASE, rotary.theta.into());
        match rotary.scaling {
            Some(RopeScaling::Linear { factor }) => {
                put(keys::ROPE_SCALING_TYPE, "linear".into());
                put(keys::ROPE_SCALING_FACTOR, factor.into());
            }
            Some(RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                attention_factor,
                truncate,
            }) => {
                if !truncate {
                    report.notes.push(
                        "llama.cpp rounds the bounds of YaRN, which this model does not (`rope_parameters.truncate` is false): some \
                         frequencies are slightly different there"
                            .to_owned(),
                    );
                }
                // llama.cpp assumes these for most architectures, whatever the file says.
                let mut assumed = [32.0, 1.0, 1.0 + 0.1 * factor.max(1.0).ln()];
                let own = [beta_fast, beta_slow, attention_factor];
                if architecture.reads.contains(&keys::ROPE_YARN_LOG_MULTIPLIER) {
                    put(keys::ROPE_YARN_BETA_FAST, beta_fast.into());
                    put(keys::ROPE_YARN_BETA_SLOW, beta_slow.into());
                    assumed[..2].copy_from_slice(&own[..2]);
                    if (attention_factor - 1.0).abs() < 1e-6 {
                        put(keys::ROPE_YARN_LOG_MULTIPLIER, 1f64.into());
                        assumed[2] = 1.0;
                    }
                }
                if own.iter().zip(assumed).any(|(own, assumed)| (own / assumed - 1.0).abs() > 1e-6) {
                    return Err(ExportError::unsupported(format!(
                        "`rope_scaling`: llama.cpp expects {assumed:?} for `beta_fast`, `beta_slow` and `attention_factor`, got \
                         {own:?}"
                    )));
                }
                put(keys::ROPE_SCALING_TYPE, "yarn".into());
                put(keys::ROPE_SCALING_FACTOR, factor.into());
                put(keys::ROPE_SCALING_ORIGINAL, original_max_position_embeddings.into());
            }
            Some(RopeScaling::LongRope { original_max_position_embeddings, attention_factor, .. }) => {
                if !architecture.reads.contains(&keys::ROPE_SCALING_ATTENTION) {
                    return Err(ExportError::unsupported(format!(
                        "`rope_scaling`: llama.cpp does not support `longrope` for `{}`",
                        architecture.name
                    )));
                }
                put(keys::ROPE_SCALING_TYPE, "longrope".into());
                put(keys::ROPE_SCALING_ATTENTION, attention_factor.into());
                put(keys::ROPE_SCALING_ORIGINAL, original_max_position_embeddings.into());
            }
            Some(RopeScaling::Factors { .. }) if architecture.reads.contains(&keys::ROPE_SCALING_ATTENTION) => {}
            Some(RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. }) if !architecture.has_rope_freqs => {
                return Err(ExportError::unsupported(format!(
                    "`rope_scaling`: llama.cpp has only linear scaling and YaRN for `{}`",
                    architecture.name
                )));
            }
            Some(RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. }) | None => {}
        }
    }
    if let Some(window) = shortest_window(config).filter(|_| !architecture.has_windows) {
        put(keys::CONTEXT_LENGTH, window.into());
        report.notes.push(format!(
            "llama.cpp has no sliding window for `{}`: the context length is set to the window, {window} tokens, up to which \
             the results are the same",
            architecture.name
        ));
    }
    (architecture.write)(config, &mut metadata).map_err(ExportError::unsupported)?;
    Ok(metadata)
}

/// The shortest window of a layer, if it is shorter than the context. It has no effect on shorter texts.
fn shortest_window(config: &ModelConfig) -> Option<usize> {
    let windows = (0..config.num_hidden_layers).filter_map(|layer| config.window(layer));
    windows.min().filter(|window| *window < config.max_position_embeddings)
}

/// The last part of a path or hub id, without `.gguf`.
pub(super) fn name_of(source: &str) -> String {
    let trimmed = source.trim_end_matches('/');
    trimmed.rsplit('/').next().unwrap_or(trimmed).trim_end_matches(".gguf").to_owned()
}
