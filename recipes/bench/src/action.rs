//! Launches of an operation, and what they are compared with.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burnish_kernels::FusedBackend;

use super::entry::Kernel;
use super::setup::Setup;

mod attention;
mod elementwise;
mod matrix;

/// One launch of an operation; what it returns is dropped.
pub type Launch = Box<dyn FnMut()>;

/// What is run for an [`Entry`](super::entry::Entry).
pub struct Action {
    /// The operation as training runs it.
    pub run: Launch,
    /// The same in plain operations of burn, where that fits into memory.
    pub composed: Option<Launch>,
    /// burn's own matrix product of the same sizes.
    pub matmul: Option<Matmul>,
    /// What the user should know.
    pub note: Option<String>,
}

/// burn's own matrix product.
pub struct Matmul {
    /// Operations of a launch.
    pub flops: f64,
    /// The launch.
    pub run: Launch,
}

impl Action {
    fn new(run: Launch) -> Self {
        Self { run, composed: None, matmul: None, note: None }
    }

    fn composed(mut self, launch: Launch) -> Self {
        self.composed = Some(launch);
        self
    }

    fn matmul(mut self, flops: f64, run: Launch) -> Self {
        self.matmul = Some(Matmul { flops, run });
        self
    }
}

/// The actions of an operation, in the order of its [`entries`](super::entry::entries).
pub fn actions<B: FusedBackend>(kernel: Kernel, setup: &Setup<B>) -> Vec<Action> {
    match kernel {
        Kernel::RmsNorm => elementwise::rms_norm(setup),
        Kernel::Swiglu => elementwise::swiglu(setup),
        Kernel::Rotary => elementwise::rotary(setup),
        Kernel::Adamw => elementwise::adamw(setup),
        Kernel::Attention => attention::attention(setup),
        Kernel::Linear => matrix::linear(setup),
        Kernel::LoraLinear => matrix::lora_linear(setup),
        Kernel::LinearCrossEntropy => matrix::linear_cross_entropy(setup),
    }
}

/// The primitive of another handle to the tensor.
fn raw<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> FloatTensor<B> {
    tensor.clone().into_primitive().tensor()
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::DType;

    use super::*;
    use crate::entry::entries;
    use crate::shape::Shape;
    use crate::sizes::Sizes;

    #[test]
    fn every_entry_has_an_action_that_runs() {
        let shape = Shape::open("llama-3.2-1b").unwrap().shrunk(1);
        let sizes = Sizes::new(&shape.config, 2, 16, 4);
        let setup = Setup::<Flex> { sizes, dtype: DType::F32, device: Default::default(), rotation: 1e5 };
        for kernel in Kernel::ALL {
            let actions = actions(kernel, &setup);
            assert_eq!(actions.len(), entries(kernel, &setup.sizes, 4).len(), "{}", kernel.name());
            for mut action in actions {
                (action.run)();
                action.composed.iter_mut().for_each(|launch| launch());
                action.matmul.iter_mut().for_each(|matmul| (matmul.run)());
            }
        }
    }
}
