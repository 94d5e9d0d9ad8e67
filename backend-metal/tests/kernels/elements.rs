//! Norms, activations, rotary embedding, the optimizer's update, the loss.

use burn::backend::Flex;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::glu::Activation;
use burnish_kernels::{self as ops, AdamWStep, AdamWTensors, Dropout, DropoutKey, FusedBackend};

use crate::sample::{Pair, ROWS, close, in_turn, numbers, product_row, random, raw, typed};

pub fn rms_norm<B: FusedBackend>(dtype: DType) {
    for (rows, features) in ROWS.into_iter().chain([(3, 2048)]) {
        let x = random::<B, 2>([rows, features], 1, dtype);
        let (w, g) = (random::<B, 1>([features], 2, dtype), random::<B, 2>([rows, features], 3, dtype));
        let expected = ops::rms_norm::reference::<Flex>(x.cpu(), w.cpu(), 1e-5);
        close::<B, 2>("rms_norm", B::rms_norm(x.raw(), w.raw(), 1e-5), expected, dtype);
        for weight_gradient in [false, true] {
            let (dx, dw) = B::rms_norm_backward(x.raw(), w.raw(), g.raw(), None, 1e-5, weight_gradient);
            let expected = ops::rms_norm::reference_backward::<Flex>(x.cpu(), w.cpu(), g.cpu(), None, 1e-5, true);
            close::<B, 2>("rms_norm dx", dx, expected.0, dtype);
            assert_eq!(dw.is_some(), weight_gradient);
            if let Some(dw) = dw {
                close::<B, 1>("rms_norm dw", dw, expected.1.unwrap(), dtype);
            }
        }
    }
}

pub fn add_rms_norm<B: FusedBackend>(dtype: DType) {
    // The last one has more rows than cubes.
    for (rows, features) in ROWS.into_iter().chain([(3100, 8)]) {
        let (x, r) = (random::<B, 2>([rows, features], 1, dtype), random::<B, 2>([rows, features], 2, dtype));
        let (w, g) = (random::<B, 1>([features], 3, dtype), random::<B, 2>([rows, features], 4, dtype));
        let (sum, y) = B::add_rms_norm(x.raw(), r.raw(), w.raw(), 1e-5);
        let added = x.cpu.clone() + r.cpu.clone();
        close::<B, 2>("sum", sum, raw(added.clone()), dtype);
        close::<B, 2>("norm of sum", y, ops::rms_norm::reference::<Flex>(raw(added), w.cpu(), 1e-5), dtype);
        let (dx, _) = B::rms_norm_backward(x.raw(), w.raw(), g.raw(), Some(r.raw()), 1e-5, false);
        let expected = ops::rms_norm::reference_backward::<Flex>(x.cpu(), w.cpu(), g.cpu(), Some(r.cpu()), 1e-5, false);
        close::<B, 2>("dx with residual", dx, expected.0, dtype);
    }
}

pub fn layer_norm<B: FusedBackend>(dtype: DType) {
    let cases = ROWS.into_iter().chain([(300, 8)]).enumerate().filter(|(case, _)| in_turn::<B>(*case, dtype));
    for (_, (rows, features)) in cases {
        let [x, g] = [1, 2].map(|seed| random::<B, 2>([rows, features], seed, dtype));
        let [w, b] = [3, 4].map(|seed| random::<B, 1>([features], seed, dtype));
        let expected = ops::layer_norm::reference::<Flex>(x.cpu(), w.cpu(), b.cpu(), 1e-5);
        close::<B, 2>("layer_norm", B::row_layer_norm(x.raw(), w.raw(), b.raw(), 1e-5), expected, dtype);
        for weight_gradients in [false, true] {
            let (dx, found) = B::row_layer_norm_backward(x.raw(), w.raw(), g.raw(), 1e-5, weight_gradients);
            let expected = ops::layer_norm::reference_backward::<Flex>(x.cpu(), w.cpu(), g.cpu(), 1e-5, true);
            close::<B, 2>("layer_norm dx", dx, expected.0, dtype);
            assert_eq!(found.is_some(), weight_gradients);
            for (found, expected) in found.into_iter().flatten().zip(expected.1.unwrap()) {
                close::<B, 1>("layer_norm dw or db", found, expected, dtype);
            }
        }
    }
}

