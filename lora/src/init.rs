//! How the factors of a new adapter begin.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decompose::{Matrix, Singular, approximate, first_columns, largest};

/// How `A` and `B` of a new adapter begin (`init_lora_weights` of PEFT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Init {
    /// `default`: `A` uniform in `±1/√in`, `B` zero.
    #[default]
    Default,
    /// `gaussian`: `A` normal with the deviation `1/rank`, `B` zero.
    Gaussian,
    /// `pissa`: the largest singular vectors of the weight (Meng et al. 2024), which are taken out of it.
    Pissa,
    /// `pissa_niter_N`: those vectors as N rounds of a randomised method approximate them.
    PissaNiter(usize),
    /// `olora`: the first columns of `Q` and rows of `R` of the weight (Büyükakyüz 2024), which are taken out of it.
    Olora,
    /// `loftq`: the largest singular vectors of what quantisation took from the weight (Li et al. 2023), which make up for it.
    Loftq,
}

/// What `Init` is read from; anything else is an error.
const EXPECTED: &str = "default, gaussian, pissa, pissa_niter_N, olora or loftq";

impl Init {
    /// Whether the product of the factors is taken out of the frozen weight, so that the model begins as it was.
    pub fn changes_base(self) -> bool {
        matches!(self, Self::Pissa | Self::PissaNiter(_) | Self::Olora)
    }

    /// Whether the factors come from a decomposition, which has no more parts than the smaller side of a weight.
    pub(crate) fn decomposes(self) -> bool {
        self.changes_base() || self == Self::Loftq
    }

    /// Whether the factors follow from the weight alone, so that they can be computed again.
    pub(crate) fn is_exact(self) -> bool {
        matches!(self, Self::Pissa | Self::Olora)
    }

    /// The factors, `[rank, in]` and `[out, rank]`, of a matrix `[out, in]`: the weight, or for `loftq` its quantisation error.
    /// `None` if this kind decomposes nothing.
    ///
    /// # Panics
    /// If the rank is more than the smaller side.
    ///
    /// # Source
    /// `pissa_init` and `olora_init` of `peft.tuners.lora.LoraLayer` and `replace_lora_weights_loftq`, PEFT 0.21. That leaves out
    /// the scale, so its factors are these where the scale is 1.
    pub(crate) fn factors(self, weight: &Matrix, rank: usize, scale: f64, seed: u64) -> Option<[Matrix; 2]> {
        let singular = match self {
            Self::Default | Self::Gaussian => return None,
            Self::Olora => {
                let [q, r] = first_columns(weight, rank);
                return Some([r, q.transposed()]);
            }
            Self::Pissa | Self::Loftq => largest(weight, rank, seed),
            Self::PissaNiter(iterations) => approximate(weight, rank, iterations, seed),
        };
        let Singular { values, mut left, mut right } = singular;
        for (index, value) in values.iter().enumerate() {
            let root = (value / scale).sqrt();
            for rows in [&mut left, &mut right] {
                rows.row_mut(index).iter_mut().for_each(|element| *element *= root);
            }
        }
        Some([right, left.transposed()])
    }
}

impl fmt::Display for Init {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::Gaussian => formatter.write_str("gaussian"),
            Self::Pissa => formatter.write_str("pissa"),
            Self::PissaNiter(iterations) => write!(formatter, "pissa_niter_{iterations}"),
            Self::Olora => formatter.write_str("olora"),
            Self::Loftq => formatter.write_str("loftq"),
        }
    }
}

impl FromStr for Init {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_lowercase();
        match lower.as_str() {
            "default" | "true" => Ok(Self::Default),
            "gaussian" => Ok(Self::Gaussian),
            "pissa" => Ok(Self::Pissa),
            "olora" => Ok(Self::Olora),
            "loftq" => Ok(Self::Loftq),
            other => match other.strip_prefix("pissa_niter_").and_then(|count| count.parse().ok()) {
                Some(iterations) => Ok(Self::PissaNiter(iterations)),
                None => Err(format!("expected {EXPECTED}, got {text}")),
            },
        }
    }
}

impl TryFrom<String> for Init {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Init> for String {
    fn from(init: Init) -> Self {
        init.to_string()
    }
}

/// `W - scale · B A`, of a weight `[out, in]` and the factors as the adapter has them.
pub(crate) fn residual(weight: &[f32], lora_a: &Matrix, lora_b: &Matrix, scale: f64) -> Vec<f32> {
    let product = lora_b.times(lora_a);
    weight.iter().zip(&product.values).map(|(weight, product)| (f64::from(*weight) - scale * product) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (text, init) in [
            ("default", Init::Default),
            ("gaussian", Init::Gaussian),
            ("pissa", Init::Pissa),
            ("pissa_niter_16", Init::PissaNiter(16)),
            ("olora", Init::Olora),
            ("loftq", Init::Loftq),
        ] {
            assert_eq!((text.parse(), init.to_string()), (Ok(init), text.to_owned()));
        }
        assert_eq!(("true".parse(), "OLoRA".parse()), (Ok(Init::Default), Ok(Init::Olora)));
        for wrong in ["pissa_niter_", "pissa_niter_x", "eva"] {
            assert!(wrong.parse::<Init>().unwrap_err().contains(wrong));
        }
    }

    #[test]
    fn the_product_of_the_factors_is_the_part_that_is_taken_out() {
        let values: Vec<f32> = (0..48u32).map(|index| ((index * 37 + 11) % 29) as f32 / 29.0 - 0.5).collect();
        let weight = Matrix::of_f32(8, 6, &values);
        // At full rank, nothing is left. Like PEFT's, the factors of OLoRA don't make up for the scale.
        for (init, scale) in [(Init::Pissa, 0.5), (Init::PissaNiter(2), 0.5), (Init::Olora, 1.0)] {
            let [lora_a, lora_b] = init.factors(&weight, 6, scale, 1).unwrap();
            let left = residual(&values, &lora_a, &lora_b, scale);
            assert!(left.iter().all(|value| value.abs() < 1e-6), "{init}: {left:?}");
        }
        let [lora_a, lora_b] = Init::Pissa.factors(&weight, 2, 0.5, 1).unwrap();
        assert_eq!((lora_a.rows, lora_a.columns, lora_b.rows, lora_b.columns), (2, 6, 8, 2));
        let norm = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>();
        let best = norm(&residual(&values, &lora_a, &lora_b, 0.5));
        let [lora_a, lora_b] = Init::Olora.factors(&weight, 2, 1.0, 1).unwrap();
        // No other product of that rank takes as much out of the weight.
        let other = norm(&residual(&values, &lora_a, &lora_b, 1.0));
        assert!(best < other && other < norm(&values), "{best} {other}");
        assert!(Init::Default.factors(&weight, 2, 0.5, 1).is_none());
    }
}
