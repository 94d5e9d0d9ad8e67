//! Checks whether a model fits into memory before it is loaded.

use anyhow::Result;
use burn::tensor::DType;
use burnish_engine::{gib, with_hint};
use burnish_models::{FloatType, ModelConfig};

use crate::config::OptimizerKind;

/// Refuses a model whose weights alone exceed the memory of a backend. Accepts any model if that memory is unknown, as for most GPUs.
/// `trains_all` is the optimizer of all weights, if they are trained.
///
/// # Errors
/// When the model does not fit, with both sizes, or the backend is unknown.
pub fn check(backend: &str, config: &ModelConfig, dtype: FloatType, trains_all: Option<OptimizerKind>) -> Result<()> {
    let name = burnish_backends::choose(backend)?.0;
    match burnish_backends::capacity::available(name) {
        Some(available) => fits(config, dtype, trains_all, available, name),
        None => Ok(()),
    }
}

fn fits(
    config: &ModelConfig,
    dtype: FloatType,
    trains_all: Option<OptimizerKind>,
    available: u64,
    backend: &str,
) -> Result<()> {
    let weights = config.parameter_count() as u64 * DType::from(dtype).size() as u64;
    // Each trained weight, in f32, also has a gradient and two moments.
    let (needed, what) = match trains_all {
        None => (weights, "weights"),
        Some(OptimizerKind::Adamw) => (4 * weights, "weights, gradients and moments"),
        Some(OptimizerKind::Adamw8bit) => (2 * weights + weights / 2, "weights, gradients and 8-bit moments"),
    };
    if needed <= available {
        return Ok(());
    }
    let way = match (trains_all, dtype) {
        (Some(OptimizerKind::Adamw), _) => {
            "use fine_tune_type = \"lora\", which needs no gradients and moments of the weights; optimizer = \"adamw8bit\" needs 5/8 of it"
        }
        (Some(OptimizerKind::Adamw8bit), _) => {
            "use fine_tune_type = \"lora\", which needs no gradients and moments of the weights"
        }
        (None, FloatType::F32) => "--dtype bf16 or f16 needs half the memory; or use a smaller model",
        (None, _) => "use a smaller model",
    };
    let (needed, available) = (gib(needed), gib(available));
    Err(with_hint(format!("the model's {what} take {needed} in {dtype}, but `{backend}` has only {available} here"), way))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::hint;

    fn config() -> ModelConfig {
        let json = serde_json::json!({
            "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": true,
        });
        ModelConfig::from_json(&json).unwrap()
    }

    #[test]
    fn a_model_larger_than_the_memory_is_refused_with_both_sizes() {
        let config = config();
        let of = |dtype, trains_all| fits(&config, dtype, trains_all, 4 << 30, "cpu");
        let error = of(FloatType::F32, None).unwrap_err();
        assert!(error.to_string().contains("take 4.60 GiB in f32") && hint(&error).unwrap().contains("half"), "{error}");
        of(FloatType::F16, None).unwrap();
        let error = of(FloatType::F32, Some(OptimizerKind::Adamw)).unwrap_err();
        assert!(error.to_string().contains("moments take 18.41 GiB") && hint(&error).unwrap().contains("lora"), "{error}");
        assert!(hint(&error).unwrap().contains("adamw8bit"), "{error}");
        let error = of(FloatType::F32, Some(OptimizerKind::Adamw8bit)).unwrap_err();
        assert!(error.to_string().contains("8-bit moments take 11.51 GiB"), "{error}");
    }

    #[test]
    fn a_backend_that_is_unknown_is_not_another() {
        let error = check("gpu", &config(), FloatType::F32, None).unwrap_err();
        assert_eq!(error.to_string(), "there is no backend `gpu`");
        assert!(hint(&error).unwrap().starts_with("this build has auto, cpu"), "{error}");
    }

    #[test]
    fn this_machine_holds_a_small_model() {
        let small = ModelConfig { num_hidden_layers: 1, vocab_size: 64, hidden_size: 64, intermediate_size: 64, ..config() };
        check("cpu", &small, FloatType::F32, None).unwrap();
        check("wgpu", &config(), FloatType::F32, Some(OptimizerKind::Adamw)).unwrap();
    }
}
