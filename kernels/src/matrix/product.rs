//! A product to compute.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

use crate::packed::Planes;
use crate::runtime::KernelRuntime;

/// A second pair of operands: `A₂` `[m, k₂]`, and `B₂`, transposed where `B` is.
pub(crate) struct More<R: KernelRuntime> {
    /// Of the dtype of `A`.
    pub a: CubeTensor<R>,
    /// Of any float dtype; it is cast to that of `A`.
    pub b: CubeTensor<R>,
}

/// A product to compute: `alpha · (A B + A₂ B₂)`.
pub(crate) struct Product<R: KernelRuntime> {
    /// `[m, k]`, or `[k, m]` where transposed.
    pub a: CubeTensor<R>,
    /// `[k, n]`, or `[n, k]` where transposed; of any float dtype.
    pub b: CubeTensor<R>,
    /// Set where `B` is packed, and `b` its words.
    pub planes: Option<Planes>,
    /// Whether `A` is stored as `[k, m]`.
    pub transposed_a: bool,
    /// Whether `B` is stored as `[n, k]`.
    pub transposed_b: bool,
    /// A second pair of operands.
    pub more: Option<More<R>>,
    /// Factor on the result.
    pub alpha: f64,
    /// Dtype of the result.
    pub out: DType,
}

impl<R: KernelRuntime> Product<R> {
    /// `a · b`, in the dtype of `a`.
    pub fn new(a: CubeTensor<R>, b: CubeTensor<R>) -> Self {
        let out = a.dtype;
        Self { a, b, planes: None, transposed_a: false, transposed_b: false, more: None, alpha: 1.0, out }
    }

    /// `a` times a packed matrix.
    pub fn packed(a: CubeTensor<R>, planes: Planes, words: CubeTensor<R>) -> Self {
        Self { planes: Some(planes), ..Self::new(a, words) }
    }

    /// With `A` transposed.
    pub fn transposed_a(self) -> Self {
        Self { transposed_a: true, ..self }
    }

    /// With `B` transposed.
    pub fn transposed_b(self) -> Self {
        Self { transposed_b: true, ..self }
    }

    /// With a result in f32.
    pub fn in_f32(self) -> Self {
        Self { out: DType::F32, ..self }
    }
}
