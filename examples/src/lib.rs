//! Small programs that use Burnish as a library; each is a file in `src/bin`.

pub mod bookings;
#[cfg(feature = "onnx")]
pub mod reward_head;