pub fn rotary<B: FusedBackend>(dtype: DType) {
    for (tokens, heads, dim, half) in [(1, 1, 2, 1), (3, 5, 6, 3), (77, 3, 64, 32), (9, 2, 32, 8), (5, 3, 20, 5)] {
        let both = [heads, 1].map(|heads| random::<B, 3>([tokens, heads, dim], 1, dtype));
        let angles = numbers(tokens * half, 2, 3.0);
        let of = |f: fn(f32) -> f32| {
            Pair::<B, 2>::from(angles.iter().map(|angle| f(*angle)).collect(), [tokens, half], DType::F32)
        };
        let (cos, sin) = (of(f32::cos), of(f32::sin));
        for inverse in [false, true] {
            // Tensors that are held elsewhere are not rotated in place.
            let rotated = B::rotary(both.each_ref().map(Pair::raw), cos.raw(), sin.raw(), inverse);
            let own = both.each_ref().map(|x| raw(x.device.clone().mul_scalar(1.0)));
            let in_place = B::rotary(own, cos.raw(), sin.raw(), inverse);
            for ((x, rotated), in_place) in both.iter().zip(rotated).zip(in_place) {
                let expected = ops::rotary::reference::<Flex>(x.cpu(), cos.cpu(), sin.cpu(), inverse);
                close::<B, 3>("rotary", rotated, expected.clone(), dtype);
                close::<B, 3>("rotary in place", in_place, expected, dtype);
            }
        }
        for x in both {
            close::<B, 3>("rotary's input", x.raw(), x.cpu(), dtype);
        }
    }
}

pub fn glu<B: FusedBackend>(dtype: DType) {
    for (rows, features) in ROWS {
        let count = rows * features;
        let gate = Pair::<B, 2>::from(numbers(count, 1, 4.0), [rows, features], dtype);
        let (up, g) = (random::<B, 2>([rows, features], 2, dtype), random::<B, 2>([rows, features], 3, dtype));
        for kind in [Activation::Silu, Activation::GeluTanh] {
            let expected = ops::glu::reference::<Flex>(gate.cpu(), up.cpu(), kind);
            close::<B, 2>("glu", B::glu(gate.raw(), up.raw(), kind), expected, dtype);
            let found = B::glu_backward(gate.raw(), up.raw(), g.raw(), kind);
            let expected = ops::glu::reference_backward::<Flex>(gate.cpu(), up.cpu(), g.cpu(), kind);
            close::<B, 2>("dgate", found.0.clone(), expected.0, dtype);
            close::<B, 2>("dup", found.1.clone(), expected.1, dtype);
            // Written over tensors that nothing else holds.
            let own =
                |pair: &Pair<B, 2>| raw(Tensor::<B, 2>::from_data(pair.device.to_data(), (&Default::default(), dtype)));
            let in_place = B::glu_backward(own(&gate), own(&up), g.raw(), kind);
            for (found, in_place) in [(found.0, in_place.0), (found.1, in_place.1)] {
                assert_eq!(typed::<B, 2>(found).to_data(), typed::<B, 2>(in_place).to_data(), "glu backward in place");
            }
        }
    }
}

pub fn adamw<B: FusedBackend>(dtype: DType) {
    if dtype != DType::F32 {
        return;
    }
    let plain = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
        gradient_factor: 0.5,
        max_norm: 0.0,
    };
    let clipped = AdamWStep { max_norm: 1.0, ..plain };
    // Squared norms: none, one that needs no clipping, one that does, and non-finite ones.
    let lengths = [None, Some(1.0), Some(9.0), Some(f32::INFINITY), Some(f32::NAN)];
    let cases = lengths.into_iter().flat_map(|squares| [(plain, squares), (clipped, squares)]);
    let shapes = ROWS.into_iter().chain([(7, 64), (16, 300)]).cycle();
    for ((rows, columns), (step, squares)) in shapes.zip(cases.cycle().take(40)) {
        let shape = [rows, columns];
        let [p, g, m] = [1, 2, 3].map(|seed| random::<B, 2>(shape, seed, dtype));
        let positive = numbers(rows * columns, 4, 1.0).iter().map(|x| x * x).collect();
        let v = Pair::<B, 2>::from(positive, shape, dtype);
        let old = [p.cpu(), m.cpu(), v.cpu()];
        let skips = squares.is_some_and(|squares| !squares.is_finite());
        let squares = squares.map(|squares| Pair::<B, 1>::from(vec![squares], [1], dtype));
        let (on_cpu, on_device) = squares.map(|pair| (pair.cpu, pair.device)).unzip();
        let tensors = AdamWTensors::new(p.cpu, g.cpu, m.cpu, v.cpu);
        let tensors = on_cpu.into_iter().fold(tensors, AdamWTensors::clipped_by);
        let expected = ops::adamw::reference::<Flex>(tensors, step);
        if skips {
            for (expected, old) in expected.clone().into_iter().zip(old.clone()) {
                close::<Flex, 2>("skipped update", expected, old, dtype);
            }
        }
        // Only the parameter is held elsewhere: it must not change there.
        let tensors = AdamWTensors::new(p.device.clone(), g.device, m.device, v.device);
        let found = B::adamw(on_device.into_iter().fold(tensors, AdamWTensors::clipped_by), step);
        for ((name, found), expected) in ["parameter", "first", "second"].into_iter().zip(found).zip(expected) {
            close::<B, 2>(&format!("{name} of {step:?}"), found, expected, dtype);
        }
        let [old, ..] = old;
        close::<B, 2>("a parameter that is held elsewhere", raw(p.device), old, dtype);
    }
}

