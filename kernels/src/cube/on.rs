//! The backends of a runtime.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use crate::FusedBackend;

/// A backend whose tensors are those of the cubecl runtime `R`, such as `CubeBackend<R, f32, i32, u8>`.
pub trait BackendOn<R: CubeRuntime>:
    FusedBackend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>, Device = R::Device>
{
}

impl<R, B> BackendOn<R> for B
where
    R: CubeRuntime,
    B: FusedBackend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>, Device = R::Device>,
{
}
