//! cubecl 0.10 with launches that do not copy the device's features.
//!
//! What `#[cube]` makes of a kernel names its types by `cubecl::prelude`. Each launch hands a clone of all that the device can do, with
//! every shape of its matrix units, to a scope that only resolves the types of the arguments; the kernel itself keeps the client, and
//! asks it when it is compiled. On CUDA that clone is a third of the host's instructions of a launch. So a crate that depends on this one
//! under the name `cubecl` launches with a [`ComputeClient`](prelude::ComputeClient) whose properties are few, while its clone has all.

/// cubecl itself.
pub use upstream as original;
pub use upstream::*;

mod launching;

pub use launching::launching;

/// cubecl's prelude, with the client that launches take.
pub mod prelude {
    pub use upstream::prelude::*;

    pub use crate::launching::LaunchClient as ComputeClient;
}
