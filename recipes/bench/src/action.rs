//! Launches of an operation, and what they are compared with.

use burnish_kernels::FusedBackend;

use super::entry::Kernel;
use super::setup::Setup;

mod attention;
mod elementwise;
mod launch;
mod matrix;

pub use launch::{Action, Launch, Matmul};

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
        Kernel::PackedLinear => matrix::packed_linear(setup),
        Kernel::LinearCrossEntropy => matrix::linear_cross_entropy(setup),
    }
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
