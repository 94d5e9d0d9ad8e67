//! What else would fit: the same run with its frozen weights stored in other ways.

use std::fmt;

use anyhow::Result;
use burnish_models::FloatType;
use serde::Serialize;

use super::{Planned, largest};
use crate::config::{FineTuneType, QuantizationKind, TrainConfig};

/// A run with its weights stored otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// The type that it computes in.
    pub dtype: &'static str,
    /// How the matrices are stored.
    pub quantization: &'static str,
    /// What a step takes.
    pub total: u64,
    /// Whether it fits.
    pub fits: bool,
    /// The largest `max_seq_length` that fits, all else as it is; 0 if none does.
    pub largest_max_seq_length: usize,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, quantization, total, largest_max_seq_length, .. } = self;
        let fits = match (self.fits, largest_max_seq_length) {
            (true, length) => format!("fits, max_seq_length up to {length}"),
            (false, 0) => "does not fit".to_owned(),
            (false, length) => format!("fits with max_seq_length {length}"),
        };
        let dense = format!("{dtype}, {quantization}");
        write!(f, "{dense:<12}{:>12}   {fits}", burnish_engine::gib(*total))
    }
}

/// Every type and storage of a run that trains adapters. A full run has f32 only.
pub(super) fn all(planned: &Planned<'_>, available: u64) -> Result<Vec<Stored>> {
    let config = planned.config;
    let mut found = Vec::new();
    if config.fine_tune_type == FineTuneType::Full {
        return Ok(found);
    }
    let half = if planned.dtype == FloatType::F32 { None } else { Some(planned.dtype) };
    let takes_factors = config.lora().init.changes_base();
    for dtype in [Some(FloatType::F32), half].into_iter().flatten() {
        for (kind, name) in [
            (QuantizationKind::None, "none"),
            (QuantizationKind::Int8, "int8"),
            (QuantizationKind::Int4, "int4"),
            (QuantizationKind::Nf4, "nf4"),
        ] {
            if takes_factors && kind != QuantizationKind::None {
                continue;
            }
            let config = TrainConfig { quantization: kind, ..config.clone() };
            let other = Planned { config: &config, dtype, ..*planned };
            let total = other.memory()?.total();
            let largest_max_seq_length = largest::max_seq_length(&other, available)?;
            found.push(Stored {
                dtype: dtype.name(),
                quantization: name,
                total,
                fits: total <= available,
                largest_max_seq_length,
            });
        }
    }
    Ok(found)
}
