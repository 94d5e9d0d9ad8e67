//! Rates of the most important kernels, at the sizes of Llama-3.2-1B; `burnish bench` measures more.

use std::time::Instant;

use burn::tensor::{DType, Distribution, Tensor};
use burnish_kernels::packed::{Affine, GgmlType, GgufBlocks, Nf4, Packed, PackedTensor};
use burnish_kernels::{AttentionOptions, FusedBackend, PackedRoute, multiply_packed};
use half::f16;

use crate::sample::{numbers, raw};
use crate::tiles::OnRuntime;

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

fn formats(dims: [usize; 2], all: bool) -> Vec<Packed> {
    let values = numbers(dims[0] * dims[1], 1, 0.02);
    let nf4 = |double| Packed::Nf4(Nf4::quantize("w", &values, dims, double).unwrap());
    if !all {
        return vec![nf4(false)];
    }
    let f16s: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let affine = |bits| Packed::Affine(Affine::quantize("w", &f16s, dims, bits, 64).unwrap());
    let blocks = |kind| Packed::Gguf(GgufBlocks::quantize("w", &values, dims, kind).unwrap());
    vec![nf4(false), nf4(true), affine(4), affine(8), blocks(GgmlType::Q4_0), blocks(GgmlType::Q4K), blocks(GgmlType::Q6K)]
}

/// Products with packed weights by each route, against the dense one: times of `x · Wᵀ` and `dy · W`.
pub fn print_packed<B: OnRuntime>(dtype: DType) {
    let device = B::Device::default();
    let normal = |shape: [usize; 2]| raw(Tensor::<B, 2>::random(shape, Distribution::Normal(0.0, 1.0), &device).cast(dtype));
    println!("rows x inputs x outputs, format: µs of x·Wᵀ and dy·W dense | scratch | tiles");
    for (inputs, outputs, all) in [(2048, 2048, false), (2048, 8192, true), (8192, 2048, false), (4096, 14336, false)] {
        for packed in formats([outputs, inputs], all) {
            let weight = PackedTensor::<B>::new("w", &packed, &device).unwrap();
            for rows in [64, 256, 512, 1024, 2048, 8192] {
                let (x, w, g) = (normal([rows, inputs]), normal([outputs, inputs]), normal([rows, outputs]));
                let dense = [
                    time::<B>(|| drop(B::dense_linear(x.clone(), w.clone()))),
                    time::<B>(|| drop(B::linear_backward_input(g.clone(), w.clone()))),
                ];
                let [scratch, tiles] = [PackedRoute::Scratch, PackedRoute::Tiles].map(|route| {
                    [(&x, true), (&g, false)].map(|(a, transposed)| {
                        time::<B>(|| {
                            let words = weight.words.clone();
                            drop(multiply_packed(a.clone(), weight.planes, words, transposed, route).expect("a route"));
                        })
                    })
                });
                let shown =
                    [dense, scratch, tiles].map(|both| both.map(|seconds| format!("{:.0}", seconds * 1e6)).join(" "));
                println!(
                    "{rows} x {inputs} x {outputs}, {} {:?}: {}",
                    packed.name(),
                    weight.planes.scales,
                    shown.join(" | ")
                );
            }
        }
    }
}
