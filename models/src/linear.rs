//! Linear layers with an optional low-rank adapter.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burnish_kernels::{
    Dropout, DropoutKey, FusedBackend, TrainBackend, Unread, add_bias, dropout_from, linear, scale, unread_lora_linear,
};

use crate::dora::Magnitude;
use crate::input_squares::InputSquares;
use crate::operand::Operand;
use crate::weight::{MatrixWeight, VectorWeight};

/// A linear layer: `y = x Wᵀ + b`, plus the update of its adapter if it has one.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// The weight, `[out, in]`.
    pub weight: MatrixWeight<B>,
    /// The bias, `[out]`.
    pub bias: Option<VectorWeight<B>>,
    /// The adapter.
    pub adapter: Option<LowRank<B>>,
    /// What sums the squares of its inputs; `None` except while an importance matrix is computed.
    #[module(skip)]
    pub observer: Option<InputSquares>,
    #[module(skip)]
    name: String,
}

/// A low-rank adapter of a linear layer: the update `scale · B A x`.
///
/// # Source
/// Hu et al. 2021, "LoRA". Names and shapes are those of PEFT.
#[derive(Module, Debug)]
pub struct LowRank<B: Backend> {
    /// `A`, `[rank, in]`, in f32 whatever the type of the layer.
    pub lora_a: Param<Tensor<B, 2>>,
    /// `B`, `[out, rank]`, in f32 too.
    pub lora_b: Param<Tensor<B, 2>>,
    /// The factor on the update: `alpha / rank`, or `alpha / √rank` for rsLoRA.
    pub scale: f64,
    /// In training, the probability that an element of the adapter's input is dropped.
    pub dropout: f64,
    /// The trained length of each row; `None` unless this is an adapter of DoRA.
    pub magnitude: Option<Magnitude<B>>,
    /// `A` and `B` as they began, if their update was taken out of the frozen weight (PiSSA, OLoRA).
    pub initial: Option<[Tensor<B, 2>; 2]>,
    /// The adapter of the reference model; without one, the reference model is the base as it was.
    pub reference: Option<ReferenceAdapter<B>>,
}

/// The adapter of the reference model, which is not trained.
#[derive(Module, Debug)]
pub struct ReferenceAdapter<B: Backend> {
    lora_a: Tensor<B, 2>,
    lora_b: Tensor<B, 2>,
    magnitude: Option<Tensor<B, 1>>,
}

/// Which adapters a forward pass uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdapterPass {
    /// The current ones.
    #[default]
    Current,
    /// The current ones, with dropout on their inputs: for training.
    Dropout(DropoutSeed),
    /// Those of the reference model, [`LowRank::reference`].
    Reference,
}

/// The seed of the dropout of one forward pass. The same seed gives the same masks on every backend.
///
/// The masks of a layer also depend on its name, so layers have different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutSeed {
    /// The seed of the run.
    pub seed: u64,
    /// The optimizer step.
    pub step: u32,
    /// The micro-batch within the step.
    pub micro_batch: u32,
    /// The number of the input's first row, a multiple of 4: slices of rows get the masks of the whole input.
    pub first_row: usize,
}

impl From<u64> for DropoutSeed {
    fn from(seed: u64) -> Self {
        Self { seed, step: 0, micro_batch: 0, first_row: 0 }
    }
}

impl AdapterPass {
    /// The pass over a slice of the rows, from `first_row` on, which must be a multiple of 4.
    #[must_use]
    pub fn from_row(self, first_row: usize) -> Self {
        match self {
            Self::Dropout(seed) => Self::Dropout(DropoutSeed { first_row, ..seed }),
            Self::Current | Self::Reference => self,
        }
    }
}

impl<B: Backend> Linear<B> {
    /// A layer without an adapter; `name` is its checkpoint name without `.weight`.
    pub fn new(name: &str, weight: MatrixWeight<B>, bias: Option<VectorWeight<B>>) -> Self {
        Self { weight, bias, adapter: None, observer: None, name: name.to_owned() }
    }

