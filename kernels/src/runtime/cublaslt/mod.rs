//! Matrix products by NVIDIA's cuBLASLt, where the driver and the library are there.

mod context_events;
mod failure;
mod queue;
mod server;

use std::collections::HashMap;
use std::panic::catch_unwind;
use std::sync::{Mutex, OnceLock, PoisonError};

use cubecl::server::{ComputeServer, Handle};
use cubecl_common::device::Device;
use cubecl_common::device_handle::DeviceHandle;
use cubecl_common::stream_id::StreamId;
use cubecl_cuda::CudaDevice;
use cudarc::cublaslt::sys;

use crate::{Gemm, GemmStep, ProductLibrary};
use queue::Queue;
use server::{Server, text};

/// The environment variable that keeps products on the kernels of this crate when it is `kernels`.
const VARIABLE: &str = "BURNISH_PRODUCTS";

/// cuBLASLt on one device.
struct CublasLt {
    device: DeviceHandle<Server>,
    name: String,
    supported: Mutex<HashMap<Gemm, bool>>,
}

/// The library for a device, loaded at the first call; `None` where driver or library is missing or too old.
pub(super) fn of(device: &CudaDevice) -> Option<&'static dyn ProductLibrary> {
    static LOADED: OnceLock<Mutex<HashMap<usize, Option<&'static CublasLt>>>> = OnceLock::new();
    let mut loaded = LOADED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let found = *loaded.entry(device.index).or_insert_with(|| match CublasLt::load(device) {
        Ok(library) => {
            tracing::info!("matrix products by {} on CUDA device {}", library.name, device.index);
            Some(Box::leak(Box::new(library)))
        }
        Err(reason) => {
            tracing::info!("matrix products by own kernels on CUDA device {}: {reason}", device.index);
            None
        }
    });
    found.map(|library| library as &dyn ProductLibrary)
}

impl CublasLt {
    fn load(device: &CudaDevice) -> Result<Self, String> {
        if std::env::var(VARIABLE).is_ok_and(|value| value == "kernels") {
            return Err(format!("{VARIABLE} asks for them"));
        }
        // SAFETY: it only looks for the library. Without it, cudarc's other calls would panic.
        if !unsafe { sys::is_culib_present() } {
            return Err("libcublasLt was not found".to_owned());
        }
        let handle = DeviceHandle::<Server>::new(device.to_id());
        let loaded = handle.submit_blocking(|server| {
            // Makes the device's context current, and leaves its errors to the next read.
            server.staging(&[], StreamId::current()).map_err(text)?;
            catch_unwind(Queue::open).map_err(|_| "libcublasLt lacks a function".to_owned())?
        });
        loaded.map_err(text)??;
        // SAFETY: the library is there, and has this function since its first version.
        let version = unsafe { sys::cublasLtGetVersion() };
        let name = format!("cuBLASLt {}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100);
        Ok(Self { device: handle, name, supported: Mutex::default() })
    }
}

impl ProductLibrary for CublasLt {
    fn name(&self) -> &str {
        &self.name
    }

    fn supports(&self, gemm: Gemm) -> bool {
        let supported = || self.supported.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = supported().get(&gemm).copied() {
            return known;
        }
        // Not under the lock, because the device's thread may be waiting for it.
        let found = self.device.exclusive(move || queue::plans(&gemm)).unwrap_or(false);
        supported().insert(gemm, found);
        found
    }

    fn multiply(&self, steps: Vec<GemmStep>) {
        let Some(stream) = steps.first().map(|step| step.d.stream) else { return };
        let steps: Vec<_> = steps
            .into_iter()
            .map(|GemmStep { gemm, alpha, beta, a, b, d }| (gemm, [alpha, beta], [a, b, d].map(Handle::binding)))
            .collect();
        self.device.submit(move |server| {
            if let Err(reason) = queue::run(server, steps, stream) {
                failure::report(server, stream, format!("cuBLASLt: {reason}"));
            }
        });
    }
}
