//! Small programs that use Burnish as a library, one file each in `src/bin`.

pub mod bookings;
#[cfg(feature = "onnx")]
pub mod reward_head;
