//! Matrix products, and layers with adapters.

use burn::backend::Flex;
use burn::tensor::DType;
use burnish_kernels::glu::Activation;
use burnish_kernels::lora_linear::LoraSaved;
use burnish_kernels::{self as ops, Dropout, DropoutKey, FusedBackend};

use crate::sample::{Pair, close, in_turn, numbers, product_row, random, typed};

/// Rows, inputs and outputs: one row, odd ones, whole tiles, and more than a tile.
const SIZES: [[usize; 3]; 6] = [[1, 3, 5], [2, 77, 131], [23, 77, 31], [64, 64, 64], [130, 72, 200], [70, 1032, 24]];

/// Scaled so that sums of `terms` terms have size 1.
fn scaled<B: FusedBackend>(shape: [usize; 2], seed: u32, dtype: DType, terms: usize) -> Pair<B, 2> {
    Pair::from(numbers(shape[0] * shape[1], seed, (terms as f32).powf(-0.5)), shape, dtype)
}

pub fn linear<B: FusedBackend>(dtype: DType) {
    let sizes = SIZES.into_iter().enumerate().filter(|(case, _)| in_turn::<B>(*case, dtype));
    linear_of::<B>(dtype, &sizes.map(|(_, sizes)| sizes).collect::<Vec<_>>());
}

/// One to three weights of one input, of different heights, and more rows than a launch takes.
pub fn few_rows<B: FusedBackend>(dtype: DType) {
    let cases: [(usize, usize, &[usize]); 6] = [
        (1, 3, &[5]),
        (1, 64, &[64, 16, 16]),
        (2, 77, &[131, 3]),
        (5, 1032, &[40, 8200]),
        (8, 72, &[1, 2, 33]),
        (9, 64, &[24, 24]),
    ];
    for (_, (rows, inputs, outputs)) in cases.into_iter().enumerate().filter(|(case, _)| in_turn::<B>(*case, dtype)) {
        let x = random::<B, 2>([rows, inputs], 1, dtype);
        let weights: Vec<_> =
            outputs.iter().zip(2..).map(|(outputs, seed)| scaled::<B>([*outputs, inputs], seed, dtype, inputs)).collect();
        let found = B::dense_linears(x.raw(), weights.iter().map(Pair::raw).collect());
        let expected = ops::linear::references::<Flex>(x.cpu(), weights.iter().map(Pair::cpu).collect());
        assert_eq!(found.len(), outputs.len());
        let pair = [2, 9].map(|seed| scaled::<B>([outputs[0], inputs], seed, dtype, inputs));
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (device, cpu) = (pair.each_ref().map(Pair::raw), pair.each_ref().map(Pair::cpu));
            let expected = ops::linear::reference_glu::<Flex>(x.cpu(), cpu, activation);
            let name = format!("{activation:?} of {rows} x {inputs} x {}", outputs[0]);
            close::<B, 2>(&name, B::glu_linear(x.raw(), device, activation), expected, product_row::<B>(dtype));
        }
        for ((found, expected), outputs) in found.into_iter().zip(expected).zip(outputs) {
            close::<B, 2>(&format!("{rows} x {inputs} x {outputs}"), found, expected, product_row::<B>(dtype));
        }
    }
}

/// Large enough for the widest tiles, whole and ragged, several for each processor of a device with up to 150.
pub fn wide_linear<B: FusedBackend>(dtype: DType) {
    wide_linear_of::<B>(dtype, [2570, 1032, 4104]);
}

/// The same for a device with one processor.
pub fn wide_linear_of<B: FusedBackend>(dtype: DType, sizes: [usize; 3]) {
    linear_of::<B>(dtype, &[sizes]);
    lora_linear_of::<B>(dtype, [(sizes, 16)]);
}

