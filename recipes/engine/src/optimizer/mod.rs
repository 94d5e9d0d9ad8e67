//! AdamW, with moments that checkpoints can save and restore.

mod exchange;
mod moments;
mod pack;
mod saved;

use std::collections::BTreeMap;

use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burnish_kernels::adamw8bit::LEAST_ELEMENTS;
use burnish_kernels::{AdamWStep, FusedBackend, TrainBackend};
use burnish_models::LanguageModel;

use self::exchange::{Taken, Updated};
pub use self::moments::{MomentType, Moments};
use self::pack::{Group, Pack, Trained, by_group, together};
pub(crate) use self::saved::{SavedMoments, read_moments};
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
    /// How the moments of large matrices are stored. Norms, biases and tensors of less than 4,096 elements have them in f32.
    pub moments: MomentType,
    /// Learning rate of the adapters' B, and of vectors, over that of A; 1 is off.
    ///
    /// Source: Hayou et al. 2024, "LoRA+"; `create_loraplus_optimizer` of PEFT.
    pub lora_plus_ratio: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            moments: MomentType::F32,
            lora_plus_ratio: 1.0,
        }
    }
}

impl AdamWConfig {
    /// How the moments of a parameter of that shape are stored.
    pub fn moments_of(&self, shape: &[usize]) -> MomentType {
        let is_large = shape.len() > 1 && shape.iter().product::<usize>() >= LEAST_ELEMENTS;
        if is_large { self.moments } else { MomentType::F32 }
    }
}

