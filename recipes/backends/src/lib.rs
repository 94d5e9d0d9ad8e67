//! The backends that a user can name, each compiled once: a line in [`run`].
//!
//! [`enter`] opens the door of `burnish-engine` on one of them; [`run`] is for work that is itself generic, such as a benchmark.

#![warn(missing_docs)]

mod auto;
pub mod dtype;
pub mod memory;
mod pool;

use anyhow::{Result, bail};
use burn::backend::Flex;
use burn::tensor::DType;
use burnish_engine::dtype::known_product;
use burnish_engine::guard::caught;
use burnish_engine::{BackendDevice, Device, with_hint};
use burnish_kernels::FusedBackend;

/// What `--backend` accepts.
pub const NAMES: &[&str] = &["auto", "cpu", "candle", "wgpu", "metal", "vulkan", "cuda", "emulator", "emulator-stock"];

/// The backend that only a comparison needs: burn alone, without the kernels and the gradients of Burnish.
pub const WGPU_STOCK: &str = "wgpu-stock";

/// Work that runs on whichever backend the user names, compiled for each.
pub trait BackendJob: Send {
    /// What comes of it.
    type Output: Send;

    /// Does the work.
    ///
    /// # Errors
    /// Whatever the work reports.
    fn run<B: FusedBackend>(self, device: B::Device) -> Result<Self::Output>;
}

/// Resolves `auto`, and says why.
///
/// # Errors
/// When no backend has that name, built in or not.
pub fn choose(name: &str) -> Result<(&'static str, &'static str)> {
    Ok(match NAMES.iter().chain(&[WGPU_STOCK]).find(|known| **known == name) {
        Some(&"auto") => auto::choose(),
        Some(&"emulator") => ("emulator", "asked for: Metal's code on the CPU, checked at every access, and very slow"),
        Some(&"emulator-stock") => ("emulator-stock", "asked for: as emulator, on burn's own kernels"),
        Some(&WGPU_STOCK) => (WGPU_STOCK, "asked for: burn alone, its kernels and its gradients"),
        Some(known) => (*known, "asked for"),
        None => return Err(unknown(name)),
    })
}

/// What the features of this build bring, `auto` and `cpu` left out.
const BUILT_IN: &[(&str, bool)] = &[
    ("candle", cfg!(feature = "candle")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("metal", cfg!(feature = "metal")),
    ("vulkan", cfg!(feature = "metal")),
    ("cuda", cfg!(all(feature = "cuda", not(target_os = "macos")))),
    ("emulator", cfg!(feature = "emulator")),
    ("emulator-stock", cfg!(feature = "emulator-stock")),
    (WGPU_STOCK, cfg!(feature = "wgpu-stock")),
];

fn unknown(name: &str) -> anyhow::Error {
    let of = |built_in: bool| {
        let names = BUILT_IN.iter().filter(move |(_, built)| *built == built_in);
        names.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let missing = Some(of(false)).filter(|names| !names.is_empty());
    let missing =
        missing.map_or_else(String::new, |names| format!("; a feature of the build of the same name brings {names}"));
    with_hint(
        format!("there is no backend `{name}`"),
        format!("this build has {}{missing}", ["auto, cpu", &of(true)].join(", ").trim_end_matches(", ")),
    )
}

/// Opens a device of the backend of that name.
///
/// # Errors
/// When the name is unknown, or the backend is not built in or finds no device.
pub fn open(name: &str) -> Result<Box<dyn Device>> {
    run(name, Open)
}

/// Opens a device and does the work on it, on the thread where its kernels start fastest.
///
/// # Errors
/// As [`open`], or what the work reports.
pub fn enter<T: Send>(name: &str, work: impl FnOnce(&dyn Device) -> Result<T> + Send) -> Result<T> {
    let device = open(name)?;
    if choose(name)?.0 == "cpu" { pool::within(|| work(&*device)) } else { work(&*device) }
}

struct Open;

impl BackendJob for Open {
    type Output = Box<dyn Device>;

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<Box<dyn Device>> {
        Ok(Box::new(BackendDevice::<B>(device)))
    }
}

/// Runs a generic job on the backend of that name.
///
/// # Errors
/// As [`open`], or what the job reports.
pub fn run<J: BackendJob>(name: &str, job: J) -> Result<J::Output> {
    match choose(name)?.0 {
        "cpu" => pool::within(|| job.run::<Flex>(Default::default())),
        #[cfg(feature = "candle")]
        #[allow(deprecated)]
        "candle" => job.run::<burn_candle::Candle>(Default::default()),
        #[cfg(feature = "wgpu")]
        "wgpu" => tested::<burnish_kernels::runtime::Wgpu, J>("wgpu", job),
        #[cfg(feature = "wgpu-stock")]
        WGPU_STOCK => tested::<burnish_kernels::runtime::StockWgpu, J>(WGPU_STOCK, job),
        "metal" if !cfg!(target_os = "macos") => {
            Err(with_hint("the backend `metal` is for macOS", "--backend vulkan is for this system"))
        }
        "vulkan" if cfg!(target_os = "macos") => Err(with_hint("macOS has no Vulkan", "--backend metal is for this system")),
        #[cfg(feature = "metal")]
        name @ ("metal" | "vulkan") => tested::<burnish_metal::Metal, J>(name, job),
        #[cfg(all(feature = "cuda", not(target_os = "macos")))]
        "cuda" => tested::<burnish_kernels::runtime::Cuda, J>("cuda", job),
        #[cfg(feature = "emulator")]
        "emulator" => tested::<burnish_metal::emulator::MetalCpu, J>("emulator", job),
        #[cfg(feature = "emulator-stock")]
        "emulator-stock" => tested::<burnish_metal::emulator::StockMetalCpu, J>("emulator-stock", job),
        other => bail!("the backend `{other}` is not built in; rebuild with --features {other}"),
    }
}

/// Runs a job on a device that has computed a known product rightly: where there is no adapter, or its kernels do not compile,
/// that is an error before anything else runs.
#[cfg(any(feature = "wgpu", feature = "metal", feature = "cuda", feature = "emulator"))]
fn tested<B: FusedBackend, J: BackendJob>(name: &str, job: J) -> Result<J::Output> {
    let device = B::Device::default();
    let problem = match caught(|| known_product::<B>(&device, DType::F32)) {
        Ok(Ok(())) => return job.run::<B>(device),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it finds no usable GPU".to_owned(),
    };
    Err(with_hint(format!("the backend `{name}` does not work here: {problem}"), "--backend cpu runs everywhere"))
}

#[cfg(test)]
mod tests {
    use burnish_engine::Hinted;

    use super::*;

    #[test]
    fn a_name_that_no_backend_has_is_not_auto() {
        for name in ["gpu", "", "CPU", "auto "] {
            let error = open(name).err().unwrap();
            assert_eq!(error.to_string(), format!("there is no backend `{name}`"));
            let hint = error.downcast_ref::<Hinted>().unwrap().hint();
            assert!(hint.starts_with("this build has auto, cpu"), "{hint}");
            assert!(BUILT_IN.iter().all(|(name, _)| hint.contains(name)), "{hint}");
            assert!(choose(name).is_err() && dtype::choose(name, "f32").is_err());
        }
        for name in NAMES.iter().chain(&[WGPU_STOCK]).filter(|name| **name != "auto") {
            assert_eq!(choose(name).unwrap().0, *name);
            let is_known = ["auto", "cpu"].contains(name) || BUILT_IN.iter().any(|(known, _)| known == name);
            assert!(is_known, "{name}");
        }
        assert!(NAMES.contains(&choose("auto").unwrap().0));
    }
}
