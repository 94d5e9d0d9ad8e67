//! Products with weights.

use burn::tensor::Tensor;
use burnish_kernels::lora_linear::LoraSaved;
use burnish_kernels::packed::PackedTensor;
use burnish_kernels::{self as kernels, FusedBackend};

use super::launch::{Action, raw};
use crate::entry::product;
use crate::setup::{Setup, in_turns};
use crate::work::Product;

/// A product's inputs: x, W, dy.
type Inputs<B> = (Tensor<B, 2>, Tensor<B, 2>, Tensor<B, 2>);

fn inputs<B: FusedBackend>(setup: &Setup<B>, product: Product) -> Vec<Inputs<B>> {
    let Product { rows, outputs, inputs } = product;
    let elements = rows * inputs + outputs * inputs + rows * outputs;
    setup.sets(elements, || (setup.random([rows, inputs]), setup.random([outputs, inputs]), setup.random([rows, outputs])))
}

/// burn's `x · Wᵀ`.
fn burn_forward<B: FusedBackend>(x: &Tensor<B, 2>, weight: &Tensor<B, 2>) {
    drop(B::float_matmul(raw(x), B::float_transpose(raw(weight))));
}

pub(super) fn linear<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    let shapes = setup.sizes.linears.iter().map(|shape| product(&setup.sizes, shape));
    let both = |product: Product| {
        let (sets, flops) = (inputs(setup, product), product.flops());
        [
            Action::new(in_turns(sets.clone(), |(x, w, _)| drop(B::dense_linear(raw(x), raw(w)))))
                .matmul(flops, in_turns(sets.clone(), |(x, w, _)| burn_forward::<B>(x, w))),
            Action::new(in_turns(sets.clone(), |(_, w, dy)| drop(B::linear_backward_input(raw(dy), raw(w)))))
                .matmul(flops, in_turns(sets, |(_, w, dy)| drop(B::float_matmul(raw(dy), raw(w))))),
        ]
    };
    shapes.chain([setup.sizes.head_product()]).flat_map(both).collect()
}

pub(super) fn lora_linear<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    const SCALE: f64 = 2.0;
    let rank = setup.sizes.rank;
    let both = |product: Product| {
        let (sets, flops) = (inputs(setup, product), product.flops());
        let a: Tensor<B, 2> = setup.random_f32([rank, product.inputs]);
        let b: Tensor<B, 2> = setup.random_f32([product.outputs, rank]);
        let hidden: Tensor<B, 2> = setup.random([product.rows, rank]);
        let factors = || (a.clone(), b.clone());
        let ((a1, b1), (a2, b2)) = (factors(), factors());
        let forward = Action::new(in_turns(sets.clone(), move |(x, w, _)| {
            drop(B::lora_linear(raw(x), raw(w), raw(&a1), raw(&b1), SCALE, None));
        }))
        .composed(in_turns(sets.clone(), move |(x, w, _)| {
            drop(kernels::lora_linear::reference::<B>(raw(x), raw(w), raw(&a2), raw(&b2), SCALE, None));
        }))
        .matmul(flops, in_turns(sets.clone(), |(x, w, _)| burn_forward::<B>(x, w)));
        let saved = move |x: &Tensor<B, 2>, weight: &Tensor<B, 2>| LoraSaved::<B> {
            x: raw(x),
            weight: raw(weight),
            lora_a: raw(&a),
            lora_b: raw(&b),
            hidden: raw(&hidden),
            scale: SCALE,
            dropout: None,
        };
        let same = saved.clone();
        let backward = Action::new(in_turns(sets.clone(), move |(x, w, dy)| {
            drop(B::lora_linear_backward(saved(x, w), raw(dy), true));
        }))
        .composed(in_turns(sets.clone(), move |(x, w, dy)| {
            drop(kernels::lora_linear::reference_backward::<B>(same(x, w), raw(dy), true));
        }))
        .matmul(flops, in_turns(sets, |(_, w, dy)| drop(B::float_matmul(raw(dy), raw(w)))));
        [forward, backward]
    };
    setup.sizes.linears.iter().map(|shape| product(&setup.sizes, shape)).flat_map(both).collect()
}

/// Inputs of a product, and a packed weight.
type PackedInputs<B> = (Inputs<B>, PackedTensor<B>);

/// Forward and backward of all tokens, and the forward of one.
pub(super) fn packed_linear<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    let three = |many: Product| {
        let one = Product { rows: 1, ..many };
        let [sets, single] = [many, one].map(|product| {
            inputs(setup, product).into_iter().map(|inputs| (inputs, setup.nf4([product.outputs, product.inputs]))).collect()
        });
        let (sets, single): (Vec<PackedInputs<B>>, Vec<_>) = (sets, single);
        let forward = |sets: Vec<PackedInputs<B>>, flops| {
            Action::new(in_turns(sets.clone(), |((x, ..), w)| drop(B::packed_linear(raw(x), w.clone()))))
                .matmul(flops, in_turns(sets, |((x, w, _), _)| burn_forward::<B>(x, w)))
        };
        let backward = Action::new(in_turns(sets.clone(), |((.., dy), w)| {
            drop(B::packed_linear_backward_input(raw(dy), w.clone()));
        }))
        .matmul(many.flops(), in_turns(sets.clone(), |((_, w, dy), _)| drop(B::float_matmul(raw(dy), raw(w)))));
        [forward(sets, many.flops()), backward, forward(single, one.flops())]
    };
    setup.sizes.packed_linears().map(|shape| product(&setup.sizes, shape)).flat_map(three).collect()
}

pub(super) fn linear_cross_entropy<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    let sizes = &setup.sizes;
    let (tokens, head) = (sizes.tokens(), sizes.head_product());
    let hidden: Tensor<B, 2> = setup.random([tokens, sizes.hidden]);
    let weight: Tensor<B, 2> = setup.random([sizes.vocabulary, sizes.hidden]);
    let labels = setup.integers(tokens, sizes.vocabulary);
    // burn's products are measured over some rows: the logits of all would not fit.
    let some = hidden.clone().narrow(0, 0, head.rows);
    let gradient: Tensor<B, 2> = setup.random([head.rows, head.outputs]);
    let (h, w, l) = (hidden.clone(), weight.clone(), labels.clone());
    let run = move || drop(B::linear_cross_entropy_with_gradient(raw(&h), raw(&w), l.clone().into_primitive()));
    let (h, w) = (hidden, weight.clone());
    let composed = move || {
        drop(kernels::linear_cross_entropy::reference_with_gradient::<B>(raw(&h), raw(&w), labels.clone().into_primitive()));
    };
    let matmul = move || {
        burn_forward::<B>(&some, &weight);
        drop(B::float_matmul(raw(&gradient), raw(&weight)));
    };
    vec![Action::new(Box::new(run)).composed(Box::new(composed)).matmul(2.0 * head.flops(), Box::new(matmul))]
}
