//! Every backward, as autodiff calls it, against the difference of two forwards, without any reference of ours.

use burn::backend::Autodiff;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::packed::{Nf4, Packed, PackedTensor};
use burnish_kernels::{
    AttentionOptions, Dropout, DropoutKey, FusedBackend, RotaryTable, add_rms_norm, attention, dropout, geglu, layer_norm,
    linear, linear_cross_entropy, lora_linear, packed_linear, packed_linear_cross_entropy, packed_lora_linear, rms_norm,
    rotary, swiglu,
};

use crate::sample::{numbers, product_row};

/// Half the distance between the two forwards.
const STEP: f32 = 1e-2;
/// Tolerance of a slope: a forward of size 1 is exact to about 1e-6, so the difference quotient to 1e-4; curvature adds more.
const TOLERANCE: f64 = 5e-3;

fn tensor<B: Backend, const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values, shape), (&B::Device::default(), DType::F32))
}

fn random<B: Backend, const D: usize>(shape: [usize; D], seed: u32) -> Tensor<B, D> {
    tensor(numbers(shape.iter().product(), seed, 1.0), shape)
}

/// The slope of `f` along a direction, by its gradient and by two forwards.
fn check<B: FusedBackend, const D: usize>(
    name: &str,
    shape: [usize; D],
    f: impl Fn(Tensor<Autodiff<B>, D>) -> Tensor<Autodiff<B>, 1>,
) {
    let count = shape.iter().product();
    let (point, direction) = (numbers(count, 31, 1.0), numbers(count, 32, 1.0));
    let value = |step: f32| {
        let moved = point.iter().zip(&direction).map(|(at, along)| at + step * along).collect();
        f(tensor(moved, shape)).into_data().iter::<f64>().sum::<f64>()
    };
    let measured = (value(STEP) - value(-STEP)) / f64::from(2.0 * STEP);
    let leaf = tensor::<Autodiff<B>, D>(point.clone(), shape).require_grad();
    let gradients = f(leaf.clone()).backward();
    let gradient = leaf.grad(&gradients).unwrap_or_else(|| panic!("{name}: no gradient")).into_data();
    let slope: f64 = gradient.iter::<f64>().zip(&direction).map(|(gradient, along)| gradient * f64::from(*along)).sum();
    let steepness: f64 = gradient.iter::<f64>().map(|gradient| gradient * gradient).sum::<f64>().sqrt();
    // Products in tf32 are less exact.
    let tolerance = if product_row::<B>(DType::F32) == DType::F32 { TOLERANCE } else { 10.0 * TOLERANCE };
    assert!(
        (slope - measured).abs() <= tolerance * (1.0 + steepness),
        "{name}: the gradient gives {slope}, expected {measured}"
    );
}

pub fn gradients<B: FusedBackend>(dtype: DType) {
    if dtype != DType::F32 {
        return;
    }
    elements::<B>();
    products::<B>();
    packed_products::<B>();
    attentions::<B>();
}

