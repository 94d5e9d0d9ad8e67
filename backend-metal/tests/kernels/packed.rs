//! Operations on packed weights against those on the same weights dense, every format.

use burn::backend::Flex;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::glu::Activation;
use burnish_kernels::lora_linear::LoraSaved;
use burnish_kernels::packed::planes::Scales;
use burnish_kernels::packed::{Affine, GgmlType, GgufBlocks, Nf4, Packed, PackedTensor};
use burnish_kernels::{self as ops, Dropout, DropoutKey, FusedBackend};
use half::{bf16, f16};

use crate::sample::{Pair, all_cases, close, in_turn, numbers, product_row, random, raw, typed};

/// Odd outputs, so that scales end within a word; rows of several blocks.
const DIMS: [usize; 2] = [37, 512];

/// The few rows of decoding, and many.
const ROWS: [usize; 6] = [1, 2, 3, 8, 9, 33];

/// Weights of size 1 / √in, half of the groups so small that f16 scales are subnormal.
fn weights([outputs, inputs]: [usize; 2]) -> Vec<f32> {
    let mut values = numbers(outputs * inputs, 9, (inputs as f32).powf(-0.5));
    values.iter_mut().enumerate().filter(|(at, _)| at / 256 % 2 == 1).for_each(|(_, value)| *value *= 1e-3);
    values
}

fn blocks(kind: GgmlType, dims: [usize; 2]) -> Packed {
    Packed::Gguf(GgufBlocks::quantize("w", &weights(dims), dims, kind).unwrap())
}

fn nf4(double: bool, dims: [usize; 2]) -> Packed {
    Packed::Nf4(Nf4::quantize("w", &weights(dims), dims, double).unwrap())
}

pub fn every_format(dims: [usize; 2]) -> Vec<Packed> {
    use GgmlType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let values = weights(dims);
    let f16s: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let bf16s: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    let mut all: Vec<Packed> = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K].map(|kind| blocks(kind, dims)).into();
    all.extend([false, true].map(|double| nf4(double, dims)));
    all.push(Packed::Affine(Affine::quantize("w", &values, dims, 4, 32).unwrap()));
    all.push(Packed::Affine(Affine::quantize("w", &f16s, dims, 4, 64).unwrap()));
    all.push(Packed::Affine(Affine::quantize("w", &values, dims, 8, 64).unwrap()));
    all.push(Packed::Affine(Affine::quantize("w", &bf16s, dims, 8, 128).unwrap()));
    all
}

/// The formats to test in a dtype.
fn formats<B: FusedBackend>(dtype: DType) -> impl Iterator<Item = Packed> {
    let all = every_format(DIMS).into_iter().enumerate();
    all.filter(move |(number, _)| in_turn::<B>(*number, dtype)).map(|(_, packed)| packed)
}

/// The weight on the device, and dense on the CPU, rounded to the dtype that products compute in.
fn on_device<B: FusedBackend>(packed: &Packed, dtype: DType) -> (PackedTensor<B>, Tensor<Flex, 2>) {
    let dense = TensorData::new(packed.dequantize(), packed.dims()).convert_dtype(dtype).convert_dtype(DType::F32);
    (PackedTensor::new("w", packed, &Default::default()).unwrap(), Tensor::from_data(dense, &Default::default()))
}

/// Weights that are products are those of the host to the bit.
pub fn packed_rows<B: FusedBackend>(dtype: DType) {
    for packed in formats::<B>(dtype) {
        let (weight, dense) = on_device::<B>(&packed, dtype);
        let numbers = [3, 36, 0, 3, 17];
        let rows = Tensor::<B, 1, Int>::from_data(numbers, &Default::default()).into_primitive();
        let found = typed::<B, 2>(B::packed_rows(weight.clone(), rows, dtype));
        assert_eq!(found.dtype(), dtype);
        let found = found.cast(DType::F32).into_data().to_vec::<f32>().unwrap();
        let expected = dense.select(0, Tensor::from_data(numbers, &Default::default()));
        let expected = expected.into_data().to_vec::<f32>().unwrap();
        let scales = weight.planes.scales;
        let step = match dtype {
            DType::F32 => 2f32.powi(-22),
            DType::F16 => 2f32.powi(-10),
            _ => 2f32.powi(-7),
        };
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // What is added to a product may be fused with it, which rounds once less.
            let exact = matches!(scales, Scales::Half { .. } | Scales::Table | Scales::SignedBytes);
            let tolerance = if exact { 0.0 } else { step * expected.abs() + 4e-8 };
            let name = || format!("{}, {scales:?}, {dtype:?}, element {at}: {found:e}, {expected:e}", packed.name());
            assert!((found - expected).abs() <= tolerance, "{}", name());
        }
        // This row is outside the matrix: the kernel must not read neighbouring words as its weights.
        let beyond = Tensor::<B, 1, Int>::from_data([37, -1], &Default::default()).into_primitive();
        let found = typed::<B, 2>(B::packed_rows(weight, beyond, dtype)).cast(DType::F32).into_data();
        assert!(found.iter::<f32>().all(f32::is_nan), "{}", packed.name());
    }
}

