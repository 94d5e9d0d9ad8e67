//! Whether a model fits this machine, before it is loaded.

use anyhow::Result;
use burn::tensor::DType;
use burnish_models::{ComputeType, ModelConfig};

use crate::backend;
use crate::hint::with_hint;
use crate::report::gib;

/// Refuses a model whose weights alone are larger than the memory that a backend has for them. Of memory that the system does
/// not tell of, that of other GPUs among it, nothing is refused.
///
/// # Errors
/// With both sizes.
pub fn check(backend: &str, config: &ModelConfig, dtype: ComputeType, trains_all: bool) -> Result<()> {
    let name = backend::choose(backend).0;
    match available(name) {
        Some(available) => fits(config, dtype, trains_all, available, name),
        None => Ok(()),
    }
}

fn fits(config: &ModelConfig, dtype: ComputeType, trains_all: bool, available: u64, backend: &str) -> Result<()> {
    let weights = config.parameter_count() as u64 * DType::from(dtype).size() as u64;
    // Weights that train have a gradient and two moments.
    let (needed, what) = if trains_all { (4 * weights, "weights, gradients and moments") } else { (weights, "weights") };
    if needed <= available {
        return Ok(());
    }
    let way = match (trains_all, dtype) {
        (true, _) => "fine_tune_type = \"lora\" keeps the weights frozen",
        (false, ComputeType::F32) => "--dtype bf16 or f16 takes half; else take a smaller model",
        (false, _) => "take a smaller model",
    };
    let (needed, available) = (gib(needed), gib(available));
    Err(with_hint(format!("the model's {what} take {needed} in {dtype}, and `{backend}` has {available} here"), way))
}

/// Bytes that tensors may take.
fn available(backend: &str) -> Option<u64> {
    match backend {
        #[cfg(feature = "metal")]
        "metal" => burnish_metal::chip::machine().map(|machine| machine.budget.available()),
        "cpu" | "candle" | "emulator" | "emulator-stock" => memory(),
        _ => None,
    }
}

/// All memory of the machine.
fn memory() -> Option<u64> {
    #[cfg(all(feature = "metal", target_os = "macos"))]
    return burnish_metal::chip::machine().map(|machine| machine.budget.memory);
    #[cfg(not(all(feature = "metal", target_os = "macos")))]
    of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

#[cfg(not(all(feature = "metal", target_os = "macos")))]
fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
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
        let error = of(ComputeType::F32, false).unwrap_err();
        assert!(error.to_string().contains("take 4.60 GiB in f32") && hint(&error).unwrap().contains("half"), "{error}");
        of(ComputeType::F16, false).unwrap();
        let error = of(ComputeType::F32, true).unwrap_err();
        assert!(error.to_string().contains("moments") && hint(&error).unwrap().contains("lora"), "{error}");
    }

    #[test]
    fn this_machine_holds_a_small_model() {
        let small = ModelConfig { num_hidden_layers: 1, vocab_size: 64, hidden_size: 64, intermediate_size: 64, ..config() };
        check("cpu", &small, ComputeType::F32, false).unwrap();
        check("wgpu", &config(), ComputeType::F32, true).unwrap();
    }

    #[cfg(not(target_os = "macos"))]
    #[test]
    fn the_system_is_understood() {
        assert_eq!(of_meminfo("MemTotal:       24576000 kB\nMemFree: 1 kB\n"), Some(24_576_000 << 10));
        assert_eq!(of_meminfo("Swap: none"), None);
        assert!(!cfg!(target_os = "linux") || memory().is_some_and(|bytes| bytes > 1 << 26));
    }
}
