#![doc = include_str!("../README.md")]
//!
//! A backend is one line in [`run`]. [`open`] returns a backend's device behind the traits of `burnish-engine`, and [`enter`] runs work
//! on it. [`run`] is for work that is itself generic over the backend, such as a benchmark.

#![warn(missing_docs)]

mod auto;
pub mod capacity;
pub mod dtype;
#[cfg(all(feature = "cuda", not(target_os = "macos")))]
mod kernel_cache;
mod pool;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Result, bail};
use burn::backend::Flex;
use burn::tensor::DType;
use burnish_engine::dtype::known_product;
use burnish_engine::guard::caught;
use burnish_engine::{BackendDevice, Device, with_hint};
use burnish_kernels::FusedBackend;

/// The values that `--backend` accepts.
pub const NAMES: &[&str] =
    &["auto", "cpu", "candle", "ndarray", "tch", "wgpu", "metal", "vulkan", "cuda", "rocm", "emulator", "emulator-stock"];

/// A backend for comparison only: burn without the kernels and gradients of Burnish.
pub const WGPU_STOCK: &str = "wgpu-stock";

/// Work that is generic over the backend, compiled for each.
pub trait BackendJob: Send {
    /// The result.
    type Output: Send;

    /// Runs the work.
    ///
    /// # Errors
    /// Those of the work.
    fn run<B: FusedBackend>(self, device: B::Device) -> Result<Self::Output>;
}

/// Resolves `auto`, and returns the reason too.
///
/// # Errors
/// When no backend has that name, built in or not.
pub fn choose(name: &str) -> Result<(&'static str, &'static str)> {
    Ok(match NAMES.iter().chain(&[WGPU_STOCK]).find(|known| **known == name) {
        Some(&"auto") => auto::choose(),
        Some(&"emulator") => ("emulator", "requested: Metal kernels on the CPU, every memory access checked, very slow"),
        Some(&"emulator-stock") => ("emulator-stock", "requested: like emulator, with burn's own kernels"),
        Some(&WGPU_STOCK) => (WGPU_STOCK, "requested: burn with its own kernels and gradients, without fusion"),
        Some(known) => (*known, "requested"),
        None => return Err(unknown(name)),
    })
}

/// Whether attention on that backend skips the other examples of a row. Elsewhere a row costs as if it were one long example.
pub fn attends_by_segment(name: &str) -> bool {
    matches!(choose(name), Ok(("cpu" | "metal" | "vulkan" | "cuda" | "emulator", _)))
}

/// What the tokens of a large batch should be a multiple of: the rows of a tile where kernels take seconds to compile.
pub fn granule(name: &str) -> usize {
    if matches!(choose(name), Ok(("cuda", _))) { 128 } else { 1 }
}

/// The backends apart from `auto` and `cpu`, and whether this build has them.
const BUILT_IN: &[(&str, bool)] = &[
    ("candle", cfg!(feature = "candle")),
    ("ndarray", cfg!(feature = "ndarray")),
    ("tch", cfg!(feature = "tch")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("metal", cfg!(feature = "metal")),
    ("vulkan", cfg!(feature = "metal")),
    ("cuda", cfg!(all(feature = "cuda", not(target_os = "macos")))),
    ("rocm", cfg!(feature = "rocm")),
    ("emulator", cfg!(feature = "emulator")),
    ("emulator-stock", cfg!(feature = "emulator-stock")),
    (WGPU_STOCK, cfg!(feature = "wgpu-stock")),
];

/// The backends of this build that this system could have, `auto` left out.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    let other = if cfg!(target_os = "macos") { "vulkan" } else { "metal" };
    let built = BUILT_IN.iter().filter(move |(name, built)| *built && *name != other);
    ["cpu"].into_iter().chain(built.map(|(name, _)| *name))
}

