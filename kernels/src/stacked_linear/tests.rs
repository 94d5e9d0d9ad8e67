use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;

use super::*;
use crate::flex::matrix::counted;
use crate::linear::linear;
use crate::samples::{close, random, values};

type Train = Autodiff<Flex>;

const INPUTS: usize = 48;
const OUTPUTS: usize = 6;
const CHOSEN: usize = 2;
const TOKENS: usize = 96;

/// Groups of 0, 1, 2, 3 and more rows; the last has none.
fn rows() -> GroupRows {
    [0, 1, 2, 3, 17, 40, TOKENS * CHOSEN - 63, 0].into()
}

/// The same, a product for each group, by operations that have rules of their own.
fn expected(x: &Tensor<Train, 2>, weight: &Tensor<Train, 2>) -> Tensor<Train, 2> {
    let (rows, mut start) = (rows(), 0);
    let parts = rows.iter().enumerate().filter(|(_, count)| **count > 0).map(|(group, count)| {
        let part = linear(x.clone().narrow(0, start, *count), weight.clone().narrow(0, group * OUTPUTS, OUTPUTS));
        start += count;
        part
    });
    Tensor::cat(parts.collect(), 0)
}

#[test]
fn result_and_both_gradients_are_those_of_a_product_each() {
    let (x, weight) = (random::<Flex>([TOKENS * CHOSEN, INPUTS]), random::<Flex>([8 * OUTPUTS, INPUTS]));
    let grad = Tensor::<Train, 2>::from_inner(random([TOKENS * CHOSEN, OUTPUTS]));
    let leaves = || [&x, &weight].map(|leaf| Tensor::<Train, 2>::from_inner(leaf.clone()).require_grad());
    let gradients = |[x, weight]: [Tensor<Train, 2>; 2], y: Tensor<Train, 2>| {
        let found = (y.clone() * grad.clone()).sum().backward();
        [values(y.inner()), values(x.grad(&found).unwrap()), values(weight.grad(&found).unwrap())]
    };
    let [own, other] = [leaves(), leaves()];
    let y = stacked_linear(own[0].clone(), own[1].clone(), rows());
    let reference = expected(&other[0], &other[1]);
    for ((name, found), expected) in
        ["forward", "dx", "dW"].into_iter().zip(gradients(own, y)).zip(gradients(other, reference))
    {
        close(name, &found, &expected);
    }
}

/// The kernel of the CPU against the composed operations, also on parts of tensors.
#[test]
fn the_kernel_of_the_weights_gradient_equals_the_composed_one() {
    let (x, grad) = (random::<Flex>([TOKENS * CHOSEN, 2 * INPUTS]), random::<Flex>([OUTPUTS, TOKENS * CHOSEN]));
    let (x, grad) = (|| raw(x.clone().narrow(1, INPUTS, INPUTS)), || raw(grad.clone().transpose()));
    let found = typed::<Flex, 2>(<Flex as FusedBackend>::stacked_linear_backward_weight(x(), grad(), rows()));
    let expected = typed::<Flex, 2>(reference_backward_weight::<Flex>(x(), grad(), rows()));
    assert_eq!(found.dims(), [8 * OUTPUTS, INPUTS]);
    close("dW", &values(found), &values(expected));
}

/// Every adapter for every token takes `groups / CHOSEN` times as much.
#[test]
fn only_the_chosen_adapters_are_multiplied() {
    // Only a result that reads the weights of groups without rows is not finite.
    let unused = random::<Flex>([OUTPUTS, INPUTS]).mul_scalar(f32::NAN);
    let used = random::<Flex>([6 * OUTPUTS, INPUTS]);
    let weight = || raw(Tensor::cat(vec![unused.clone(), used.clone(), unused.clone()], 0));
    let (x, grad) = (random::<Flex>([TOKENS * CHOSEN, INPUTS]), random::<Flex>([TOKENS * CHOSEN, OUTPUTS]));
    let (x, grad) = (|| raw(x.clone()), || raw(grad.clone()));
    let dense = 2 * TOKENS * 8 * INPUTS * OUTPUTS;
    for (name, (result, flops)) in [
        ("forward", counted(|| <Flex as FusedBackend>::stacked_linear(x(), weight(), rows()))),
        ("dx", counted(|| <Flex as FusedBackend>::stacked_linear_backward_input(grad(), weight(), rows()))),
        ("dW", counted(|| <Flex as FusedBackend>::stacked_linear_backward_weight(x(), grad(), rows()))),
    ] {
        assert!(values(typed::<Flex, 2>(result)).iter().all(|value| value.is_finite()), "{name}");
        let share = flops as f64 / dense as f64;
        let limit = 1.1 * CHOSEN as f64 / 8.0;
        assert!(flops > 0 && share <= limit, "{name}: {flops} of {dense} floating-point operations, {share} > {limit}");
    }
}
