//! burn's own operations through the emulator: an attention block forward and backward against Flex, and the stock kernels
//! that it launches.
#![allow(clippy::unwrap_used)]

use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Bool, Tensor, TensorData, activation};
use burnish_metal::emulator::{MetalCpu, take_reports};

const BATCH: usize = 2;
const LENGTH: usize = 9;
const WIDTH: usize = 32;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn read<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data = tensor.try_into_data().unwrap_or_else(|error| panic!("{error:?}"));
    data.to_vec().unwrap()
}

/// Output and the gradients of three projections of a causal attention block with a norm, a silu and a residual.
fn block<B: AutodiffBackend>() -> Vec<Vec<f32>> {
    let device = Default::default();
    let input = TensorData::new(numbers(BATCH * LENGTH * WIDTH, 1), [BATCH, LENGTH, WIDTH]);
    let input = Tensor::<B, 3>::from_data(input, &device);
    let weights = [2, 3, 4].map(|seed| {
        let data = TensorData::new(numbers(WIDTH * WIDTH, seed), [WIDTH, WIDTH]);
        Tensor::<B, 2>::from_data(data, &device).mul_scalar(0.2).require_grad()
    });
    let [query, key, value] = weights.clone().map(|weight| input.clone().matmul(weight.unsqueeze::<3>()));
    let scores = query.matmul(key.swap_dims(1, 2)).div_scalar((WIDTH as f32).sqrt());
    let mask = Tensor::<B, 2, Bool>::tril_mask([LENGTH, LENGTH], 0, &device).unsqueeze::<3>();
    let mixed = activation::softmax(scores.mask_fill(mask, -1e9), 2).matmul(value);
    let root = mixed.clone().powf_scalar(2.0).mean_dim(2).add_scalar(1e-5).sqrt();
    let output = activation::silu(mixed / root) + input;
    let gradients = output.clone().powf_scalar(2.0).mean().backward();
    let mut found = vec![read(output)];
    found.extend(weights.iter().map(|weight| read(weight.grad(&gradients).unwrap())));
    found
}

#[test]
fn an_attention_block_equals_flex_forward_and_backward() {
    let expected = block::<Autodiff<Flex>>();
    take_reports();
    let found = block::<Autodiff<MetalCpu>>();
    let reports = take_reports();
    for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0f32, f32::max);
        let difference = largest(&mut found.iter().zip(expected).map(|(a, b)| (a - b).abs()));
        println!(
            "part {part}: largest difference {difference:e}, largest value {:e}",
            largest(&mut expected.iter().map(|x| x.abs()))
        );
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let allowed = 1e-4 * expected.abs() + 5e-5;
            assert!((found - expected).abs() <= allowed, "part {part}, element {at}: expected {expected}, got {found}");
        }
    }
    let launches: u64 = reports.values().map(|report| report.launches).sum();
    assert!(launches > 30 && reports.values().any(|report| report.counters.arithmetic > 0), "{launches} launches");
    // Every kernel in this list has passed both modes of clang and the lint: otherwise it would not have been launched.
    for (name, report) in &reports {
        println!("{:4} {name} {:?}", report.launches, report.repairs);
    }
}
