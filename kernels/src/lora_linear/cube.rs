//! On the GPU, the low-rank product is added to the base product as a last step of its sum.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::{LoraGradients, LoraSaved, seen};
use crate::cube::BackendOn;
use crate::cube::launch::{all_f32, same_float};
use crate::dropout::{self, Dropout};
use crate::matrix::{More, Product};

/// The result, and `scale · dropout(x) Aᵀ`.
pub(crate) fn forward<R: CubeRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    lora_a: CubeTensor<R>,
    lora_b: CubeTensor<R>,
    scale: f64,
    dropout: Option<Dropout>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    if same_float(&[&x, &weight]) && all_f32(&[&lora_a, &lora_b]) {
        let hidden = Product { alpha: scale, ..Product::new(seen::<B>(x.clone(), dropout), lora_a.clone()).transposed_b() };
        if let Some(hidden) = hidden.multiply() {
            let more = Some(More { a: hidden.clone(), b: lora_b.clone() });
            let y = Product { more, ..Product::new(x.clone(), weight.clone()).transposed_b() };
            if let Some(y) = y.multiply() {
                return (y, hidden);
            }
        }
    }
    super::reference::<B>(x, weight, lora_a, lora_b, scale, dropout)
}

/// Gradients for `x` (where asked for), `A` and `B`.
pub(crate) fn backward<R: CubeRuntime, B: BackendOn<R>>(
    saved: LoraSaved<B>,
    grad: CubeTensor<R>,
    input_gradient: bool,
) -> LoraGradients<B> {
    let LoraSaved { x, weight, lora_a, lora_b, hidden, .. } = &saved;
    let ours = same_float(&[x, weight, hidden, &grad]) && all_f32(&[lora_a, lora_b]);
    let gradients = if ours { gradients::<R, B>(saved.clone(), grad.clone(), input_gradient) } else { None };
    gradients.unwrap_or_else(|| super::reference_backward::<B>(saved, grad, input_gradient))
}

/// The gradients; `None` where products are not ours.
fn gradients<R: CubeRuntime, B: BackendOn<R>>(
    saved: LoraSaved<B>,
    grad: CubeTensor<R>,
    input_gradient: bool,
) -> Option<LoraGradients<B>> {
    let LoraSaved { x, weight, lora_a, lora_b, hidden, scale, dropout } = saved;
    let scaled = Product { alpha: scale, ..Product::new(grad.clone(), lora_b) }.multiply()?;
    let over_rows = |a: CubeTensor<R>, b: CubeTensor<R>| Product::new(a, b).transposed_a().in_f32().multiply();
    let d_a = over_rows(scaled.clone(), seen::<B>(x, dropout))?;
    let d_b = over_rows(grad.clone(), hidden)?;
    let base = Product::new(grad, weight);
    let dx = match dropout {
        _ if !input_gradient => None,
        Some(dropout) => {
            let low_rank = Product::new(scaled, lora_a).multiply()?;
            Some(dropout::cube::add(low_rank, base.multiply()?, dropout))
        }
        None => Some(Product { more: Some(More { a: scaled, b: lora_a }), ..base }.multiply()?),
    };
    Some(LoraGradients { x: dx, lora_a: d_a, lora_b: d_b })
}
