//! Takes parameters out of a module, and puts new ones in.
//!
//! Between the two the module holds none of them, so that an update can write where the old ones are: in full fine-tuning the device
//! would else hold all weights twice.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata, TensorPrimitive};
use burnish_kernels::TrainBackend;

use super::pack::{Group, Packed, Trained};

/// Takes out the parameters that have gradients, and leaves a single zero in place of each.
pub(super) struct Taken<'a, B: TrainBackend> {
    pub grads: GradientsParams,
    pub trained: Vec<Trained<B::InnerBackend>>,
    /// The group of a parameter.
    pub group: &'a dyn Fn(u64, &[usize]) -> Group,
    /// One for all parameters.
    pub zero: Option<FloatTensor<B::InnerBackend>>,
}

impl<B: TrainBackend> ModuleMapper<B> for Taken<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(gradient) = self.grads.remove::<B::InnerBackend, D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let requires_grad = tensor.is_require_grad();
        let parameter = tensor.inner();
        let device = parameter.device();
        let (parameter, gradient) = (parameter.into_primitive().tensor(), gradient.into_primitive().tensor());
        let shape = parameter.shape();
        let group = (self.group)(id.val(), &shape);
        let packed = Packed { id: id.val(), shape, dtype: parameter.dtype(), group };
        self.trained.push(Trained { packed, parameter, gradient });
        let zero =
            self.zero.get_or_insert_with(|| Tensor::<B::InnerBackend, 1>::zeros([1], &device).into_primitive().tensor());
        let zero = Tensor::<B::InnerBackend, 1>::from_primitive(TensorPrimitive::Float(zero.clone())).reshape([1; D]);
        Param::from_mapped_value(id, Tensor::from_inner(zero).set_require_grad(requires_grad), mapper)
    }
}

/// Puts the new parameters in.
pub(super) struct Updated<B: TrainBackend> {
    pub new: BTreeMap<u64, FloatTensor<B::InnerBackend>>,
}

impl<B: TrainBackend> ModuleMapper<B> for Updated<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let updated = match self.new.remove(&id.val()) {
            Some(new) => {
                let new = Tensor::<B::InnerBackend, D>::from_primitive(TensorPrimitive::Float(new));
                Tensor::from_inner(new).set_require_grad(tensor.is_require_grad())
            }
            None => tensor,
        };
        Param::from_mapped_value(id, updated, mapper)
    }
}
