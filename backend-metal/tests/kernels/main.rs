//! Every GPU kernel, forward and each gradient, against the composed operation on the CPU: on our own runtime (MSL on macOS,
//! SPIR-V elsewhere), in WGSL, and in the emulator, which executes the MSL.
#![allow(clippy::unwrap_used)]

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
#[cfg(not(target_os = "macos"))]
mod wgsl;

/// The tests of a backend, in each of the dtypes that it computes in.
macro_rules! on {
    ($name:ident: $backend:ty $(; $ignored:meta)?) => {
        mod $name {
            use super::*;

            on!(@tests $backend; $(#[$ignored])?; elements: rms_norm, add_rms_norm, layer_norm, rotary, glu, dropout, adamw, pack, squared_norm, select_rows, sample_tokens, cross_entropy);
            on!(@tests $backend; $(#[$ignored])?; moments: adamw8bit);
            on!(@tests $backend; $(#[$ignored])?; products: linear, few_rows, lora_linear);
            on!(@tests $backend; $(#[$ignored])?; packed: packed_rows, packed_linear, packed_lora_linear, packed_cross_entropy);
            on!(@tests $backend; $(#[$ignored])?; attention: attention, decode, append, append_rotated);
            on!(@tests $backend; $(#[$ignored])?; tiles: packed_adapters, packed_tiles_of_a_row, packed_tiles_of_odd_sizes,
                packed_tiles_of_some_rows, packed_tiles_that_are_whole, packed_tiles_several_deep_and_wide);
            on!(@tests $backend; $(#[$ignored])?; differences: gradients);
            on!(@tests $backend; $(#[$ignored])?; thin: adapters);
        }
    };
    (@tests $backend:ty; #[$ignored:meta]; $module:ident: $($test:ident),*) => {
        $(
            #[test]
            #[$ignored]
            fn $test() {
                for dtype in sample::dtypes::<$backend>() {
                    $module::$test::<$backend>(dtype);
                }
            }
        )*
    };
    (@tests $backend:ty; ; $module:ident: $($test:ident),*) => {
        $(
            #[test]
            fn $test() {
                for dtype in sample::dtypes::<$backend>() {
                    $module::$test::<$backend>(dtype);
                }
            }
        )*
    };
}

on!(gpu: burnish_metal::Metal);

#[test]
fn a_packed_weight_larger_than_the_scratch() {
    packed::slices::<burnish_metal::Metal>(burn::tensor::DType::F32);
}

#[cfg(not(target_os = "macos"))]
on!(wgsl_text: wgsl::Wgsl; ignore = "no backend runs these kernels as WGSL; .ci/nightly runs them");
on!(emulator: burnish_metal::emulator::MetalCpu);

#[test]
#[ignore = "needs a GPU"]
fn packed_speed() {
    speed::print_packed::<burnish_metal::Metal>(burn::tensor::DType::F16);
}

/// On a machine with an NVIDIA GPU: `cargo test --release -p burnish-metal --features emulator --test kernels -- --ignored cuda`.
#[cfg(not(target_os = "macos"))]
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