fn linear_of<B: FusedBackend>(dtype: DType, sizes: &[[usize; 3]]) {
    for &[rows, inputs, outputs] in sizes {
        let (x, g) = (random::<B, 2>([rows, inputs], 1, dtype), random::<B, 2>([rows, outputs], 2, dtype));
        let w = scaled::<B>([outputs, inputs], 3, dtype, inputs.max(outputs));
        let name = |part: &str| format!("{part} of {rows} x {inputs} x {outputs}");
        let expected = ops::linear::reference::<Flex>(x.cpu(), w.cpu());
        close::<B, 2>(&name("linear"), B::dense_linear(x.raw(), w.raw()), expected, product_row::<B>(dtype));
        let expected = ops::linear::reference_backward_input::<Flex>(g.cpu(), w.cpu());
        close::<B, 2>(&name("linear dx"), B::linear_backward_input(g.raw(), w.raw()), expected, product_row::<B>(dtype));
        let g = scaled::<B>([rows, outputs], 2, dtype, rows);
        let expected = ops::linear::reference_backward_weight::<Flex>(x.cpu(), g.cpu());
        close::<B, 2>(&name("linear dw"), B::linear_backward_weight(x.raw(), g.raw()), expected, product_row::<B>(dtype));
    }
}

pub fn lora_linear<B: FusedBackend>(dtype: DType) {
    let cases = SIZES.into_iter().zip([1, 3, 4, 16, 8, 64]).enumerate().filter(|(case, _)| in_turn::<B>(*case, dtype));
    lora_linear_of::<B>(dtype, cases.map(|(_, case)| case));
}

pub fn lora_linear_of<B: FusedBackend>(dtype: DType, sizes: impl IntoIterator<Item = ([usize; 3], usize)>) {
    let dropout = Dropout { probability: 0.3, key: DropoutKey { seed: 1, step: 2, micro_batch: 3, layer: 4 }, first: 0 };
    let sizes = sizes.into_iter().flat_map(|size| [(size, None), (size, Some(dropout))]);
    for (([rows, inputs, outputs], rank), dropout) in sizes {
        let x = random::<B, 2>([rows, inputs], 1, dtype);
        let w = scaled::<B>([outputs, inputs], 2, dtype, inputs.max(outputs));
        let a = scaled::<B>([rank, inputs], 3, DType::F32, inputs);
        let b = scaled::<B>([outputs, rank], 4, DType::F32, outputs.max(rank));
        let g = scaled::<B>([rows, outputs], 5, dtype, rows);
        let name = |part: &str| format!("{part} of {rows} x {inputs} x {outputs}, rank {rank}, {dropout:?}");
        let (y, hidden) = B::lora_linear(x.raw(), w.raw(), a.raw(), b.raw(), 0.5, dropout);
        let (expected, expected_hidden) =
            ops::lora_linear::reference::<Flex>(x.cpu(), w.cpu(), a.cpu(), b.cpu(), 0.5, dropout);
        close::<B, 2>(&name("lora y"), y, expected, product_row::<B>(dtype));
        close::<B, 2>(&name("lora hidden"), hidden.clone(), expected_hidden.clone(), product_row::<B>(dtype));
        let alone = typed::<B, 2>(B::lora_hidden(x.raw(), a.raw(), 0.5, dropout));
        assert_eq!(alone.to_data(), typed::<B, 2>(hidden.clone()).to_data(), "{}", name("lora hidden alone"));
        let (weight, lora_a, lora_b) = (w.raw(), a.raw(), b.raw());
        let saved = LoraSaved::<B> { x: x.raw(), weight, lora_a, lora_b, hidden, scale: 0.5, dropout };
        let found = B::lora_linear_backward(saved, g.raw(), true);
        let saved = LoraSaved::<Flex> {
            x: x.cpu(),
            weight: w.cpu(),
            lora_a: a.cpu(),
            lora_b: b.cpu(),
            hidden: expected_hidden,
            scale: 0.5,
            dropout,
        };
        let expected = ops::lora_linear::reference_backward::<Flex>(saved, g.cpu(), true);
        close::<B, 2>(&name("lora dx"), found.x.unwrap(), expected.x.unwrap(), product_row::<B>(dtype));
        close::<B, 2>(&name("lora da"), found.lora_a, expected.lora_a, product_row::<B>(dtype));
        close::<B, 2>(&name("lora db"), found.lora_b, expected.lora_b, product_row::<B>(dtype));
    }
}
