//! The backends that a user can name.

mod auto;
mod failure;

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow, bail};
use burn::backend::Flex;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::FusedBackend;

pub(crate) use self::failure::failure;
use crate::hint::with_hint;

/// What `--backend` accepts.
pub const NAMES: &[&str] = &["auto", "cpu", "candle", "wgpu", "metal", "vulkan", "cuda", "emulator", "emulator-stock"];

/// Work that runs on whichever backend the user names.
pub trait BackendJob: Send {
    /// What comes of it.
    type Output: Send;

    /// Does the work.
    ///
    /// # Errors
    /// Whatever the work reports.
    fn run<B: FusedBackend>(self, device: B::Device) -> Result<Self::Output>;
}

/// Resolves `auto` and says why.
pub fn choose(name: &str) -> (&'static str, &'static str) {
    match NAMES.iter().find(|known| **known == name && name != "auto") {
        Some(&"emulator") => ("emulator", "asked for: Metal's code on the CPU, checked at every access, and very slow"),
        Some(&"emulator-stock") => ("emulator-stock", "asked for: as emulator, on burn's own kernels"),
        Some(known) => (known, "asked for"),
        None => auto::choose(),
    }
}

/// Runs a job on the backend of that name. The tests of this crate know those of the CPU alone: building every recipe for
/// every GPU once more would take longer than all else, and `tests/` has them all.
///
/// # Errors
/// When the name is unknown, the backend is not built in or finds no device, or the job fails.
pub fn run<J: BackendJob>(name: &str, job: J) -> Result<J::Output> {
    match choose(name).0 {
        "cpu" => on_the_pool(|| job.run::<Flex>(Default::default())),
        #[cfg(feature = "candle")]
        #[allow(deprecated)]
        "candle" => job.run::<burn_candle::Candle>(Default::default()),
        #[cfg(all(feature = "wgpu", not(test)))]
        "wgpu" => tested::<burn_wgpu::Wgpu, J>("wgpu", job),
        "metal" if !cfg!(target_os = "macos") => {
            Err(with_hint("the backend `metal` is for macOS", "--backend vulkan is for this system"))
        }
        "vulkan" if cfg!(target_os = "macos") => Err(with_hint("macOS has no Vulkan", "--backend metal is for this system")),
        #[cfg(all(feature = "metal", not(test)))]
        name @ ("metal" | "vulkan") => tested::<burnish_metal::Metal, J>(name, job),
        #[cfg(all(feature = "cuda", not(target_os = "macos"), not(test)))]
        "cuda" => tested::<burn_cuda::Cuda, J>("cuda", job),
        #[cfg(all(feature = "emulator", not(test)))]
        "emulator" => tested::<burnish_metal::emulator::MetalCpu, J>("emulator", job),
        #[cfg(all(feature = "emulator", not(test)))]
        "emulator-stock" => tested::<burnish_metal::emulator::StockMetalCpu, J>("emulator-stock", job),
        other => bail!("the backend `{other}` is not built in; rebuild with --features {other}"),
    }
}

/// Runs work on a thread of the pool that the kernels share, where a kernel's first part starts without waking anyone.
///
/// Only work that begins while no other runs goes there; the rest stays on its own thread. A thread of the pool that waits for a part
/// of one work would else take up another whole, and hold what the first has locked until that one's end.
fn on_the_pool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            RUNNING.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let is_alone = RUNNING.fetch_add(1, Ordering::SeqCst) == 0;
    let _ended = Ended;
    if is_alone { rayon::scope(|_| work()) } else { work() }
}

/// Runs a job on a device that has computed a known product rightly: where there is no adapter, or its kernels do not compile,
/// that is an error before anything else runs.
#[cfg(all(any(feature = "wgpu", feature = "metal", feature = "cuda", feature = "emulator"), not(test)))]
pub(crate) fn tested<B: FusedBackend, J: BackendJob>(name: &str, job: J) -> Result<J::Output> {
    let device = B::Device::default();
    let computed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| known_product::<B>(&device, DType::F32)));
    let problem = match computed {
        Ok(Ok(())) => return job.run::<B>(device),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it finds no usable GPU".to_owned(),
    };
    Err(with_hint(format!("the backend `{name}` does not work here: {problem}"), "--backend cpu runs everywhere"))
}

/// `A·Aᵀ` of whole numbers, which every float type holds exactly.
pub(crate) fn known_product<B: Backend>(device: &B::Device, dtype: DType) -> Result<()> {
    const SIZE: usize = 16;
    let value = |index: usize| ((index * 7) % 5) as f32 - 2.0;
    let values: Vec<f32> = (0..SIZE * SIZE).map(value).collect();
    let matrix = Tensor::<B, 2>::from_data(TensorData::new(values.clone(), [SIZE, SIZE]), (device, dtype));
    let product = matrix.clone().matmul(matrix.transpose()).try_into_data().map_err(|error| anyhow!(failure(error)))?;
    for (at, found) in product.iter::<f32>().enumerate() {
        let (row, column) = (at / SIZE, at % SIZE);
        let expected: f32 = (0..SIZE).map(|k| values[row * SIZE + k] * values[column * SIZE + k]).sum();
        if (found - expected).abs() > 1e-3 {
            bail!("its self-test gave {found} where {expected} is right");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_self_test_passes_on_the_cpu() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            known_product::<Flex>(&Default::default(), dtype).unwrap();
        }
    }

    #[test]
    fn a_backend_of_another_system_is_an_error() {
        struct Nothing;
        impl BackendJob for Nothing {
            type Output = ();
            fn run<B: FusedBackend>(self, _: B::Device) -> Result<()> {
                Ok(())
            }
        }
        let other = if cfg!(target_os = "macos") { "vulkan" } else { "metal" };
        assert!(run(other, Nothing).is_err());
        run("cpu", Nothing).unwrap();
    }
}
