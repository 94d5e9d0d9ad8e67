//! Layers with a DoRA adapter against PEFT's formula with a dense weight.
#![allow(clippy::unwrap_used)]

use burn::backend::{Autodiff, Flex};
use burn::module::Param;
use burn::tensor::{DType, Distribution, Tensor, TensorData};
use burnish_kernels::packed::{Nf4, Packed};
use burnish_kernels::tolerance::Tolerance;
use burnish_kernels::{DropoutKey, dropout};
use burnish_models::dora::Magnitude;
use burnish_models::weight::parameter_id;
use burnish_models::{AdapterPass, DropoutSeed, Linear, LowRank, MatrixWeight, Operand, PackedWeight};

type Train = Autodiff<Flex>;

const NAME: &str = "model.layers.0.mlp.up_proj";
const SCALE: f64 = 1.5;
const SEED: DropoutSeed = DropoutSeed { seed: 4, step: 2, micro_batch: 0, first_row: 0 };

fn random<const D: usize>(shape: [usize; D]) -> Tensor<Train, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 0.5), &Default::default())
}

fn values<const D: usize>(tensor: Tensor<Train, D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The operands of a weight `[out, in]` and the same as a dense tensor: once dense, once packed.
fn weights() -> [(Operand<Train>, Tensor<Train, 2>); 2] {
    let shape = [10, 128];
    let weight = random(shape);
    let packed = Packed::Nf4(Nf4::quantize(NAME, &values(weight.clone()), shape, false).unwrap());
    let packed = Operand::Packed(PackedWeight::new(NAME, &packed, &Default::default()).unwrap());
    let dense = Tensor::from_data(TensorData::new(packed.to_f32(), shape), &Default::default());
    [(Operand::Dense(weight.clone()), weight), (packed, dense)]
}

/// A layer with a DoRA adapter whose magnitude is not that of its weight.
fn layer(weight: Operand<Train>, dropout: f64) -> Linear<Train> {
    let (lora_a, lora_b) = (random([3, 128]), random([10, 3]));
    let magnitude = Magnitude::new(NAME, &weight, [&lora_a, &lora_b], SCALE, Some(random([10]) + 3.0));
    let param = |part: &str, tensor: Tensor<Train, 2>| {
        Param::initialized(parameter_id(&format!("{NAME}.{part}.weight")), tensor.require_grad())
    };
    let adapter = LowRank {
        lora_a: param("lora_A", lora_a),
        lora_b: param("lora_B", lora_b),
        scale: SCALE,
        dropout,
        magnitude: Some(magnitude),
        initial: None,
        reference: None,
    };
    let mut layer = Linear::new(NAME, MatrixWeight::Frozen(weight), None);
    layer.adapter = Some(adapter);
    layer
}

/// `peft.tuners.lora.dora.DoraLinearLayer` with a dense weight, and the base's result of the input before its dropout.
#[test]
fn results_and_gradients_are_those_of_peft() {
    for (operand, dense) in weights() {
        for probability in [0.0, 0.4] {
            let layer = layer(operand.clone(), probability);
            let adapter = layer.adapter.as_ref().unwrap();
            let (lora_a, lora_b) = (adapter.lora_a.val(), adapter.lora_b.val());
            let magnitude = adapter.magnitude.as_ref().unwrap().lora_magnitude_vector.val();
            let x = random([7, 128]).require_grad();
            let key = DropoutKey {
                seed: SEED.seed,
                step: SEED.step,
                micro_batch: SEED.micro_batch,
                layer: adapter.lora_a.id.val(),
            };
            let seen = if probability > 0.0 { dropout(x.clone(), probability, key) } else { x.clone() };
            let update = lora_b.clone().matmul(lora_a.clone()).mul_scalar(SCALE);
            let norm = (dense.clone() + update).powi_scalar(2).sum_dim(1).sqrt().squeeze_dim::<1>(1).detach();
            let gain = (magnitude.clone() / norm).unsqueeze::<2>();
            let low_rank = seen.clone().matmul(lora_a.clone().transpose()).matmul(lora_b.clone().transpose());
            let expected = x.clone().matmul(dense.clone().transpose())
                + (gain.clone() - 1.0) * seen.matmul(dense.clone().transpose())
                + gain * low_rank * SCALE;
            let gradients = |y: Tensor<Train, 2>| {
                let found = y.clone().powi_scalar(2).sum().backward();
                let inner =
                    |tensor: Option<Tensor<Flex, 2>>| -> Vec<f32> { tensor.unwrap().into_data().iter::<f32>().collect() };
                let magnitude: Vec<f32> = magnitude.grad(&found).unwrap().into_data().iter::<f32>().collect();
                [values(y), inner(x.grad(&found)), inner(lora_a.grad(&found)), inner(lora_b.grad(&found)), magnitude]
            };
            let expected = gradients(expected);
            let found = gradients(layer.forward(x.clone(), AdapterPass::Dropout(SEED)));
            for (part, (found, expected)) in ["y", "x", "A", "B", "m"].iter().zip(found.iter().zip(&expected)) {
                let name = format!("{part}, {} with dropout {probability}", operand.kind());
                Tolerance::of(DType::F32).check(&name, found, expected).unwrap();
            }
        }
    }
}

#[test]
fn a_new_magnitude_leaves_the_result_as_it_is_and_the_reference_keeps_its_own() {
    for (operand, _) in weights() {
        let mut layer = layer(operand.clone(), 0.0);
        let x = random([5, 128]);
        let of = |layer: &Linear<Train>, pass| values(layer.forward(x.clone(), pass));
        let adapter = layer.adapter.as_mut().unwrap();
        let own = adapter.magnitude.take();
        let plain = of(&layer, AdapterPass::Current);
        let adapter = layer.adapter.as_mut().unwrap();
        let factors = [&adapter.lora_a.val(), &adapter.lora_b.val()];
        adapter.magnitude = Some(Magnitude::new(NAME, &operand, factors, SCALE, None));
        Tolerance::of(DType::F32).check("new", &of(&layer, AdapterPass::Current), &plain).unwrap();
        layer.adapter.as_mut().unwrap().magnitude = own;
        let before = of(&layer, AdapterPass::Current);
        assert_ne!(before, plain);
        let adapter = layer.adapter.as_mut().unwrap();
        adapter.keep_reference();
        let param = &mut adapter.magnitude.as_mut().unwrap().lora_magnitude_vector;
        *param = Param::initialized(param.id, random([10]).require_grad());
        assert_eq!(of(&layer, AdapterPass::Reference), before);
        assert_ne!(of(&layer, AdapterPass::Current), before);
    }
}

#[test]
fn a_row_of_zeros_stays_finite() {
    let mut layer = layer(Operand::Dense(Tensor::zeros([10, 128], &Default::default())), 0.0);
    let adapter = layer.adapter.as_mut().unwrap();
    adapter.lora_b = Param::initialized(adapter.lora_b.id, Tensor::zeros([10, 3], &Default::default()).require_grad());
    let y = values(layer.forward(random([5, 128]), AdapterPass::Current));
    assert!(y.iter().all(|value| *value == 0.0), "{y:?}");
}
