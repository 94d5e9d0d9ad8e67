//! Every CPU kernel against its composed reference, and every backward rule against finite differences.
#![allow(clippy::unwrap_used)]

use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing};
use burn::backend::{Autodiff, Flex};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Distribution, Int, Tensor, TensorData, TensorPrimitive};
use burnish_kernels::glu::{self, Activation};
use burnish_kernels::lora_linear::LoraSaved;
use burnish_kernels::tolerance::Tolerance;
use burnish_kernels::{AttentionOptions, Dropout, DropoutKey, FusedBackend, RotaryTable};
use burnish_kernels::{
    add_bias, add_rms_norm, attention, capped_linear_cross_entropy, dropout, fork_rms_norm, geglu, layer_norm, linear,
    linear_cross_entropy, lora_linear, rms_norm, rotary, scale, soft_cap, swiglu, view,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

type Train = Autodiff<Flex>;

/// Odd sizes, and sizes beyond one block of the kernels.
const ROWS: [(usize, usize); 5] = [(1, 1), (3, 23), (23, 77), (130, 64), (199, 777)];

const KEY: DropoutKey = DropoutKey { seed: 1, step: 2, micro_batch: 3, layer: 4 };
const DROPOUT: Dropout = Dropout { probability: 0.3, key: KEY, first: 0 };

/// Each tensor has its own generator: a backend's seed is shared by all threads, and tests run in parallel.
fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<Flex, D> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let data = TensorData::random::<f32, _, _>(shape, Distribution::Normal(0.0, 1.0), &mut generator);
    Tensor::from_data(data, &Default::default())
}

fn raw<const D: usize>(tensor: Tensor<Flex, D>) -> FloatTensor<Flex> {
    tensor.into_primitive().tensor()
}

fn typed<const D: usize>(primitive: FloatTensor<Flex>) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn close<const D: usize>(name: &str, value: Tensor<Flex, D>, expected: Tensor<Flex, D>) {
    let read = |tensor: Tensor<Flex, D>| tensor.into_data().iter::<f32>().collect::<Vec<_>>();
    Tolerance::of(DType::F32).check(name, &read(value), &read(expected)).unwrap();
}

#[test]
fn rms_norm_equals_its_reference() {
    for (rows, features) in ROWS {
        let (x, w, g) = (random([rows, features], 1), random([features], 2), random([rows, features], 3));
        let expected = rms_norm::reference::<Flex>(raw(x.clone()), raw(w.clone()), 1e-5);
        close::<2>("y", rms_norm(x.clone(), w.clone(), 1e-5), typed(expected));
        let (dx, _) = Flex::rms_norm_backward(raw(x.clone()), raw(w.clone()), raw(g.clone()), None, 1e-5, false);
        let (expected, dw) = rms_norm::reference_backward::<Flex>(raw(x), raw(w), raw(g), None, 1e-5, true);
        close::<2>("dx", typed(dx), typed(expected));
        assert!(dw.is_some());
    }
}

#[test]
fn swiglu_equals_its_reference() {
    for (rows, features) in ROWS {
        let (gate, up, g) = (random([rows, features], 1) * 4.0, random([rows, features], 2), random([rows, features], 3));
        let expected = glu::reference::<Flex>(raw(gate.clone()), raw(up.clone()), Activation::Silu);
        close::<2>("y", swiglu(gate.clone(), up.clone()), typed(expected));
        let (d_gate, d_up) = Flex::glu_backward(raw(gate.clone()), raw(up.clone()), raw(g.clone()), Activation::Silu);
        let expected = glu::reference_backward::<Flex>(raw(gate), raw(up), raw(g), Activation::Silu);
        close::<2>("dgate", typed(d_gate), typed(expected.0));
        close::<2>("dup", typed(d_up), typed(expected.1));
    }
}