fn unknown(name: &str) -> anyhow::Error {
    let of = |built_in: bool| {
        let names = BUILT_IN.iter().filter(move |(_, built)| *built == built_in);
        names.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let missing = Some(of(false)).filter(|names| !names.is_empty());
    let missing = missing.map_or_else(String::new, |names| format!("; build with the feature of the same name for {names}"));
    with_hint(
        format!("there is no backend `{name}`"),
        format!("this build has {}{missing}", ["auto, cpu", &of(true)].join(", ").trim_end_matches(", ")),
    )
}

static KERNELS: OnceLock<PathBuf> = OnceLock::new();

/// Keeps compiled kernels of slow compilers in a folder that processes share. Call it before the first device is opened.
pub fn keep_kernels(folder: PathBuf) {
    KERNELS.set(folder).ok();
}

/// Shares the kernels that this process compiled since, where [`keep_kernels`] was called. No other thread may use a device now.
pub fn publish_kernels() {
    #[cfg(all(feature = "cuda", not(target_os = "macos")))]
    kernel_cache::publish();
}

/// Removes this process's copy of the kept kernels. No device may be used after that.
pub fn close_kernels() {
    #[cfg(all(feature = "cuda", not(target_os = "macos")))]
    kernel_cache::close();
}

/// Opens a device of the named backend.
///
/// # Errors
/// When the backend is unknown, not built in, or finds no device.
pub fn open(name: &str) -> Result<Box<dyn Device>> {
    run(name, Open)
}

/// Opens a device and runs work on it, on the thread where its kernels start fastest.
///
/// # Errors
/// Those of [`open`] and of the work.
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

/// Runs a generic job on the named backend.
///
/// # Errors
/// Those of [`open`] and of the job.
pub fn run<J: BackendJob>(name: &str, job: J) -> Result<J::Output> {
    match choose(name)?.0 {
        "cpu" => pool::within(|| job.run::<Flex>(Default::default())),
        #[cfg(feature = "candle")]
        #[allow(deprecated)]
        "candle" => job.run::<burn_candle::Candle>(Default::default()),
        #[cfg(feature = "ndarray")]
        "ndarray" => job.run::<burn_ndarray::NdArray>(Default::default()),
        #[cfg(feature = "tch")]
        "tch" => job.run::<burn_tch::LibTorch>(Default::default()),
        #[cfg(feature = "rocm")]
        "rocm" => tested::<burnish_kernels::runtime::Rocm, J>("rocm", job),
        #[cfg(feature = "wgpu")]
        "wgpu" => tested::<burnish_kernels::runtime::Wgpu, J>("wgpu", job),
        #[cfg(feature = "wgpu-stock")]
        WGPU_STOCK => tested::<burnish_kernels::runtime::StockWgpu, J>(WGPU_STOCK, job),
        "metal" if !cfg!(target_os = "macos") => {
            Err(with_hint("the backend `metal` needs macOS", "use --backend vulkan on this system"))
        }
        "vulkan" if cfg!(target_os = "macos") => {
            Err(with_hint("the backend `vulkan` is not available on macOS", "use --backend metal on this system"))
        }
        #[cfg(feature = "metal")]
        name @ ("metal" | "vulkan") => tested::<burnish_metal::Metal, J>(name, job),
        #[cfg(all(feature = "cuda", not(target_os = "macos")))]
        "cuda" => {
            if let Some(Err(error)) = KERNELS.get().map(|folder| kernel_cache::take_from(folder)) {
                tracing::debug!("compiled kernels are not kept: {error:#}");
            }
            tested::<burnish_kernels::runtime::Cuda, J>("cuda", job)
        }
        #[cfg(feature = "emulator")]
        "emulator" => tested::<burnish_metal::emulator::MetalCpu, J>("emulator", job),
        #[cfg(feature = "emulator-stock")]
        "emulator-stock" => tested::<burnish_metal::emulator::StockMetalCpu, J>("emulator-stock", job),
        other => bail!("the backend `{other}` is not built in; rebuild with --features {other}"),
    }
}

/// Runs a job on a device that passed a self-test, so that a missing GPU or kernels that don't compile are an error before anything
/// else runs.
#[cfg(any(feature = "wgpu", feature = "metal", feature = "cuda", feature = "rocm", feature = "emulator"))]
fn tested<B: FusedBackend, J: BackendJob>(name: &str, job: J) -> Result<J::Output> {
    let device = B::Device::default();
    let problem = match caught(|| known_product::<B>(&device, DType::F32)) {
        Ok(Ok(())) => return job.run::<B>(device),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it found no usable GPU".to_owned(),
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
        assert!(attends_by_segment("cpu") && !attends_by_segment("wgpu") && !attends_by_segment("gpu"));
    }
}