fn elements<B: FusedBackend>() {
    type T<B, const D: usize> = Tensor<Autodiff<B>, D>;
    let shape = [5, 37];
    let (x, mix): (T<B, 2>, T<B, 2>) = (random(shape, 1), random(shape, 2));
    let (w, b): (T<B, 1>, T<B, 1>) = (random([37], 3), random([37], 4));
    let mixed = |y: T<B, 2>| (y * mix.clone()).sum() * 0.3;
    check::<B, 2>("rms_norm x", shape, |x| mixed(rms_norm(x, w.clone(), 1e-5)));
    check::<B, 1>("rms_norm w", [37], |w| mixed(rms_norm(x.clone(), w, 1e-5)));
    check::<B, 2>("layer_norm x", shape, |x| mixed(layer_norm(x, w.clone(), b.clone(), 1e-5)));
    check::<B, 1>("layer_norm w", [37], |w| mixed(layer_norm(x.clone(), w, b.clone(), 1e-5)));
    check::<B, 1>("layer_norm b", [37], |b| mixed(layer_norm(x.clone(), w.clone(), b, 1e-5)));
    check::<B, 2>("add_rms_norm", shape, |r| {
        let (sum, y) = add_rms_norm(x.clone(), r, w.clone(), 1e-5);
        mixed(y) + mixed(sum.clone() * sum) * 0.1
    });
    check::<B, 2>("swiglu gate", shape, |gate| mixed(swiglu(gate, x.clone())));
    check::<B, 2>("swiglu up", shape, |up| mixed(swiglu(x.clone(), up)));
    check::<B, 2>("geglu gate", shape, |gate| mixed(geglu(gate, x.clone())));
    check::<B, 2>("geglu up", shape, |up| mixed(geglu(x.clone(), up)));
    let angles: Tensor<B, 2> = random([5, 3], 5);
    let table = RotaryTable { cos: angles.clone().cos(), sin: angles.sin() };
    let table = RotaryTable { cos: Tensor::from_inner(table.cos), sin: Tensor::from_inner(table.sin) };
    let (query, key): (T<B, 3>, T<B, 3>) = (random([5, 2, 8], 6), random([5, 1, 8], 7));
    let weighted = |x: T<B, 3>, by: &T<B, 3>| (x * by.clone()).sum();
    check::<B, 3>("rotary query", [5, 2, 8], |x| {
        let (x, y) = rotary(x, key.clone(), &table);
        weighted(x, &query) + weighted(y, &key)
    });
    // Query and key from one input; then a loss of either alone.
    check::<B, 3>("rotary of both", [5, 2, 8], |x| {
        let (x, y) = rotary(x.clone(), x.narrow(1, 0, 1), &table);
        weighted(x, &query) + weighted(y, &key)
    });
    check::<B, 3>("rotary query alone", [5, 2, 8], |x| weighted(rotary(x, key.clone(), &table).0, &query));
    check::<B, 3>("rotary key alone", [5, 1, 8], |x| weighted(rotary(query.clone(), x, &table).1, &key));
}

fn products<B: FusedBackend>() {
    type T<B, const D: usize> = Tensor<Autodiff<B>, D>;
    let (rows, inputs, outputs, rank) = (9, 33, 21, 4);
    let x: T<B, 2> = random([rows, inputs], 1);
    let w: T<B, 2> = random([outputs, inputs], 2) * 0.2;
    let (a, b): (T<B, 2>, T<B, 2>) = (random([rank, inputs], 3) * 0.2, random([outputs, rank], 4));
    let mix: T<B, 2> = random([rows, outputs], 5);
    let mixed = |y: T<B, 2>| (y * mix.clone()).sum() * 0.3;
    check::<B, 2>("linear x", [rows, inputs], |x| mixed(linear(x, w.clone())));
    check::<B, 2>("linear w", [outputs, inputs], |w| mixed(linear(x.clone(), w)) * 0.3);
    let key = DropoutKey { seed: 1, step: 2, micro_batch: 3, layer: 4 };
    for dropout in [None, Some(Dropout { probability: 0.3, key, first: 0 })] {
        let lora = |x: &T<B, 2>, a: &T<B, 2>, b: &T<B, 2>| {
            mixed(lora_linear(x.clone(), w.clone(), a.clone(), b.clone(), 0.5, dropout))
        };
        check::<B, 2>("lora x", [rows, inputs], |x| lora(&x, &a, &b));
        check::<B, 2>("lora a", [rank, inputs], |a| lora(&x, &a, &b) * 0.3);
        check::<B, 2>("lora b", [outputs, rank], |b| lora(&x, &a, &b));
    }
    check::<B, 2>("dropout", [rows, outputs], |x| mixed(dropout(x, 0.3, key)));
    let labels: Vec<i32> = (0..rows as i32).map(|row| row * 7 % outputs as i32).collect();
    let labels = Tensor::<Autodiff<B>, 1, Int>::from_data(TensorData::new(labels, [rows]), &Default::default());
    let factors: T<B, 1> = random([rows], 6);
    let losses = |h: T<B, 2>, w: T<B, 2>| (linear_cross_entropy(h, w, labels.clone()) * factors.clone()).sum();
    check::<B, 2>("loss h", [rows, inputs], |h| losses(h, w.clone()));
    check::<B, 2>("loss w", [outputs, inputs], |w| losses(x.clone(), w * 0.2) * 0.5);
}

