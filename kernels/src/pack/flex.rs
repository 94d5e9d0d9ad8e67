//! Unpacking on the CPU.

use burn::tensor::{DType, Shape};
use burn_flex::{Flex, FlexTensor};

use super::{packed_elements, reference_unpack};
use crate::flex::tensor;

/// Copies, except of the only tensor of a pack: a view of the first one would keep the memory of all.
pub(crate) fn unpack(packed: &FlexTensor, shapes: Vec<Shape>) -> Vec<FlexTensor> {
    if packed.dtype() != DType::F32 || shapes.len() < 2 {
        return reference_unpack::<Flex>(packed, shapes);
    }
    let packed = packed.to_contiguous();
    let mut rest = packed.storage::<f32>();
    let mut piece = |shape: Shape| {
        let elements = shape.num_elements();
        let values = rest[..elements].to_vec();
        rest = &rest[packed_elements(elements).min(rest.len())..];
        tensor(values, shape.to_vec())
    };
    shapes.into_iter().map(&mut piece).collect()
}
