//! Checks whether a model fits into memory before it is loaded.

use anyhow::Result;
use burnish_engine::{gib, with_hint};
use burnish_models::{FloatType, LoadOptions, Storage};

use crate::config::OptimizerKind;

/// Refuses a model whose weights alone exceed the memory of a backend. Accepts any model if that memory is unknown, as for most GPUs.
/// Where all weights are trained, gradients and the optimizer's moments count too.
///
/// # Errors
/// When the model does not fit, with both sizes, or the backend is unknown.
pub fn check(backend: &str, storage: &Storage, options: LoadOptions, optimizer: OptimizerKind) -> Result<()> {
    let name = burnish_backends::choose(backend)?.0;
    match burnish_backends::capacity::available(name) {
        Some(available) => fits(storage, options, optimizer, available, name),
        None => Ok(()),
    }
}

fn fits(storage: &Storage, options: LoadOptions, optimizer: OptimizerKind, available: u64, backend: &str) -> Result<()> {
    let weights = storage.bytes();
    let trains_all = options.trainable.then_some(optimizer);
    // Each trained weight, in f32, also has a gradient and two moments.
    let (needed, what) = match trains_all {
        None => (weights, "weights"),
        Some(OptimizerKind::Adamw) => (4 * weights, "weights, gradients and moments"),
        Some(OptimizerKind::Adamw8bit) => (2 * weights + weights / 2, "weights, gradients and 8-bit moments"),
    };
    if needed <= available {
        return Ok(());
    }
    let way = match (trains_all, options.dtype) {
        (Some(OptimizerKind::Adamw), _) => {
            "use fine_tune_type = \"lora\", which needs no gradients and moments of the weights; optimizer = \"adamw8bit\" needs 5/8 of it"
        }
        (Some(OptimizerKind::Adamw8bit), _) => {
            "use fine_tune_type = \"lora\", which needs no gradients and moments of the weights"
        }
        (None, _) if storage.is_packed() => "use a smaller model",
        (None, FloatType::F32) => "--quantization nf4 needs an eighth of the memory, --dtype bf16 or f16 half of it",
        (None, _) => "--quantization nf4 needs a quarter of the memory; or use a smaller model",
    };
    let (needed, available) = (gib(needed), gib(available));
    Err(with_hint(format!("the model's {what} take {needed} ({storage}), but `{backend}` has only {available} here"), way))
}

#[cfg(test)]
mod tests {
    use burnish_models::{Checkpoint, ModelConfig, Quantization};

    use super::*;
    use crate::hint::hint;

    /// A checkpoint that is never read.
    struct Unread;

    impl Checkpoint for Unread {
        fn names(&self) -> Vec<String> {
            Vec::new()
        }

        fn shape(&self, _name: &str) -> Option<Vec<usize>> {
            None
        }

        fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
            panic!("{name} is read")
        }

        fn float_type(&self, _name: &str) -> Option<FloatType> {
            Some(FloatType::BF16)
        }
    }

    fn config() -> ModelConfig {
        let json = serde_json::json!({
            "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": true,
        });
        ModelConfig::from_json(&json).unwrap()
    }

    fn storage(config: &ModelConfig, options: LoadOptions) -> Storage {
        Storage::of(config, &Unread, options).unwrap()
    }

    #[test]
    fn a_model_larger_than_the_memory_is_refused_with_both_sizes() {
        let of = |options, optimizer, mebibytes: u64| {
            fits(&storage(&config(), options), options, optimizer, mebibytes << 20, "cpu")
        };
        let (adamw, frozen) = (OptimizerKind::Adamw, LoadOptions::frozen);
        let error = of(frozen(FloatType::F32), adamw, 4096).unwrap_err();
        assert!(error.to_string().contains("take 4.60 GiB (4714.3 MiB in f32)"), "{error}");
        assert!(hint(&error).unwrap().contains("nf4"));
        of(frozen(FloatType::F16), adamw, 4096).unwrap();
        let error = of(LoadOptions::trainable(), adamw, 4096).unwrap_err();
        assert!(error.to_string().contains("moments take 18.42 GiB") && hint(&error).unwrap().contains("lora"), "{error}");
        assert!(hint(&error).unwrap().contains("adamw8bit"), "{error}");
        let error = of(LoadOptions::trainable(), OptimizerKind::Adamw8bit, 4096).unwrap_err();
        assert!(error.to_string().contains("8-bit moments take 11.51 GiB"), "{error}");
        // 973 M weights of linear layers, and 263 M of the embedding.
        for (quantization, mebibytes) in [
            (Quantization::Nf4 { double: false }, 1024),
            (Quantization::Nf4 { double: true }, 982),
            (Quantization::Int4, 1024),
            (Quantization::Int8, 1488),
        ] {
            let options = frozen(FloatType::F16).quantized(quantization);
            of(options, adamw, mebibytes).unwrap();
            assert!(of(options, adamw, mebibytes - 3).is_err(), "{quantization}");
        }
        let error = of(frozen(FloatType::F16).quantized(Quantization::Int4), adamw, 100).unwrap_err();
        assert!(error.to_string().contains("in int4, 501.1 MiB in f16"), "{error}");
    }

    #[test]
    fn a_backend_that_is_unknown_is_not_another() {
        let options = LoadOptions::default();
        let error = check("gpu", &storage(&config(), options), options, OptimizerKind::Adamw).unwrap_err();
        assert_eq!(error.to_string(), "there is no backend `gpu`");
        assert!(hint(&error).unwrap().starts_with("this build has auto, cpu"), "{error}");
    }

    #[test]
    fn this_machine_holds_a_small_model() {
        let small = ModelConfig { num_hidden_layers: 1, vocab_size: 64, hidden_size: 64, intermediate_size: 64, ..config() };
        let (options, adamw) = (LoadOptions::default(), OptimizerKind::Adamw);
        check("cpu", &storage(&small, options), options, adamw).unwrap();
        check("wgpu", &storage(&config(), options), options, adamw).unwrap();
    }
}