    /// Its checkpoint name without `.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<B: FusedBackend> Linear<B> {
    /// Applies the layer to `[rows, in]`; returns `[rows, out]`.
    pub fn forward(&self, x: Tensor<B, 2>, pass: AdapterPass) -> Tensor<B, 2> {
        if let Some(observer) = &self.observer {
            observer.see(&x);
        }
        let y = match self.adapter.as_ref().and_then(|adapter| adapter.factors(pass)) {
            None => self.weight.operand().linear(x),
            Some(Factors { low_rank, magnitude: None }) => self.adapted(x, low_rank),
            Some(Factors { low_rank, magnitude: Some((magnitude, value)) }) => {
                let Update { lora_a, lora_b, scale, .. } = low_rank.clone();
                let gain = magnitude.gain(value, &self.weight.operand(), lora_a, lora_b, scale);
                self.scaled(x, low_rank, gain)
            }
        };
        self.with_bias(y)
    }

    fn with_bias(&self, y: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.bias {
            Some(bias) => add_bias(y, bias.val()),
            None => y,
        }
    }

    /// The layer for its gradients only: the result has no meaning, where they need not be computed.
    pub fn unread(&self, x: Tensor<B, 2>, pass: AdapterPass) -> Tensor<B, 2>
    where
        B: TrainBackend,
    {
        let factors = self.adapter.as_ref().and_then(|adapter| adapter.factors(pass));
        match (&self.weight, factors, &self.observer) {
            (MatrixWeight::Frozen(weight), Some(Factors { low_rank, magnitude: None }), None) => {
                let Update { lora_a, lora_b, scale, dropout } = low_rank;
                let weight = weight.clone().into_group_weight();
                self.with_bias(unread_lora_linear(Unread { x, weight, lora_a, lora_b, scale, dropout }))
            }
            _ => self.forward(x, pass),
        }
    }

    /// The weight, if the layer has neither a bias nor an adapter in this pass.
    pub(crate) fn plain_weight(&self, pass: AdapterPass) -> Option<Operand<B>> {
        // What is observed passes through `forward`.
        let is_unseen = self.observer.is_none() && self.bias.is_none();
        let is_plain = is_unseen && self.adapter.as_ref().and_then(|adapter| adapter.factors(pass)).is_none();
        is_plain.then(|| self.weight.operand())
    }

    /// `x Wᵀ` plus the update.
    fn adapted(&self, x: Tensor<B, 2>, update: Update<B>) -> Tensor<B, 2> {
        match &self.weight {
            MatrixWeight::Frozen(weight) => {
                let Update { lora_a, lora_b, scale, dropout } = update;
                weight.lora_linear(x, lora_a, lora_b, scale, dropout)
            }
            MatrixWeight::Trainable(weight) => linear(x.clone(), weight.val()) + update.forward(x),
        }
    }

    /// `x Wᵀ` plus the update, each row of the weight times its `gain`, `[1, out]`, in f32.
    ///
    /// With dropout, the base's share of the change sees the dropped input too, as in PEFT 0.21: with `z = dropout(x)`, the result
    /// is `x Wᵀ + (gain - 1) · z Wᵀ + gain · update(z)`.
    fn scaled(&self, x: Tensor<B, 2>, mut update: Update<B>, gain: Tensor<B, 2>) -> Tensor<B, 2> {
        let dtype = x.dtype();
        let scaled = |y: Tensor<B, 2>| (y.cast(DType::F32) * gain).cast(dtype);
        match update.dropout.take() {
            None => scaled(self.adapted(x, update)),
            Some(mask) => {
                let seen = dropout_from(x.clone(), mask);
                self.weight.operand().linear(x - seen.clone()) + scaled(self.adapted(seen, update))
            }
        }
    }

    /// The shape of the weight, `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }
}

/// The parts of an adapter that a forward pass uses.
struct Factors<'a, B: Backend> {
    low_rank: Update<B>,
    /// The magnitude of a DoRA adapter, and its value.
    magnitude: Option<(&'a Magnitude<B>, Tensor<B, 1>)>,
}

