//! Small programs that use Burnish as a library, one file each in `src/bin`.

pub mod bookings;
pub mod fine_tune;
#[cfg(feature = "onnx")]
pub mod reward_head;
