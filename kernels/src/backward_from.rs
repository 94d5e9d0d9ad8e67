//! A backward pass that starts from a given gradient.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::lora_linear::{self, Unread};
use crate::packed::PackedTensor;
use crate::primitive::raw;

/// A backend for training: fused operations with gradients, and fused operations on its inner backend.
pub trait TrainBackend: FusedBackend + AutodiffBackend<InnerBackend: FusedBackend> {
    /// Whether anything that the tensor was computed from has a gradient.
    fn is_tracked(tensor: &FloatTensor<Self>) -> bool;

    /// See [`crate::unread_lora_linear()`].
    fn unread_lora_linear(layer: Unread<FloatTensor<Self>, PackedTensor<Self>>) -> FloatTensor<Self>;

    /// See [`crate::backward_from()`].
    fn backward_from(output: FloatTensor<Self>, gradient: FloatTensor<Self::InnerBackend>) -> Self::Gradients;
}

/// Gradients of everything that `output` was computed from, given the gradient of `output`: the vector-Jacobian product.
///
/// The backward pass begins with that gradient as it is. Multiplying `output` by it and summing would do the same, but 16-bit sums
/// overflow.
///
/// # Panics
/// When shapes or dtypes differ, or nothing that `output` was computed from has a gradient.
pub fn backward_from<B: TrainBackend, const D: usize>(
    output: Tensor<B, D>,
    gradient: Tensor<B::InnerBackend, D>,
) -> B::Gradients {
    assert!(
        output.dims() == gradient.dims() && output.dtype() == gradient.dtype(),
        "backward_from: an output of {:?} in {:?}, and a gradient of {:?} in {:?}",
        output.dims(),
        output.dtype(),
        gradient.dims(),
        gradient.dtype()
    );
    B::backward_from(raw(output), raw(gradient))
}

/// Whether anything that the tensor was computed from has a gradient, so that [`backward_from`] has something to do.
pub fn is_tracked<B: TrainBackend, const D: usize>(tensor: &Tensor<B, D>) -> bool {
    B::is_tracked(&raw(tensor.clone()))
}

/// A node whose backward hands on the gradient that it holds.
#[derive(Debug)]
struct Seed;

impl<B: FusedBackend> Backward<B, 1> for Seed {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

impl<B: FusedBackend, C: CheckpointStrategy> TrainBackend for Autodiff<B, C> {
    fn is_tracked(tensor: &FloatTensor<Self>) -> bool {
        tensor.is_tracked()
    }

    fn unread_lora_linear(layer: Unread<FloatTensor<Self>, PackedTensor<Self>>) -> FloatTensor<Self> {
        lora_linear::autodiff::unread::<B, C>(layer)
    }

    fn backward_from(output: FloatTensor<Self>, gradient: FloatTensor<B>) -> Self::Gradients {
        let (device, dtype) = (B::float_device(&output.primitive), output.primitive.dtype());
        // burn starts at a tensor of ones, which this node ignores: one element is enough.
        let one = B::float_ones(Shape::from([1]), &device, dtype.into());
        let root = match Seed.prepare::<C>([output.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradient, one),
            OpsKind::UnTracked(_) => panic!("backward_from: nothing that the output was computed from has a gradient"),
        };
        drop(output);
        <Self as AutodiffBackend>::backward(root)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::{DType, TensorData};

    use super::*;

    type Train = Autodiff<Flex>;

    #[test]
    fn the_backward_begins_with_the_gradient_itself() {
        let device = Default::default();
        let x = Tensor::<Train, 2>::from_floats([[1.0, 2.0], [3.0, -4.0]], &device).require_grad();
        let y = x.clone() * x.clone();
        let gradient = Tensor::<Flex, 2>::from_floats([[0.5, -1.0], [2.0, 1e30]], &device);
        let gradients = backward_from(y, gradient);
        let found = x.grad(&gradients).unwrap().into_data();
        found.assert_eq(&TensorData::from([[1.0f32, -4.0], [12.0, -8e30]]), true);
    }

    // (y * gradient).sum() would be infinite in f16.
    #[test]
    fn large_gradients_in_f16_do_not_overflow() {
        let device = Default::default();
        let values = |value: f32| TensorData::new(vec![value; 64], [8, 8]);
        let x = Tensor::<Train, 2>::from_data(values(200.0), (&device, DType::F16)).require_grad();
        let gradients = backward_from(x.clone() * 2.0, Tensor::from_data(values(3000.0), (&device, DType::F16)));
        let found: Vec<f32> = x.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
        assert_eq!(found, vec![6000.0; 64]);
    }

    #[test]
    fn an_untracked_output_is_known() {
        let device = Default::default();
        let x = Tensor::<Train, 2>::ones([2, 2], &device);
        assert!(!is_tracked(&(x.clone() * 2.0)));
        assert!(is_tracked(&(x.require_grad() * 2.0)));
    }
}