/// The update `scale · (dropout(x) Aᵀ) Bᵀ`.
#[derive(Clone)]
struct Update<B: Backend> {
    lora_a: Tensor<B, 2>,
    lora_b: Tensor<B, 2>,
    scale: f64,
    dropout: Option<Dropout>,
}

impl<B: FusedBackend> LowRank<B> {
    fn factors(&self, pass: AdapterPass) -> Option<Factors<'_, B>> {
        let magnitude = self.magnitude.as_ref();
        let ([lora_a, lora_b], magnitude) = match pass {
            AdapterPass::Current | AdapterPass::Dropout(_) => {
                let current = magnitude.map(|magnitude| (magnitude, magnitude.lora_magnitude_vector.val()));
                ([self.lora_a.val(), self.lora_b.val()], current)
            }
            AdapterPass::Reference => match &self.reference {
                Some(ReferenceAdapter { lora_a, lora_b, magnitude: value }) => {
                    ([lora_a.clone(), lora_b.clone()], magnitude.zip(value.clone()))
                }
                None => (self.initial.clone()?, None),
            },
        };
        let dropout = match pass {
            AdapterPass::Dropout(seed) => self.dropout(seed),
            AdapterPass::Current | AdapterPass::Reference => None,
        };
        Some(Factors { low_rank: Update { lora_a, lora_b, scale: self.scale, dropout }, magnitude })
    }

    /// The dropout of the adapter in a forward pass. Its key has the id of `A`, a hash of the layer's name.
    fn dropout(&self, seed: DropoutSeed) -> Option<Dropout> {
        let DropoutSeed { seed, step, micro_batch, first_row } = seed;
        let key = DropoutKey { seed, step, micro_batch, layer: self.lora_a.id.val() };
        let first = (first_row * self.lora_a.dims()[1]) as u64;
        (self.dropout > 0.0).then_some(Dropout { probability: self.dropout, key, first })
    }

    /// Makes the current adapter that of the reference model too.
    pub fn keep_reference(&mut self) {
        self.reference = Some(ReferenceAdapter {
            lora_a: self.lora_a.val().detach(),
            lora_b: self.lora_b.val().detach(),
            magnitude: self.magnitude.as_ref().map(|magnitude| magnitude.lora_magnitude_vector.val().detach()),
        });
    }
}

impl<B: FusedBackend> Update<B> {
    /// In the type of `x`.
    fn forward(self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let (lora_a, lora_b) = (self.lora_a.cast(x.dtype()), self.lora_b.cast(x.dtype()));
        let x = match self.dropout {
            Some(mask) => dropout_from(x, mask),
            None => x,
        };
        scale(linear(linear(x, lora_a), lora_b), self.scale)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::{Distribution, TensorData};
    use burnish_kernels::dropout;

    use super::*;
    use crate::weight::parameter_id;

    type Train = Autodiff<Flex>;

    const SEED: DropoutSeed = DropoutSeed { seed: 9, step: 3, micro_batch: 1, first_row: 0 };
    const SHAPE: [usize; 2] = [7, 24];

    fn random(shape: [usize; 2]) -> Tensor<Train, 2> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
    }

    fn layer(name: &str, trainable: bool, weights: &[Tensor<Train, 2>; 3]) -> Linear<Train> {
        let [weight, lora_a, lora_b] = weights;
        let param = |part: &str, tensor: &Tensor<Train, 2>| {
            Param::initialized(parameter_id(&format!("{name}.{part}.weight")), tensor.clone().require_grad())
        };
        let adapter = LowRank {
            lora_a: param("lora_A", lora_a),
            lora_b: param("lora_B", lora_b),
            scale: 2.0,
            dropout: 0.4,
            magnitude: None,
            initial: None,
            reference: None,
        };
        Linear { adapter: Some(adapter), ..Linear::new(name, MatrixWeight::new(name, weight.clone(), trainable), None) }
    }

