//! Rates of the most important kernels, at the sizes of Llama-3.2-1B; `burnish bench` measures more.

use std::time::Instant;

use burn::tensor::{DType, Distribution, Tensor};
use burnish_kernels::{AttentionOptions, FusedBackend};

use crate::sample::raw;

/// Mean seconds of a launch.
fn time<B: FusedBackend>(mut launch: impl FnMut()) -> f64 {
    let device = B::Device::default();
    launch();
    B::sync(&device).unwrap();
    let count = 10;
    let started = Instant::now();
    for _ in 0..count {
        launch();
    }
    B::sync(&device).unwrap();
    started.elapsed().as_secs_f64() / f64::from(count)
}

pub fn print<B: FusedBackend>(dtype: DType) {
    let device = B::Device::default();
    let normal = |shape: [usize; 2]| raw(Tensor::<B, 2>::random(shape, Distribution::Normal(0.0, 1.0), &device).cast(dtype));
    for (rows, inputs, outputs) in [(8192, 2048, 2048), (8192, 2048, 512), (8192, 2048, 8192), (8192, 8192, 2048)] {
        let (x, w, g) = (normal([rows, inputs]), normal([outputs, inputs]), normal([rows, outputs]));
        let tera = 2e-12 * (rows * inputs * outputs) as f64;
        let forward = time::<B>(|| drop(B::dense_linear(x.clone(), w.clone())));
        let backward = time::<B>(|| drop(B::linear_backward_input(g.clone(), w.clone())));
        println!("linear {rows} x {inputs} x {outputs}: {:.0} and {:.0} TFLOP/s", tera / forward, tera / backward);
    }
    let (batch, length, heads, pairs, dim) = (4, 2048, 32, 8, 64);
    let normal = |heads: usize| {
        raw(Tensor::<B, 4>::random([batch, length, heads, dim], Distribution::Normal(0.0, 1.0), &device).cast(dtype))
    };
    let (q, k, v, g) = (normal(heads), normal(pairs), normal(pairs), normal(heads));
    let options = AttentionOptions { scale: 0.125, sliding_window: None, softcap: None };
    let (_, statistics) = B::attention_for_backward(q.clone(), k.clone(), v.clone(), None, options);
    let forward = time::<B>(|| drop(B::segment_attention(q.clone(), k.clone(), v.clone(), None, options)));
    let backward = time::<B>(|| {
        drop(B::attention_backward(q.clone(), k.clone(), v.clone(), None, statistics.clone(), g.clone(), options));
    });
    // Half of the scores are hidden; the backward has five products, the forward two.
    let tera = 2e-12 * (batch * heads * length * length * dim) as f64;
    println!("attention: {:.0} and {:.0} TFLOP/s", tera / forward, 2.5 * tera / backward);
}
