//! A product without its operands: what it takes to compute one like it.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::server::Handle;

use super::call::Call;
use super::plan::Extents;
use super::product::{More, Product};
use crate::packed::Planes;
use crate::runtime::KernelRuntime;

/// A product without its operands, except a packed `B`, which belongs to the model.
pub(super) struct Sketch<R: KernelRuntime> {
    pub client: ComputeClient<R>,
    pub device: R::Device,
    pub extents: Extents,
    pub more_k: usize,
    pub transposed_a: bool,
    pub transposed_b: bool,
    /// Of `A` (and `A₂`), `B` and `B₂`.
    pub dtypes: [DType; 3],
    pub packed: Option<(Planes, CubeTensor<R>)>,
    pub alpha: f64,
    pub out: DType,
}

impl<R: KernelRuntime> Sketch<R> {
    /// That of a product.
    pub fn of(call: &Call<R>) -> Self {
        let Product { a, b, planes, transposed_a, transposed_b, more, alpha, out } = &call.product;
        let dense = if planes.is_some() { a.dtype } else { b.dtype };
        Self {
            client: a.client.clone(),
            device: a.device.clone(),
            extents: call.extents,
            more_k: call.more_k,
            transposed_a: *transposed_a,
            transposed_b: *transposed_b,
            dtypes: [a.dtype, dense, more.as_ref().map_or(a.dtype, |more| more.b.dtype)],
            packed: planes.map(|planes| (planes, b.clone())),
            alpha: *alpha,
            out: *out,
        }
    }

    /// The shapes of `A`, `B`, `A₂` and `B₂` as they are stored.
    pub fn shapes(&self) -> [[usize; 2]; 4] {
        let (Extents { m, n, k }, more_k) = (self.extents, self.more_k);
        let b = |k| if self.transposed_b { [n, k] } else { [k, n] };
        [if self.transposed_a { [k, m] } else { [m, k] }, b(k), [m, more_k], b(more_k)]
    }

    /// The product of operands in these buffers, those of the second pair and of a packed `B` left out where there are none; with
    /// `fewer` tokens.
    pub fn product(&self, [a, b, more_a, more_b]: [Option<Handle>; 4], fewer: usize) -> Option<Product<R>> {
        let mut shapes = self.shapes();
        shapes[0][0] -= fewer;
        if self.transposed_a {
            shapes[1][0] -= fewer;
        } else {
            shapes[2][0] -= fewer;
        }
        let [of_a, of_b, of_more] = self.dtypes;
        let tensor = |handle, index: usize, dtype| {
            CubeTensor::new_contiguous(self.client.clone(), self.device.clone(), shapes[index].into(), handle, dtype)
        };
        let (planes, b) = match &self.packed {
            Some((planes, words)) => (Some(*planes), words.clone()),
            None => (None, tensor(b?, 1, of_b)),
        };
        let more = match (more_a, more_b) {
            (Some(a), Some(b)) => Some(More { a: tensor(a, 2, of_a), b: tensor(b, 3, of_more) }),
            _ => None,
        };
        let Self { transposed_a, transposed_b, alpha, out, .. } = *self;
        Some(Product { a: tensor(a?, 0, of_a), b, planes, transposed_a, transposed_b, more, alpha, out })
    }
}
