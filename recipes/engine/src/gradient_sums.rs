//! Sums of gradients over micro-batches and slices.

use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

/// Gradients by parameter, to which others are added.
#[derive(Default)]
pub(crate) struct GradientSums(GradientsParams);

impl GradientSums {
    /// Adds the gradients of the parameters of a module, which may be a part of the model. The rest is dropped.
    pub fn add<B: AutodiffBackend, M: AutodiffModule<B>>(&mut self, module: &M, mut gradients: B::Gradients) {
        self.add_sums(module, Self(GradientsParams::from_module(&mut gradients, module)));
    }

    /// Adds other sums.
    pub fn add_sums<B: AutodiffBackend, M: AutodiffModule<B>>(&mut self, module: &M, others: Self) {
        module.visit(&mut Adder { sums: &mut self.0, others: others.0 });
    }

    /// The sums.
    pub fn into_inner(self) -> GradientsParams {
        self.0
    }
}

struct Adder<'a> {
    sums: &'a mut GradientsParams,
    others: GradientsParams,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Adder<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(other) = self.others.remove::<B::InnerBackend, D>(param.id) else { return };
        let sum = match self.sums.remove::<B::InnerBackend, D>(param.id) {
            Some(sum) => sum + other,
            None => other,
        };
        self.sums.register::<B::InnerBackend, D>(param.id, sum);
    }
}