pub fn packed_linear<B: FusedBackend>(dtype: DType) {
    for packed in formats::<B>(dtype) {
        packed_linear_of::<B>(&packed, dtype, &ROWS);
    }
}

/// Up to three weights of one input, of different heights and formats, and more rows than a launch takes.
pub fn packed_few_rows<B: FusedBackend>(dtype: DType) {
    // Long rows, which all planes of a cube may share.
    for packed in [nf4(false, [13, 4608]), nf4(true, [13, 7168]), blocks(GgmlType::Q4K, [13, 4608])] {
        packed_linear_of::<B>(&packed, dtype, &[1, 3]);
    }
    let inputs = DIMS[1];
    let formats = every_format([40, inputs]).into_iter().zip(every_format([8, inputs])).collect::<Vec<_>>();
    // How each format is read is tested above: a third of them suffices here.
    let some = formats.iter().enumerate().filter(|(at, _)| all_cases() || at % 3 == 0 && in_turn::<B>(at / 3, dtype));
    for (at, (first, second)) in some {
        let next = &formats[(at + 1) % formats.len()].0;
        let all = [(1, vec![first, second, next]), (2, vec![second, first]), (8, vec![first]), (9, vec![first, second])];
        for (rows, packed) in all {
            let x = random::<B, 2>([rows, inputs], 1, dtype);
            let (weights, dense): (Vec<_>, Vec<_>) = packed.iter().map(|packed| on_device::<B>(packed, dtype)).unzip();
            let name = |part: &str| {
                let scales: Vec<_> = weights.iter().map(|weight| weight.planes.scales).collect();
                format!("{part} of {rows} rows, {} {scales:?}", packed[0].name())
            };
            let found = B::packed_linears(x.raw(), weights.clone());
            assert_eq!(found.len(), weights.len());
            for (found, dense) in found.into_iter().zip(&dense) {
                let expected = ops::linear::reference::<Flex>(x.cpu(), raw(dense.clone()));
                close::<B, 2>(&name("y"), found, expected, product_row::<B>(dtype));
            }
        }
        for (rows, up) in [(1, next), (3, first), (9, first)] {
            let x = random::<B, 2>([rows, inputs], 1, dtype);
            let [gate, up] = [first, up].map(|packed| on_device::<B>(packed, dtype));
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let cpu = [&gate, &up].map(|(_, dense)| raw(dense.clone()));
                let expected = ops::linear::reference_glu::<Flex>(x.cpu(), cpu, activation);
                let found = B::packed_glu_linear(x.raw(), [gate.0.clone(), up.0.clone()], activation);
                let name = format!("{activation:?} of {rows} rows, {} {:?}", first.name(), gate.0.planes.scales);
                close::<B, 2>(&name, found, expected, product_row::<B>(dtype));
            }
        }
    }
}

/// A matrix of more than 128 MiB in f32, which is dequantised in slices.
pub fn slices<B: FusedBackend>(dtype: DType) {
    packed_linear_of::<B>(&blocks(GgmlType::Q8_0, [16_500, 2048]), dtype, &[11]);
}

fn packed_linear_of<B: FusedBackend>(packed: &Packed, dtype: DType, rows: &[usize]) {
    let [outputs, inputs] = packed.dims();
    let (weight, dense) = on_device::<B>(packed, dtype);
    for rows in rows {
        let name = |part: &str| format!("{part} of {rows} rows, {} {:?}", packed.name(), weight.planes.scales);
        let x = random::<B, 2>([*rows, inputs], 1, dtype);
        let expected = ops::linear::reference::<Flex>(x.cpu(), raw(dense.clone()));
        close::<B, 2>(&name("y"), B::packed_linear(x.raw(), weight.clone()), expected, product_row::<B>(dtype));
        let g = Pair::<B, 2>::from(numbers(rows * outputs, 2, 0.5), [*rows, outputs], dtype);
        let expected = ops::linear::reference_backward_input::<Flex>(g.cpu(), raw(dense.clone()));
        let found = B::packed_linear_backward_input(g.raw(), weight.clone());
        close::<B, 2>(&name("dx"), found, expected, product_row::<B>(dtype));
    }
}

