//! Attention over packed rows.

use burn::backend::Flex;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::{self as ops, AttentionOptions, FusedBackend};

use crate::sample::{Pair, close, in_turn, random, raw, typed};

/// One call of attention.
#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    key_value_heads: usize,
    dim: usize,
    window: Option<usize>,
    packed: bool,
    softcap: Option<f64>,
}

pub fn attention<B: FusedBackend>(dtype: DType) {
    let cases = [
        // batch, queries, keys, heads, key-value heads, head_dim, window, packed, soft-cap
        (1, 1, 1, 1, 1, 4, None, false, None),
        (2, 5, 5, 4, 2, 8, None, true, None),
        (1, 1, 130, 6, 2, 16, None, false, None),
        (1, 7, 77, 3, 1, 6, Some(9), false, None),
        (2, 70, 70, 4, 1, 32, Some(40), true, Some(3.0)),
        (1, 99, 99, 2, 2, 64, None, true, None),
        (1, 40, 40, 2, 1, 128, None, false, None),
        (1, 170, 170, 2, 1, 64, Some(100), true, None),
        // Most tiles are those of other segments.
        (1, 421, 421, 2, 1, 32, None, true, None),
    ];
    let cases = cases.into_iter().enumerate().filter(|(case, _)| in_turn::<B>(*case, dtype));
    for (_, (batch, queries, keys, heads, key_value_heads, dim, window, packed, softcap)) in cases {
        check::<B>(Case { batch, queries, keys, heads, key_value_heads, dim, window, packed, softcap }, dtype);
    }
}

/// Heads of 64, 96 and 128 in many tiles, which end within a tile and at the end of one.
#[allow(dead_code)] // other_runtimes.rs uses it
pub fn many_tiles<B: FusedBackend>(dtype: DType) {
    for dim in [64, 96, 128] {
        for (batch, queries, keys, heads, key_value_heads, window, packed) in [
            (2, 421, 421, 8, 2, None, false),
            (2, 421, 421, 4, 1, None, true),
            (1, 384, 384, 2, 2, None, true),
            (1, 64, 64, 2, 1, None, false),
            (2, 333, 333, 4, 2, Some(100), false),
            (1, 450, 450, 3, 3, Some(64), true),
            (2, 130, 517, 4, 2, None, false),
            (1, 70, 600, 2, 1, Some(130), false),
            (1, 200, 200, 2, 1, Some(1), false),
        ] {
            check::<B>(Case { batch, queries, keys, heads, key_value_heads, dim, window, packed, softcap: None }, dtype);
        }
    }
}

/// Compares the result and the gradients with the reference's, and the gradients with those of a second call, to the bit.
fn check<B: FusedBackend>(case: Case, dtype: DType) {
    let Case { batch, queries, keys, heads, key_value_heads, dim, window, packed, softcap } = case;
    let q = random::<B, 4>([batch, queries, heads, dim], 1, dtype);
    let k = random::<B, 4>([batch, keys, key_value_heads, dim], 2, dtype);
    let v = random::<B, 4>([batch, keys, key_value_heads, dim], 3, dtype);
    let g = random::<B, 4>([batch, queries, heads, dim], 4, dtype);
    let ids: Vec<i32> = (0..batch * keys).map(|index| (index % keys * 5 / keys) as i32).collect();
    let data = TensorData::new(ids, [batch, keys]);
    let on_device = packed.then(|| Tensor::<B, 2, Int>::from_data(data.clone(), &Default::default()).into_primitive());
    let on_cpu = packed.then(|| Tensor::<Flex, 2, Int>::from_data(data, &Default::default()).into_primitive());
    let options = AttentionOptions { scale: (dim as f64).powf(-0.5), sliding_window: window, softcap };
    let name = |part: &str| {
        format!("{part} of {batch} x {queries} x {keys}, {heads} heads of {dim} on {key_value_heads}, window {window:?}")
    };
    // An error of the device does not say which case it was.
    println!("{}, packed {packed}, {dtype:?}", name("attention"));
    let expected = ops::attention::reference::<Flex>(q.cpu(), k.cpu(), v.cpu(), on_cpu.clone(), options);
    let (y, statistics) = B::attention_for_backward(q.raw(), k.raw(), v.raw(), on_device.clone(), options);
    close::<B, 4>(&name("attention"), y, expected, dtype);
    let backward = || {
        B::attention_backward(q.raw(), k.raw(), v.raw(), on_device.clone(), statistics.clone(), g.raw(), options)
            .map(typed::<B, 4>)
    };
    let (found, again) = (backward(), backward());
    let expected = ops::attention::reference_backward::<Flex>(q.cpu(), k.cpu(), v.cpu(), on_cpu, g.cpu(), options);
    for (((part, found), again), expected) in ["dq", "dk", "dv"].into_iter().zip(found).zip(again).zip(expected) {
        assert_eq!(found.to_data(), again.to_data(), "{} differs from call to call", name(part));
        close::<B, 4>(&name(part), raw(found), expected, dtype);
    }
}

