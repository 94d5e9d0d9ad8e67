//! Which backends exist here, and which of their operations run as kernels of our own.

#[cfg(any(feature = "candle", feature = "cube"))]
use crate::FusedBackend;

// burn 0.21 marks its Candle backend deprecated; it is one of the backends that users compare.
#[cfg(feature = "candle")]
#[allow(deprecated)]
impl FusedBackend for burn_candle::Candle {}

#[cfg(feature = "cube")]
impl<R, F, I, BT> FusedBackend for burn_cubecl::CubeBackend<R, F, I, BT>
where
    R: burn_cubecl::CubeRuntime,
    F: burn_cubecl::FloatElement,
    I: burn_cubecl::IntElement,
    BT: burn_cubecl::BoolElement,
{
}
