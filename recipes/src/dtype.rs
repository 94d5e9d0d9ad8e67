//! What a model computes in, on the device that it gets.

use anyhow::{Result, anyhow};
use burnish_kernels::FusedBackend;
use burnish_models::ComputeType;

use crate::backend::{self, BackendJob};
use crate::config::{FineTuneType, TrainConfig};
use crate::hint::with_hint;

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
    let backend = backend::choose(backend).0;
    match asked {
        "f32" => Ok(DtypeChoice { dtype: ComputeType::F32, why: "asked for" }),
        "auto" if preferred(backend).is_empty() => {
            Ok(DtypeChoice { dtype: ComputeType::F32, why: "auto: what this backend is made for" })
        }
        "auto" => backend::run(backend, Question { backend, asked: None }),
        name => {
            let asked = name.parse().map_err(|reason| with_hint(format!("--dtype {reason}"), "or auto"))?;
            backend::run(backend, Question { backend, asked: Some(asked) })
        }
    }
}

/// As [`choose`], for a training run: weights that train are f32.
///
/// # Errors
/// As [`choose`], and when all weights shall train in another dtype.
pub fn of_run(config: &TrainConfig) -> Result<DtypeChoice> {
    match (config.fine_tune_type, config.dtype.as_str()) {
        (FineTuneType::Full, "auto") => Ok(DtypeChoice { dtype: ComputeType::F32, why: "auto: weights that train are f32" }),
        (FineTuneType::Full, name @ ("f16" | "bf16")) => Err(with_hint(
            format!("`dtype` is {name}, and with `fine_tune_type = \"full\"` every weight trains, in f32"),
            "leave dtype out, or train adapters: fine_tune_type = \"lora\" keeps the model in f16 or bf16",
        )),
        _ => choose(&config.backend, &config.dtype),
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

/// Asks a device.
struct Question {
    backend: &'static str,
    asked: Option<ComputeType>,
}

impl BackendJob for Question {
    type Output = DtypeChoice;

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<DtypeChoice> {
        let Some(asked) = self.asked else { return Ok(automatic::<B>(self.backend, &device)) };
        if computes_in::<B>(self.backend, asked, &device).is_ok() {
            return Ok(DtypeChoice { dtype: asked, why: "asked for" });
        }
        let has = ComputeType::ALL.into_iter().filter(|dtype| computes_in::<B>(self.backend, *dtype, &device).is_ok());
        let has: Vec<&str> = has.map(ComputeType::name).collect();
        Err(with_hint(
            format!("the backend `{}` does not compute in {asked} here", self.backend),
            format!("it has {}: --dtype auto chooses", has.join(" and ")),
        ))
    }
}

fn automatic<B: FusedBackend>(backend: &'static str, device: &B::Device) -> DtypeChoice {
    if backend == "vulkan" && is_software() {
        return DtypeChoice { dtype: ComputeType::F32, why: "auto: this Vulkan is software on the CPU" };
    }
    let found = preferred(backend).iter().find(|dtype| computes_in::<B>(backend, **dtype, device).is_ok());
    match found {
        Some(ComputeType::F16) => DtypeChoice { dtype: ComputeType::F16, why: "auto: this GPU has f16 and no bf16 here" },
        Some(dtype) => DtypeChoice { dtype: *dtype, why: "auto: this GPU has it" },
        None => DtypeChoice { dtype: ComputeType::F32, why: "auto: this GPU has neither f16 nor bf16 here" },
    }
}

/// Whether a device computes in a dtype: it says so, and a known product is right.
///
/// One that does not say so is not tried: a cast to what it lacks may break it for the rest of the process.
fn computes_in<B: FusedBackend>(backend: &str, dtype: ComputeType, device: &B::Device) -> Result<()> {
    // Candle says that it has every dtype, and panics at the first product.
    let lacking =
        backend == "candle" && (dtype == ComputeType::BF16 || (dtype == ComputeType::F16 && cfg!(target_os = "macos")));
    if lacking || !B::supports_dtype(device, dtype.into()) {
        return Err(anyhow!("no {dtype}"));
    }
    backend::known_product::<B>(device, dtype.into())
}

/// Whether there is no GPU but the CPU posing as one.
fn is_software() -> bool {
    #[cfg(feature = "metal")]
    return !burnish_metal::has_gpu();
    #[cfg(not(feature = "metal"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::hint;

    #[test]
    fn the_cpu_computes_in_what_it_is_asked_for() {
        assert_eq!(choose("cpu", "auto").unwrap().dtype, ComputeType::F32);
        for dtype in ComputeType::ALL {
            assert_eq!(choose("cpu", dtype.name()).unwrap(), DtypeChoice { dtype, why: "asked for" });
        }
        let error = choose("cpu", "f64").unwrap_err();
        assert!(error.to_string().contains("none of f32, f16, bf16") && hint(&error).is_some(), "{error}");
    }

    #[cfg(feature = "candle")]
    #[test]
    fn what_a_backend_lacks_is_refused_with_what_it_has() {
        let error = choose("candle", "bf16").unwrap_err();
        assert!(error.to_string().contains("does not compute in bf16"), "{error}");
        assert!(hint(&error).unwrap().starts_with("it has f32"), "{:?}", hint(&error));
    }

    #[test]
    fn weights_that_train_are_f32() {
        let run = |dtype: &str| {
            of_run(&TrainConfig { fine_tune_type: FineTuneType::Full, dtype: dtype.to_owned(), ..TrainConfig::default() })
        };
        assert_eq!((run("auto").unwrap().dtype, run("f32").unwrap().dtype), (ComputeType::F32, ComputeType::F32));
        let error = run("bf16").unwrap_err();
        assert!(error.to_string().contains("`dtype` is bf16") && hint(&error).is_some(), "{error}");
    }
}
