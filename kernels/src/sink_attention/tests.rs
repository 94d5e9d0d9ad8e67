use burn::backend::{Autodiff, Flex};
use burn::tensor::{Distribution, TensorData};

use super::*;
use crate::tolerance::Tolerance;

type Train = Autodiff<Flex>;

const OPTIONS: AttentionOptions = AttentionOptions { scale: 0.4, sliding_window: Some(5), softcap: None };
const SINKS: [f32; 4] = [-1.5, 0.3, 2.0, 9.0];

fn random<B: FusedBackend>(shape: [usize; 4]) -> Tensor<B, 4> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn values<B: FusedBackend>(tensor: FloatTensor<B>) -> Vec<f32> {
    typed::<B, 4>(tensor).into_data().to_vec().unwrap()
}

fn close(name: &str, found: &[f32], expected: &[f32]) {
    Tolerance::of(DType::F32).check(name, found, expected).unwrap();
}

/// Two rows of 70 tokens, the second with two segments; four query heads on two key-value heads.
fn inputs() -> SinkInputs<Flex> {
    let ids: Vec<i32> = (0..140).map(|at| if at < 110 { 1 } else { 2 }).collect();
    SinkInputs {
        query: raw(random::<Flex>([2, 70, 4, 8])),
        key: raw(random::<Flex>([2, 70, 2, 8])),
        value: raw(random::<Flex>([2, 70, 2, 8])),
        segments: Some(
            Tensor::<Flex, 2, Int>::from_data(TensorData::new(ids, [2, 70]), &Default::default()).into_primitive(),
        ),
        sinks: raw(Tensor::<Flex, 1>::from_floats(SINKS, &Default::default())),
    }
}

#[test]
fn the_cpu_kernel_equals_the_composed_operation_forward_and_backward() {
    let inputs = inputs();
    let expected = values::<Flex>(reference::<Flex>(inputs.clone(), OPTIONS));
    close("forward", &values::<Flex>(flex::forward(inputs.clone(), OPTIONS)), &expected);
    let grad = raw(random::<Flex>([2, 70, 4, 8]));
    let expected = reference_backward::<Flex>(inputs.clone(), grad.clone(), OPTIONS);
    let found = flex::backward(inputs, None, grad, OPTIONS);
    for (name, (found, expected)) in ["query", "key", "value"].iter().zip(found.into_iter().zip(expected)) {
        close(name, &values::<Flex>(found), &values::<Flex>(expected));
    }
}

/// The composed forward, recorded operation by operation.
#[test]
fn the_composed_gradients_are_those_of_autodiff() {
    let own = inputs();
    let leaf = |tensor: &FloatTensor<Flex>| Tensor::<Train, 4>::from_inner(typed(tensor.clone())).require_grad();
    let leaves = [leaf(&own.query), leaf(&own.key), leaf(&own.value)];
    let [query, key, value] = leaves.each_ref().map(|leaf| raw(leaf.clone()));
    let sinks = raw(Tensor::<Train, 1>::from_floats(SINKS, &Default::default()));
    let y = reference::<Train>(SinkInputs { query, key, value, segments: own.segments.clone(), sinks }, OPTIONS);
    let grad = random::<Flex>([2, 70, 4, 8]);
    let gradients = (typed::<Train, 4>(y) * Tensor::from_inner(grad.clone())).sum().backward();
    let found = reference_backward::<Flex>(own, raw(grad), OPTIONS);
    for (leaf, found) in leaves.iter().zip(found) {
        close("gradient", &values::<Flex>(found), &leaf.grad(&gradients).unwrap().into_data().to_vec::<f32>().unwrap());
    }
}

#[test]
fn results_without_sinks_are_scaled_to_those_with_them() {
    let own = inputs();
    let (keys, heads) = (70, 4);
    // Scores of zero: each query's sum counts the keys that it sees.
    let zeros = Tensor::<Flex, 4>::zeros([2, keys, heads, 8], &Default::default());
    let own = SinkInputs { query: raw(zeros), segments: None, ..own };
    let without = AttentionOptions { sliding_window: None, ..OPTIONS };
    let output = Flex::segment_attention(own.query.clone(), own.key.clone(), own.value.clone(), None, without);
    let sums: Vec<f32> = (0..2 * heads * keys).map(|at| ((at % keys + 1) as f32).ln()).collect();
    let log_sum_exp = raw(Tensor::<Flex, 3>::from_data(TensorData::new(sums, [2, heads, keys]), &Default::default()));
    let scaled = with_sinks::<Flex>(Statistics { output, log_sum_exp }, own.sinks.clone());
    let expected = values::<Flex>(reference::<Flex>(own, without));
    close("output", &values::<Flex>(scaled.output), &expected);
    let sums: Vec<f32> = typed::<Flex, 3>(scaled.log_sum_exp).into_data().to_vec().unwrap();
    let expected: Vec<f32> =
        (0..2 * heads * keys).map(|at| ((at % keys + 1) as f32 + SINKS[at / keys % heads].exp()).ln()).collect();
    close("sums", &sums, &expected);
}