pub fn pack<B: FusedBackend>(dtype: DType) {
    // More tensors than a launch binds on some devices, of odd lengths; then of lengths that are whole vectors.
    let odd: Vec<_> = ROWS.into_iter().chain([(7, 64), (16, 300)]).cycle().take(120).collect();
    for shapes in [odd, vec![(16, 256); 40]] {
        let pairs: Vec<_> =
            (0..).zip(&shapes).map(|(seed, (rows, columns))| random::<B, 2>([*rows, *columns], seed, dtype)).collect();
        let (found, expected): (Vec<_>, Vec<_>) = pairs.iter().map(|pair| (pair.raw(), pair.cpu())).unzip();
        let found = ops::pack::<B>(found);
        close::<B, 1>("packed", found.clone(), ops::pack::pack::<Flex>(expected), dtype);
        let shapes = shapes.iter().map(|(rows, columns)| burn::tensor::Shape::from([*rows, *columns]));
        for (found, pair) in ops::unpack::<B>(&found, shapes).into_iter().zip(pairs) {
            close::<B, 2>("unpacked", found, pair.cpu(), dtype);
        }
    }
}

pub fn squared_norm<B: FusedBackend>(dtype: DType) {
    if dtype != DType::F32 {
        return;
    }
    let device = B::Device::default();
    let squared = |shapes: &[(usize, usize)]| {
        let pairs = shapes.iter().enumerate().map(|(index, (rows, columns))| {
            let pair = random::<B, 2>([*rows, *columns], index as u32, dtype);
            (pair.raw(), pair.cpu())
        });
        let (found, expected): (Vec<_>, Vec<_>) = pairs.unzip();
        let expected = ops::squared_norm::reference::<Flex>(expected, &Default::default());
        close::<B, 1>("squared norm", B::squared_norm(found, &device), expected, dtype);
    };
    squared(&[]);
    squared(&[(3, 5)]);
    squared(&[(300, 1000), (1, 1), (16, 64)]);
    squared(&ROWS.into_iter().cycle().take(120).collect::<Vec<_>>());
}

pub fn select_rows<B: FusedBackend>(dtype: DType) {
    for (rows, features) in ROWS.into_iter().chain([(70, 512)]) {
        let positions: Vec<i32> = (0..rows as i32).rev().filter(|row| row % 3 != 1).collect();
        let kept = positions.len();
        let data = TensorData::new(positions, [kept]);
        let on_device = || Tensor::<B, 1, Int>::from_data(data.clone(), &Default::default()).into_primitive();
        let on_cpu = || Tensor::<Flex, 1, Int>::from_data(data.clone(), &Default::default()).into_primitive();
        let (x, g) = (random::<B, 2>([rows, features], 1, dtype), random::<B, 2>([kept, features], 2, dtype));
        close::<B, 2>("rows", B::select_rows(x.raw(), on_device()), Flex::select_rows(x.cpu(), on_cpu()), dtype);
        let expected = ops::select_rows::reference_backward::<Flex>(g.cpu(), on_cpu(), rows);
        close::<B, 2>("dx", B::select_rows_backward(g.raw(), on_device(), rows), expected, dtype);
    }
}

