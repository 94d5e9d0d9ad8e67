//! AdamW with its state where checkpoints can reach it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{AutodiffModule, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{GradientsParams, LearningRate, MultiGradientsParams, Optimizer};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorPrimitive};
use burnish_kernels::{AdamWStep, AdamWTensors, FusedBackend, TrainBackend, adamw};
use burnish_models::AnyTensor;

use crate::config::TrainConfig;

/// AdamW as `torch.optim.AdamW`. Clones share their state: burn-train's learner keeps its optimizer to itself, and
/// the strategy that saves checkpoints holds a clone.
#[derive(Clone)]
pub struct AdamW<B: TrainBackend> {
    shared: Arc<Mutex<State<B>>>,
}

/// The moments of one parameter.
#[derive(Clone)]
pub struct Moments<B: FusedBackend> {
    /// Mean of the gradients.
    pub exp_avg: AnyTensor<B>,
    /// Mean of their squares.
    pub exp_avg_sq: AnyTensor<B>,
}

/// What an optimizer knows.
pub struct State<B: TrainBackend> {
    /// Numbers of the next update.
    pub hyper: AdamWStep,
    /// By parameter.
    pub moments: BTreeMap<u64, Moments<B::InnerBackend>>,
}

impl<B: TrainBackend> AdamW<B> {
    /// A fresh optimizer.
    pub fn new(config: &TrainConfig) -> Self {
        let hyper = AdamWStep {
            learning_rate: 0.0,
            beta1: config.beta1,
            beta2: config.beta2,
            epsilon: config.epsilon,
            weight_decay: config.weight_decay,
            step: 0,
            gradient_factor: 1.0,
        };
        Self { shared: Arc::new(Mutex::new(State { hyper, moments: BTreeMap::new() })) }
    }

    /// The state, to save it, restore it, or set the factor on the next gradients.
    pub fn state(&self) -> MutexGuard<'_, State<B>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: TrainBackend, M: AutodiffModule<B>> Optimizer<M, B> for AdamW<B> {
    type Record = ();

    fn step(&mut self, learning_rate: LearningRate, module: M, grads: GradientsParams) -> M {
        let mut state = self.state();
        state.hyper.learning_rate = learning_rate;
        state.hyper.step += 1;
        let mut gathered = Gathered { state: &mut state, grads, parameters: Vec::new(), tensors: Vec::new() };
        module.visit(&mut gathered);
        let Gathered { parameters, tensors, .. } = gathered;
        let mut new = BTreeMap::new();
        for ((id, rank), [parameter, first, second]) in parameters.into_iter().zip(adamw(tensors, state.hyper)) {
            let moments = Moments { exp_avg: of_rank(rank, first), exp_avg_sq: of_rank(rank, second) };
            state.moments.insert(id, moments);
            new.insert(id, parameter);
        }
        module.map(&mut Updated { new })
    }

    fn step_multi(&mut self, learning_rate: LearningRate, module: M, mut grads: MultiGradientsParams) -> M {
        // One device trains here; several would hand in several sets.
        match grads.grads.pop() {
            Some((grads, _)) => Optimizer::<M, B>::step(self, learning_rate, module, grads),
            None => module,
        }
    }

    /// The state is saved by name, through [`AdamW::state`].
    fn to_record(&self) {}

    fn load_record(self, _record: ()) -> Self {
        self
    }
}

/// Collects what trains, with gradient and moments.
struct Gathered<'a, B: TrainBackend> {
    state: &'a mut State<B>,
    grads: GradientsParams,
    /// Ids and ranks.
    parameters: Vec<(u64, usize)>,
    tensors: Vec<AdamWTensors<B::InnerBackend>>,
}

impl<B: TrainBackend> ModuleVisitor<B> for Gathered<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(gradient) = self.grads.remove::<B::InnerBackend, D>(param.id) else { return };
        let (id, parameter) = (param.id.val(), param.val().inner());
        let (first, second) = match self.state.moments.remove(&id) {
            Some(moments) => (typed(moments.exp_avg), typed(moments.exp_avg_sq)),
            None => (parameter.zeros_like(), parameter.zeros_like()),
        };
        self.parameters.push((id, D));
        self.tensors.push(AdamWTensors::new(parameter, gradient, first, second));
    }
}

/// Puts the new parameters where the old ones are.
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

/// A primitive of rank 1 or 2, which are the ranks of parameters.
fn of_rank<B: FusedBackend>(rank: usize, tensor: FloatTensor<B>) -> AnyTensor<B> {
    let tensor = TensorPrimitive::Float(tensor);
    if rank == 1 {
        AnyTensor::Vector(Tensor::from_primitive(tensor))
    } else {
        AnyTensor::Matrix(Tensor::from_primitive(tensor))
    }
}

fn typed<B: FusedBackend, const D: usize>(tensor: AnyTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(match tensor {
        AnyTensor::Vector(tensor) => tensor.into_primitive(),
        AnyTensor::Matrix(tensor) => tensor.into_primitive(),
    })
}
