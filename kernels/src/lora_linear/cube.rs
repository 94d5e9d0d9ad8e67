//! The GPU's way: the low-rank product rides along with the base product, as a last step of its sum.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use crate::dropout::{self, Dropout};
use crate::matrix::{More, Product, multiply};

/// `x · factorᵀ` or `x · factor`, narrow, in the dtype of `x`.
fn narrow<R: CubeRuntime>(x: CubeTensor<R>, factor: CubeTensor<R>, transposed: bool, scale: f64) -> Option<CubeTensor<R>> {
    let out = x.dtype;
    multiply(Product { a: x, b: factor, transposed_a: false, transposed_b: transposed, more: None, alpha: scale, out })
}

/// The result, and `scale · dropout(x) Aᵀ`; `None` where products are not ours.
pub(crate) fn forward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    lora_a: CubeTensor<R>,
    lora_b: CubeTensor<R>,
    scale: f64,
    dropout: Option<Dropout>,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let out = x.dtype;
    let hidden = narrow(seen(x.clone(), dropout), lora_a, true, scale)?;
    let more = Some(More { a: hidden.clone(), b: lora_b });
    let y = multiply(Product { a: x, b: weight, transposed_a: false, transposed_b: true, more, alpha: 1.0, out })?;
    Some((y, hidden))
}

/// What the adapter sees of `x`.
fn seen<R: CubeRuntime>(x: CubeTensor<R>, dropout: Option<Dropout>) -> CubeTensor<R> {
    match dropout {
        Some(dropout) => dropout::cube::forward(x, dropout),
        None => x,
    }
}

/// The tensors that a backward starts from.
pub(crate) struct Saved<R: CubeRuntime> {
    pub x: CubeTensor<R>,
    pub weight: CubeTensor<R>,
    pub lora_a: CubeTensor<R>,
    pub lora_b: CubeTensor<R>,
    pub hidden: CubeTensor<R>,
    pub scale: f64,
    pub dropout: Option<Dropout>,
}

/// Gradients for `x` (where asked for), `A` and `B`.
pub(crate) fn backward<R: CubeRuntime>(
    saved: Saved<R>,
    grad: CubeTensor<R>,
    input_gradient: bool,
) -> Option<(Option<CubeTensor<R>>, CubeTensor<R>, CubeTensor<R>)> {
    let out = grad.dtype;
    let scaled = narrow(grad.clone(), saved.lora_b, false, saved.scale)?;
    let over_rows = |a: CubeTensor<R>, b: CubeTensor<R>| {
        multiply(Product { a, b, transposed_a: true, transposed_b: false, more: None, alpha: 1.0, out: DType::F32 })
    };
    let d_a = over_rows(scaled.clone(), seen(saved.x, saved.dropout))?;
    let d_b = over_rows(grad.clone(), saved.hidden)?;
    if !input_gradient {
        return Some((None, d_a, d_b));
    }
    let base = |more| {
        let (a, b) = (grad, saved.weight);
        multiply(Product { a, b, transposed_a: false, transposed_b: false, more, alpha: 1.0, out })
    };
    let dx = match saved.dropout {
        Some(dropout) => dropout::cube::add(narrow(scaled, saved.lora_a, false, 1.0)?, base(None)?, dropout),
        None => base(Some(More { a: scaled, b: saved.lora_a }))?,
    };
    Some((Some(dx), d_a, d_b))
}

/// Whether the dtypes are those of the kernels: one that is computed in, and f32 factors.
pub(crate) fn fits<R: CubeRuntime>(x: &CubeTensor<R>, weight: &CubeTensor<R>, factors: [&CubeTensor<R>; 2]) -> bool {
    x.dtype() == weight.dtype() && factors.iter().all(|factor| factor.dtype() == DType::F32)
}
