use burn::backend::{Autodiff, Flex};
use burn::tensor::{Tensor, TensorData};

use super::*;
use crate::flex::matrix::counted;
use crate::linear::linear;
use crate::packed::PackedKind;
use crate::samples::{close, random, values};

/// A weight as it is passed, and as floats.
type Pair = (GroupWeight<Tensor<Flex, 2>, PackedTensor<Flex>>, Tensor<Flex, 2>);
type Train = Autodiff<Flex>;

const INPUTS: usize = 64;
const OUTPUTS: usize = 24;
const EXPERTS: usize = 8;
const CHOSEN: usize = 2;
const TOKENS: usize = 96;

/// Groups of 0, 1, 2, 3 and more rows.
fn rows() -> Vec<usize> {
    let all = TOKENS * CHOSEN;
    vec![0, 1, 2, 3, 17, 40, 0, all - 63]
}

/// Weights of each group, every other one packed, and the same as floats.
fn weights() -> Vec<Pair> {
    let weight = |index: usize| {
        let dense = random::<Flex>([OUTPUTS, INPUTS]);
        if index % 2 == 0 {
            return (GroupWeight::Dense(dense.clone()), dense);
        }
        let kind = PackedKind::Nf4 { block: 64, double: false };
        let packed = kind.quantize("w", &dense.into_data(), [OUTPUTS, INPUTS]).unwrap();
        let data = TensorData::new(packed.dequantize(), [OUTPUTS, INPUTS]);
        let packed = PackedTensor::new("w", &packed, &Default::default()).unwrap();
        (GroupWeight::Packed(packed), Tensor::from_data(data, &Default::default()))
    };
    (0..EXPERTS).map(weight).collect()
}

#[test]
fn groups_equal_a_product_each_forward_and_backward() {
    let (x, weights) = (random::<Flex>([TOKENS * CHOSEN, INPUTS]), weights());
    let grad = Tensor::<Train, 2>::from_inner(random([TOKENS * CHOSEN, OUTPUTS]));
    let leaf = || Tensor::<Train, 2>::from_inner(x.clone()).require_grad();
    let group = |(rows, (weight, _)): (usize, &Pair)| Group {
        rows,
        weight: match weight {
            GroupWeight::Dense(weight) => GroupWeight::Dense(Tensor::<Train, 2>::from_inner(weight.clone())),
            GroupWeight::Packed(weight) => {
                GroupWeight::Packed(PackedTensor { planes: weight.planes, words: weight.words.clone() })
            }
        },
    };
    let groups: Vec<TensorGroup<Train>> = rows().into_iter().zip(&weights).map(group).collect();
    let found = leaf();
    let y = grouped_linear(found.clone(), groups);
    let expected = leaf();
    let mut start = 0;
    let mut parts = Vec::new();
    for (count, (_, weight)) in rows().into_iter().zip(&weights).filter(|(count, _)| *count > 0) {
        parts.push(linear(expected.clone().narrow(0, start, count), Tensor::from_inner(weight.clone())));
        start += count;
    }
    let reference = Tensor::cat(parts, 0);
    close("forward", &values(y.clone().inner()), &values(reference.clone().inner()));
    let of = |leaf: &Tensor<Train, 2>, y: Tensor<Train, 2>| {
        let gradients = (y * grad.clone()).sum().backward();
        values(leaf.grad(&gradients).unwrap())
    };
    close("backward", &of(&found, y), &of(&expected, reference));
}

#[test]
fn a_weight_that_trains_gets_its_gradient() {
    let (x, one, two) = (random::<Train>([5, INPUTS]), random::<Train>([3, INPUTS]), random::<Train>([3, INPUTS]));
    let weight = one.require_grad();
    let group = |rows, weight: &Tensor<Train, 2>| Group { rows, weight: GroupWeight::Dense(weight.clone()) };
    let y = grouped_linear(x.clone(), vec![group(2, &weight), group(3, &two)]);
    let found = weight.grad(&y.sum().backward()).unwrap();
    let expected = x.inner().narrow(0, 0, 2).sum_dim(0).repeat_dim(0, 3);
    close("weight", &values(found), &values(expected));
}

/// Every weight for every token, as a dense layer of all experts, takes `EXPERTS / CHOSEN` times as much.
#[test]
fn only_the_chosen_experts_are_multiplied() {
    let x = random::<Flex>([TOKENS * CHOSEN, INPUTS]);
    let grad = random::<Flex>([TOKENS * CHOSEN, OUTPUTS]);
    // Weights that no row chose would poison the result.
    let groups: Vec<RawGroup<Flex>> = rows()
        .into_iter()
        .map(|rows| {
            let weight = random::<Flex>([OUTPUTS, INPUTS]);
            let weight = if rows == 0 { weight.mul_scalar(f32::NAN) } else { weight };
            Group { rows, weight: GroupWeight::Dense(raw(weight)) }
        })
        .collect();
    let dense = 2 * TOKENS * EXPERTS * INPUTS * OUTPUTS;
    for (name, (result, flops)) in [
        ("forward", counted(|| <Flex as FusedBackend>::grouped_linear(raw(x), groups.clone()))),
        ("backward", counted(|| <Flex as FusedBackend>::grouped_linear_backward_input(raw(grad), groups.clone()))),
    ] {
        assert!(values(typed::<Flex, 2>(result)).iter().all(|value| value.is_finite()), "{name}");
        let share = flops as f64 / dense as f64;
        let limit = 1.1 * CHOSEN as f64 / EXPERTS as f64;
        assert!(flops > 0 && share <= limit, "{name}: {flops} of {dense} floating-point operations, {share} > {limit}");
    }
}
