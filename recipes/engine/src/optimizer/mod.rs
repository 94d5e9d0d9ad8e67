//! AdamW, with moments that checkpoints can save and restore.

use std::collections::BTreeMap;

use burn::module::{AutodiffModule, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Shape, Tensor, TensorMetadata, TensorPrimitive};
use burnish_kernels::{AdamWStep, AdamWTensors, FusedBackend, TrainBackend, adamw, pack, unpack};
use burnish_models::{AnyTensor, LanguageModel};

use crate::step::{Training, squared_gradient_norm};

/// The parameters of AdamW, except for the learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices. Norms and biases have none, as in transformers (`get_decay_parameter_names`).
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm if theirs is larger; 0 is off.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 }
    }
}

/// AdamW as `torch.optim.AdamW`, with clipping as `torch.nn.utils.clip_grad_norm_`.
pub struct AdamW<B: TrainBackend> {
    /// Parameters of the next update.
    hyper: AdamWStep,
    /// Moments that are in no pack, by parameter.
    loose: BTreeMap<u64, Moments<B::InnerBackend>>,
    packs: Vec<Pack<B::InnerBackend>>,
}

/// The global norm of a step's gradients.
pub struct Norm<B: Backend> {
    /// The squared norm, not divided by the loss scale, `[1]`.
    pub squares: Tensor<B, 1>,
    /// The loss scale.
    pub loss_scale: f64,
}

impl<B: FusedBackend> Norm<B> {
    /// The norm of a model's gradients, of a loss that was multiplied by `loss_scale`, which is 1 except in f16.
    pub fn of(model: &LanguageModel<Training<B>>, grads: &GradientsParams, loss_scale: f64, device: &B::Device) -> Self {
        Self { squares: squared_gradient_norm(model, grads, device), loss_scale }
    }
}

/// The moments of one parameter.
#[derive(Clone)]
pub struct Moments<B: FusedBackend> {
    /// Running mean of the gradients.
    pub exp_avg: AnyTensor<B>,
    /// Running mean of their squares.
    pub exp_avg_sq: AnyTensor<B>,
}

/// Maximum elements of a pack (16 MiB), unless one parameter has more. Larger packs would make the device allocate larger pages: one
/// pack of 45 MB, for adapters of rank 16 on a 1B model, took half a GiB more on Vulkan.
const MOST_PACKED: usize = 1 << 22;

/// The moments of parameters that are updated in one launch.
struct Pack<B: FusedBackend> {
    /// The parameters, in their order in the pack.
    of: Vec<Packed>,
    first: Tensor<B, 1>,
    second: Tensor<B, 1>,
}

/// A parameter in a pack.
#[derive(Clone, PartialEq)]
struct Packed {
    id: u64,
    shape: Shape,
    dtype: DType,
}

impl<B: TrainBackend> AdamW<B> {
    /// A fresh optimizer.
    pub fn new(config: AdamWConfig) -> Self {
        let hyper = AdamWStep {
            learning_rate: 0.0,
            beta1: config.beta1,
            beta2: config.beta2,
            epsilon: config.epsilon,
            weight_decay: config.weight_decay,
            step: 0,
            gradient_factor: 1.0,
            max_norm: config.max_grad_norm,
        };
        Self { hyper, loose: BTreeMap::new(), packs: Vec::new() }
    }

    /// Queues the update of a module without waiting for the device. If norm or loss is not finite, the update changes nothing, and the
    /// caller must call [`AdamW::take_back`] once it has read them.
    pub fn update<M: AutodiffModule<B>>(
        &mut self,
        module: M,
        grads: GradientsParams,
        norm: &Norm<B::InnerBackend>,
        loss: &Tensor<B::InnerBackend, 1>,
        learning_rate: f64,
    ) -> M {
        self.hyper.learning_rate = learning_rate;
        self.hyper.step += 1;
        self.hyper.gradient_factor = 1.0 / norm.loss_scale;
        let mut gathered = Gathered { grads, trained: Vec::new() };
        module.visit(&mut gathered);
        // If the loss is not finite, neither is this sum, and the kernel then changes nothing.
        let squares = norm.squares.clone() + loss.clone().mul_scalar(0.0);
        let new = self.updated(gathered.trained, &squares);
        module.map(&mut Updated { new })
    }