#[test]
fn rotary_equals_its_reference_and_its_inverse_undoes_it() {
    for (tokens, heads, dim) in [(1, 1, 2), (3, 5, 6), (130, 3, 64)] {
        let (query, key) = (random([tokens, heads, dim], 1), random([tokens, heads.div_ceil(2), dim], 3));
        let angles = random([tokens, dim / 2], 2);
        let table = RotaryTable { cos: angles.clone().cos(), sin: angles.sin() };
        let (rotated_query, rotated_key) = rotary(query.clone(), key.clone(), &table);
        let (cos, sin) = (raw(table.cos), raw(table.sin));
        for (rotated, x) in [(&rotated_query, &query), (&rotated_key, &key)] {
            let expected = rotary::reference::<Flex>(raw(x.clone()), cos.clone(), sin.clone(), false);
            close::<3>("rotated", rotated.clone(), typed(expected));
        }
        let back = Flex::rotary([raw(rotated_query), raw(rotated_key)], cos, sin, true);
        for (back, x) in back.into_iter().zip([query, key]) {
            close::<3>("back", typed(back), x);
        }
    }
}

#[test]
fn linear_layers_equal_their_reference() {
    for (rows, inputs, outputs) in [(1, 3, 5), (1, 64, 130), (2, 77, 131), (23, 77, 31), (130, 64, 96)] {
        let (x, w) = (random([rows, inputs], 1), random([outputs, inputs], 2));
        let expected = linear::reference::<Flex>(raw(x.clone()), raw(w.clone()));
        close::<2>("y", linear(x.clone(), w.clone()), typed(expected));
        let (a, b, g) = (random([4, inputs], 3), random([outputs, 4], 4), random([rows, outputs], 5));
        let inputs = || (raw(x.clone()), raw(w.clone()), raw(a.clone()), raw(b.clone()));
        for dropout in [None, Some(DROPOUT)] {
            let (px, pw, pa, pb) = inputs();
            let (expected, hidden) = lora_linear::reference::<Flex>(px, pw, pa, pb, 0.5, dropout);
            close::<2>("lora y", lora_linear(x.clone(), w.clone(), a.clone(), b.clone(), 0.5, dropout), typed(expected));
            let saved = || {
                let (x, weight, lora_a, lora_b) = inputs();
                LoraSaved::<Flex> { x, weight, lora_a, lora_b, hidden: hidden.clone(), scale: 0.5, dropout }
            };
            let found = Flex::lora_linear_backward(saved(), raw(g.clone()), true);
            let expected = lora_linear::reference_backward::<Flex>(saved(), raw(g.clone()), true);
            close::<2>("dx", typed(found.x.unwrap()), typed(expected.x.unwrap()));
            close::<2>("da", typed(found.lora_a), typed(expected.lora_a));
            close::<2>("db", typed(found.lora_b), typed(expected.lora_b));
        }
    }
}

#[test]
fn dropout_equals_its_reference_to_the_bit() {
    let read = |tensor: FloatTensor<Flex>| typed::<2>(tensor).into_data().iter::<f32>().collect::<Vec<_>>();
    // The last has more elements than a task.
    for (rows, features) in ROWS.into_iter().chain([(65, 1001)]) {
        let x = random([rows, features], 1);
        let found = read(Flex::dropout(raw(x.clone()), DROPOUT));
        assert_eq!(found, read(dropout::reference::<Flex>(raw(x.clone()), DROPOUT)));
        // Rows of a view are not adjacent.
        let wider = Tensor::cat(vec![x.clone(), x.clone()], 1).narrow(1, 0, features);
        assert_eq!(found, read(Flex::dropout(raw(wider), DROPOUT)));
    }
}

#[test]
fn dropout_drops_the_same_elements_in_every_dtype() {
    let x = random([31, 77], 1) + 5.0;
    let expected = dropout(x.clone(), 0.3, KEY).into_data().iter::<f32>().collect::<Vec<_>>();
    for dtype in [DType::F16, DType::BF16] {
        let found = dropout(x.clone().cast(dtype), 0.3, KEY);
        assert_eq!(found.dtype(), dtype);
        let found = found.into_data().iter::<f32>().collect::<Vec<_>>();
        assert!(found.iter().zip(&expected).all(|(found, expected)| (*found == 0.0) == (*expected == 0.0)));
        // 16 bits do not hold the factor 1 / 0.7 exactly: each result is rounded once.
        Tolerance::of(dtype).check("dropout", &found, &expected).unwrap();
    }
}

