//! The driver's functions that order a stream with all work of a context.
//!
//! They came with CUDA 12.5. cudarc declares them only where it is built beside such a toolkit, so they are looked up by name.

use cudarc::driver::DriverError;
use cudarc::driver::sys::{CUcontext, CUevent, CUresult};

use super::server::text;

type OnContext = unsafe extern "C" fn(CUcontext, CUevent) -> CUresult;

/// `cuCtxRecordEvent` and `cuCtxWaitEvent`.
pub(super) struct ContextEvents {
    record: OnContext,
    wait: OnContext,
}

impl ContextEvents {
    /// Looks them up in the driver.
    pub fn load() -> Result<Self, String> {
        let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
        // SAFETY: the driver is loaded already, because the device's server runs on it, and stays loaded. Both functions have this type.
        unsafe {
            let driver = libloading::Library::new(name).map_err(text)?;
            let find = |name: &str| {
                let missing = |_| format!("the driver has no {name}, which came with CUDA 12.5");
                driver.get::<OnContext>(name.as_bytes()).map(|function| *function).map_err(missing)
            };
            let found = Self { record: find("cuCtxRecordEvent")?, wait: find("cuCtxWaitEvent")? };
            std::mem::forget(driver);
            Ok(found)
        }
    }

    /// Records an event after all work that was queued in a context.
    ///
    /// # Safety
    /// Context and event must be alive.
    pub unsafe fn record(&self, context: CUcontext, event: CUevent) -> Result<(), DriverError> {
        // SAFETY: the caller guarantees it.
        unsafe { (self.record)(context, event).result() }
    }

    /// Lets all work that is queued in a context from now on wait for an event.
    ///
    /// # Safety
    /// Context and event must be alive.
    pub unsafe fn wait(&self, context: CUcontext, event: CUevent) -> Result<(), DriverError> {
        // SAFETY: the caller guarantees it.
        unsafe { (self.wait)(context, event).result() }
    }
}
