//! The tests of `main.rs` on runtimes that CI does not have, NVIDIA's and WGSL: a program of its own, which is built only when it is
//! named, because the kernels' code is compiled again for each runtime.
#![cfg(not(target_os = "macos"))]
#![allow(clippy::unwrap_used)]

#[macro_use]
mod on;

mod attention;
mod differences;
mod elements;
mod library;
mod moments;
mod packed;
mod products;
mod sample;
mod speed;
mod thin;
mod tiles;
mod wgsl;

on!(wgsl_text: wgsl::Wgsl; ignore = "no backend runs these kernels as WGSL; .ci/nightly runs them");

/// On a machine with an NVIDIA GPU:
/// `BURNISH_TESTS=all cargo test --release -p burnish-metal --features emulator --test other_runtimes -- --ignored nvidia`.
mod nvidia {
    use super::*;

    on!(cuda: burn_cuda::Cuda; ignore = "needs an NVIDIA GPU");

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn wide_linear() {
        products::wide_linear::<burn_cuda::Cuda>(burn::tensor::DType::BF16);
    }

    /// For `tests/cuda_on_cpu/run`, with `CUDA_ON_CPU_PROCESSORS=1`.
    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn wide_linear_of_one_processor() {
        products::wide_linear_of::<burn_cuda::Cuda>(burn::tensor::DType::BF16, [300, 1032, 1104]);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn a_packed_weight_larger_than_the_scratch() {
        packed::slices::<burn_cuda::Cuda>(burn::tensor::DType::F32);
    }

    /// For `tests/cuda_on_cpu/run`.
    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn some_packed_tiles() {
        for sizes in [[70, 256, 136], [20, 512, 40]] {
            tiles::packed_tiles_of::<burn_cuda::Cuda>(burn::tensor::DType::BF16, sizes, |format| format % 4 == 1);
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU and libcublasLt"]
    fn library_products() {
        for dtype in sample::dtypes::<burn_cuda::Cuda>() {
            library::products::<burn_cuda::Cuda>(dtype);
            library::order::<burn_cuda::Cuda>(dtype);
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn packed_speed() {
        speed::print_packed::<burn_cuda::Cuda>(burn::tensor::DType::BF16);
    }

    /// By the kernels for the device, of which Hopper has its own.
    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn attention_in_many_tiles() {
        for dtype in sample::dtypes::<burn_cuda::Cuda>() {
            attention::many_tiles::<burn_cuda::Cuda>(dtype);
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn adapters() {
        for dtype in sample::dtypes::<burn_cuda::Cuda>() {
            thin::adapters::<burn_cuda::Cuda>(dtype);
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn thin_candidates() {
        for dtype in [burn::tensor::DType::BF16, burn::tensor::DType::F16] {
            thin::candidates::<burn_cuda::Cuda>(dtype);
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn thin_speed() {
        thin::print_speed::<burn_cuda::Cuda>(burn::tensor::DType::BF16);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn speed() {
        speed::print::<burn_cuda::Cuda>(burn::tensor::DType::BF16);
    }
}
