#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
// For CubeCL: its macro takes tuples by reference and dtypes as underscored arguments, and kernels have neither `is_multiple_of` nor
// short-circuiting operators.
#![cfg_attr(
    feature = "cube",
    allow(
        clippy::collapsible_if,
        clippy::excessive_precision,
        clippy::manual_div_ceil,
        clippy::manual_is_multiple_of,
        clippy::match_bool,
        clippy::trivially_copy_pass_by_ref,
        clippy::type_complexity,
        clippy::used_underscore_binding
    )
)]

pub mod adamw;
pub mod adamw8bit;
pub mod append;
pub mod attention;
mod autodiff;
mod backend;
mod backward_from;
mod broken;
#[cfg(feature = "cube")]
mod cube;
mod device_memory;
pub mod dropout;
mod exact_buffers;
mod flex;
pub mod glu;
pub mod grouped_linear;
pub mod layer_norm;
pub mod linear;
pub mod linear_cross_entropy;
pub mod lora_linear;
#[cfg(feature = "cube")]
mod matrix;
mod operations;
pub mod pack;
pub mod packed;
mod primitive;
pub mod products;
pub mod rms_norm;
pub mod rotary;
pub mod runtime;
pub mod sample_tokens;
#[cfg(test)]
mod samples;
pub mod select_rows;
pub mod sink_attention;
pub mod squared_norm;
pub mod stacked_linear;
pub mod tolerance;
pub mod unsaved;

pub use adamw::{AdamWStep, AdamWTensors, adamw};
pub use adamw8bit::{AdamW8bitTensors, AdamW8bitUpdate, Moment8bit, adamw8bit};
pub use append::{append, append_rotated, prefix};
pub use attention::{AttentionOptions, attention};
pub use backend::FusedBackend;
pub use backward_from::{TrainBackend, backward_from, is_tracked};
#[cfg(feature = "cube")]
pub use cube::BackendOn;
pub use device_memory::{DeviceMemory, MemoryProbe};
pub use dropout::{Dropout, DropoutKey, dropout, dropout_from};
pub use exact_buffers::exact_buffers;
pub use glu::{geglu, swiglu};
pub use grouped_linear::{Group, GroupWeight, TensorGroup, grouped_linear};
pub use layer_norm::layer_norm;
pub use linear::packed::{packed_glu_linear, packed_linear, packed_linears, packed_rows};
pub use linear::{glu_linear, linear, linears};
pub use linear_cross_entropy::capped::{capped_linear_cross_entropy, packed_capped_linear_cross_entropy, soft_cap};
pub use linear_cross_entropy::linear_cross_entropy;
pub use linear_cross_entropy::packed::packed_linear_cross_entropy;
pub use lora_linear::packed::packed_lora_linear;
pub use lora_linear::{Unread, lora_linear, unread_lora_linear};
#[cfg(feature = "cube")]
pub use matrix::{Gemm, GemmStep, PackedRoute, ProductLibrary, multiply_packed};
pub use operations::OPERATIONS;
pub use pack::{pack, packed_elements, unpack};
pub use products::{DEFAULT_CANDIDATE, ProductTrial};
pub use rms_norm::{add_rms_norm, fork_rms_norm, rms_norm};
pub use rotary::{RotaryTable, rotary};
#[cfg(feature = "cube")]
pub use runtime::KernelRuntime;
pub use sample_tokens::{TokenDraw, sample_tokens};
pub use select_rows::select_rows;
pub use sink_attention::sink_attention;
pub use squared_norm::squared_norm;
pub use stacked_linear::{GroupRows, stacked_linear};
pub use unsaved::{add_bias, scale, view};
