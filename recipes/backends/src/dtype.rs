//! Chooses the dtype that a model computes in.

use anyhow::Result;
use burnish_engine::{Device, with_hint};
use burnish_models::FloatType;

/// The values that `--dtype` accepts.
pub const NAMES: &[&str] = &["auto", "f32", "f16", "bf16"];

/// A dtype, and the reason for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DtypeChoice {
    /// The dtype.
    pub dtype: FloatType,
    /// The reason, for the user.
    pub why: &'static str,
}

/// Chooses the dtype for a backend: for `auto` the best that the device supports, else the requested one.
///
/// # Errors
/// When there is no device, or it does not support the requested dtype.
pub fn choose(backend: &str, asked: &str) -> Result<DtypeChoice> {
    let backend = crate::choose(backend)?.0;
    match asked {
        "f32" => Ok(DtypeChoice { dtype: FloatType::F32, why: "requested" }),
        "auto" if preferred(backend).is_empty() => {
            Ok(DtypeChoice { dtype: FloatType::F32, why: "auto: the default of this backend" })
        }
        "auto" => Ok(automatic(backend, &*crate::open(backend)?)),
        name => {
            let asked = name.parse().map_err(|reason| with_hint(format!("--dtype {reason}"), "auto is accepted too"))?;
            as_asked(backend, asked, &*crate::open(backend)?)
        }
    }
}

/// The dtype of a backend whose device is not here: the requested one, or for `auto` the best that most devices support.
///
/// # Errors
/// When the backend never supports the requested dtype.
pub fn usual(backend: &str, asked: &str) -> Result<FloatType> {
    let best = preferred(backend).first().copied().unwrap_or_default();
    match asked {
        "auto" => Ok(best),
        "bf16" if backend == "metal" => {
            Err(with_hint("the backend `metal` does not support bf16", "it supports f32 and f16; --dtype auto chooses f16"))
        }
        name => name.parse().map_err(|reason| with_hint(format!("--dtype {reason}"), "auto is accepted too")),
    }
}

/// The dtypes that `auto` prefers to f32 on a backend, best first.
fn preferred(backend: &str) -> &'static [FloatType] {
    match backend {
        // cubecl 0.10 has no bf16 on Metal, and neither have Apple's M1 and M2.
        "metal" => &[FloatType::F16],
        "cuda" | "vulkan" => &[FloatType::BF16, FloatType::F16],
        _ => &[],
    }
}

fn as_asked(backend: &str, asked: FloatType, device: &dyn Device) -> Result<DtypeChoice> {
    if computes_in(backend, asked, device) {
        return Ok(DtypeChoice { dtype: asked, why: "requested" });
    }
    let has = FloatType::ALL.into_iter().filter(|dtype| computes_in(backend, *dtype, device));
    let has: Vec<&str> = has.map(FloatType::name).collect();
    Err(with_hint(
        format!("the backend `{backend}` does not support {asked} here"),
        format!("it supports {}; --dtype auto chooses one", has.join(" and ")),
    ))
}

fn automatic(backend: &'static str, device: &dyn Device) -> DtypeChoice {
    if backend == "vulkan" && is_software() {
        return DtypeChoice { dtype: FloatType::F32, why: "auto: this Vulkan device is software on the CPU" };
    }
    let found = preferred(backend).iter().find(|dtype| computes_in(backend, **dtype, device));
    match found {
        Some(FloatType::F16) => DtypeChoice { dtype: FloatType::F16, why: "auto: this GPU supports f16, but not bf16" },
        Some(dtype) => DtypeChoice { dtype: *dtype, why: "auto: supported by this GPU" },
        None => DtypeChoice { dtype: FloatType::F32, why: "auto: this GPU supports neither f16 nor bf16" },
    }
}

fn computes_in(backend: &str, dtype: FloatType, device: &dyn Device) -> bool {
    // Candle reports support for every dtype, but panics at the first product.
    let is_lacking =
        backend == "candle" && (dtype == FloatType::BF16 || (dtype == FloatType::F16 && cfg!(target_os = "macos")));
    !is_lacking && device.computes_in(dtype)
}

/// Whether Vulkan's only device is software on the CPU.
fn is_software() -> bool {
    #[cfg(feature = "metal")]
    return !burnish_metal::has_gpu();
    #[cfg(not(feature = "metal"))]
    false
}
