//! Between Flex tensors and slices.

use burn::tensor::{DType, TensorData, TensorMetadata};
use burn_flex::FlexTensor;

/// Whether all tensors are f32, the dtype that the CPU kernels are written for.
pub(crate) fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// A contiguous tensor of these values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Vec<usize>>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// The dimensions of a matrix.
pub(crate) fn dims2(tensor: &FlexTensor) -> [usize; 2] {
    let shape = tensor.shape();
    [shape[0], shape[1]]
}
