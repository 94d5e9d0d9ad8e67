//! AdamW with its state where checkpoints can reach it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{AutodiffModule, ModuleMapper, Param, ParamId};
use burn::optim::{GradientsParams, LearningRate, MultiGradientsParams, Optimizer};
use burn::tensor::Tensor;
use burnish_kernels::{AdamWStep, FusedBackend, TrainBackend, adamw};
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
        module.map(&mut Update { state: &mut state, grads })
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

struct Update<'a, B: TrainBackend> {
    state: &'a mut State<B>,
    grads: GradientsParams,
}

impl<B: TrainBackend> ModuleMapper<B> for Update<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let updated = match self.grads.remove::<B::InnerBackend, D>(id) {
            Some(gradient) => {
                let tracked = tensor.is_require_grad();
                let updated = self.update(id, tensor.inner(), gradient);
                Tensor::from_inner(updated).set_require_grad(tracked)
            }
            None => tensor,
        };
        Param::from_mapped_value(id, updated, mapper)
    }
}

impl<B: TrainBackend> Update<'_, B> {
    fn update<const D: usize>(
        &mut self,
        id: ParamId,
        parameter: Tensor<B::InnerBackend, D>,
        gradient: Tensor<B::InnerBackend, D>,
    ) -> Tensor<B::InnerBackend, D> {
        let (first, second) = match self.state.moments.remove(&id.val()) {
            Some(moments) => (of_rank(moments.exp_avg), of_rank(moments.exp_avg_sq)),
            None => (parameter.zeros_like(), parameter.zeros_like()),
        };
        let [parameter, first, second] = adamw(parameter, gradient, first, second, self.state.hyper);
        let moments = Moments { exp_avg: any(first), exp_avg_sq: any(second) };
        self.state.moments.insert(id.val(), moments);
        parameter
    }
}

/// Any tensor as one of rank `D`; parameters have rank 1 or 2.
fn of_rank<B: FusedBackend, const D: usize>(tensor: AnyTensor<B>) -> Tensor<B, D> {
    match tensor {
        AnyTensor::Vector(tensor) => {
            let shape = tensor.shape();
            tensor.reshape::<D, _>(shape)
        }
        AnyTensor::Matrix(tensor) => {
            let shape = tensor.shape();
            tensor.reshape::<D, _>(shape)
        }
    }
}

fn any<B: FusedBackend, const D: usize>(tensor: Tensor<B, D>) -> AnyTensor<B> {
    let shape = tensor.shape();
    if D == 1 { AnyTensor::Vector(tensor.reshape::<1, _>(shape)) } else { AnyTensor::Matrix(tensor.reshape::<2, _>(shape)) }
}
