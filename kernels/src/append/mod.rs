//! Rows written into a buffer with room for more, as the key-value cache of generation takes them.

#[cfg(feature = "cube")]
pub(crate) mod cube;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Slice, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};
use crate::rotary::RotaryTable;

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

/// The rotated query, and [`append()`] of the rotated key and of the value: one launch on a GPU. `query` and `new` are of `batch` texts
/// of equal length, one after the other.
///
/// # Shapes
/// `query` `[tokens, heads, head_dim]`, `new` `[tokens, key_value_heads, head_dim]`, the buffers
/// `[batch, capacity, key_value_heads, head_dim]`; the rows of the table are the tokens.
///
/// # Panics
/// If the rows do not fit in the buffers, or the table does not fit query and key.
pub fn append_rotated<B: FusedBackend>(
    query: Tensor<B, 3>,
    new: [Tensor<B, 3>; 2],
    table: &RotaryTable<B>,
    buffers: [Tensor<B, 4>; 2],
    start: usize,
) -> (Tensor<B, 3>, [Tensor<B, 4>; 2]) {
    let ([tokens, _, head_dim], [rows, half]) = (query.dims(), table.cos.dims());
    let [batch, capacity, heads, _] = buffers[0].dims();
    assert!(
        new.iter().all(|new| new.dims() == [tokens, heads, head_dim])
            && buffers.iter().all(|buffer| buffer.dims() == [batch, capacity, heads, head_dim])
            && tokens.is_multiple_of(batch)
            && start + tokens / batch <= capacity
            && (rows, table.sin.dims()) == (tokens, [tokens, half])
            && half * 2 <= head_dim,
        "append_rotated: query {:?}, rows {:?} at {start}, a table of {rows} x {half} and buffers {:?} do not fit",
        query.dims(),
        new[0].dims(),
        buffers[0].dims()
    );
    let (cos, sin) = (raw(table.cos.clone()), raw(table.sin.clone()));
    let (query, buffers) = B::append_rotated(raw(query), new.map(raw), [cos, sin], buffers.map(raw), start);
    (typed(query), buffers.map(typed))
}

/// The operations one after the other, as the backend computes them.
pub fn reference_rotated<B: FusedBackend>(
    query: FloatTensor<B>,
    [key, value]: [FloatTensor<B>; 2],
    [cos, sin]: [FloatTensor<B>; 2],
    buffers: [FloatTensor<B>; 2],
    start: usize,
) -> (FloatTensor<B>, [FloatTensor<B>; 2]) {
    let (tokens, batch) = (key.shape()[0], buffers[0].shape()[0]);
    let [query, key] = B::rotary([query, key], cos, sin, false);
    let by_text = |rows: FloatTensor<B>| {
        let shape = rows.shape();
        B::float_reshape(rows, [batch, tokens / batch, shape[1], shape[2]].into())
    };
    (query, B::append(buffers, [by_text(key), by_text(value)], start))
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