#[cfg(feature = "candle")]
#[allow(deprecated)]
#[test]
fn dropout_on_candle_equals_that_on_flex() {
    let x = random([23, 77], 1);
    let on_candle = Tensor::<burn_candle::Candle, 2>::from_data(x.to_data(), &Default::default());
    let found = dropout(on_candle, 0.3, KEY).into_data().iter::<f32>().collect::<Vec<_>>();
    assert_eq!(found, dropout(x, 0.3, KEY).into_data().iter::<f32>().collect::<Vec<_>>());
}

/// Gradients of layers with dropout under a checkpointing strategy.
fn gradients_with_dropout<C: CheckpointStrategy>() -> Vec<Vec<f32>> {
    let fixed = |shape, seed| Tensor::<Autodiff<Flex, C>, 2>::from_inner(random(shape, seed));
    let [x, a, b] = [([9, 13], 1), ([2, 13], 2), ([7, 2], 3)].map(|(shape, seed)| fixed(shape, seed).require_grad());
    let y = lora_linear(dropout(x.clone(), 0.5, KEY), fixed([7, 13], 4), a.clone(), b.clone(), 0.5, Some(DROPOUT));
    let gradients = y.powi_scalar(2).sum().backward();
    [x, a, b].into_iter().map(|leaf| leaf.grad(&gradients).unwrap().into_data().iter::<f32>().collect()).collect()
}

#[test]
fn recomputed_dropout_gives_the_same_gradients() {
    assert_eq!(gradients_with_dropout::<NoCheckpointing>(), gradients_with_dropout::<BalancedCheckpointing>());
}

#[test]
fn the_gradient_of_dropout_is_its_mask() {
    let x = Tensor::<Train, 2>::from_inner(random([23, 77], 1)).require_grad();
    let (probability, ones) = (0.25, Tensor::<Flex, 2>::ones([23, 77], &Default::default()));
    let gradients = dropout(x.clone(), probability, KEY).sum().backward();
    let gradient = x.grad(&gradients).unwrap().into_data().iter::<f32>().collect::<Vec<_>>();
    let mask = dropout(ones, probability, KEY).into_data().iter::<f32>().collect::<Vec<_>>();
    assert_eq!(gradient, mask);
    assert!(mask.iter().all(|value| [0.0, (1.0 / 0.75) as f32].contains(value)));
}

#[test]
fn operations_that_save_nothing_have_the_gradients_of_burn() {
    let (x, bias, g) = (random([5, 12], 1), random([12], 2), random([5, 3, 4], 3));
    let found = |own: bool| {
        let x = Tensor::<Train, 2>::from_inner(x.clone()).require_grad();
        let bias = Tensor::<Train, 1>::from_inner(bias.clone()).require_grad();
        let y: Tensor<Train, 3> = if own {
            view(add_bias(scale(x.clone(), 0.3), bias.clone()), [5, 3, 4])
        } else {
            (x.clone() * 0.3 + bias.clone().unsqueeze()).reshape([5, 3, 4])
        };
        let gradients = (y.clone() * Tensor::from_inner(g.clone())).sum().backward();
        [y.inner().into_data(), x.grad(&gradients).unwrap().into_data(), bias.grad(&gradients).unwrap().into_data()]
    };
    assert_eq!(found(true), found(false));
}

