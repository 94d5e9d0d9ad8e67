//! Keeps compiled kernels: NVIDIA's compiler takes most of a minute.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use burnish_engine::guard::{caught, message};
use burnish_engine::kernel_cache::{KernelCache, digest};
use cubecl_common::config::RuntimeConfig;
use cubecl_runtime::config::CubeClRuntimeConfig;
use cubecl_runtime::config::cache::CacheConfig;
use cudarc::driver::{result as cu, sys as driver};
use cudarc::nvrtc::sys as nvrtc;

static CACHE: Mutex<Option<KernelCache>> = Mutex::new(None);

/// Where cubecl-cuda 0.10 keeps compiled kernels, below the folder that it is given.
const FILE: &str = "cuda/0.10.0/ptx/chunk0.cbor";

/// Takes compiled kernels from a folder that processes share. Call it before the first kernel of the process; later calls do nothing.
///
/// # Errors
/// When there is no driver, or a folder can't be written. Kernels are then compiled as they are needed.
pub(crate) fn take_from(folder: &Path) -> Result<()> {
    let mut held = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if held.is_none() {
        // Where driver or compiler are missing, or `cubecl.toml` is malformed, these panic.
        let opened = caught(|| open(folder)).map_err(|payload| anyhow!("{}", message(&*payload)))?;
        *held = opened?;
    }
    Ok(())
}

fn open(folder: &Path) -> Result<Option<KernelCache>> {
    let key = key()?;
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if config.compilation.cache.is_some() {
        return Ok(None); // the user's own
    }
    let cache = KernelCache::open(folder, &key, Path::new(FILE)).with_context(|| folder.display().to_string())?;
    config.compilation.cache = Some(CacheConfig::File(cache.folder().to_owned()));
    CubeClRuntimeConfig::set(config);
    Ok(Some(cache))
}

/// Shares the kernels that were compiled in this process. No kernel may be compiling now.
pub(crate) fn publish() {
    if let Some(cache) = &mut *CACHE.lock().unwrap_or_else(PoisonError::into_inner) {
        match cache.publish() {
            Ok(true) => tracing::debug!("compiled kernels are kept for the next run"),
            Ok(false) => {}
            Err(error) => tracing::debug!("compiled kernels are not kept: {error}"),
        }
    }
}

/// Removes the process's own copy. No device may be used after that.
pub(crate) fn close() {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// What compiled kernels depend on: the program, the driver, its compiler and the device.
fn key() -> Result<String> {
    let program = std::fs::read(std::env::current_exe()?)?;
    cu::init().map_err(|error| anyhow!("{error:?}"))?;
    let device = cu::device::get(0).map_err(|error| anyhow!("{error:?}"))?;
    let name = cu::device::get_name(device).map_err(|error| anyhow!("{error:?}"))?;
    let [mut driver_version, mut major, mut minor] = [0; 3];
    // SAFETY: the pointers are those of integers.
    unsafe {
        driver::cuDriverGetVersion(&raw mut driver_version).result().map_err(|error| anyhow!("{error:?}"))?;
        nvrtc::nvrtcVersion(&raw mut major, &raw mut minor);
    }
    let facts = format!("{name} driver {driver_version} nvrtc {major}.{minor}");
    Ok(digest([&*program, facts.as_bytes()]))
}
