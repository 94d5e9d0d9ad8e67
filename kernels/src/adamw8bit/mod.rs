//! The optimizer's update with moments in eight bits.

#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;
mod host;
mod moment;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{TensorData, TensorMetadata};

pub use self::moment::Moment8bit;
use self::moment::{CODES, to_host};
use crate::FusedBackend;
use crate::adamw::AdamWStep;
use crate::packed::codebook::DYNAMIC_BLOCK;

/// Elements below which a parameter's moments are better kept in f32: they are small, and norms are sensitive.
///
/// Source: `min_8bit_size` of bitsandbytes' optimizers.
pub const LEAST_ELEMENTS: usize = 4096;

/// A parameter, its gradient and its moments.
#[derive(Debug, Clone)]
pub struct AdamW8bitTensors<B: Backend> {
    /// What is trained, f32.
    pub parameter: FloatTensor<B>,
    /// Its gradient, before [`AdamWStep::gradient_factor`], of the same shape.
    pub gradient: FloatTensor<B>,
    /// Mean of the gradients.
    pub first: Moment8bit<B>,
    /// Mean of their squares.
    pub second: Moment8bit<B>,
    /// As [`AdamWTensors::squares`](crate::AdamWTensors::squares).
    pub squares: Option<FloatTensor<B>>,
}

/// What an update leaves.
#[derive(Debug, Clone)]
pub struct AdamW8bitUpdate<B: Backend> {
    /// The parameter, in the shape it had.
    pub parameter: FloatTensor<B>,
    /// Mean of the gradients.
    pub first: Moment8bit<B>,
    /// Mean of their squares.
    pub second: Moment8bit<B>,
}

/// One AdamW update with moments in eight bits: they are taken to f32 block by block, updated as [`adamw`](crate::adamw()) does, used
/// for the parameter as they are then, and quantised again, each block by its largest magnitude.
///
/// # Precision
/// f32 within; codes are those of the nearest values.
///
/// # Panics
/// When the gradient or a moment is not that of the parameter.
///
/// # Source
/// Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"; `AdamW8bit` of bitsandbytes 0.50.2.
pub fn adamw8bit<B: FusedBackend>(tensors: AdamW8bitTensors<B>, step: AdamWStep) -> AdamW8bitUpdate<B> {
    let AdamW8bitTensors { parameter, gradient, first, second, .. } = &tensors;
    let elements = parameter.shape().num_elements();
    let expected = [elements.div_ceil(CODES), elements.div_ceil(DYNAMIC_BLOCK)];
    let fits =
        |moment: &Moment8bit<B>| [moment.words.shape().num_elements(), moment.absmax.shape().num_elements()] == expected;
    assert!(
        parameter.shape() == gradient.shape() && fits(first) && fits(second),
        "adamw8bit: gradient or moments are not those of a parameter {:?}",
        parameter.shape()
    );
    B::adamw8bit(tensors, step)
}

/// The update for any backend. It is taken on the host: not all backends shift or mask integers.
pub fn reference<B: Backend>(tensors: AdamW8bitTensors<B>, step: AdamWStep) -> AdamW8bitUpdate<B> {
    let AdamW8bitTensors { parameter, gradient, first, second, squares } = tensors;
    let (device, shape) = (B::float_device(&parameter), parameter.shape());
    let squares = squares.map(|squares| to_host::<B>(squares)[0]);
    let [mut values, gradient] = [parameter, gradient].map(to_host::<B>);
    let [mut first, mut second] = [first, second].map(|moment| moment.to_host());
    let moments = [&mut first, &mut second].map(|(words, absmax)| host::Moment { words, absmax });
    host::update(&mut values, &gradient, moments, squares, step);
    let [first, second] = [first, second].map(|(words, absmax)| Moment8bit::new(words, absmax, &device));
    AdamW8bitUpdate { parameter: B::float_from_data(TensorData::new(values, shape), &device), first, second }
}