#[test]
fn attention_equals_its_reference() {
    let cases = [
        (1, 1, 1, 1, 1, 4, None, None, false),
        (2, 5, 5, 4, 2, 8, None, None, true),
        (1, 1, 130, 6, 2, 16, None, Some(2.0), false),
        (1, 7, 77, 3, 1, 6, Some(9), None, false),
        (2, 130, 130, 4, 1, 32, Some(70), None, true),
        (1, 199, 199, 2, 2, 24, None, None, true),
        (2, 199, 199, 2, 1, 8, Some(23), Some(3.0), true),
    ];
    for (batch, queries, keys, heads, key_value_heads, dim, sliding_window, softcap, packed) in cases {
        let q = random([batch, queries, heads, dim], 1);
        let (k, v) = (random([batch, keys, key_value_heads, dim], 2), random([batch, keys, key_value_heads, dim], 3));
        let g = random([batch, queries, heads, dim], 4);
        let ids: Vec<i32> = (0..batch * keys).map(|index| (index % keys * 5 / keys) as i32).collect();
        let segments =
            packed.then(|| Tensor::<Flex, 2, Int>::from_data(TensorData::new(ids, [batch, keys]), &Default::default()));
        let segment_ids = || segments.clone().map(Tensor::into_primitive);
        let options = AttentionOptions { scale: (dim as f64).powf(-0.5), sliding_window, softcap };
        let y = attention(q.clone(), k.clone(), v.clone(), segments.clone(), options);
        let inputs = || (raw(q.clone()), raw(k.clone()), raw(v.clone()));
        let (pq, pk, pv) = inputs();
        close::<4>("y", y, typed(attention::reference::<Flex>(pq, pk, pv, segment_ids(), options)));
        let (pq, pk, pv) = inputs();
        let ours = Flex::attention_backward(pq, pk, pv, segment_ids(), None, raw(g.clone()), options);
        let (pq, pk, pv) = inputs();
        let expected = attention::reference_backward::<Flex>(pq, pk, pv, segment_ids(), raw(g), options);
        for ((name, ours), expected) in ["dq", "dk", "dv"].into_iter().zip(ours).zip(expected) {
            close::<4>(name, typed(ours), typed(expected));
        }
    }
}

/// Texts that lie end to end are computed like texts apart, to the bit.
#[test]
fn segments_do_not_see_each_other() {
    let lengths = [3, 130, 1, 64];
    let total: usize = lengths.iter().sum();
    let ids: Vec<i32> = lengths.iter().zip(1..).flat_map(|(length, id)| std::iter::repeat_n(id, *length)).collect();
    let segments = Tensor::<Flex, 2, Int>::from_data(TensorData::new(ids, [1, total]), &Default::default());
    let inputs = [random([1, total, 4, 8], 1), random([1, total, 2, 8], 2), random([1, total, 2, 8], 3)];
    let mix = random([1, total, 4, 8], 4);
    for (sliding_window, softcap) in [(None, None), (Some(50), Some(2.0))] {
        let options = AttentionOptions { scale: 0.3, sliding_window, softcap };
        // The result and the gradients of some positions.
        let of = |start: usize, length: usize, segments: Option<Tensor<Flex, 2, Int>>| -> Vec<Vec<f32>> {
            let part = |tensor: &Tensor<Flex, 4>| Tensor::<Train, 4>::from_inner(tensor.clone().narrow(1, start, length));
            let [q, k, v] = inputs.each_ref().map(|input| part(input).require_grad());
            let y = attention(q.clone(), k.clone(), v.clone(), segments.map(Tensor::from_inner), options);
            let gradients = (y.clone() * part(&mix)).sum().backward();
            let found = [q, k, v].map(|leaf| leaf.grad(&gradients).unwrap());
            [y.inner()].into_iter().chain(found).map(|tensor| tensor.into_data().iter::<f32>().collect()).collect()
        };
        let mut apart = vec![Vec::new(); 4];
        let mut start = 0;
        for length in lengths {
            apart.iter_mut().zip(of(start, length, None)).for_each(|(all, part)| all.extend(part));
            start += length;
        }
        assert_eq!(of(0, total, Some(segments.clone())), apart);
    }
}