    /// Uncounts the last update, which changed nothing.
    pub fn take_back(&mut self) {
        self.hyper.step -= 1;
    }

    /// Sets the number of updates made so far.
    pub fn set_updates(&mut self, updates: usize) {
        self.hyper.step = updates;
    }

    /// The moments of all parameters that were updated, by parameter.
    pub fn moments(&self) -> BTreeMap<u64, Moments<B::InnerBackend>> {
        let mut moments = self.loose.clone();
        self.packs.iter().for_each(|pack| moments.extend(pack.moments()));
        moments
    }

    /// Sets the moments of a parameter.
    pub fn set_moments(&mut self, id: u64, moments: Moments<B::InnerBackend>) {
        self.loosen();
        self.loose.insert(id, moments);
    }

    fn loosen(&mut self) {
        for pack in std::mem::take(&mut self.packs) {
            self.loose.extend(pack.moments());
        }
    }

    /// Updates the parameters, and returns the new ones by id.
    fn updated(
        &mut self,
        trained: Vec<Trained<B::InnerBackend>>,
        squares: &Tensor<B::InnerBackend, 1>,
    ) -> BTreeMap<u64, FloatTensor<B::InnerBackend>> {
        // Repack if other parameters have gradients than last time. Those without one keep their moments.
        if !self.packs.iter().flat_map(|pack| &pack.of).eq(trained.iter().map(|trained| &trained.packed)) {
            self.loosen();
            self.packs = together(&trained).map(|trained| Pack::new(trained, &mut self.loose)).collect();
        }
        let (mut trained, mut new) = (trained.into_iter(), BTreeMap::new());
        for pack in std::mem::take(&mut self.packs) {
            let (parameters, gradients) =
                trained.by_ref().take(pack.of.len()).map(|trained| (trained.parameter, trained.gradient)).unzip();
            let (pack, parameters) = pack.update(parameters, gradients, squares, self.hyper);
            new.extend(parameters);
            self.packs.push(pack);
        }
        new
    }
}

impl Packed {
    /// Norms and biases are vectors.
    fn decays(&self) -> bool {
        self.shape.num_dims() > 1
    }
}

/// Groups consecutive parameters of the same dtype and weight decay, up to the size of a pack.
fn together<B: FusedBackend>(trained: &[Trained<B>]) -> impl Iterator<Item = &[Trained<B>]> {
    let mut elements = 0;
    trained.chunk_by(move |a, b| {
        elements += a.packed.shape.num_elements();
        let is_alike = a.packed.dtype == b.packed.dtype && a.packed.decays() == b.packed.decays();
        let fits = is_alike && elements + b.packed.shape.num_elements() <= MOST_PACKED;
        if !fits {
            elements = 0;
        }
        fits
    })
}

impl<B: FusedBackend> Pack<B> {
    /// Packs the existing moments; missing ones are zero.
    fn new(trained: &[Trained<B>], loose: &mut BTreeMap<u64, Moments<B>>) -> Self {
        let moments = trained.iter().map(|Trained { packed, parameter, .. }| {
            if let Some(Moments { exp_avg, exp_avg_sq }) = loose.remove(&packed.id) {
                return (raw(exp_avg), raw(exp_avg_sq));
            }
            let zeros = || B::float_zeros(packed.shape.clone(), &B::float_device(parameter), packed.dtype.into());
            (zeros(), zeros())
        });
        let (first, second) = moments.unzip();
        Self {
            of: trained.iter().map(|trained| trained.packed.clone()).collect(),
            first: packed(first),
            second: packed(second),
        }
    }

    /// Returns the pack with new moments, and the new parameters by id. Nothing else holds the moments, so they are updated in place.
    fn update(
        self,
        parameters: Vec<FloatTensor<B>>,
        gradients: Vec<FloatTensor<B>>,
        squares: &Tensor<B, 1>,
        step: AdamWStep,
    ) -> (Self, Vec<(u64, FloatTensor<B>)>) {
        let Self { of, first, second } = self;
        let decays = of.iter().any(Packed::decays);
        let step = AdamWStep { weight_decay: if decays { step.weight_decay } else { 0.0 }, ..step };
        let tensors = AdamWTensors::new(packed(parameters), packed(gradients), first, second).clipped_by(squares.clone());
        let [parameter, first, second] = adamw(tensors, step);
        let pack = Self { of, first: typed(first), second: typed(second) };
        let parameters = pack.unpacked(&parameter);
        (pack, parameters)
    }

