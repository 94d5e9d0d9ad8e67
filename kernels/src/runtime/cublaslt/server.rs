//! cubecl's server of a CUDA device.

use cubecl::Runtime;
use cubecl_cuda::CudaRuntime;

/// The server.
pub(super) type Server = <CudaRuntime as Runtime>::Server;

/// An error of a library as text.
pub(super) fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
