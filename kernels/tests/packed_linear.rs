//! Products with packed weights against those with the same weights dense, forward and backward, every format.
#![allow(clippy::unwrap_used)]

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::packed::{Affine, GgmlType, GgufBlocks, Nf4, Packed, PackedTensor};
use burnish_kernels::tolerance::Tolerance;
use burnish_kernels::{
    Dropout, DropoutKey, FusedBackend, GroupWeight, Unread, backward_from, capped_linear_cross_entropy,
    linear_cross_entropy, lora_linear, packed_capped_linear_cross_entropy, packed_linear, packed_linear_cross_entropy,
    packed_lora_linear, packed_rows, unread_lora_linear,
};
use half::{bf16, f16};

mod numbers;
use numbers::numbers;

type Train = Autodiff<Flex>;

/// Odd outputs, and rows for a task, a block of rows and several.
const DIMS: [usize; 2] = [147, 768];

/// The few rows of decoding, and many.
const ROWS: [usize; 4] = [1, 2, 3, 70];

const DROPOUT: Dropout =
    Dropout { probability: 0.3, key: DropoutKey { seed: 1, step: 2, micro_batch: 3, layer: 4 }, first: 0 };

fn every_format(dims: [usize; 2]) -> Vec<Packed> {
    use GgmlType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let values = numbers(9, dims[0] * dims[1]);
    let f16s: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let bf16s: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    let blocks = |kind| Packed::Gguf(GgufBlocks::quantize("w", &values, dims, kind).unwrap());
    let mut all: Vec<Packed> = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K].map(blocks).into();
    all.extend([false, true].map(|double| Packed::Nf4(Nf4::quantize("w", &values, dims, double).unwrap())));
    all.push(Packed::Affine(Affine::quantize("w", &f16s, dims, 4, 64).unwrap()));
    all.push(Packed::Affine(Affine::quantize("w", &bf16s, dims, 8, 32).unwrap()));
    all
}

fn matrix(seed: u64, [rows, columns]: [usize; 2]) -> Tensor<Train, 2> {
    Tensor::from_data(TensorData::new(numbers(seed, rows * columns), [rows, columns]), &Default::default())
}

fn on_device<B: FusedBackend>(packed: &Packed) -> (PackedTensor<B>, Tensor<B, 2>) {
    let device = Default::default();
    let dense = Tensor::from_data(TensorData::new(packed.dequantize(), packed.dims()), &device);
    (PackedTensor::new("w", packed, &device).unwrap(), dense)
}

fn close<const D: usize>(name: &str, found: Tensor<Flex, D>, expected: Tensor<Flex, D>) {
    let [found, expected] = [found, expected].map(|tensor| tensor.into_data().to_vec::<f32>().unwrap());
    Tolerance::of(DType::F32).check(name, &found, &expected).unwrap();
}

#[test]
fn an_unread_layer_has_the_gradients_of_the_layer_to_the_bit() {
    let packed = Packed::Nf4(Nf4::quantize("w", &numbers(9, DIMS[0] * DIMS[1]), DIMS, false).unwrap());
    let (packed, dense) = on_device::<Train>(&packed);
    let [x, a, b] =
        [(1, [70, DIMS[1]]), (2, [4, DIMS[1]]), (3, [DIMS[0], 4])].map(|(seed, dims)| matrix(seed, dims).require_grad());
    let gradient = matrix(4, [70, DIMS[0]]).inner();
    let of = |y: Tensor<Train, 2>| {
        assert_eq!(y.dims(), [70, DIMS[0]]);
        let gradients = backward_from(y, gradient.clone());
        [&x, &a, &b].map(|leaf| leaf.grad(&gradients).unwrap().into_data())
    };
    for dropout in [None, Some(DROPOUT)] {
        let unread = |weight| {
            let [x, lora_a, lora_b] = [&x, &a, &b].map(Clone::clone);
            unread_lora_linear(Unread { x, weight, lora_a, lora_b, scale: 0.3, dropout })
        };
        let layer = lora_linear(x.clone(), dense.clone(), a.clone(), b.clone(), 0.3, dropout);
        assert_eq!(of(layer), of(unread(GroupWeight::Dense(dense.clone()))));
        let layer = packed_lora_linear(x.clone(), &packed, a.clone(), b.clone(), 0.3, dropout);
        assert_eq!(of(layer), of(unread(GroupWeight::Packed(packed.clone()))));
    }
}

#[test]
fn products_and_gradients_are_those_of_the_dense_weight() {
    for packed in every_format(DIMS) {
        let (weight, dense) = on_device::<Train>(&packed);
        for rows in ROWS {
            let name = format!("{} of {rows} rows", packed.name());
            let gradients = |y: Tensor<Train, 2>, x: &Tensor<Train, 2>| {
                let factors = matrix(22, y.dims());
                (y.clone().inner(), x.grad(&(y * factors).sum().backward()).unwrap())
            };
            let x = matrix(21, [rows, DIMS[1]]).require_grad();
            let (y, dx) = gradients(packed_linear(x.clone(), &weight), &x);
            let x = matrix(21, [rows, DIMS[1]]).require_grad();
            let (expected, expected_dx) = gradients(x.clone().matmul(dense.clone().transpose()), &x);
            close(&name, y, expected);
            close(&format!("{name}, gradient"), dx, expected_dx);
        }
    }
}

