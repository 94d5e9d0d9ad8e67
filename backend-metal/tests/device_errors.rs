//! A failure on the device's thread is returned to the caller as an error, and the device stays usable.
#![allow(clippy::unwrap_used)]

use burn::tensor::Tensor;
use burnish_metal::{Metal, MetalRuntime};
use cubecl::prelude::*;
use cubecl_core::server::KernelArguments;

mod text;

use text::Text;

type Client = cubecl::client::ComputeClient<MetalRuntime>;

#[cube(launch)]
fn fill(out: &mut Array<f32>) {
    if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = 3.0;
    }
}

/// Its expansion panics, on the device's thread.
#[cube(launch)]
fn broken(out: &mut Array<f32>, #[comptime] limit: u32) {
    comptime!(assert!(limit < 1, "this kernel can't be expanded"));
    out[0] = 1.0;
}

fn filled(client: &Client) -> Vec<f32> {
    let out = client.empty(4 * size_of::<f32>());
    let (count, dim) = (CubeCount::Static(1, 1, 1), CubeDim::new_1d(4));
    fill::launch::<MetalRuntime>(client, count, dim, unsafe { ArrayArg::from_raw_parts(out.clone(), 4) });
    let bytes = client.read_one(out).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn a_kernel_that_cannot_be_expanded_is_an_error_and_not_zeros() {
    let client = MetalRuntime::client(&Default::default());
    assert_eq!(filled(&client), [3.0; 4]);
    let out = client.empty(4 * size_of::<f32>());
    let (count, dim) = (CubeCount::Static(1, 1, 1), CubeDim::new_1d(1));
    broken::launch::<MetalRuntime>(&client, count, dim, unsafe { ArrayArg::from_raw_parts(out.clone(), 4) }, 1);
    let error = client.read_one(out.clone()).unwrap_err().to_string();
    assert!(error.contains("can't be expanded"), "{error}");
    // The error is returned once, and the device stays usable.
    assert_eq!(filled(&client), [3.0; 4]);
}

/// An error of Apple's compiler takes the same way; here naga refuses the text, and our lint that in MSL.
#[test]
fn a_text_that_does_not_compile_is_an_error_and_not_zeros() {
    let client = MetalRuntime::client(&Default::default());
    for (text, word) in [
        ("fn text() { this is no shader }", "text"),
        ("#include <metal_stdlib>\nx = #error type double not supported!\n", "double"),
    ] {
        let out = client.empty(4 * size_of::<f32>());
        let arguments = KernelArguments::new().with_buffer(out.clone().binding());
        client.launch(Box::new(Text(text)), CubeCount::Static(1, 1, 1), arguments);
        let error = client.read_one(out).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(filled(&client), [3.0; 4]);
    }
}

#[test]
fn missing_memory_is_an_error() {
    let client = MetalRuntime::client(&Default::default());
    let out = client.empty(1 << 50);
    assert!(client.read_one(out).is_err());
    assert_eq!(filled(&client), [3.0; 4]);
}

#[test]
fn burn_gets_the_error_too() {
    let device = Default::default();
    let too_large = Tensor::<Metal, 1>::empty([1_usize << 45], &device);
    assert!(too_large.try_into_data().is_err());
    let sum: f32 = Tensor::<Metal, 1>::ones([8], &device).sum().into_scalar();
    assert!((sum - 8.0).abs() < 1e-6);
}