    fn values(tensor: Tensor<Flex, 2>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    fn close(found: &[f32], expected: &[f32]) {
        burnish_kernels::tolerance::Tolerance::of(burn::tensor::DType::F32).check("layer", found, expected).unwrap();
    }

    #[test]
    fn dropout_applies_to_the_adapter_only_and_its_gradients_are_those_of_the_masked_input() {
        let weights = [random([10, SHAPE[1]]), random([3, SHAPE[1]]), random([10, 3])];
        let input = random(SHAPE);
        let name = "model.layers.0.self_attn.q_proj";
        let key = DropoutKey {
            seed: SEED.seed,
            step: SEED.step,
            micro_batch: SEED.micro_batch,
            layer: parameter_id(&format!("{name}.lora_A.weight")).val(),
        };
        let ones = Tensor::<Flex, 2>::ones(SHAPE, &Default::default());
        let mask: Tensor<Train, 2> = Tensor::from_inner(dropout(ones, 0.4, key));
        for trainable in [false, true] {
            let layer = layer(name, trainable, &weights);
            let adapter = layer.adapter.as_ref().unwrap();
            let (lora_a, lora_b) = (adapter.lora_a.val(), adapter.lora_b.val());
            let gradients = |y: Tensor<Train, 2>, x: &Tensor<Train, 2>| {
                let found = y.clone().powi_scalar(2).sum().backward();
                let leaves = [x, &lora_a, &lora_b].map(|leaf| values(leaf.grad(&found).unwrap()));
                [values(y.inner())].into_iter().chain(leaves)
            };
            let x = input.clone().require_grad();
            let found = gradients(layer.forward(x.clone(), AdapterPass::Dropout(SEED)), &x);
            let x = input.clone().require_grad();
            let update = (x.clone() * mask.clone()).matmul(lora_a.clone().transpose()).matmul(lora_b.clone().transpose());
            let y = x.clone().matmul(weights[0].clone().transpose()) + update * 2.0;
            for (found, expected) in found.zip(gradients(y, &x)) {
                close(&found, &expected);
            }
        }
    }

    #[test]
    fn layers_steps_and_micro_batches_have_different_masks() {
        // With these weights, the output is the masked input.
        let eye = Tensor::<Train, 2>::eye(SHAPE[1], &Default::default());
        let weights = [eye.zeros_like(), eye.clone(), eye];
        let ones =
            Tensor::<Train, 2>::from_data(TensorData::new(vec![1.0f32; SHAPE[0] * SHAPE[1]], SHAPE), &Default::default());
        let mask = |name: &str, pass| values(layer(name, false, &weights).forward(ones.clone(), pass).inner());
        let own = mask("layers.0.q_proj", AdapterPass::Dropout(SEED));
        assert_eq!(own, mask("layers.0.q_proj", AdapterPass::Dropout(SEED)));
        assert!(own.contains(&0.0) && mask("layers.0.q_proj", AdapterPass::Current).iter().all(|value| *value > 0.0));
        for (name, seed) in [
            ("layers.0.k_proj", SEED),
            ("layers.1.q_proj", SEED),
            ("layers.0.q_proj", DropoutSeed { step: 4, ..SEED }),
            ("layers.0.q_proj", DropoutSeed { micro_batch: 2, ..SEED }),
            ("layers.0.q_proj", DropoutSeed::from(9)),
        ] {
            assert_ne!(own, mask(name, AdapterPass::Dropout(seed)), "{name} with {seed:?}");
        }
    }

    #[test]
    fn the_reference_is_the_base_or_the_kept_adapter() {
        let weights = [random([10, SHAPE[1]]), random([3, SHAPE[1]]), random([10, 3])];
        let mut layer = layer("layers.0.q_proj", false, &weights);
        let x = random(SHAPE);
        let of = |layer: &Linear<Train>, pass| values(layer.forward(x.clone(), pass).inner());
        let base = values(linear(x.clone(), weights[0].clone()).inner());
        close(&of(&layer, AdapterPass::Reference), &base);
        let before = of(&layer, AdapterPass::Current);
        assert_ne!(before, base);
        let adapter = layer.adapter.as_mut().unwrap();
        adapter.keep_reference();
        adapter.lora_b = Param::initialized(adapter.lora_b.id, random([10, 3]).require_grad());
        assert_eq!(of(&layer, AdapterPass::Reference), before);
        assert_ne!(of(&layer, AdapterPass::Current), before);
    }
}
