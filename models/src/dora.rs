//! The magnitude of a DoRA adapter.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burnish_kernels::{FusedBackend, linear};

use crate::operand::Operand;
use crate::weight::parameter_id;

/// Elements of the frozen weight that are widened to f32 at a time.
const CHUNK: usize = 1 << 22;

/// A smaller norm is that of a row of zeros, which no magnitude can scale.
const LEAST_NORM: f64 = 1e-12;

/// The trained length of each row of `W + scale · B A`: the layer computes `m / ‖W + scale · B A‖ · (W + scale · B A) x`.
///
/// # Source
/// Liu et al. 2024, "DoRA"; `peft.tuners.lora.dora` of PEFT 0.21. As there, the norm has no gradient (section 4.3 of the paper).
#[derive(Module, Debug)]
pub struct Magnitude<B: Backend> {
    /// `m`, `[out]`, in f32.
    pub lora_magnitude_vector: Param<Tensor<B, 1>>,
    /// `‖W‖²` of each row of the frozen weight, `[out]`, in f32.
    squares: Tensor<B, 1>,
}

impl<B: FusedBackend> Magnitude<B> {
    /// The magnitude of the layer `name`; `None` begins with the one that leaves the layer's result as it is.
    pub fn new(
        name: &str,
        weight: &Operand<B>,
        [lora_a, lora_b]: [&Tensor<B, 2>; 2],
        scale: f64,
        magnitude: Option<Tensor<B, 1>>,
    ) -> Self {
        let squares = squares(weight, &lora_a.device());
        let magnitude = magnitude.unwrap_or_else(|| norms(&squares, weight, lora_a.clone(), lora_b.clone(), scale));
        let id = parameter_id(&magnitude_name(name));
        Self { lora_magnitude_vector: Param::initialized(id, magnitude.require_grad()), squares }
    }

    /// The factor on each row with the magnitude `m`: `m / ‖W + scale · B A‖`, `[1, out]`, in f32.
    pub(crate) fn gain(
        &self,
        magnitude: Tensor<B, 1>,
        weight: &Operand<B>,
        lora_a: Tensor<B, 2>,
        lora_b: Tensor<B, 2>,
        scale: f64,
    ) -> Tensor<B, 2> {
        (magnitude / norms(&self.squares, weight, lora_a, lora_b, scale)).unsqueeze()
    }
}

/// The name of the magnitude of the layer `name`, as in PEFT's files.
pub fn magnitude_name(name: &str) -> String {
    format!("{name}.lora_magnitude_vector")
}

/// The norm of each row of `W + scale · B A`, `[out]`, without a gradient.
///
/// The dense `W + s B A` is never formed: `‖W + s B A‖² = ‖W‖² + 2 s ⟨W Aᵀ, B⟩ + s² ⟨B (A Aᵀ), B⟩`, row by row.
fn norms<B: FusedBackend>(
    squares: &Tensor<B, 1>,
    weight: &Operand<B>,
    lora_a: Tensor<B, 2>,
    lora_b: Tensor<B, 2>,
    scale: f64,
) -> Tensor<B, 1> {
    let (lora_a, lora_b) = (lora_a.detach(), lora_b.detach());
    let along = |product: Tensor<B, 2>| (product * lora_b.clone()).sum_dim(1).squeeze_dim::<1>(1);
    let dtype = match weight {
        Operand::Dense(weight) => weight.dtype(),
        Operand::Packed(_) => DType::F32,
    };
    let mixed = weight.linear(lora_a.clone().cast(dtype)).cast(DType::F32).transpose();
    let own = linear(lora_b.clone(), linear(lora_a.clone(), lora_a));
    let squared = squares.clone() + along(mixed) * (2.0 * scale) + along(own) * (scale * scale);
    squared.clamp_min(LEAST_NORM * LEAST_NORM).sqrt().detach()
}

/// `‖W‖²` of each row, some rows at a time.
fn squares<B: FusedBackend>(weight: &Operand<B>, device: &B::Device) -> Tensor<B, 1> {
    let [outputs, inputs] = weight.dims();
    let rows = (CHUNK / inputs.max(1)).max(1);
    let of = |first: usize| {
        let range = first as i64..(first + rows).min(outputs) as i64;
        let chunk = weight.rows(Tensor::arange(range, device), DType::F32).cast(DType::F32).detach();
        (chunk.clone() * chunk).sum_dim(1).squeeze_dim::<1>(1)
    };
    Tensor::cat((0..outputs).step_by(rows).map(of).collect(), 0)
}