fn packed_products<B: FusedBackend>() {
    type T<B, const D: usize> = Tensor<Autodiff<B>, D>;
    let (rows, inputs, outputs, rank) = (9, 64, 21, 4);
    let values = numbers(outputs * inputs, 2, 0.2);
    let packed = Packed::Nf4(Nf4::quantize("w", &values, [outputs, inputs], true).unwrap());
    let w = PackedTensor::<Autodiff<B>>::new("w", &packed, &Default::default()).unwrap();
    let x: T<B, 2> = random([rows, inputs], 1);
    let (a, b): (T<B, 2>, T<B, 2>) = (random([rank, inputs], 3) * 0.2, random([outputs, rank], 4));
    let mix: T<B, 2> = random([rows, outputs], 5);
    let mixed = |y: T<B, 2>| (y * mix.clone()).sum() * 0.3;
    check::<B, 2>("packed linear x", [rows, inputs], |x| mixed(packed_linear(x, &w)));
    let key = DropoutKey { seed: 1, step: 2, micro_batch: 3, layer: 4 };
    for dropout in [None, Some(Dropout { probability: 0.3, key, first: 0 })] {
        let lora = |x: &T<B, 2>, a: &T<B, 2>, b: &T<B, 2>| {
            mixed(packed_lora_linear(x.clone(), &w, a.clone(), b.clone(), 0.5, dropout))
        };
        check::<B, 2>("packed lora x", [rows, inputs], |x| lora(&x, &a, &b));
        check::<B, 2>("packed lora a", [rank, inputs], |a| lora(&x, &a, &b) * 0.3);
        check::<B, 2>("packed lora b", [outputs, rank], |b| lora(&x, &a, &b));
    }
    let labels: Vec<i32> = (0..rows as i32).map(|row| row * 7 % outputs as i32).collect();
    let labels = Tensor::<Autodiff<B>, 1, Int>::from_data(TensorData::new(labels, [rows]), &Default::default());
    let factors: T<B, 1> = random([rows], 6);
    let losses = |h: T<B, 2>| (packed_linear_cross_entropy(h, &w, labels.clone()) * factors.clone()).sum();
    check::<B, 2>("packed loss h", [rows, inputs], losses);
}

fn attentions<B: FusedBackend>() {
    type T<B> = Tensor<Autodiff<B>, 4>;
    // One query head, a group of them, and packed rows, a window and a cap.
    for (heads, shared, packed) in [(1, 1, false), (4, 2, true)] {
        let (length, dim) = (19, 32);
        let [query, keys] = [[2, length, heads, dim], [2, length, shared, dim]];
        let (q, k, v): (T<B>, T<B>, T<B>) = (random(query, 1), random(keys, 2), random(keys, 3));
        let mix: T<B> = random(query, 4);
        let ids: Vec<i32> = (0..2 * length as i32).map(|at| 1 + at % length as i32 / 8).collect();
        let ids = Tensor::<Autodiff<B>, 2, Int>::from_data(TensorData::new(ids, [2, length]), &Default::default());
        let segments = packed.then_some(ids);
        let options = AttentionOptions {
            scale: (dim as f64).powf(-0.5),
            sliding_window: packed.then_some(5),
            softcap: packed.then_some(3.0),
        };
        let f = |q: T<B>, k: T<B>, v: T<B>| (attention(q, k, v, segments.clone(), options) * mix.clone()).sum() * 0.3;
        check::<B, 4>("attention q", query, |q| f(q, k.clone(), v.clone()));
        check::<B, 4>("attention k", keys, |k| f(q.clone(), k, v.clone()));
        check::<B, 4>("attention v", keys, |v| f(q.clone(), k.clone(), v));
    }
}
