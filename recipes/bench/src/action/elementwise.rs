//! Operations that memory bounds.

use burn::tensor::Tensor;
use burnish_kernels::glu::{self, Activation};
use burnish_kernels::{self as kernels, AdamWStep, AdamWTensors, FusedBackend};

use super::launch::{Action, raw};
use crate::setup::{Setup, in_turns};

const EPSILON: f64 = 1e-5;

pub(super) fn rms_norm<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    let dims = [setup.sizes.tokens(), setup.sizes.hidden];
    let sets = setup.sets(3 * dims[0] * dims[1], || (setup.random(dims), setup.random(dims), setup.random(dims)));
    let w = setup.random([dims[1]]);
    let weight = || w.clone();
    let (w1, w2, w3, w4) = (weight(), weight(), weight(), weight());
    let forward = Action::new(in_turns(sets.clone(), move |(x, ..)| drop(B::rms_norm(raw(x), raw(&w1), EPSILON))))
        .composed(in_turns(sets.clone(), move |(x, ..)| drop(kernels::rms_norm::reference::<B>(raw(x), raw(&w2), EPSILON))));
    let backward = Action::new(in_turns(sets.clone(), move |(x, dy, _)| {
        drop(B::rms_norm_backward(raw(x), raw(&w3), raw(dy), None, EPSILON, false));
    }))
    .composed(in_turns(sets.clone(), move |(x, dy, _)| {
        drop(kernels::rms_norm::reference_backward::<B>(raw(x), raw(&w4), raw(dy), None, EPSILON, false));
    }));
    let (w1, w2, w3, w4) = (weight(), weight(), weight(), weight());
    let added = Action::new(in_turns(sets.clone(), move |(x, _, residual)| {
        drop(B::add_rms_norm(raw(x), raw(residual), raw(&w1), EPSILON));
    }))
    .composed(in_turns(sets.clone(), move |(x, _, residual)| {
        let sum = B::float_add(raw(x), raw(residual));
        drop((sum.clone(), kernels::rms_norm::reference::<B>(sum, raw(&w2), EPSILON)));
    }));
    let added_backward = Action::new(in_turns(sets.clone(), move |(x, dy, residual)| {
        drop(B::rms_norm_backward(raw(x), raw(&w3), raw(dy), Some(raw(residual)), EPSILON, false));
    }))
    .composed(in_turns(sets, move |(x, dy, residual)| {
        drop(kernels::rms_norm::reference_backward::<B>(raw(x), raw(&w4), raw(dy), Some(raw(residual)), EPSILON, false));
    }));
    vec![forward, backward, added, added_backward]
}

pub(super) fn swiglu<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    const SILU: Activation = Activation::Silu;
    let dims = [setup.sizes.tokens(), setup.sizes.intermediate];
    let sets = setup.sets(3 * dims[0] * dims[1], || (setup.random(dims), setup.random(dims), setup.random(dims)));
    let forward = Action::new(in_turns(sets.clone(), |(gate, up, _)| drop(B::glu(raw(gate), raw(up), SILU))))
        .composed(in_turns(sets.clone(), |(gate, up, _)| drop(glu::reference::<B>(raw(gate), raw(up), SILU))));
    let backward =
        Action::new(in_turns(sets.clone(), |(gate, up, dy)| drop(B::glu_backward(raw(gate), raw(up), raw(dy), SILU))))
            .composed(in_turns(sets, |(gate, up, dy)| {
                drop(glu::reference_backward::<B>(raw(gate), raw(up), raw(dy), SILU));
            }));
    vec![forward, backward]
}

pub(super) fn rotary<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    let (tokens, head_dim) = (setup.sizes.tokens(), setup.sizes.head_dim);
    let table = || setup.random_f32([tokens, head_dim / 2]);
    let (cos, sin) = (table(), table());
    let heads = [setup.sizes.heads, setup.sizes.key_value_heads];
    let elements = tokens * (heads[0] + heads[1]) * head_dim;
    let sets = setup.sets(elements, || heads.map(|heads| setup.random::<3>([tokens, heads, head_dim])));
    let (c, s) = (cos.clone(), sin.clone());
    let run = in_turns(sets.clone(), move |both| drop(B::rotary(both.each_ref().map(raw), raw(&c), raw(&s), false)));
    let composed = in_turns(sets, move |both| {
        drop(kernels::rotary::reference_both::<B>(both.each_ref().map(raw), raw(&cos), raw(&sin), false));
    });
    vec![Action::new(run).composed(composed)]
}

pub(super) fn adamw<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    let elements = setup.sizes.adapter_elements();
    let tensor = || setup.random_f32([elements]);
    // The second moment is a mean of squares.
    let sets = setup.sets(4 * elements, || [tensor(), tensor(), tensor(), tensor().abs()]);
    let step = AdamWStep {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        step: 10,
        gradient_factor: 1.0,
        max_norm: 0.0,
    };
    let tensors = |[p, g, m, v]: &[Tensor<B, 1>; 4]| AdamWTensors::new(p.clone(), g.clone(), m.clone(), v.clone());
    let run = in_turns(sets.clone(), move |set| drop(B::adamw(tensors(set), step)));
    let composed = in_turns(sets, move |set| drop(kernels::adamw::reference::<B>(tensors(set), step)));
    vec![Action::new(run).composed(composed)]
}