#[test]
fn cross_entropy_equals_its_reference() {
    for (tokens, features, vocabulary) in [(1, 3, 5), (23, 16, 77), (130, 32, 199)] {
        let (h, w) = (random([tokens, features], 1), random([vocabulary, features], 2));
        let labels: Vec<i32> = (0..tokens).map(|index| (index * 7 % vocabulary) as i32).collect();
        let labels = Tensor::<Flex, 1, Int>::from_data(TensorData::new(labels, [tokens]), &Default::default());
        let ids = || labels.clone().into_primitive();
        let expected = linear_cross_entropy::reference::<Flex>(raw(h.clone()), raw(w.clone()), ids());
        close::<1>("loss", linear_cross_entropy(h.clone(), w.clone(), labels.clone()), typed(expected));
        let ours = Flex::linear_cross_entropy_with_gradient(raw(h.clone()), raw(w.clone()), ids());
        let expected = linear_cross_entropy::reference_with_gradient::<Flex>(raw(h.clone()), raw(w.clone()), ids());
        close::<1>("loss", typed(ours.0), typed(expected.0));
        close::<2>("dh", typed(ours.1), typed(expected.1));
        let factors = || raw(random([tokens], 3));
        let ours = Flex::linear_cross_entropy_backward_weight(raw(h.clone()), raw(w.clone()), ids(), factors());
        let expected = linear_cross_entropy::reference_backward_weight::<Flex>(raw(h), raw(w), ids(), factors());
        close::<2>("dw", typed(ours), typed(expected));
    }
}

/// Losses, and gradients for hidden states and head, with one factor for each token; `losses` computes the losses.
fn weighted_losses(
    dtype: DType,
    factors: &[f32],
    [features, vocabulary]: [usize; 2],
    losses: impl Fn(Tensor<Train, 2>, Tensor<Train, 2>, Tensor<Train, 1, Int>) -> Tensor<Train, 1>,
) -> [Vec<f32>; 3] {
    let tokens = factors.len();
    let rounded = |shape, seed| Tensor::<Train, 2>::from_inner(random(shape, seed) * 0.1).cast(dtype);
    let leaf = |tensor: Tensor<Train, 2>| Tensor::<Train, 2>::from_inner(tensor.inner()).require_grad();
    let (h, w) = (leaf(rounded([tokens, features], 1)), leaf(rounded([vocabulary, features], 2)));
    let labels: Vec<i32> = (0..tokens).map(|index| (index * 7 % vocabulary) as i32).collect();
    let labels = Tensor::<Train, 1, Int>::from_data(TensorData::new(labels, [tokens]), &Default::default());
    let losses = losses(h.clone(), w.clone(), labels);
    assert_eq!((losses.dims(), losses.dtype()), ([tokens], DType::F32));
    let factors = Tensor::<Train, 1>::from_data(TensorData::new(factors.to_vec(), [tokens]), &Default::default());
    let gradients = (losses.clone() * factors).sum().backward();
    let [d_h, d_w] = [(h, "dh"), (w, "dw")].map(|(leaf, name)| leaf.grad(&gradients).unwrap_or_else(|| panic!("{name}")));
    assert_eq!((d_h.dtype(), d_w.dtype()), (dtype, dtype));
    let read = |tensor: Tensor<Flex, 2>| tensor.into_data().iter::<f32>().collect::<Vec<_>>();
    [losses.into_data().iter::<f32>().collect(), read(d_h), read(d_w)]
}

/// The losses in burn's own operations, which burn's autodiff records; 16-bit inputs are cast first.
fn plain_losses(h: Tensor<Train, 2>, w: Tensor<Train, 2>, labels: Tensor<Train, 1, Int>) -> Tensor<Train, 1> {
    let tokens = h.dims()[0];
    let logits = h.cast(DType::F32).matmul(w.cast(DType::F32).transpose());
    burn::tensor::activation::log_softmax(logits, 1).gather(1, labels.reshape([tokens, 1])).neg().reshape([tokens])
}

