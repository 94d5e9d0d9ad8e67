//! The backends that a user can name.

use anyhow::{Result, bail};
use burn::backend::Flex;
use burnish_kernels::FusedBackend;

/// What `--backend` accepts.
pub const NAMES: &[&str] = &["auto", "cpu", "candle", "wgpu"];

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
    match name {
        "cpu" => ("cpu", "asked for"),
        "candle" => ("candle", "asked for"),
        "wgpu" => ("wgpu", "asked for"),
        _ => ("cpu", "auto: it runs everywhere; --backend wgpu uses a GPU"),
    }
}

/// Runs a job on the backend of that name.
///
/// # Errors
/// When the name is unknown, the backend is not built in or finds no device, or the job fails.
pub fn run<J: BackendJob>(name: &str, job: J) -> Result<J::Output> {
    match choose(name).0 {
        // On a thread of the pool that the kernels share, a kernel's first part starts without waking anyone.
        "cpu" => rayon::scope(|_| job.run::<Flex>(Default::default())),
        #[cfg(feature = "candle")]
        #[allow(deprecated)]
        "candle" => job.run::<burn_candle::Candle>(Default::default()),
        #[cfg(feature = "wgpu")]
        "wgpu" => {
            check_wgpu()?;
            job.run::<burn_wgpu::Wgpu>(Default::default())
        }
        other => bail!("the backend `{other}` is not built in; rebuild with --features {other}"),
    }
}

/// burn-wgpu panics where there is no adapter; here that is an error before anything else runs.
#[cfg(feature = "wgpu")]
fn check_wgpu() -> Result<()> {
    let probe = std::panic::catch_unwind(|| {
        let device = Default::default();
        burn::tensor::Tensor::<burn_wgpu::Wgpu, 1>::ones([4], &device).sum().into_scalar()
    });
    match probe {
        Ok(sum) if (sum - 4.0).abs() < 1e-6 => Ok(()),
        Ok(sum) => bail!("the wgpu device computes wrongly: 1 + 1 + 1 + 1 gave {sum}"),
        Err(_) => bail!("wgpu finds no usable GPU; --backend cpu runs everywhere"),
    }
}
