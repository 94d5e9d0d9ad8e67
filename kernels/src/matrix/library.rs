//! Products by a library of the device's vendor, where one is there and knows the shape.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::server::Handle;

use super::plan::Extents;
use super::product::{More, Product};
use crate::cube::launch::{contiguous, empty};
use crate::runtime::KernelRuntime;

/// A product of row-major matrices without gaps, `D = alpha · A B + beta · D`, with sums in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of `D`.
    pub m: usize,
    /// Columns of `D`.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
    /// Whether `A` is stored as `[k, m]`.
    pub transposed_a: bool,
    /// Whether `B` is stored as `[n, k]`.
    pub transposed_b: bool,
    /// Dtype of `A` and `B`.
    pub operands: DType,
    /// Dtype of `D`.
    pub result: DType,
}

impl Gemm {
    /// The bytes of `A`, `B` and `D`.
    pub fn bytes(&self) -> [usize; 3] {
        let Self { m, n, k, operands, result, .. } = self;
        [m * k * operands.size(), k * n * operands.size(), m * n * result.size()]
    }
}

/// A product on the buffers of a device.
#[derive(Debug)]
pub struct GemmStep {
    /// What is computed.
    pub gemm: Gemm,
    /// Factor on `A B`.
    pub alpha: f32,
    /// Factor on what `D` holds: 0 or 1.
    pub beta: f32,
    /// The buffer of `A`.
    pub a: Handle,
    /// The buffer of `B`.
    pub b: Handle,
    /// The buffer of `D`.
    pub d: Handle,
}

/// A vendor's library of matrix products, on one device.
pub trait ProductLibrary: Send + Sync {
    /// The library and its version. With the same name and device, the same product gives the same bits.
    fn name(&self) -> &str;

    /// Whether it computes such a product. The first call for a shape waits for the device's thread.
    fn supports(&self, gemm: Gemm) -> bool;

    /// Queues products that the library supports, one after the other, in order with the caller's kernels. What fails is an error of the
    /// next read.
    fn multiply(&self, steps: Vec<GemmStep>);
}

/// Fewest rows, columns and terms of a product for the library: smaller ones are bound by memory, and our kernels are as fast.
const LEAST: usize = 64;
/// Fewest multiplications: below, the library's two events take longer than the product.
const LEAST_WORK: usize = 1 << 30;
/// Alignment of a buffer in bytes that the library may rely on.
pub(crate) const ALIGNMENT: usize = 16;

/// Whether a tensor begins where vectors may.
pub(super) fn is_aligned<R: KernelRuntime>(tensor: &CubeTensor<R>) -> bool {
    (tensor.handle.offset_start.unwrap_or(0) as usize).is_multiple_of(ALIGNMENT)
}

/// The library of a product's device, and what it computes: the product, and the one that is added to it.
type Steps = (&'static dyn ProductLibrary, Gemm, Option<Gemm>);

/// Whether the device's library computes a product of contiguous operands.
pub(super) fn takes<R: KernelRuntime>(product: &Product<R>, extents: Extents) -> bool {
    steps(product, extents).is_some()
}

fn steps<R: KernelRuntime>(product: &Product<R>, extents: Extents) -> Option<Steps> {
    let Product { a, b, planes, more, transposed_a, transposed_b, out, .. } = product;
    let Extents { m, n, k } = extents;
    let large = m.min(n).min(k) >= LEAST && m * n * k >= LEAST_WORK;
    if !large || planes.is_some() || a.dtype != b.dtype || !is_aligned(a) || !is_aligned(b) {
        return None;
    }
    let library = R::product_library(&a.device)?;
    let (transposed_a, transposed_b) = (*transposed_a, *transposed_b);
    let gemm = Gemm { m, n, k, transposed_a, transposed_b, operands: a.dtype, result: *out };
    if !library.supports(gemm) {
        return None;
    }
    let second = match more {
        None => None,
        Some(More { a: more_a, .. }) => {
            let gemm = Gemm { k: more_a.shape()[1], transposed_a: false, ..gemm };
            (is_aligned(more_a) && library.supports(gemm)).then_some(gemm).map(Some)?
        }
    };
    Some((library, gemm, second))
}

/// The product of contiguous operands by the device's library; `None` if it has none, or not for this product.
pub(super) fn multiply<R: KernelRuntime>(product: &Product<R>, extents: Extents) -> Option<CubeTensor<R>> {
    let (library, gemm, second) = steps(product, extents)?;
    let Product { a, b, more, alpha, out, .. } = product;
    let d = empty(a, [extents.m, extents.n], *out);
    let step = |gemm, beta, a: &CubeTensor<R>, b: &CubeTensor<R>| {
        let [a, b, d] = [a, b, &d].map(|tensor| tensor.handle.clone());
        GemmStep { gemm, alpha: *alpha as f32, beta, a, b, d }
    };
    let mut steps = Vec::with_capacity(2);
    if let (Some(gemm), Some(more)) = (second, more) {
        // A LoRA factor, which is small.
        let more_b = if more.b.dtype == a.dtype { more.b.clone() } else { contiguous(cast(more.b.clone(), a.dtype)) };
        // First, because a large product reads what it adds to while it computes.
        steps.push(step(gemm, 0.0, &more.a, &more_b));
    }
    let beta = if steps.is_empty() { 0.0 } else { 1.0 };
    steps.push(step(gemm, beta, a, b));
    library.multiply(steps);
    Some(d)
}
