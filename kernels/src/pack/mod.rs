//! Many tensors in one, for an optimizer to update in one launch.

#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Shape, Slice, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::packed::codebook::DYNAMIC_BLOCK;
use crate::primitive::{raw, typed};

/// Alignment of each packed tensor, in elements: a block of [`Moment8bit`](crate::Moment8bit), so that no block has elements of two
/// tensors, and twice the 512 bytes to which CUDA aligns allocations, more than any device requires of a buffer's offset. So
/// [`unpack`] copies nothing.
const ALIGNMENT: usize = DYNAMIC_BLOCK;

/// Elements that a tensor occupies in a packed one.
pub fn packed_elements(elements: usize) -> usize {
    elements.next_multiple_of(ALIGNMENT)
}

/// Concatenates tensors into one of rank 1, each padded with zeros to its alignment; the inverse of [`unpack`]. A single tensor
/// that needs no padding is not copied.
///
/// # Panics
/// When there are no tensors.
pub fn pack<B: FusedBackend>(mut tensors: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    match tensors.as_slice() {
        [one] if one.shape().num_elements() == packed_elements(one.shape().num_elements()) => {
            let one = tensors.remove(0);
            let flat = Shape::from([one.shape().num_elements()]);
            B::float_reshape(one, flat)
        }
        _ => B::pack(tensors),
    }
}

/// The composed packing.
pub fn reference<B: Backend>(tensors: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    let pieces = tensors.into_iter().flat_map(|tensor| {
        let elements = tensor.shape().num_elements();
        let (device, dtype): (_, DType) = (B::float_device(&tensor), tensor.dtype());
        let gap = packed_elements(elements) - elements;
        let zeros = (gap > 0).then(|| Tensor::<B, 1>::zeros([gap], (&device, dtype)));
        [Some(typed::<B, 1>(B::float_reshape(tensor, [elements].into()))), zeros]
    });
    raw(Tensor::cat(pieces.flatten().collect(), 0))
}

/// The tensors of these shapes that were packed: views of `packed` on a GPU, copies on the CPU.
pub fn unpack<B: FusedBackend>(packed: &FloatTensor<B>, shapes: impl IntoIterator<Item = Shape>) -> Vec<FloatTensor<B>> {
    B::unpack(packed, shapes.into_iter().collect())
}

/// The composed unpacking.
pub fn reference_unpack<B: Backend>(packed: &FloatTensor<B>, shapes: Vec<Shape>) -> Vec<FloatTensor<B>> {
    let mut start = 0;
    let piece = |shape: Shape| {
        let end = start + shape.num_elements();
        let piece = B::float_slice(packed.clone(), &[Slice::from(start..end)]);
        start += packed_elements(shape.num_elements());
        B::float_reshape(piece, shape)
    };
    shapes.into_iter().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn what_was_packed_is_unpacked() {
        let shapes = [Shape::from([3, 5]), Shape::from([128]), Shape::from([1, 1]), Shape::from([2, 300])];
        let random = |shape: &Shape| {
            let elements = [shape.num_elements()];
            let tensor = Tensor::<Flex, 1>::random(elements, Distribution::Default, &Default::default());
            <Flex as burn::tensor::ops::FloatTensorOps<Flex>>::float_reshape(raw(tensor), shape.clone())
        };
        let tensors: Vec<_> = shapes.iter().map(random).collect();
        let packed = pack::<Flex>(tensors.clone());
        let values = typed::<Flex, 1>(packed.clone()).into_data().to_vec::<f32>().unwrap();
        assert_eq!(values.len(), 256 + 256 + 256 + 768);
        let gaps = [15..256, 384..512, 513..768, 1368..1536];
        assert!(gaps.into_iter().flat_map(|gap| &values[gap]).all(|value| value.to_bits() == 0));
        let flat = |tensor: FloatTensor<Flex>| {
            let elements = [tensor.shape().num_elements()];
            typed::<Flex, 1>(<Flex as burn::tensor::ops::FloatTensorOps<Flex>>::float_reshape(tensor, elements.into()))
                .into_data()
        };
        for ((found, expected), shape) in unpack::<Flex>(&packed, shapes.clone()).into_iter().zip(tensors).zip(shapes) {
            assert_eq!(found.shape(), shape);
            assert_eq!(flat(found), flat(expected));
        }
    }

    /// A view of one tensor would keep the memory of all.
    #[test]
    fn what_is_unpacked_shares_nothing() {
        let pack_of = |count: usize| {
            let tensors = (0..count).map(|_| raw(Tensor::<Flex, 1>::ones([256], &Default::default()))).collect();
            pack::<Flex>(tensors)
        };
        let (two, one) = (pack_of(2), pack_of(1));
        let shape = || Shape::from([16, 16]);
        let start = |tensor: &burn_flex::FlexTensor| tensor.storage::<f32>().as_ptr();
        for piece in unpack::<Flex>(&two, [shape(), shape()]) {
            assert!(!two.storage::<f32>().as_ptr_range().contains(&start(&piece)));
        }
        // The only tensor of a pack is updated in place.
        assert_eq!(start(&unpack::<Flex>(&one, [shape()])[0]), start(&one));
    }
}