pub fn sample_tokens<B: FusedBackend>(dtype: DType) {
    // Rows of one part and of several, odd ones, and rows of one token.
    for (rows, tokens) in [(1, 1), (3, 77), (2, 4096), (1, 20_001), (2, 6400)] {
        for temperature in [0.0, 0.7] {
            for seed in 0..4 {
                let logits = random::<B, 2>([rows, tokens], seed, dtype);
                let draw = ops::TokenDraw { temperature, seed: u64::from(seed), number: seed };
                let found = Tensor::<B, 1, Int>::from_primitive(B::sample_tokens(logits.raw(), draw));
                let expected = Tensor::<Flex, 1, Int>::from_primitive(Flex::sample_tokens(logits.cpu(), draw));
                let [found, expected] =
                    [found.into_data(), expected.into_data()].map(|ids| ids.iter().collect::<Vec<i32>>());
                assert_eq!(found, expected, "{rows} × {tokens} at {temperature}");
            }
        }
    }
    // A row with a logit that is not finite has no token.
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = numbers(3 * 5000, 1, 1.0);
        values[5000 + 4321] = bad;
        let logits = Pair::<B, 2>::from(values, [3, 5000], dtype);
        let found = B::sample_tokens(logits.raw(), ops::TokenDraw::default());
        let found: Vec<i32> = Tensor::<B, 1, Int>::from_primitive(found).into_data().iter().collect();
        assert_eq!(found.iter().map(|id| *id == -1).collect::<Vec<_>>(), [false, true, false], "{found:?}");
    }
}

pub fn cross_entropy<B: FusedBackend>(dtype: DType) {
    for (tokens, features, vocabulary) in [(1, 3, 5), (23, 16, 77), (50, 32, 1024)] {
        let h = random::<B, 2>([tokens, features], 1, dtype);
        // Small logits: bf16 holds those near 20 to 1/16 only, which is 6 % of their exponentials.
        let w = Pair::<B, 2>::from(numbers(vocabulary * features, 2, 0.25), [vocabulary, features], dtype);
        let labels: Vec<i32> = (0..tokens).map(|index| (index * 7 % vocabulary) as i32).collect();
        let data = TensorData::new(labels, [tokens]);
        let on_device = Tensor::<B, 1, Int>::from_data(data.clone(), &Default::default());
        let on_cpu = Tensor::<Flex, 1, Int>::from_data(data, &Default::default());
        let ids = || (on_device.clone().into_primitive(), on_cpu.clone().into_primitive());
        let expected = ops::linear_cross_entropy::reference_with_gradient::<Flex>(h.cpu(), w.cpu(), ids().1);
        close::<B, 1>(
            "loss",
            B::linear_cross_entropy(h.raw(), w.raw(), ids().0),
            expected.0.clone(),
            product_row::<B>(dtype),
        );
        let found = B::linear_cross_entropy_with_gradient(h.raw(), w.raw(), ids().0);
        close::<B, 1>("loss", found.0, expected.0, product_row::<B>(dtype));
        // The logits are rounded to the dtype, and the gradient has their error.
        let row = if product_row::<B>(dtype) == DType::F32 { DType::F32 } else { DType::BF16 };
        close::<B, 2>("dh", found.1, expected.1, row);
        // f16 does not hold the largest factors, but does hold the gradient, which is scaled to size 1 to compare.
        let h = Pair::<B, 2>::from(numbers(tokens * features, 1, 0.05), [tokens, features], dtype);
        let factors = Pair::<B, 1>::from(numbers(tokens, 3, 5e4), [tokens], DType::F32);
        let expected =
            ops::linear_cross_entropy::reference_backward_weight::<Flex>(h.cpu(), w.cpu(), ids().1, factors.cpu());
        let found = B::linear_cross_entropy_backward_weight(h.raw(), w.raw(), ids().0, factors.raw());
        let scaled = typed::<B, 2>(found).cast(DType::F32) * 1e-3;
        close::<B, 2>("dw", raw(scaled), raw(typed::<Flex, 2>(expected) * 1e-3), row);
    }
}

pub fn dropout<B: FusedBackend>(dtype: DType) {
    let key = DropoutKey { seed: 0x0123_4567_89ab_cdef, step: 7, micro_batch: 2, layer: 0xfeed_beef };
    let read = |data: TensorData| data.iter::<f32>().collect::<Vec<_>>();
    // Whole vectors, odd counts, and more elements than a cube.
    for (rows, features) in ROWS.into_iter().chain([(1, 2), (3, 6), (70, 512)]) {
        let x = random::<B, 2>([rows, features], 1, dtype);
        for (probability, first) in [(0.05, 0), (0.5, 0), (0.5, 4 * 777)] {
            let dropout = Dropout { probability, key, first };
            let expected = ops::dropout::reference::<Flex>(x.cpu(), dropout);
            let found = B::dropout(x.raw(), dropout);
            let kept = |values: Vec<f32>| values.into_iter().map(|value| value == 0.0).collect::<Vec<_>>();
            let dropped = kept(read(typed::<B, 2>(found.clone()).cast(DType::F32).into_data()));
            assert_eq!(dropped, kept(read(typed::<Flex, 2>(expected.clone()).into_data())), "{rows} × {features}");
            close::<B, 2>("dropout", found, expected, dtype);
        }
    }
}
