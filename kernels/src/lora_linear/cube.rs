//! On the GPU, the low-rank product is added to the base product as a last step of its sum.

use crate::runtime::KernelRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::{LoraGradients, LoraSaved, packed, seen};
use crate::cube::BackendOn;
use crate::cube::launch::{all_f32, same_float};
use crate::dropout::{self, Dropout};
use crate::linear::packed::cube::{few, scratch};
use crate::matrix::{More, PackedRoute, Product, packed_route};
use crate::packed::PackedTensor;

/// The result, and `scale · dropout(x) Aᵀ`.
pub(crate) fn forward<R: KernelRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    lora_a: CubeTensor<R>,
    lora_b: CubeTensor<R>,
    scale: f64,
    dropout: Option<Dropout>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let ours = same_float(&[&x, &weight]) && all_f32(&[&lora_a, &lora_b]);
    let base = ours.then(|| Product::new(x.clone(), weight.clone()));
    let found = base.and_then(|base| adapted::<R, B>(base, [lora_a.clone(), lora_b.clone()], scale, dropout));
    found.unwrap_or_else(|| super::reference::<B>(x, weight, lora_a, lora_b, scale, dropout))
}

/// The same on a packed weight.
pub(crate) fn packed_forward<R: KernelRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weight: PackedTensor<B>,
    lora_a: CubeTensor<R>,
    lora_b: CubeTensor<R>,
    scale: f64,
    dropout: Option<Dropout>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let ours = same_float(&[&x]) && all_f32(&[&lora_a, &lora_b]) && !few(x.meta.shape()[0]);
    let base = if ours { packed_base::<R, B>(x.clone(), &weight) } else { None };
    let found = base.and_then(|base| adapted::<R, B>(base, [lora_a.clone(), lora_b.clone()], scale, dropout));
    found.unwrap_or_else(|| packed::reference::<B>(x, weight, lora_a, lora_b, scale, dropout))
}

/// The product of `a` and a packed weight, whose tiles it dequantises, or of which it takes a dense copy, where one fits the scratch.
fn packed_base<R: KernelRuntime, B: BackendOn<R>>(a: CubeTensor<R>, weight: &PackedTensor<B>) -> Option<Product<R>> {
    match packed_route(&a) {
        PackedRoute::Tiles => Some(Product::packed(a, weight.planes, weight.words.clone())),
        PackedRoute::Scratch => scratch::<R, B>(weight, a.dtype).map(|dense| Product::new(a, dense)),
    }
}

/// The base product `x Wᵀ` with the adapter's; `None` where products are not ours.
fn adapted<R: KernelRuntime, B: BackendOn<R>>(
    base: Product<R>,
    [lora_a, lora_b]: [CubeTensor<R>; 2],
    scale: f64,
    dropout: Option<Dropout>,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let seen = seen::<B>(base.a.clone(), dropout);
    let low_rank = Product { alpha: scale, ..Product::new(seen, lora_a).transposed_b() };
    let (hidden, lora_b) = low_rank.multiply_beside(lora_b)?;
    let more = Some(More { a: hidden.clone(), b: lora_b });
    let y = Product { more, ..base.transposed_b() }.multiply()?;
    Some((y, hidden))
}

/// Gradients for `x` (where asked for), `A` and `B`.
pub(crate) fn backward<R: KernelRuntime, B: BackendOn<R>>(
    saved: LoraSaved<B>,
    grad: CubeTensor<R>,
    input_gradient: bool,
) -> LoraGradients<B> {
    let LoraSaved { x, weight, lora_a, lora_b, hidden, .. } = &saved;
    let ours = same_float(&[x, weight, hidden, &grad]) && all_f32(&[lora_a, lora_b]);
    let base = |grad, weight| Some(Product::new(grad, weight));
    let found = if ours { gradients::<R, B, _>(saved.clone(), grad.clone(), input_gradient, base) } else { None };
    found.unwrap_or_else(|| super::reference_backward::<B>(saved, grad, input_gradient))
}

/// The same on a packed weight.
pub(crate) fn packed_backward<R: KernelRuntime, B: BackendOn<R>>(
    saved: LoraSaved<B, PackedTensor<B>>,
    grad: CubeTensor<R>,
    input_gradient: bool,
) -> LoraGradients<B> {
    let LoraSaved { x, lora_a, lora_b, hidden, .. } = &saved;
    let ours = same_float(&[x, hidden, &grad]) && all_f32(&[lora_a, lora_b]);
    let base = |grad, weight| packed_base::<R, B>(grad, &weight);
    let found = if ours { gradients::<R, B, _>(saved.clone(), grad.clone(), input_gradient, base) } else { None };
    found.unwrap_or_else(|| packed::reference_backward::<B>(saved, grad, input_gradient))
}

/// The gradients; `None` where products are not ours. `base` is the product of `dy` and the weight.
fn gradients<R: KernelRuntime, B: BackendOn<R>, W>(
    saved: LoraSaved<B, W>,
    grad: CubeTensor<R>,
    input_gradient: bool,
    base: impl FnOnce(CubeTensor<R>, W) -> Option<Product<R>>,
) -> Option<LoraGradients<B>> {
    let LoraSaved { x, weight, lora_a, lora_b, hidden, scale, dropout } = saved;
    let scaled = Product { alpha: scale, ..Product::new(grad.clone(), lora_b) };
    let (scaled, lora_a) = if input_gradient { scaled.multiply_beside(lora_a)? } else { (scaled.multiply()?, lora_a) };
    let over_rows = |a: CubeTensor<R>, b: CubeTensor<R>| Product::new(a, b).transposed_a().in_f32().multiply();
    let d_a = over_rows(scaled.clone(), seen::<B>(x, dropout))?;
    let d_b = over_rows(grad.clone(), hidden)?;
    let dx = match dropout {
        _ if !input_gradient => None,
        Some(dropout) => {
            let low_rank = Product::new(scaled, lora_a).multiply()?;
            Some(dropout::cube::add(low_rank, base(grad, weight)?.multiply()?, dropout))
        }
        None => Some(Product { more: Some(More { a: scaled, b: lora_a }), ..base(grad, weight)? }.multiply()?),
    };
    Some(LoraGradients { x: dx, lora_a: d_a, lora_b: d_b })
}