#[test]
fn losses_with_factors_and_a_trained_head_equal_plain_autodiff() {
    let factors: Vec<f32> = (0..37).map(|token| (token as f32 * 0.7).sin() * 2.0).collect();
    let found = weighted_losses(DType::F32, &factors, [12, 53], linear_cross_entropy);
    let expected = weighted_losses(DType::F32, &factors, [12, 53], plain_losses);
    for ((name, found), expected) in ["losses", "dh", "dw"].into_iter().zip(found).zip(expected) {
        Tolerance::of(DType::F32).check(name, &found, &expected).unwrap();
    }
}

#[test]
fn losses_of_several_chunks_equal_plain_autodiff() {
    // A chunk has 8 Mi logits: here there are two, of four and three tokens.
    let factors = [1.5, -0.5, 0.0, 2.0, 1.0, -3.0, 0.25];
    let sizes = [2, 2_000_003];
    let found = weighted_losses(DType::F32, &factors, sizes, linear_cross_entropy);
    let expected = weighted_losses(DType::F32, &factors, sizes, plain_losses);
    for ((name, found), expected) in ["losses", "dh", "dw"].into_iter().zip(found).zip(expected) {
        Tolerance::of(DType::F32).check(name, &found, &expected).unwrap();
    }
}

#[test]
fn losses_of_capped_logits_equal_plain_autodiff() {
    // Most logits are far beyond the cap. In the second case there are two chunks.
    let cap = 0.02;
    let many: Vec<f32> = (0..37).map(|token| (token as f32 * 0.7).sin() * 2.0).collect();
    for (factors, sizes) in [(many, [12, 53]), (vec![1.5, -0.5, 0.0, 2.0, 1.0, -3.0, 0.25], [2, 2_000_003])] {
        let found =
            weighted_losses(DType::F32, &factors, sizes, |h, w, labels| capped_linear_cross_entropy(h, w, labels, cap));
        let expected = weighted_losses(DType::F32, &factors, sizes, |h, w, labels| {
            let tokens = h.dims()[0];
            let logits = soft_cap(h.matmul(w.transpose()), cap);
            burn::tensor::activation::log_softmax(logits, 1).gather(1, labels.reshape([tokens, 1])).neg().reshape([tokens])
        });
        for ((name, found), expected) in ["losses", "dh", "dw"].into_iter().zip(found).zip(expected) {
            Tolerance::of(DType::F32).check(name, &found, &expected).unwrap();
        }
    }
    let logits = Tensor::<Flex, 2>::from_data([[0.01f32, -5.0]], &Default::default());
    close::<2>("capped", soft_cap(logits, cap), Tensor::from_data([[0.02 * 0.5f32.tanh(), -0.02]], &Default::default()));
}

#[test]
fn gradients_are_right_for_factors_beyond_a_16_bit_dtype() {
    // Large factors beyond f16's 65504, as from a loss scale, beside small ones that round to zero.
    let factors: Vec<f32> = (0..19).map(|token| if token % 2 == 0 { 1e5 } else { 1e-8 }).collect();
    for dtype in [DType::F16, DType::BF16] {
        let found = weighted_losses(dtype, &factors, [12, 31], linear_cross_entropy);
        let expected = weighted_losses(dtype, &factors, [12, 31], plain_losses);
        for ((name, found), expected) in ["losses", "dh", "dw"].into_iter().zip(found).zip(expected) {
            // Scaled by the large factors, so that the absolute tolerance stays small in comparison.
            let scale = if name == "losses" { 1.0 } else { 1e-4 };
            let scaled = |values: Vec<f32>| values.into_iter().map(|value| value * scale).collect::<Vec<_>>();
            let row = Tolerance::of(dtype);
            row.check(&format!("{name} in {dtype:?}"), &scaled(found), &scaled(expected)).unwrap();
        }
    }
}

