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
