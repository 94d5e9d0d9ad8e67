//! Attention, beside the one that keeps all scores.

use burn::tensor::{Int, Tensor};
use burnish_kernels::{self as kernels, AttentionOptions, FusedBackend};

use super::launch::{Action, raw};
use crate::attempt::too_large;
use crate::setup::Setup;
use burnish_engine::gib;

/// The composed attention is left out where its three f32 matrices of scores take more.
const COMPOSED_LIMIT: u64 = 8 << 30;

/// Why the composed attention is left out, where it is: each of its matrices of scores is one buffer.
fn refusal<B: FusedBackend>(setup: &Setup<B>) -> Option<String> {
    let sizes = &setup.sizes;
    let scores = size_of::<f32>() as u64 * (sizes.batch * sizes.heads) as u64 * (sizes.length as u64).pow(2);
    let all = 3 * scores;
    too_large::<B>(&setup.device, scores).or_else(|| (all > COMPOSED_LIMIT).then(|| format!("its scores take {}", gib(all))))
}

pub(super) fn attention<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    let sizes = &setup.sizes;
    let query = [sizes.batch, sizes.length, sizes.heads, sizes.head_dim];
    let key = [sizes.batch, sizes.length, sizes.key_value_heads, sizes.head_dim];
    let (q, dy): (Tensor<B, 4>, Tensor<B, 4>) = (setup.random(query), setup.random(query));
    let (k, v): (Tensor<B, 4>, Tensor<B, 4>) = (setup.random(key), setup.random(key));
    // One text per row, in segment ids as training passes them.
    let segments = Tensor::<B, 2, Int>::ones([sizes.batch, sizes.length], &setup.device);
    let options =
        AttentionOptions { scale: (sizes.head_dim as f64).powf(-0.5), sliding_window: sizes.window, softcap: None };
    let ids = move || Some(segments.clone().into_primitive());
    let forward = {
        let (q, k, v, ids) = (q.clone(), k.clone(), v.clone(), ids.clone());
        move || drop(B::attention_for_backward(raw(&q), raw(&k), raw(&v), ids(), options))
    };
    let (_, statistics) = B::attention_for_backward(raw(&q), raw(&k), raw(&v), ids(), options);
    let backward = {
        let (q, k, v, dy, ids) = (q.clone(), k.clone(), v.clone(), dy.clone(), ids.clone());
        move || drop(B::attention_backward(raw(&q), raw(&k), raw(&v), ids(), statistics.clone(), raw(&dy), options))
    };
    let decode = {
        let token = setup.random([sizes.batch, 1, sizes.heads, sizes.head_dim]);
        let (k, v, token2): (_, _, Tensor<B, 4>) = (k.clone(), v.clone(), token.clone());
        let (k2, v2) = (k.clone(), v.clone());
        let run = move || drop(B::segment_attention(raw(&token), raw(&k), raw(&v), None, options));
        let reference = move || drop(kernels::attention::reference::<B>(raw(&token2), raw(&k2), raw(&v2), None, options));
        Action::new(Box::new(run)).composed(Box::new(reference))
    };
    let (mut forward, mut backward) = (Action::new(Box::new(forward)), Action::new(Box::new(backward)));
    if let Some(refusal) = refusal(setup) {
        forward.composed_refusal = Some(refusal.clone());
        backward.composed_refusal = Some(refusal);
        return vec![forward, backward, decode];
    }
    let composed = {
        let (q, k, v, ids) = (q.clone(), k.clone(), v.clone(), ids.clone());
        move || drop(kernels::attention::reference::<B>(raw(&q), raw(&k), raw(&v), ids(), options))
    };
    let composed_backward =
        move || drop(kernels::attention::reference_backward::<B>(raw(&q), raw(&k), raw(&v), ids(), raw(&dy), options));
    vec![forward.composed(Box::new(composed)), backward.composed(Box::new(composed_backward)), decode]
}