/// Compares central differences of `f` at `x` with the gradient of autodiff.
fn differences<const D: usize>(name: &str, x: Tensor<Flex, D>, f: impl Fn(Tensor<Train, D>) -> Tensor<Train, 1>) {
    let input = Tensor::<Train, D>::from_inner(x.clone()).require_grad();
    let gradient = input.grad(&f(input.clone()).backward()).unwrap().into_data();
    let gradient: Vec<f32> = gradient.iter::<f32>().collect();
    let data = x.to_data();
    let values: Vec<f32> = data.iter::<f32>().collect();
    let at = |values: Vec<f32>| -> f64 {
        let x = Tensor::from_inner(Tensor::from_data(TensorData::new(values, data.shape.clone()), &Default::default()));
        f(x).into_data().iter::<f64>().sum()
    };
    let step = 1e-2;
    for index in 0..values.len() {
        let moved = |by: f32| {
            let mut values = values.clone();
            values[index] += by;
            at(values)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        let ours = f64::from(gradient[index]);
        // Central differences in f32 are exact to a few parts in a thousand only.
        assert!((slope - ours).abs() <= 1e-2 * (1.0 + ours.abs()), "{name}[{index}]: expected {slope}, got {ours}");
    }
}

#[test]
fn backward_rules_equal_finite_differences() {
    let fixed = |tensor: Tensor<Flex, 2>| Tensor::<Train, 2>::from_inner(tensor);
    let (x, w) = (random([3, 6], 1), random([6], 2));
    let mix = fixed(random([3, 6], 9));
    let weight = Tensor::<Train, 1>::from_inner(w.clone());
    differences("rms_norm x", x.clone(), |x| (rms_norm(x, weight.clone(), 1e-5) * mix.clone()).sum());
    let constant = fixed(x.clone());
    differences("rms_norm w", w, |w| (rms_norm(constant.clone(), w, 1e-5) * mix.clone()).sum());
    let sum_of = |x, r| {
        let (sum, y) = add_rms_norm(x, r, weight.clone(), 1e-5);
        (y * mix.clone() + sum.powi_scalar(2)).sum()
    };
    differences("fork_rms_norm", x.clone(), |x| {
        let (x, y) = fork_rms_norm(x, weight.clone(), 1e-5);
        (y * mix.clone() + x.powi_scalar(2)).sum()
    });
    differences("add_rms_norm x", x.clone(), |x| sum_of(x, mix.clone()));
    differences("add_rms_norm residual", x.clone(), |r| sum_of(mix.clone(), r));
    let bias = Tensor::<Train, 1>::from_inner(random([6], 7));
    differences("layer_norm x", x.clone(), |x| (layer_norm(x, weight.clone(), bias.clone(), 1e-5) * mix.clone()).sum());
    differences("layer_norm w", random([6], 2), |w| {
        (layer_norm(constant.clone(), w, bias.clone(), 1e-5) * mix.clone()).sum()
    });
    differences("layer_norm b", random([6], 2), |b| {
        (layer_norm(constant.clone(), weight.clone(), b, 1e-5) * mix.clone()).sum()
    });
    differences("geglu gate", x.clone(), |x| (geglu(x, mix.clone()) * constant.clone()).sum());
    differences("geglu up", x.clone(), |x| (geglu(mix.clone(), x) * constant.clone()).sum());
    differences("swiglu gate", x.clone(), |x| (swiglu(x, mix.clone()) * constant.clone()).sum());
    differences("swiglu up", x.clone(), |x| (swiglu(mix.clone(), x) * constant.clone()).sum());
    let matrix = fixed(random([5, 6], 3));
    differences("linear x", x.clone(), |x| linear(x, matrix.clone()).powi_scalar(2).sum());
    differences("linear w", random([5, 6], 3), |w| linear(constant.clone(), w).powi_scalar(2).sum());
    let (a, b) = (random([2, 6], 4), random([5, 2], 5));
    let lora = |x: Tensor<Train, 2>, a: Tensor<Train, 2>, b: Tensor<Train, 2>| {
        lora_linear(x, matrix.clone(), a, b, 0.5, Some(DROPOUT)).powi_scalar(2).sum() * 0.1
    };
    differences("lora x", x.clone(), |x| lora(x, fixed(a.clone()), fixed(b.clone())));
    differences("lora a", a.clone(), |a| lora(constant.clone(), a, fixed(b.clone())));
    differences("lora b", b.clone(), |b| lora(constant.clone(), fixed(a.clone()), b));
    let labels = Tensor::<Train, 1, Int>::from_data([1, 0, 4], &Default::default());
    let factors = Tensor::<Train, 1>::from_data([0.5, -1.5, 0.25], &Default::default());
    let losses = |x, w| (linear_cross_entropy(x, w, labels.clone()) * factors.clone()).sum();
    differences("dropout", x.clone(), |x| (dropout(x, 0.3, KEY) * mix.clone()).sum());
    differences("loss h", x, |x| losses(x, matrix.clone()));
    differences("loss w", random([5, 6], 3), |w| losses(constant.clone(), w));
}

/// Gradients of a small block, for its input, its first and last LoRA factor and, where it trains, its norm.
fn gradients_of_a_block<C: CheckpointStrategy>(trains_norm: bool) -> Vec<Vec<f32>> {
    type On<C, const D: usize> = Tensor<Autodiff<Flex, C>, D>;
    let fixed = |shape, seed| On::<C, 2>::from_inner(random(shape, seed));
    let [x, last] = [([3, 6], 1), ([6, 2], 8)].map(|(shape, seed)| fixed(shape, seed).require_grad());
    let first = fixed([2, 6], 4).require_grad();
    let norm = On::<C, 1>::from_inner(random([6], 2));
    let norm = if trains_norm { norm.require_grad() } else { norm };
    let (sum, normed) = add_rms_norm(x.clone() * 2.0, x.clone(), norm.clone(), 1e-5);
    let gate = lora_linear(normed.clone(), fixed([5, 6], 3), first.clone(), fixed([5, 2], 5), 0.5, None);
    let up = lora_linear(normed, fixed([5, 6], 6), first.clone(), fixed([5, 2], 7), 0.5, None);
    let down = lora_linear(swiglu(gate, up), fixed([6, 5], 9), fixed([2, 5], 10), last.clone(), 0.5, None);
    let y = linear(rms_norm(sum + down, norm.clone(), 1e-5), fixed([4, 6], 11).require_grad());
    let gradients = y.powi_scalar(2).sum().backward();
    let mut found: Vec<_> = [x, last, first].iter().map(|leaf| leaf.grad(&gradients).unwrap().into_data()).collect();
    found.extend(norm.grad(&gradients).map(Tensor::into_data));
    found.into_iter().map(|data| data.iter::<f32>().collect()).collect()
}

#[test]
fn recomputed_operations_give_the_same_gradients() {
    for trains_norm in [false, true] {
        let kept = gradients_of_a_block::<NoCheckpointing>(trains_norm);
        assert_eq!(kept.len(), if trains_norm { 4 } else { 3 });
        assert_eq!(kept, gradients_of_a_block::<BalancedCheckpointing>(trains_norm));
    }
}

#[test]
fn attention_backward_equals_finite_differences() {
    let fixed = |tensor: Tensor<Flex, 4>| Tensor::<Train, 4>::from_inner(tensor);
    let (q, k, v) = (random([1, 4, 2, 3], 1), random([1, 4, 1, 3], 2), random([1, 4, 1, 3], 3));
    let mix = fixed(random([1, 4, 2, 3], 4));
    let ids = Tensor::<Train, 2, Int>::from_data([[1, 1, 2, 2]], &Default::default());
    for softcap in [None, Some(2.0)] {
        let options = AttentionOptions { scale: 0.6, sliding_window: Some(3), softcap };
        let f = |q, k, v| (attention(q, k, v, Some(ids.clone()), options) * mix.clone()).sum();
        differences("q", q.clone(), |q| f(q, fixed(k.clone()), fixed(v.clone())));
        differences("k", k.clone(), |k| f(fixed(q.clone()), k, fixed(v.clone())));
        differences("v", v.clone(), |v| f(fixed(q.clone()), fixed(k.clone()), v));
    }
}