/// AdamW as `torch.optim.AdamW`, with clipping as `torch.nn.utils.clip_grad_norm_`; with moments in eight bits as `AdamW8bit` of
/// bitsandbytes.
pub struct AdamW<B: TrainBackend> {
    config: AdamWConfig,
    /// Parameters of the next update.
    hyper: AdamWStep,
    /// Factors on the learning rate, by parameter.
    rates: BTreeMap<u64, f64>,
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
        Self { config, hyper, rates: BTreeMap::new(), loose: BTreeMap::new(), packs: Vec::new() }
    }

    /// Its parameters.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// Sets the learning rates of LoRA+ for the adapters of a model.
    pub fn set_rates(&mut self, model: &LanguageModel<B>)
    where
        B::InnerBackend: FusedBackend,
    {
        let faster = model
            .parameters()
            .into_iter()
            .filter(|parameter| parameter.name.contains(".lora_B.") || parameter.tensor.shape().len() == 1);
        self.rates = faster.map(|parameter| (parameter.id.val(), self.config.lora_plus_ratio)).collect();
    }

    /// Queues the update of a module without waiting for the device. If norm or loss is not finite, the update changes nothing, and the
    /// caller must call [`AdamW::take_back`] once it has read them.
    ///
    /// Parameters are written where they are, unless something else holds them. A gradient is freed as soon as it was used.
    pub fn update<M: AutodiffModule<B>>(
        &mut self,
        module: &mut M,
        grads: GradientsParams,
        norm: &Norm<B::InnerBackend>,
        loss: &Tensor<B::InnerBackend, 1>,
        learning_rate: f64,
    ) {
        self.hyper.learning_rate = learning_rate;
        self.hyper.step += 1;
        self.hyper.gradient_factor = 1.0 / norm.loss_scale;
        let group = |id: u64, shape: &[usize]| Group {
            decays: shape.len() > 1,
            moments: self.config.moments_of(shape),
            rate: self.rates.get(&id).copied().unwrap_or(1.0),
        };
        let mut taken = Taken { grads, trained: Vec::new(), group: &group, zero: None };
        // The module that held the old parameters is gone once it is replaced.
        *module = module.clone().map(&mut taken);
        // If the loss is not finite, neither is this sum, and the kernel then changes nothing.
        let squares = norm.squares.clone() + loss.clone().mul_scalar(0.0);
        let trained = taken.trained;
        let new = self.updated(by_group(trained), &squares);
        *module = module.clone().map(&mut Updated { new });
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
        for pack in &self.packs {
            moments.extend(pack.moments());
        }
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
            self.packs = together(&trained).filter_map(|trained| Pack::new(trained, &mut self.loose)).collect();
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

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use burn::module::{Module, Param};

    use super::*;

    type Training = Autodiff<Flex>;

    #[derive(Module, Debug)]
    struct Two<B: Backend> {
        matrix: Param<Tensor<B, 2>>,
        vector: Param<Tensor<B, 1>>,
    }

    fn optimizer(config: AdamWConfig) -> AdamW<Training> {
        AdamW::new(AdamWConfig { weight_decay: 0.5, max_grad_norm: 0.0, ..config })
    }

    /// Updates a module with the gradients of a loss.
    fn update<M: AutodiffModule<Training>>(optimizer: &mut AdamW<Training>, module: &mut M, loss: &Tensor<Training, 1>) {
        let device = Default::default();
        let grads = GradientsParams::from_grads(loss.backward(), module);
        let norm = Norm { squares: Tensor::zeros([1], &device), loss_scale: 1.0 };
        optimizer.update(module, grads, &norm, &Tensor::zeros([1], &device), 0.1);
    }

    fn values<const D: usize>(param: &Param<Tensor<Training, D>>) -> Vec<f32> {
        param.val().into_data().to_vec().unwrap()
    }

    /// With gradients of zero, only decay moves a parameter: `w - lr · decay · w`.
    #[test]
    fn matrices_decay_and_vectors_do_not() {
        let device = Default::default();
        let mut module = Two::<Training> {
            matrix: Param::from_tensor(Tensor::ones([2, 3], &device)),
            vector: Param::from_tensor(Tensor::ones([4], &device)),
        };
        let held = module.matrix.val();
        let loss = (module.matrix.val().sum() + module.vector.val().sum()).mul_scalar(0.0);
        update(&mut optimizer(AdamWConfig::default()), &mut module, &loss);
        assert!(values(&module.matrix).iter().all(|value| (value - 0.95).abs() < 1e-6));
        assert!(values(&module.vector).iter().all(|value| (value - 1.0).abs() < 1e-6));
        // What something else holds does not change, and a parameter still has a gradient.
        assert_eq!(held.into_data().to_vec::<f32>().unwrap(), [1.0; 6]);
        assert!(module.matrix.is_require_grad());
    }

    #[derive(Module, Debug)]
    struct Three<B: Backend> {
        one: Param<Tensor<B, 2>>,
        bias: Param<Tensor<B, 1>>,
        two: Param<Tensor<B, 2>>,
    }

    /// Values that depend on their position.
    fn wave(shape: [usize; 2], pitch: f32) -> Tensor<Training, 2> {
        let count = (shape[0] * shape[1]) as i64;
        Tensor::<Training, 1, burn::tensor::Int>::arange(0..count, &Default::default())
            .float()
            .mul_scalar(pitch)
            .sin()
            .reshape(shape)
    }

    fn three() -> Three<Training> {
        let bias = Tensor::ones([5], &Default::default());
        let [one, two] = [([67, 71], 0.3), ([80, 90], 0.7)].map(|(shape, pitch)| Param::from_tensor(wave(shape, pitch)));
        Three { one, bias: Param::from_tensor(bias), two }
    }

    fn loss(param: &Param<Tensor<Training, 2>>, step: usize) -> Tensor<Training, 1> {
        let param = param.val();
        let factor = wave(param.dims(), 0.11 * step as f32).powi_scalar(3);
        (param.clone() * param * factor).sum()
    }

    /// In whichever company: packed together, each alone, and one of them missing in between.
    #[test]
    fn moments_in_eight_bits_do_not_depend_on_the_packing() {
        let config = AdamWConfig { moments: MomentType::EightBit, ..AdamWConfig::default() };
        let (mut together, mut apart) = (three(), three());
        let (mut both, mut first, mut second) = (optimizer(config), optimizer(config), optimizer(config));
        for step in 1..=6 {
            let has_bias = step % 2 == 0;
            let all = loss(&together.one, step) + loss(&together.two, step);
            let all = if has_bias { all + together.bias.val().sum() } else { all };
            update(&mut both, &mut together, &all);
            let (one, two) = (loss(&apart.one, step), loss(&apart.two, step));
            update(&mut first, &mut apart, &one);
            update(&mut second, &mut apart, &two);
            assert_eq!(both.packs.len(), 1 + usize::from(has_bias), "step {step}");
        }
        assert_eq!(values(&together.one), values(&apart.one));
        assert_eq!(values(&together.two), values(&apart.two));
        assert_ne!(values(&together.one), values(&three().one));
    }
}
