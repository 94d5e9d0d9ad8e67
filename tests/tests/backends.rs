//! The backends that a user can name, and what their devices compute in.
#![allow(clippy::unwrap_used)]

use burnish_backends::dtype::{DtypeChoice, choose};
use burnish_backends::{enter, memory, open};
use burnish_models::FloatType;
use burnish_recipes::hint::hint;

#[test]
fn a_backend_of_another_system_is_an_error() {
    let other = if cfg!(target_os = "macos") { "vulkan" } else { "metal" };
    let error = open(other).err().unwrap();
    assert!(hint(&error).unwrap().contains("--backend"), "{error}");
    assert_eq!(enter("cpu", |_| Ok(3)).unwrap(), 3);
}

#[test]
fn the_cpu_computes_in_what_it_is_asked_for() {
    assert_eq!(choose("cpu", "auto").unwrap().dtype, FloatType::F32);
    for dtype in FloatType::ALL {
        assert_eq!(choose("cpu", dtype.name()).unwrap(), DtypeChoice { dtype, why: "asked for" });
    }
    let error = choose("cpu", "f64").unwrap_err();
    assert!(error.to_string().contains("expected f32, f16 or bf16") && hint(&error).is_some(), "{error}");
}

#[cfg(feature = "candle")]
#[test]
fn what_a_backend_lacks_is_refused_with_what_it_has() {
    let error = choose("candle", "bf16").unwrap_err();
    assert!(error.to_string().contains("does not compute in bf16"), "{error}");
    assert!(hint(&error).unwrap().starts_with("it has f32"), "{:?}", hint(&error));
}

#[test]
fn the_system_tells_its_memory() {
    assert!(!cfg!(target_os = "linux") || memory::of_machine().is_some_and(|bytes| bytes > 1 << 26));
    assert!(memory::available("cuda").is_none());
}
