//! Attention, beside the one that keeps all scores.

use burn::tensor::{Int, Tensor};
use burnish_kernels::{self as kernels, AttentionOptions, FusedBackend};

use super::{Action, raw};
use crate::setup::Setup;
use burnish_engine::gib;

/// The composed attention is left out where three f32 matrices of scores take more.
const COMPOSED_LIMIT: u64 = 8 << 30;

pub(super) fn attention<B: FusedBackend>(setup: &Setup<B>) -> Vec<Action> {
    let sizes = &setup.sizes;
    let query = [sizes.batch, sizes.length, sizes.heads, sizes.head_dim];
    let key = [sizes.batch, sizes.length, sizes.key_value_heads, sizes.head_dim];
    let (q, dy): (Tensor<B, 4>, Tensor<B, 4>) = (setup.random(query), setup.random(query));
    let (k, v): (Tensor<B, 4>, Tensor<B, 4>) = (setup.random(key), setup.random(key));
    // One text a row, said as training says it.
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
    let scores = 3 * 4 * (sizes.batch * sizes.heads) as u64 * (sizes.length as u64).pow(2);
    if scores > COMPOSED_LIMIT {
        let note = format!("not beside composed attention: its scores take {}", gib(scores));
        forward.note = Some(note.clone());
        backward.note = Some(note);
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
