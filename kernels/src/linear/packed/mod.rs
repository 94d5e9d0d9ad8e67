//! The product with a packed weight, see [`PackedTensor`].

#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "cube")]
mod few_rows;
pub(crate) mod flex;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorData, TensorMetadata};

use crate::FusedBackend;
use crate::glu::Activation;
use crate::packed::{PackedTensor, Planes};
use crate::primitive::{raw, typed};

/// `x · Wᵀ` with a packed weight. The backward is `dx = dy · W`; nothing of `x` is kept for it.
///
/// # Shapes
/// `x` `[rows, in]`, `weight` `[out, in]`; the result is `[rows, out]`.
///
/// # Precision
/// Weights are dequantised in f32 and rounded once, to the dtype of `x`.
///
/// # Panics
/// When `in` differs.
pub fn packed_linear<B: FusedBackend>(x: Tensor<B, 2>, weight: &PackedTensor<B>) -> Tensor<B, 2> {
    assert_eq!(x.dims()[1], weight.dims()[1], "packed_linear: x {:?} against weight {:?}", x.dims(), weight.dims());
    typed(B::packed_linear(raw(x), weight.clone()))
}

/// [`packed_linear()`] with each of the weights. Of a few rows, as in decoding, up to three products are one launch.
///
/// # Panics
/// When an `in` differs.
pub fn packed_linears<B: FusedBackend>(x: Tensor<B, 2>, weights: Vec<PackedTensor<B>>) -> Vec<Tensor<B, 2>> {
    for dims in weights.iter().map(PackedTensor::dims) {
        assert_eq!(x.dims()[1], dims[1], "packed_linears: x {:?} against weight {dims:?}", x.dims());
    }
    B::packed_linears(raw(x), weights).into_iter().map(typed).collect()
}

/// `f(x · Gᵀ) · (x · Uᵀ)` of the packed weights `[G, U]`, see [`crate::swiglu()`] and [`crate::geglu()`]. A few rows
/// take one launch.
///
/// # Shapes
/// `x` `[rows, in]`, the weights `[out, in]`; the result is `[rows, out]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn packed_glu_linear<B: FusedBackend>(
    x: Tensor<B, 2>,
    weights: [PackedTensor<B>; 2],
    activation: Activation,
) -> Tensor<B, 2> {
    let [gate, up] = weights.each_ref().map(PackedTensor::dims);
    assert!(gate == up && x.dims()[1] == up[1], "packed_glu_linear: x {:?}, weights {gate:?} and {up:?}", x.dims());
    typed(B::packed_glu_linear(raw(x), weights, activation))
}

/// Rows of a packed weight, as an embedding reads them. They have no gradient.
///
/// # Shapes
/// `rows` `[count]`; the result is `[count, in]`, of the dtype.
///
/// # Panics
/// When there is no such row.
pub fn packed_rows<B: FusedBackend>(weight: &PackedTensor<B>, rows: Tensor<B, 1, Int>, dtype: DType) -> Tensor<B, 2> {
    typed(B::packed_rows(weight.clone(), rows.into_primitive(), dtype))
}

/// The forward by way of a dense matrix.
pub fn reference<B: FusedBackend>(x: FloatTensor<B>, weight: PackedTensor<B>) -> FloatTensor<B> {
    let dense = weight.to_dense(x.dtype());
    B::dense_linear(x, dense)
}

/// The product with each weight, as the backend computes it.
pub fn references<B: FusedBackend>(x: FloatTensor<B>, weights: Vec<PackedTensor<B>>) -> Vec<FloatTensor<B>> {
    weights.into_iter().map(|weight| B::packed_linear(x.clone(), weight)).collect()
}

/// The products with both weights, then the activation, each as the backend computes it.
pub fn reference_glu<B: FusedBackend>(
    x: FloatTensor<B>,
    [gate, up]: [PackedTensor<B>; 2],
    activation: Activation,
) -> FloatTensor<B> {
    B::glu(B::packed_linear(x.clone(), gate), B::packed_linear(x, up), activation)
}

/// The gradient for the input by way of a dense matrix.
pub fn reference_backward_input<B: FusedBackend>(grad: FloatTensor<B>, weight: PackedTensor<B>) -> FloatTensor<B> {
    let dense = weight.to_dense(grad.dtype());
    B::linear_backward_input(grad, dense)
}

/// Rows by way of the host, each dequantised alone.
pub fn reference_rows<B: FusedBackend>(weight: PackedTensor<B>, rows: IntTensor<B>, dtype: DType) -> FloatTensor<B> {
    rows_from::<B>(weight.planes, &weight.to_words(), rows, dtype)
}

/// Rows of a weight whose words are on the host.
pub(crate) fn rows_from<B: FusedBackend>(planes: Planes, words: &[u32], rows: IntTensor<B>, dtype: DType) -> FloatTensor<B> {
    let device = B::int_device(&rows);
    let rows = Tensor::<B, 1, Int>::from_primitive(rows).into_data();
    let rows: Vec<usize> = rows.iter::<i64>().map(|row| usize::try_from(row).unwrap_or(usize::MAX)).collect();
    let values = planes.rows(words, &rows);
    let data = TensorData::new(values, [rows.len(), planes.dims[1]]);
    raw(Tensor::<B, 2>::from_data(data, (&device, DType::F32)).cast(dtype))
}

#[derive(Debug)]
struct PackedLinear;

impl<B: FusedBackend> Backward<B, 1> for PackedLinear {
    type State = PackedTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::packed_linear_backward_input(grad, ops.state));
        }
    }
}

/// The same words on the inner backend.
pub(crate) fn inner<B: FusedBackend, C: CheckpointStrategy>(weight: PackedTensor<Autodiff<B, C>>) -> PackedTensor<B> {
    PackedTensor { planes: weight.planes, words: weight.words }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: PackedTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let weight = inner(weight);
    let y = B::packed_linear(x.primitive, weight.clone());
    match PackedLinear.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(weight, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