    fn moments(&self) -> impl Iterator<Item = (u64, Moments<B>)> {
        let unpacked = |tensor: &Tensor<B, 1>| self.unpacked(&tensor.clone().into_primitive().tensor());
        let moments = |((id, first), (_, second))| (id, Moments { exp_avg: of_rank(first), exp_avg_sq: of_rank(second) });
        unpacked(&self.first).into_iter().zip(unpacked(&self.second)).map(moments)
    }

    fn unpacked(&self, tensor: &FloatTensor<B>) -> Vec<(u64, FloatTensor<B>)> {
        let shapes = self.of.iter().map(|packed| packed.shape.clone());
        self.of.iter().map(|packed| packed.id).zip(unpack::<B>(tensor, shapes)).collect()
    }
}

/// A parameter with its gradient.
struct Trained<B: FusedBackend> {
    packed: Packed,
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
}

/// Collects the parameters that have gradients.
struct Gathered<B: TrainBackend> {
    grads: GradientsParams,
    trained: Vec<Trained<B::InnerBackend>>,
}

impl<B: TrainBackend> ModuleVisitor<B> for Gathered<B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(gradient) = self.grads.remove::<B::InnerBackend, D>(param.id) else { return };
        let parameter = param.val().inner();
        let packed = Packed { id: param.id.val(), shape: parameter.shape(), dtype: parameter.dtype() };
        let (parameter, gradient) = (parameter.into_primitive().tensor(), gradient.into_primitive().tensor());
        self.trained.push(Trained { packed, parameter, gradient });
    }
}

/// Replaces the parameters by the new ones.
struct Updated<B: TrainBackend> {
    new: BTreeMap<u64, FloatTensor<B::InnerBackend>>,
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

fn packed<B: FusedBackend>(tensors: Vec<FloatTensor<B>>) -> Tensor<B, 1> {
    typed(pack::<B>(tensors))
}

fn typed<B: FusedBackend>(primitive: FloatTensor<B>) -> Tensor<B, 1> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// Wraps a primitive of rank 1 or 2, the ranks that parameters have.
fn of_rank<B: FusedBackend>(tensor: FloatTensor<B>) -> AnyTensor<B> {
    let rank = tensor.shape().num_dims();
    let tensor = TensorPrimitive::Float(tensor);
    if rank == 1 {
        AnyTensor::Vector(Tensor::from_primitive(tensor))
    } else {
        AnyTensor::Matrix(Tensor::from_primitive(tensor))
    }
}

fn raw<B: FusedBackend>(tensor: AnyTensor<B>) -> FloatTensor<B> {
    match tensor {
        AnyTensor::Vector(tensor) => tensor.into_primitive(),
        AnyTensor::Matrix(tensor) => tensor.into_primitive(),
    }
    .tensor()
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use burn::module::Module;

    use super::*;

    type Training = Autodiff<Flex>;

    #[derive(Module, Debug)]
    struct Two<B: Backend> {
        matrix: Param<Tensor<B, 2>>,
        vector: Param<Tensor<B, 1>>,
    }

    /// With gradients of zero, only decay moves a parameter: `w - lr · decay · w`.
    #[test]
    fn matrices_decay_and_vectors_do_not() {
        let device = Default::default();
        let module = Two::<Training> {
            matrix: Param::from_tensor(Tensor::ones([2, 3], &device)),
            vector: Param::from_tensor(Tensor::ones([4], &device)),
        };
        let sum = module.matrix.val().sum() + module.vector.val().sum();
        let grads = GradientsParams::from_grads(sum.mul_scalar(0.0).backward(), &module);
        let norm = Norm { squares: Tensor::zeros([1], &device), loss_scale: 1.0 };
        let config = AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() };
        let module = AdamW::new(config).update(module, grads, &norm, &Tensor::zeros([1], &device), 0.1);
        module.matrix.val().into_data().assert_approx_eq::<f32>(&[[0.95f32; 3]; 2].into(), Default::default());
        module.vector.val().into_data().assert_approx_eq::<f32>(&[1.0f32; 4].into(), Default::default());
    }
}
