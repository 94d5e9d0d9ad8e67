//! What a model computes in, on the device that it gets.

use anyhow::Result;
use burnish_engine::{Device, with_hint};
use burnish_models::ComputeType;

/// What `--dtype` accepts.
pub const NAMES: &[&str] = &["auto", "f32", "f16", "bf16"];

/// A dtype, and why it is that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DtypeChoice {
    /// What is computed in.
    pub dtype: ComputeType,
    /// For the user.
    pub why: &'static str,
}

/// Resolves `dtype` for a backend: `auto` by what the device has, and what was asked for if the device has it.
///
/// # Errors
/// When the device does not compute in what was asked for, or is not there.
pub fn choose(backend: &str, asked: &str) -> Result<DtypeChoice> {
    let backend = crate::choose(backend)?.0;
    match asked {
        "f32" => Ok(DtypeChoice { dtype: ComputeType::F32, why: "asked for" }),
        "auto" if preferred(backend).is_empty() => {
            Ok(DtypeChoice { dtype: ComputeType::F32, why: "auto: what this backend is made for" })
        }
        "auto" => Ok(automatic(backend, &*crate::open(backend)?)),
        name => {
            let asked = name.parse().map_err(|reason| with_hint(format!("--dtype {reason}"), "or auto"))?;
            as_asked(backend, asked, &*crate::open(backend)?)
        }
    }
}

/// What `auto` takes on a backend, the best first, where the device has it; else f32.
fn preferred(backend: &str) -> &'static [ComputeType] {
    match backend {
        // cubecl 0.10 has no bf16 on Metal, and the first two generations of Apple's GPUs have none either.
        "metal" => &[ComputeType::F16],
        "cuda" | "vulkan" => &[ComputeType::BF16, ComputeType::F16],
        _ => &[],
    }
}

fn as_asked(backend: &str, asked: ComputeType, device: &dyn Device) -> Result<DtypeChoice> {
    if computes_in(backend, asked, device) {
        return Ok(DtypeChoice { dtype: asked, why: "asked for" });
    }
    let has = ComputeType::ALL.into_iter().filter(|dtype| computes_in(backend, *dtype, device));
    let has: Vec<&str> = has.map(ComputeType::name).collect();
    Err(with_hint(
        format!("the backend `{backend}` does not compute in {asked} here"),
        format!("it has {}: --dtype auto chooses", has.join(" and ")),
    ))
}

fn automatic(backend: &'static str, device: &dyn Device) -> DtypeChoice {
    if backend == "vulkan" && is_software() {
        return DtypeChoice { dtype: ComputeType::F32, why: "auto: this Vulkan is software on the CPU" };
    }
    let found = preferred(backend).iter().find(|dtype| computes_in(backend, **dtype, device));
    match found {
        Some(ComputeType::F16) => DtypeChoice { dtype: ComputeType::F16, why: "auto: this GPU has f16 and no bf16 here" },
        Some(dtype) => DtypeChoice { dtype: *dtype, why: "auto: this GPU has it" },
        None => DtypeChoice { dtype: ComputeType::F32, why: "auto: this GPU has neither f16 nor bf16 here" },
    }
}

fn computes_in(backend: &str, dtype: ComputeType, device: &dyn Device) -> bool {
    // Candle says that it has every dtype, and panics at the first product.
    let is_lacking =
        backend == "candle" && (dtype == ComputeType::BF16 || (dtype == ComputeType::F16 && cfg!(target_os = "macos")));
    !is_lacking && device.computes_in(dtype)
}

/// Whether there is no GPU but the CPU posing as one.
fn is_software() -> bool {
    #[cfg(feature = "metal")]
    return !burnish_metal::has_gpu();
    #[cfg(not(feature = "metal"))]
    false
}