#[test]
fn any_backend_takes_the_product_by_way_of_a_dense_matrix() {
    for packed in every_format([33, 256]) {
        let (weight, dense) = on_device::<Flex>(&packed);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let x = matrix(21, [5, 256]).inner().cast(dtype);
            let raw = |tensor: Tensor<Flex, 2>| tensor.into_primitive().tensor();
            let dense = raw(dense.clone().cast(dtype));
            let tensor = |primitive| Tensor::<Flex, 2>::from_primitive(burn::tensor::TensorPrimitive::Float(primitive));
            let values = |primitive| tensor(primitive).cast(DType::F32).into_data();
            let found = burnish_kernels::linear::packed::reference::<Flex>(raw(x.clone()), weight.clone());
            assert_eq!(values(found), values(Flex::dense_linear(raw(x), dense.clone())), "{}", packed.name());
            let grad = matrix(23, [5, 33]).inner().cast(dtype);
            let found = burnish_kernels::linear::packed::reference_backward_input::<Flex>(raw(grad.clone()), weight.clone());
            assert_eq!(values(found), values(Flex::linear_backward_input(raw(grad), dense)), "{}", packed.name());
        }
    }
}

#[test]
fn rows_are_those_of_the_dense_weight_to_the_bit() {
    for packed in every_format(DIMS) {
        let (weight, dense) = on_device::<Train>(&packed);
        let rows = Tensor::<Train, 1, Int>::from_data([3, 146, 0, 3], &Default::default());
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let found = packed_rows(&weight, rows.clone(), dtype);
            assert_eq!(found.dtype(), dtype);
            let expected = dense.clone().cast(dtype).select(0, rows.clone());
            assert_eq!(found.into_data(), expected.into_data(), "{}", packed.name());
        }
    }
}

#[test]
fn an_adapter_on_a_packed_weight_trains_as_on_the_dense_one() {
    for packed in every_format(DIMS) {
        let (weight, dense) = on_device::<Train>(&packed);
        for dropout in [None, Some(DROPOUT)] {
            let leaves = || [[9, DIMS[1]], [4, DIMS[1]], [DIMS[0], 4]].map(|dims| matrix(31, dims).require_grad());
            let gradients = |y: Tensor<Train, 2>, leaves: &[Tensor<Train, 2>; 3]| {
                let found = (y.clone() * matrix(32, y.dims())).sum().backward();
                [vec![y.inner()], leaves.iter().map(|leaf| leaf.grad(&found).unwrap()).collect()].concat()
            };
            let own = leaves();
            let [x, a, b] = own.clone();
            let found = gradients(packed_lora_linear(x, &weight, a, b, 2.0, dropout), &own);
            let own = leaves();
            let [x, a, b] = own.clone();
            let expected = gradients(lora_linear(x, dense.clone(), a, b, 2.0, dropout), &own);
            for (part, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                close(&format!("{}, part {part}", packed.name()), found, expected);
            }
        }
    }
}

#[test]
fn the_loss_of_a_packed_head_is_that_of_the_dense_one() {
    for packed in every_format(DIMS) {
        let (weight, dense) = on_device::<Train>(&packed);
        let labels = || Tensor::<Train, 1, Int>::from_data([3, 146, 0, 3, 77], &Default::default());
        let gradients = |losses: Tensor<Train, 1>, hidden: &Tensor<Train, 2>| {
            let factors = Tensor::from_data([0.5f32, 0.0, 2.0, 1.0, -1.0], &Default::default());
            (losses.clone().inner(), hidden.grad(&(losses * factors).sum().backward()).unwrap())
        };
        let hidden = matrix(41, [5, DIMS[1]]).require_grad();
        let (losses, found) = gradients(packed_linear_cross_entropy(hidden.clone(), &weight, labels()), &hidden);
        let hidden = matrix(41, [5, DIMS[1]]).require_grad();
        let (expected_losses, expected) = gradients(linear_cross_entropy(hidden.clone(), dense.clone(), labels()), &hidden);
        close(packed.name(), losses, expected_losses.clone());
        close(packed.name(), found, expected);
        // The same with a cap on the logits.
        let hidden = matrix(41, [5, DIMS[1]]).require_grad();
        let capped = packed_capped_linear_cross_entropy(hidden.clone(), &weight, labels(), 5.0);
        let (losses_of_capped, found) = gradients(capped, &hidden);
        let hidden = matrix(41, [5, DIMS[1]]).require_grad();
        let (expected_of_capped, expected) =
            gradients(capped_linear_cross_entropy(hidden.clone(), dense, labels(), 5.0), &hidden);
        close(packed.name(), losses_of_capped, expected_of_capped);
        close(packed.name(), found, expected);
        // On the inner backend, as evaluation takes it.
        let (weight, _) = on_device::<Flex>(&packed);
        let losses = packed_linear_cross_entropy(matrix(41, [5, DIMS[1]]).inner(), &weight, labels().inner());
        close(packed.name(), losses, expected_losses);
    }
}