/// A few tokens over the start of a longer cache.
pub fn decode<B: FusedBackend>(dtype: DType) {
    let cases = [
        // batch, queries, keys, capacity, heads, key-value heads, head_dim, window, soft-cap
        (1, 1, 2, 4, 1, 1, 4, None, None),
        (2, 1, 77, 80, 4, 2, 8, None, None),
        (1, 1, 128, 128, 6, 1, 16, None, Some(3.0)),
        (2, 3, 300, 512, 8, 2, 64, None, None),
        (1, 1, 500, 512, 5, 1, 6, Some(130), None),
        (1, 4, 260, 300, 2, 2, 128, Some(2), None),
        (2, 2, 131, 256, 8, 1, 256, None, None),
        (1, 5, 70, 70, 2, 1, 32, None, None),
    ];
    let cases = cases.into_iter().enumerate().filter(|(case, _)| in_turn::<B>(*case, dtype));
    for (_, (batch, queries, keys, capacity, heads, key_value_heads, dim, sliding_window, softcap)) in cases {
        let q = random::<B, 4>([batch, queries, heads, dim], 1, dtype);
        let [k, v] = [2, 3].map(|seed| random::<B, 4>([batch, capacity, key_value_heads, dim], seed, dtype));
        let options = AttentionOptions { scale: (dim as f64).powf(-0.5), sliding_window, softcap };
        let [key, value] = [&k, &v].map(|cache| raw(cache.device.clone().narrow(1, 0, keys)));
        let [key_cpu, value_cpu] = [&k, &v].map(|cache| raw(cache.cpu.clone().narrow(1, 0, keys)));
        let expected = ops::attention::reference::<Flex>(q.cpu(), key_cpu, value_cpu, None, options);
        let name = format!("{queries} tokens over {keys} of {capacity}, {heads} heads of {dim} on {key_value_heads}");
        close::<B, 4>(&name, B::segment_attention(q.raw(), key, value, None, options), expected, dtype);
    }
}

/// Rows in the middle of two buffers, in place and of buffers that something else holds; then attention over their beginning.
pub fn append<B: FusedBackend>(dtype: DType) {
    for (batch, rows, start, capacity, heads, dim) in [(1, 1, 2, 4, 3, 5), (2, 3, 0, 8, 2, 8), (3, 2, 5, 7, 1, 64)] {
        for held in [false, true] {
            let buffers = [1, 2].map(|seed| random::<B, 4>([batch, capacity, heads, dim], seed, dtype));
            let new = [3, 4].map(|seed| random::<B, 4>([batch, rows, heads, dim], seed, dtype));
            let expected =
                ops::append::reference::<Flex>(buffers.each_ref().map(Pair::cpu), new.each_ref().map(Pair::cpu), start);
            let new = new.each_ref().map(Pair::raw);
            let before = buffers.each_ref().map(Pair::cpu);
            let kept = buffers.each_ref().map(|buffer| held.then(|| buffer.raw()));
            let found = B::append(buffers.map(|buffer| raw(buffer.device)), new, start);
            let name = format!("append {rows} at {start} of {capacity}, held: {held}");
            let seen = start + rows;
            for (((found, expected), kept), before) in found.into_iter().zip(expected).zip(kept).zip(before) {
                let prefix = B::prefix(found.clone(), seen);
                let whole = typed::<Flex, 4>(expected.clone());
                close::<B, 4>(&name, found, expected, dtype);
                close::<B, 4>(&format!("{name}, beginning"), prefix, raw(whole.narrow(1, 0, seen)), dtype);
                if let Some(kept) = kept {
                    close::<B, 4>(&format!("{name}, the other holder"), kept, before, dtype);
                }
            }
        }
    }
}

/// Texts of one token and of several, heads that are rotated whole and in part, and buffers that something else holds.
pub fn append_rotated<B: FusedBackend>(dtype: DType) {
    let cases = [
        (1, 1, 2, 4, [4, 2], 8, 4),
        (2, 3, 0, 8, [3, 1], 16, 4),
        (1, 5, 6, 300, [8, 8], 64, 32),
        (1, 1, 0, 1, [2, 1], 6, 3),
    ];
    for (batch, length, start, capacity, [heads, key_value_heads], dim, half) in cases {
        for held in [false, true] {
            let tokens = batch * length;
            let query = random::<B, 3>([tokens, heads, dim], 1, dtype);
            let new = [2, 3].map(|seed| random::<B, 3>([tokens, key_value_heads, dim], seed, dtype));
            let table = [4, 5].map(|seed| random::<B, 2>([tokens, half], seed, DType::F32));
            let buffers = [6, 7].map(|seed| random::<B, 4>([batch, capacity, key_value_heads, dim], seed, dtype));
            let (expected, expected_buffers) = ops::append::reference_rotated::<Flex>(
                query.cpu(),
                new.each_ref().map(Pair::cpu),
                table.each_ref().map(Pair::cpu),
                buffers.each_ref().map(Pair::cpu),
                start,
            );
            let (new, table) = (new.each_ref().map(Pair::raw), table.each_ref().map(Pair::raw));
            let _kept = buffers.each_ref().map(|buffer| held.then(|| buffer.raw()));
            let (found, buffers) =
                B::append_rotated(query.raw(), new, table, buffers.map(|buffer| raw(buffer.device)), start);
            let name = format!("append_rotated {length} at {start} of {capacity}, held: {held}");
            close::<B, 3>(&name, found, expected, dtype);
            for (found, expected) in buffers.into_iter().zip(expected_buffers) {
                close::<B, 4>(&name, found, expected, dtype);
            }
        }
    }
}
