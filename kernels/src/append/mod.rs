//! Rows written into a buffer with room for more, as the key-value cache of generation takes them.

#[cfg(feature = "cube")]
pub(crate) mod cube;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Slice, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// The two buffers with the rows of `new` in place of theirs from `start` on along the second axis. A buffer that nothing else holds
/// is written in place.
///
/// # Shapes
/// The buffers `[batch, capacity, heads, head_dim]`, `new` `[batch, rows, heads, head_dim]`.
///
/// # Panics
/// If the rows do not fit in the buffers.
pub fn append<B: FusedBackend>(buffers: [Tensor<B, 4>; 2], new: [Tensor<B, 4>; 2], start: usize) -> [Tensor<B, 4>; 2] {
    for (buffer, new) in buffers.iter().zip(&new) {
        let ([batch, capacity, heads, head_dim], rows) = (buffer.dims(), new.dims()[1]);
        assert!(
            new.dims() == [batch, rows, heads, head_dim] && start + rows <= capacity,
            "append: {:?} does not fit at {start} of {:?}",
            new.dims(),
            buffer.dims()
        );
    }
    B::append(buffers.map(raw), new.map(raw), start).map(typed)
}

/// The first `length` rows of a buffer along its second axis, without a copy where the backend can describe them.
///
/// # Panics
/// If the buffer has fewer rows.
pub fn prefix<B: FusedBackend>(buffer: Tensor<B, 4>, length: usize) -> Tensor<B, 4> {
    assert!(length <= buffer.dims()[1], "prefix: expected at most {} rows, got {length}", buffer.dims()[1]);
    typed(B::prefix(raw(buffer), length))
}

/// The composed operation.
pub fn reference<B: Backend>(buffers: [FloatTensor<B>; 2], new: [FloatTensor<B>; 2], start: usize) -> [FloatTensor<B>; 2] {
    let [[first, second], [new_first, new_second]] = [buffers, new];
    [(first, new_first), (second, new_second)].map(|(buffer, new)| {
        let shape = new.shape();
        let slices: Vec<Slice> =
            (0..4).map(|axis| if axis == 1 { start..start + shape[1] } else { 0..shape[axis] }).map(Slice::from).collect();
        B::float_slice_assign(buffer, &slices, new)
    })
}

/// The composed prefix.
pub fn reference_prefix<B: Backend>(buffer: FloatTensor<B>, length: usize) -> FloatTensor<B> {
    raw(typed::<B, 4>(buffer).narrow(1, 0, length))
}
