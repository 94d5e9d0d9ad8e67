//! The backends that a user can name, and the dtypes they support.
#![allow(clippy::unwrap_used)]

use burnish_backends::dtype::{DtypeChoice, choose};
use burnish_backends::{capacity, enter, open};
use burnish_models::FloatType;
use burnish_recipes::hint::hint;

#[test]
fn a_backend_for_another_system_is_an_error() {
    let other = if cfg!(target_os = "macos") { "vulkan" } else { "metal" };
    let error = open(other).err().unwrap();
    assert!(hint(&error).unwrap().contains("--backend"), "{error}");
    assert_eq!(enter("cpu", |_| Ok(3)).unwrap(), 3);
}

#[test]
fn the_cpu_supports_every_dtype() {
    assert_eq!(choose("cpu", "auto").unwrap().dtype, FloatType::F32);
    for dtype in FloatType::ALL {
        assert_eq!(choose("cpu", dtype.name()).unwrap(), DtypeChoice { dtype, why: "requested" });
    }
    let error = choose("cpu", "f64").unwrap_err();
    assert!(error.to_string().contains("expected f32, f16 or bf16") && hint(&error).is_some(), "{error}");
}

#[cfg(feature = "candle")]
#[test]
fn an_unsupported_dtype_is_refused_with_the_supported_ones() {
    let error = choose("candle", "bf16").unwrap_err();
    assert!(error.to_string().contains("does not support bf16"), "{error}");
    assert!(hint(&error).unwrap().starts_with("it supports f32"), "{:?}", hint(&error));
}

#[test]
fn the_memory_of_the_machine_is_known() {
    assert!(!cfg!(target_os = "linux") || capacity::of_machine().is_some_and(|bytes| bytes > 1 << 26));
    assert!(capacity::available("cuda").is_none());
}

/// Composed attention keeps its scores in one buffer of half a GiB, which is more than software Vulkan supports.
#[cfg(all(feature = "metal", not(target_os = "macos")))]
#[test]
fn bench_reports_a_buffer_that_is_too_large_and_continues() {
    // The window keeps attention fast on a CPU, but composed attention still has all scores.
    let config = r#"{ "model_type": "mistral", "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 64, "sliding_window": 16 }"#;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("windowed.json");
    std::fs::write(&model, config).unwrap();
    let arguments =
        "--json bench --backends vulkan --kernels attention,swiglu --batch-size 1 --seq 4096 --repeats 1 --warmup 1";
    let mut command = burnish_tests::burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
    command.args(arguments.split(' ')).arg("--model").arg(&model).env_remove("RUST_BACKTRACE");
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("panicked") && !errors.contains("internal"), "{errors}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = found["backends"][0]["kernels"].as_array().unwrap();
    assert_eq!(rows.len(), 2 + 3);
    for row in rows {
        assert!(row["timing"]["ms"].as_f64().unwrap() > 0.0 && row["error"].is_null(), "{row}");
        let is_composed = row["kernel"] == "attention" && row["pass"] != "whole";
        let error = row["burn_error"].as_str().unwrap_or_default();
        // A GPU may support it.
        assert!(!row["burn"].is_null() || (is_composed && error.starts_with("a buffer of 512 MiB is needed")), "{row}");
    }
}
