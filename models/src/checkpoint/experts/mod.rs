//! Checkpoints that have the experts of a layer in one tensor each, as one tensor for each expert, and the other way round.
//!
//! Source: `conversion_mapping.py`, `integrations/mxfp4.py` and `modeling_gpt_oss.py` of transformers 5.

mod apart;
mod stacked;
mod view;

use serde_json::Value;

pub use apart::experts_apart;
pub use stacked::Stacked;

/// What comes before the number of an expert in names.
const EXPERTS: &str = ".mlp.experts.";
/// The name of attention's sinks, which checkpoints have without `.weight`.
const SINKS: &str = ".self_attn.sinks";
/// The ends of the names of weights in MXFP4: the elements, and the power of two of each block.
const MXFP4: [&str; 2] = ["_blocks", "_scales"];

/// Whether a tensor is part of a weight in MXFP4 that [`experts_apart`] reads.
pub(super) fn is_read(config: &Value, name: &str) -> bool {
    config["quantization_config"]["quant_method"] == "mxfp4" && name.contains(EXPERTS) && name.ends_with(MXFP4[0])
}

/// Where a tensor of an expert lies in those of all experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The number of the expert.
    expert: usize,
    /// The tensor: that of gate and up, or that of down.
    projection: Projection,
    /// Whether it is a bias.
    is_bias: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Projection {
    Gate,
    Up,
    Down,
}

impl Projection {
    /// The name in the stacked tensors.
    fn stacked(self) -> &'static str {
        match self {
            Self::Gate | Self::Up => "gate_up_proj",
            Self::Down => "down_proj",
        }
    }
}

impl Place {
    /// The beginning of the name, up to the experts, and the place; `None` for other tensors.
    fn of(name: &str) -> Option<(&str, Self)> {
        let at = name.find(EXPERTS)? + EXPERTS.len();
        let (expert, rest) = name[at..].split_once('.')?;
        let (projection, is_bias) = match rest {
            "gate_proj.weight" => (Projection::Gate, false),
            "up_proj.weight" => (Projection::Up, false),
            "down_proj.weight" => (Projection::Down, false),
            "gate_proj.bias" => (Projection::Gate, true),
            "up_proj.bias" => (Projection::Up, true),
            "down_proj.bias" => (Projection::Down, true),
            _ => return None,
        };
        Some((&name[..at], Self { expert: expert.parse().ok()?, projection, is_bias }))
    }

    /// The name of the stacked tensor.
    fn stacked(self, start: &str) -> String {
        format!("{start}{}{}", self.projection.stacked(), if self.is_bias { "_bias" } else { "" })
    }
}

/// Every other element, from the first or from the second on.
fn alternate<T: Copy>(values: &[T], from: usize) -> Vec<T> {
    values.iter().skip(from).step_by(2).copied().collect()
}
