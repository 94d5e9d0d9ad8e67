//! The CPU's way: in place where nobody else holds a tensor.

use burn::tensor::{DType, TensorMetadata};
use burn_flex::{Flex, FlexTensor};

use super::host::{self, Moment};
use super::{AdamW8bitTensors, AdamW8bitUpdate, Moment8bit, reference};
use crate::adamw::AdamWStep;
use crate::flex::all_f32;

/// Whether the dtypes are those of the update.
fn fits(tensors: &AdamW8bitTensors<Flex>) -> bool {
    let AdamW8bitTensors { parameter, gradient, first, second, .. } = tensors;
    all_f32(&[parameter, gradient, &first.absmax, &second.absmax])
        && [first, second].iter().all(|moment| moment.words.dtype() == DType::I32)
}

pub(crate) fn update(tensors: AdamW8bitTensors<Flex>, step: AdamWStep) -> AdamW8bitUpdate<Flex> {
    if !fits(&tensors) {
        return reference::<Flex>(tensors, step);
    }
    let AdamW8bitTensors { mut parameter, gradient, mut first, mut second, squares } = tensors;
    let squares = squares.map(|squares| squares.into_data().iter::<f32>().next().unwrap_or(0.0));
    let count = parameter.shape().num_elements();
    let gradient = gradient.to_contiguous();
    for tensor in [&mut parameter, &mut first.words, &mut first.absmax, &mut second.words, &mut second.absmax] {
        own(tensor);
    }
    let moments = [&mut first, &mut second].map(|Moment8bit { words, absmax }| Moment {
        words: words.storage_mut::<i32>(),
        absmax: absmax.storage_mut::<f32>(),
    });
    host::update(parameter.storage_mut(), &gradient.storage()[..count], moments, squares, step);
    AdamW8bitUpdate { parameter, first, second }
}

/// Makes a tensor one that fills its buffer, in order.
fn own(tensor: &mut FlexTensor) {
    let fills = tensor.bytes().len() == tensor.shape().num_elements() * tensor.dtype().size();
    if !fills || !tensor.is_contiguous() {
        *tensor = FlexTensor::from_data(tensor.clone().into_data());
    }
}
