//! A launch, and what it is compared with.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

/// One launch of an operation; what it returns is dropped.
pub type Launch = Box<dyn FnMut()>;

/// What is run for an [`Entry`](crate::entry::Entry).
pub struct Action {
    /// The operation as training runs it.
    pub run: Launch,
    /// The same in plain operations of burn, where that fits into memory.
    pub composed: Option<Launch>,
    /// burn's own matrix product of the same sizes.
    pub matmul: Option<Matmul>,
    /// Why the composed operation is left out.
    pub composed_refusal: Option<String>,
}

/// burn's own matrix product.
pub struct Matmul {
    /// Operations of a launch.
    pub flops: f64,
    /// The launch.
    pub run: Launch,
}

impl Action {
    pub(super) fn new(run: Launch) -> Self {
        Self { run, composed: None, matmul: None, composed_refusal: None }
    }

    pub(super) fn composed(mut self, launch: Launch) -> Self {
        self.composed = Some(launch);
        self
    }

    pub(super) fn matmul(mut self, flops: f64, run: Launch) -> Self {
        self.matmul = Some(Matmul { flops, run });
        self
    }
}

/// The primitive of another handle to the tensor.
pub(super) fn raw<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> FloatTensor<B> {
    tensor.clone().into_primitive().tensor()
}
