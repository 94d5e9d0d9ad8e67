//! The GPU's products.

use crate::runtime::KernelRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::few_rows;
use crate::cube::BackendOn;
use crate::cube::launch::same_float;
use crate::glu::Activation;
use crate::matrix::Product;

/// `x · Wᵀ`.
pub(crate) fn forward<R: KernelRuntime, B: BackendOn<R>>(x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
    if few_rows::fits(&x, std::slice::from_ref(&weight)) {
        return few_rows::product(x, vec![weight]).remove(0);
    }
    let ours = same_float(&[&x, &weight]).then(|| Product::new(x.clone(), weight.clone()).transposed_b());
    ours.and_then(Product::multiply).unwrap_or_else(|| super::reference::<B>(x, weight))
}

/// `x · Wᵀ` of each weight.
pub(crate) fn forwards<R: KernelRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weights: Vec<CubeTensor<R>>,
) -> Vec<CubeTensor<R>> {
    if few_rows::fits(&x, &weights) {
        return few_rows::product(x, weights);
    }
    weights.into_iter().map(|weight| forward::<R, B>(x.clone(), weight)).collect()
}

/// `f(x · Gᵀ) · (x · Uᵀ)` of the weights `[G, U]`.
pub(crate) fn glu<R: KernelRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weights: [CubeTensor<R>; 2],
    activation: Activation,
) -> CubeTensor<R> {
    if few_rows::fits(&x, &weights) {
        return few_rows::glu(x, weights, activation);
    }
    super::reference_glu::<B>(x, weights, activation)
}

/// `dy · W`.
pub(crate) fn backward_input<R: KernelRuntime, B: BackendOn<R>>(
    grad: CubeTensor<R>,
    weight: CubeTensor<R>,
) -> CubeTensor<R> {
    let ours = same_float(&[&grad, &weight]).then(|| Product::new(grad.clone(), weight.clone()));
    ours.and_then(Product::multiply).unwrap_or_else(|| super::reference_backward_input::<B>(grad, weight))
}

/// `dyᵀ · x`.
pub(crate) fn backward_weight<R: KernelRuntime, B: BackendOn<R>>(x: CubeTensor<R>, grad: CubeTensor<R>) -> CubeTensor<R> {
    let ours = same_float(&[&grad, &x]).then(|| Product::new(grad.clone(), x.clone()).transposed_a());
    ours.and_then(Product::multiply).unwrap_or_else(|| super::reference_backward_weight::<B>(x, grad))
}
