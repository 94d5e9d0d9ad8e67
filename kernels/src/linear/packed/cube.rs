//! Products with packed weights on the GPU.
//!
//! A few rows, as decoding has them, are multiplied from the integers. With more of them, tiles are dequantised by the product, or, where
//! the plan says so, the matrix is dequantised into a scratch, which the memory pool gives to the next one, and multiplied as a dense
//! one; one that is larger than the scratch, as heads are, by slices of its outputs.

use std::ops::Range;

use crate::runtime::KernelRuntime;
use burn::tensor::{DType, Tensor, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;

use super::{few_rows, reference, reference_backward_input, reference_glu, reference_rows, references};
use crate::cube::BackendOn;
use crate::cube::launch::same_float;
use crate::glu::Activation;
use crate::matrix::{PackedRoute, Product, packed_route};
use crate::packed::{PackedTensor, Planes, cube};
use crate::primitive::{cast, raw, typed};

/// Most bytes of a scratch.
const SCRATCH: usize = 128 << 20;

/// Outputs of a slice end at whole tiles of a product.
const TILE: usize = 128;

/// The slices of the outputs that fit the scratch, in order.
fn slices(planes: &Planes, dtype: DType) -> impl ExactSizeIterator<Item = Range<usize>> {
    let [outputs, inputs] = planes.dims;
    let most = (SCRATCH / (inputs * dtype.size())).max(TILE) / TILE * TILE;
    (0..outputs).step_by(most).map(move |first| first..outputs.min(first + most))
}

/// Whether so many rows are multiplied from the integers.
pub(crate) fn few(rows: usize) -> bool {
    (1..=few_rows::MOST_ROWS).contains(&rows)
}

/// The product of `a` that dequantises tiles of the weight, where the plan wants that.
fn tiled<R: KernelRuntime, B: BackendOn<R>>(a: &CubeTensor<R>, weight: &PackedTensor<B>) -> Option<Product<R>> {
    let tiles = packed_route(a) == PackedRoute::Tiles;
    tiles.then(|| Product::packed(a.clone(), weight.planes, weight.words.clone()))
}

/// The whole matrix as a dense one, where it fits the scratch.
pub(crate) fn scratch<R: KernelRuntime, B: BackendOn<R>>(weight: &PackedTensor<B>, dtype: DType) -> Option<CubeTensor<R>> {
    let fits = weight.planes.on_device(&weight.words) && slices(&weight.planes, dtype).len() == 1;
    fits.then(|| cube::dequantize(&weight.planes, weight.words.clone(), 0..weight.planes.dims[0], dtype))
}

/// `x · Wᵀ`.
pub(crate) fn forward<R: KernelRuntime, B: BackendOn<R>>(x: CubeTensor<R>, weight: PackedTensor<B>) -> CubeTensor<R> {
    let operands = vec![(weight.planes, weight.words.clone())];
    if few_rows::fits(&x, &operands) {
        return few_rows::products_of(x, operands).remove(0);
    }
    let PackedTensor { planes, words } = &weight;
    if !same_float(&[&x]) || !planes.on_device(words) {
        return reference::<B>(x, weight);
    }
    let (rows, dtype) = (x.shape()[0], x.dtype);
    if let Some(y) = tiled::<R, B>(&x, &weight).and_then(|product| product.transposed_b().multiply()) {
        return y;
    }
    if let Some(dense) = scratch::<R, B>(&weight, dtype) {
        return B::dense_linear(x, dense);
    }
    let part = |at| B::dense_linear(x.clone(), cube::dequantize(planes, words.clone(), at, dtype));
    let y = Tensor::<B, 2>::empty([rows, planes.dims[0]], (&x.device, dtype));
    raw(slices(planes, dtype).fold(y, |y, at| y.slice_assign([0..rows, at.clone()], typed(part(at)))))
}

/// `x · Wᵀ` of each weight.
pub(crate) fn forwards<R: KernelRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weights: Vec<PackedTensor<B>>,
) -> Vec<CubeTensor<R>> {
    let operands: Vec<_> = weights.iter().map(|weight| (weight.planes, weight.words.clone())).collect();
    if few_rows::fits(&x, &operands) { few_rows::products_of(x, operands) } else { references::<B>(x, weights) }
}

/// `f(x · Gᵀ) · (x · Uᵀ)` of the weights `[G, U]`.
pub(crate) fn glu<R: KernelRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weights: [PackedTensor<B>; 2],
    activation: Activation,
) -> CubeTensor<R> {
    let operands = weights.each_ref().map(|weight| (weight.planes, weight.words.clone()));
    if few_rows::fits(&x, &operands) {
        return few_rows::glu(x, operands, activation);
    }
    reference_glu::<B>(x, weights, activation)
}

/// `dy · W`.
pub(crate) fn backward_input<R: KernelRuntime, B: BackendOn<R>>(
    grad: CubeTensor<R>,
    weight: PackedTensor<B>,
) -> CubeTensor<R> {
    let PackedTensor { planes, words } = &weight;
    if !same_float(&[&grad]) || !planes.on_device(words) {
        return reference_backward_input::<B>(grad, weight);
    }
    let dtype = grad.dtype;
    if let Some(dx) = tiled::<R, B>(&grad, &weight).and_then(Product::multiply) {
        return dx;
    }
    if let Some(dense) = scratch::<R, B>(&weight, dtype) {
        return B::linear_backward_input(grad, dense);
    }
    let zeros = Tensor::<B, 2>::zeros([grad.shape()[0], planes.dims[1]], (&grad.device, DType::F32));
    let grad = typed::<B, 2>(grad);
    // The sum over outputs stays in f32 from slice to slice.
    let sum = slices(planes, dtype).fold(zeros, |sum, at| {
        let part = raw(grad.clone().narrow(1, at.start, at.len()));
        let dense = cube::dequantize(planes, words.clone(), at, dtype);
        let product = Product::new(part.clone(), dense.clone()).in_f32().multiply();
        sum + typed(product.unwrap_or_else(|| cast::<B>(B::linear_backward_input(part, dense), DType::F32)))
    });
    cast::<B>(raw(sum), dtype)
}

/// Rows of the weight.
pub(crate) fn rows<R: KernelRuntime, B: BackendOn<R>>(
    weight: PackedTensor<B>,
    rows: CubeTensor<R>,
    dtype: DType,
) -> CubeTensor<R> {
    let PackedTensor { planes, words } = &weight;
    let is_float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    if !is_float || !planes.on_device(words) || rows.shape().num_elements() == 0 {
        return reference_rows::<B>(weight, rows, dtype);
    }
    cube::rows(planes, words.clone(), rows, dtype)
}
