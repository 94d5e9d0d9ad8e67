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

/// `scale · dropout(x) Aᵀ`.
pub(crate) fn hidden<R: KernelRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    lora_a: CubeTensor<R>,
    scale: f64,
    dropout: Option<Dropout>,
) -> CubeTensor<R> {
    let ours = same_float(&[&x]) && all_f32(&[&lora_a]);
    let found = if ours {
        let seen = seen::<B>(x.clone(), dropout);
        Product { alpha: scale, ..Product::new(seen, lora_a.clone()).transposed_b() }.multiply()
    } else {
        None
    };
    found.unwrap_or_else(|| super::reference_hidden::<B>(x, lora_a, scale, dropout))
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
    let base = Product::new(grad.clone(), weight.clone());
    if ours && base.has_route() {
        gradients::<R, B, _>(saved, grad, input_gradient.then_some(base))
    } else {
        super::reference_backward::<B>(saved, grad, input_gradient)
    }
}

/// The same on a packed weight.
pub(crate) fn packed_backward<R: KernelRuntime, B: BackendOn<R>>(
    saved: LoraSaved<B, PackedTensor<B>>,
    grad: CubeTensor<R>,
    input_gradient: bool,
) -> LoraGradients<B> {
    let LoraSaved { x, lora_a, lora_b, hidden, .. } = &saved;
    let ours = same_float(&[x, hidden, &grad]) && all_f32(&[lora_a, lora_b]);
    let base = if ours { packed_base::<R, B>(grad.clone(), &saved.weight) } else { None };
    match base.filter(Product::has_route) {
        Some(base) => gradients::<R, B, _>(saved, grad, input_gradient.then_some(base)),
        None => packed::reference_backward::<B>(saved, grad, input_gradient),
    }
}

/// The gradients; `base` is the product of `dy` and the weight, if the input's gradient is asked for. The input is often the widest tensor
/// of a block, so nothing holds it any more when its gradient is computed.
fn gradients<R: KernelRuntime, B: BackendOn<R>, W>(
    saved: LoraSaved<B, W>,
    grad: CubeTensor<R>,
    base: Option<Product<R>>,
) -> LoraGradients<B> {
    let LoraSaved { x, lora_a, lora_b, hidden, scale, dropout, .. } = saved;
    let routed = "products with the dtype of a product that has a route have one";
    let scaled = Product { alpha: scale, ..Product::new(grad.clone(), lora_b) };
    let (scaled, lora_a) = match &base {
        Some(_) => scaled.multiply_beside(lora_a).expect(routed),
        None => (scaled.multiply().expect(routed), lora_a),
    };
    let over_rows = |a, b| Product::new(a, b).transposed_a().in_f32().multiply().expect(routed);
    let d_a = over_rows(scaled.clone(), seen::<B>(x, dropout));
    let d_b = over_rows(grad, hidden);
    let dx = base.map(|base| match dropout {
        Some(dropout) => {
            let low_rank = Product::new(scaled, lora_a).multiply().expect(routed);
            dropout::cube::add(low_rank, base.multiply().expect(routed), dropout)
        }
        None => Product { more: Some(More { a: scaled, b: lora_a }), ..base }.multiply().expect(routed),
    });
    LoraGradients { x: dx, lora_a: d_a, lora_b: d_b }
}
