//! Products that dequantise tiles of a packed weight, whatever route the plan would take, and adapters on packed weights.

use burn::backend::Flex;
use burn::tensor::{DType, Tensor, TensorData};
use burn_cubecl::{BoolElement, CubeBackend, FloatElement, IntElement};
use burnish_kernels::lora_linear::LoraSaved;
use burnish_kernels::packed::{Packed, PackedTensor};
use burnish_kernels::{
    self as ops, BackendOn, Dropout, DropoutKey, FusedBackend, KernelRuntime, PackedRoute, multiply_packed,
};

use crate::packed::every_format;
use crate::sample::{Pair, close, in_turn, numbers, product_row, random, raw};

/// A backend, and the runtime that its tensors are on.
pub trait OnRuntime: BackendOn<Self::Runtime> {
    type Runtime: KernelRuntime;
}

impl<R: KernelRuntime, F: FloatElement, I: IntElement, T: BoolElement> OnRuntime for CubeBackend<R, F, I, T> {
    type Runtime = R;
}

/// The weight, and the same dense on the CPU, rounded to a dtype.
fn both<B: FusedBackend>(packed: &Packed, dtype: DType) -> (PackedTensor<B>, Tensor<Flex, 2>) {
    let dense = TensorData::new(packed.dequantize(), packed.dims()).convert_dtype(dtype).convert_dtype(DType::F32);
    (PackedTensor::new("w", packed, &Default::default()).unwrap(), Tensor::from_data(dense, &Default::default()))
}

// A test for each size, with every fifth format and its neighbour: a GPU's compiler takes minutes for all in one process.

pub fn packed_tiles_of_a_row<B: OnRuntime>(dtype: DType) {
    packed_tiles_of::<B>(dtype, [1, 256, 7], two_of_five(0));
}

pub fn packed_tiles_of_odd_sizes<B: OnRuntime>(dtype: DType) {
    packed_tiles_of::<B>(dtype, [3, 768, 131], two_of_five(1));
}

pub fn packed_tiles_of_some_rows<B: OnRuntime>(dtype: DType) {
    packed_tiles_of::<B>(dtype, [23, 512, 40], two_of_five(2));
}

pub fn packed_tiles_that_are_whole<B: OnRuntime>(dtype: DType) {
    packed_tiles_of::<B>(dtype, [64, 256, 64], two_of_five(3));
}

pub fn packed_tiles_several_deep_and_wide<B: OnRuntime>(dtype: DType) {
    packed_tiles_of::<B>(dtype, [130, 1280, 200], two_of_five(4));
}

fn two_of_five(number: usize) -> impl Fn(usize) -> bool {
    move |format| (format + number) % 5 < 2
}

/// Rows, inputs and outputs, in the formats whose numbers are chosen.
pub fn packed_tiles_of<B: OnRuntime>(dtype: DType, [rows, inputs, outputs]: [usize; 3], chosen: impl Fn(usize) -> bool) {
    let formats = every_format([outputs, inputs]).into_iter().enumerate();
    for (_, packed) in formats.filter(|(number, _)| chosen(*number) && in_turn::<B>(*number, dtype)) {
        let (weight, dense) = both::<B>(&packed, dtype);
        let (planes, words) = (weight.planes, &weight.words);
        let name = |part: &str| format!("{part} of {rows} x {inputs} x {outputs}, {} {:?}", packed.name(), planes.scales);
        let x = random::<B, 2>([rows, inputs], 1, dtype);
        let product = |a, transposed| multiply_packed(a, planes, words.clone(), transposed, PackedRoute::Tiles);
        let Some(y) = product(x.raw(), true) else {
            assert!(dtype == DType::F32 && product_row::<B>(dtype) != dtype, "{}: no route", name("y"));
            return;
        };
        let expected = ops::linear::reference::<Flex>(x.cpu(), raw(dense.clone()));
        close::<B, 2>(&name("y"), y, expected, product_row::<B>(dtype));
        let g = Pair::<B, 2>::from(numbers(rows * outputs, 2, 0.5), [rows, outputs], dtype);
        let expected = ops::linear::reference_backward_input::<Flex>(g.cpu(), raw(dense));
        close::<B, 2>(&name("dx"), product(g.raw(), false).unwrap(), expected, product_row::<B>(dtype));
    }
}

/// One format of each kind of scale and width that an adapter's last step may follow.
pub fn packed_adapters<B: OnRuntime>(dtype: DType) {
    let dropout = Dropout { probability: 0.3, first: 0, key: DropoutKey { seed: 1, step: 2, micro_batch: 3, layer: 4 } };
    for (number, packed) in
        every_format([131, 512]).into_iter().enumerate().filter(|(number, _)| in_turn::<B>(*number, dtype))
    {
        let ([outputs, inputs], rank) = (packed.dims(), [8, 4, 16, 3][number % 4]);
        let dropout = (number % 3 == 1).then_some(dropout);
        for rows in [3, 70] {
            let (weight, dense) = both::<B>(&packed, dtype);
            let scaled = |shape: [usize; 2], seed, terms: usize, dtype| {
                Pair::<B, 2>::from(numbers(shape[0] * shape[1], seed, (terms as f32).powf(-0.5)), shape, dtype)
            };
            let x = random::<B, 2>([rows, inputs], 1, dtype);
            let a = scaled([rank, inputs], 3, inputs, DType::F32);
            let b = scaled([outputs, rank], 4, outputs.max(rank), DType::F32);
            let g = scaled([rows, outputs], 5, rows, dtype);
            let name = |part: &str| format!("{part} of {rows} rows, rank {rank}, {dropout:?}, {}", packed.name());
            let (y, hidden) = B::packed_lora_linear(x.raw(), weight.clone(), a.raw(), b.raw(), 0.5, dropout);
            let w = raw(dense);
            let (expected, expected_hidden) =
                ops::lora_linear::reference::<Flex>(x.cpu(), w.clone(), a.cpu(), b.cpu(), 0.5, dropout);
            close::<B, 2>(&name("y"), y, expected, product_row::<B>(dtype));
            close::<B, 2>(&name("hidden"), hidden.clone(), expected_hidden.clone(), product_row::<B>(dtype));
            let (lora_a, lora_b) = (a.raw(), b.raw());
            let saved = LoraSaved { x: x.raw(), weight, lora_a, lora_b, hidden, scale: 0.5, dropout };
            let found = B::packed_lora_linear_backward(saved, g.raw(), true);
            let (lora_a, lora_b, hidden) = (a.cpu(), b.cpu(), expected_hidden);
            let saved = LoraSaved::<Flex> { x: x.cpu(), weight: w, lora_a, lora_b, hidden, scale: 0.5, dropout };
            let expected = ops::lora_linear::reference_backward::<Flex>(saved, g.cpu(), true);
            close::<B, 2>(&name("dx"), found.x.unwrap(), expected.x.unwrap(), product_row::<B>(dtype));
            close::<B, 2>(&name("da"), found.lora_a, expected.lora_a, product_row::<B>(dtype));
            close::<B, 2>(&name("db"), found.lora_b, expected.lora_b, product_row::<B>(dtype));
        }
    }
}
