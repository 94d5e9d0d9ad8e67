//! How frozen matrices are stored.

use std::fmt;

use burnish_kernels::packed::PackedKind;
use burnish_kernels::packed::nf4::BLOCK;

use crate::float_type::FloatType;

/// Weights of a group of integers that share a scale and a bias.
const GROUP: usize = 64;

/// How the frozen matrices of linear layers are stored. Files that are packed already stay as they are, except with `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantization {
    /// As floats.
    #[default]
    None,
    /// As the file has them: its blocks, or floats.
    Auto,
    /// Four bits by the quantiles of a normal distribution, in blocks of 64 (Dettmers et al. 2023, "QLoRA").
    Nf4 {
        /// Quantise the scales of the blocks too, to eight bits.
        double: bool,
    },
    /// Four bits times a scale plus a bias, in groups of 64, as MLX.
    Int4,
    /// Eight bits times a scale plus a bias, in groups of 64, as MLX.
    Int8,
}

impl Quantization {
    /// Whether the blocks of a file are kept.
    pub fn keeps_blocks(self) -> bool {
        self != Self::None
    }

    /// Whether matrices that a file has as floats are quantised.
    pub fn packs_floats(self) -> bool {
        !matches!(self, Self::None | Self::Auto)
    }

    /// The format that floats of a type are quantised to; `None` if they stay floats.
    pub fn kind(self, floats: FloatType) -> Option<PackedKind> {
        let affine = |bits| PackedKind::Affine { bits, group: GROUP, scales: floats.into() };
        match self {
            Self::None | Self::Auto => None,
            Self::Nf4 { double } => Some(PackedKind::Nf4 { block: BLOCK, double }),
            Self::Int4 => Some(affine(4)),
            Self::Int8 => Some(affine(8)),
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::Nf4 { .. } => "nf4",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
        })
    }
}
