//! The checks.

use serde::Serialize;

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The system: memory, architecture.
    System,
    /// The backend opens and multiplies in each dtype.
    Backend,
    /// Every fused kernel, forward and backward.
    Kernels,
    /// Models load, compute and are written.
    Loading,
    /// GGUF files are written and read.
    Gguf,
    /// Images.
    Vision,
    /// Gradients by depth, overfitting, resuming.
    Training,
}

impl Check {
    /// All of them, in order.
    pub const ALL: [Self; 7] =
        [Self::System, Self::Backend, Self::Kernels, Self::Loading, Self::Gguf, Self::Vision, Self::Training];

    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Backend => "backend",
            Self::Kernels => "kernels",
            Self::Loading => "model loading",
            Self::Gguf => "GGUF export",
            Self::Vision => "vision",
            Self::Training => "training loop",
        }
    }
}
