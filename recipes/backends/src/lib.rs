#![doc = include_str!("../README.md")]
//!
//! A backend is a line in [`run`]. [`enter`] opens the door of `burnish-engine` on one of them; [`run`] is for work that is itself
//! generic, such as a benchmark.

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
pub const NAMES: &[&str] =
    &["auto", "cpu", "candle", "ndarray", "tch", "wgpu", "metal", "vulkan", "cuda", "rocm", "emulator", "emulator-stock"];

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
pub fn choose(name: &str) -> (&'static str, &'static str) {
    match NAMES.iter().find(|known| **known == name && name != "auto") {
        Some(&"emulator") => ("emulator", "asked for: Metal's code on the CPU, checked at every access, and very slow"),
        Some(&"emulator-stock") => ("emulator-stock", "asked for: as emulator, on burn's own kernels"),
        Some(known) => (known, "asked for"),
        None if name == WGPU_STOCK => (WGPU_STOCK, "asked for: burn alone, its kernels and its gradients"),
        None => auto::choose(),
    }
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
    if choose(name).0 == "cpu" { pool::within(|| work(&*device)) } else { work(&*device) }
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
    match choose(name).0 {
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
#[cfg(any(feature = "wgpu", feature = "metal", feature = "cuda", feature = "rocm", feature = "emulator"))]
fn tested<B: FusedBackend, J: BackendJob>(name: &str, job: J) -> Result<J::Output> {
    let device = B::Device::default();
    let problem = match caught(|| known_product::<B>(&device, DType::F32)) {
        Ok(Ok(())) => return job.run::<B>(device),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it finds no usable GPU".to_owned(),
    };
    Err(with_hint(format!("the backend `{name}` does not work here: {problem}"), "--backend cpu runs everywhere"))
}
