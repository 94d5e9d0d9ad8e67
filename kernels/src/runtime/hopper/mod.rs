//! Attention on NVIDIA's Hopper GPUs, in CUDA C++: the products of whole warpgroups, which CubeCL cannot express, multiply about twice
//! as fast there as those of single warps. Each sum has a fixed order and no atomics, so that results are equal in every run.

mod launch;
mod task;

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl_cuda::{CudaDevice, CudaRuntime};
use cudarc::driver::{result, sys};

use crate::attention::AttentionOptions;
pub(super) use launch::{backward, forward};

/// The environment variable that keeps attention on the kernels in CubeCL when it is `kernels`.
const VARIABLE: &str = "BURNISH_ATTENTION";
/// Fewest queries: fewer do not fill a warpgroup's rows.
const LEAST_QUERIES: usize = 64;
/// Alignment of tensors in bytes that tensor maps need.
const ALIGNMENT: u64 = 16;

/// Whether a device's products of warpgroups are those of the text: of compute capability 9.0, neither less nor more.
fn is_hopper(device: &CudaDevice) -> bool {
    static FOUND: OnceLock<Mutex<HashMap<usize, bool>>> = OnceLock::new();
    let mut found = FOUND.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    *found.entry(device.index).or_insert_with(|| {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        };
        let capability = |attribute| {
            let device = result::device::get(device.index as i32).ok()?;
            // SAFETY: it is a device of the driver, which cubecl has initialised.
            unsafe { result::device::get_attribute(device, attribute) }.ok()
        };
        let refused = std::env::var(VARIABLE).is_ok_and(|value| value == "kernels");
        let is_hopper = capability(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) == Some(9)
            && capability(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) == Some(0);
        let takes = is_hopper && !refused;
        tracing::info!(
            "attention on CUDA device {} by {}",
            device.index,
            if takes { "products of warpgroups" } else { "kernels in CubeCL" }
        );
        takes
    })
}

/// Whether these kernels support the inputs, of which the first is a query and the second a key.
pub(super) fn takes(
    inputs: &[&CubeTensor<CudaRuntime>],
    segments: Option<&CubeTensor<CudaRuntime>>,
    options: AttentionOptions,
) -> bool {
    let query = inputs[0];
    let [batch, queries, heads, head_dim] = query.meta.shape()[..] else { return false };
    let keys = inputs[1].meta.shape()[1];
    let aligned = |tensor: &&CubeTensor<CudaRuntime>| tensor.handle.offset_start.unwrap_or(0).is_multiple_of(ALIGNMENT);
    matches!(query.dtype, DType::F16 | DType::BF16)
        && inputs.iter().all(|tensor| tensor.dtype == query.dtype)
        && inputs.iter().all(aligned)
        && segments.is_none_or(|segments| segments.dtype == DType::I32)
        && matches!(head_dim, 64 | 128)
        && options.softcap.is_none()
        && options.sliding_window != Some(0)
        && (LEAST_QUERIES..=keys).contains(&queries)
        && batch * heads > 0
        && (batch * queries * heads) as u64 <= u64::from(u32::MAX)
        && is_hopper(&query.device)
}