pub fn packed_lora_linear<B: FusedBackend>(dtype: DType) {
    let dropout = Dropout { probability: 0.3, first: 0, key: DropoutKey { seed: 1, step: 2, micro_batch: 3, layer: 4 } };
    let [outputs, inputs] = DIMS;
    let (rank, row) = (4, product_row::<B>(dtype));
    for packed in formats::<B>(dtype) {
        let (weight, dense) = on_device::<B>(&packed, dtype);
        for (rows, dropout) in [(2, None), (2, Some(dropout)), (23, None), (23, Some(dropout))] {
            let name =
                |part: &str| format!("{part} of {rows} rows, {} {:?}, {dropout:?}", packed.name(), weight.planes.scales);
            let x = random::<B, 2>([rows, inputs], 1, dtype);
            let a = Pair::<B, 2>::from(numbers(rank * inputs, 3, (inputs as f32).powf(-0.5)), [rank, inputs], DType::F32);
            let b = Pair::<B, 2>::from(numbers(outputs * rank, 4, (outputs as f32).powf(-0.5)), [outputs, rank], DType::F32);
            let g = Pair::<B, 2>::from(numbers(rows * outputs, 5, 0.2), [rows, outputs], dtype);
            let (y, hidden) = B::packed_lora_linear(x.raw(), weight.clone(), a.raw(), b.raw(), 0.5, dropout);
            let weight_cpu = raw(dense.clone());
            let (expected, expected_hidden) =
                ops::lora_linear::reference::<Flex>(x.cpu(), weight_cpu.clone(), a.cpu(), b.cpu(), 0.5, dropout);
            close::<B, 2>(&name("y"), y, expected, row);
            close::<B, 2>(&name("hidden"), hidden.clone(), expected_hidden.clone(), row);
            let saved = LoraSaved::<Flex> {
                x: x.cpu(),
                weight: weight_cpu,
                lora_a: a.cpu(),
                lora_b: b.cpu(),
                hidden: expected_hidden,
                scale: 0.5,
                dropout,
            };
            let expected = ops::lora_linear::reference_backward::<Flex>(saved, g.cpu(), true);
            let saved = || {
                let (x, weight, lora_a, lora_b) = (x.raw(), weight.clone(), a.raw(), b.raw());
                LoraSaved { x, weight, lora_a, lora_b, hidden: hidden.clone(), scale: 0.5, dropout }
            };
            let found = B::packed_lora_linear_backward(saved(), g.raw(), true);
            close::<B, 2>(&name("dx"), found.x.unwrap(), expected.x.unwrap(), row);
            close::<B, 2>(&name("da"), found.lora_a, expected.lora_a.clone(), row);
            close::<B, 2>(&name("db"), found.lora_b, expected.lora_b.clone(), row);
            let alone = B::packed_lora_linear_backward(saved(), g.raw(), false);
            assert!(alone.x.is_none());
            close::<B, 2>(&name("da alone"), alone.lora_a, expected.lora_a, row);
            close::<B, 2>(&name("db alone"), alone.lora_b, expected.lora_b, row);
        }
    }
}

pub fn packed_cross_entropy<B: FusedBackend>(dtype: DType) {
    let [vocabulary, features] = DIMS;
    let row = product_row::<B>(dtype);
    for packed in formats::<B>(dtype) {
        let (weight, dense) = on_device::<B>(&packed, dtype);
        for tokens in [3, 19] {
            let name = |part: &str| format!("{part} of {tokens} tokens, {} {:?}", packed.name(), weight.planes.scales);
            let hidden = random::<B, 2>([tokens, features], 1, dtype);
            let labels: Vec<i32> = (0..tokens as i32).map(|token| token * 7 % vocabulary as i32).collect();
            let data = TensorData::new(labels, [tokens]);
            let labels = || Tensor::<B, 1, Int>::from_data(data.clone(), &Default::default()).into_primitive();
            let on_cpu = Tensor::<Flex, 1, Int>::from_data(data.clone(), &Default::default()).into_primitive();
            let (losses, gradients) =
                ops::linear_cross_entropy::reference_with_gradient::<Flex>(hidden.cpu(), raw(dense.clone()), on_cpu);
            let found = B::packed_linear_cross_entropy(hidden.raw(), weight.clone(), labels());
            close::<B, 1>(&name("losses"), found, losses.clone(), row);
            let (found, found_gradients) =
                B::packed_linear_cross_entropy_with_gradient(hidden.raw(), weight.clone(), labels());
            close::<B, 1>(&name("losses"), found, losses, row);
            close::<B, 2>(&name("gradients"), found_gradients, gradients, row);
        }
    }
}
