//! Every GPU kernel, forward and each gradient, against the composed operation on the CPU: on our own runtime (MSL on macOS,
//! SPIR-V elsewhere), and in the emulator, which executes the MSL. `other_runtimes.rs` tests them on those that CI does not run.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod on;

mod attention;
mod differences;
mod elements;
mod moments;
mod packed;
#[allow(dead_code)] // other_runtimes.rs uses all of it
mod products;
mod sample;
mod speed;
mod tiles;

on!(gpu: burnish_metal::Metal);

#[test]
fn a_packed_weight_larger_than_the_scratch() {
    packed::slices::<burnish_metal::Metal>(burn::tensor::DType::F32);
}

on!(emulator: burnish_metal::emulator::MetalCpu);

/// Otherwise no cache of compiled kernels, such as macOS's, would find them again.
#[test]
fn kernels_have_the_same_text_in_every_process() {
    let cache = tempfile::tempdir().unwrap();
    let texts = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "emulator::decode"]).env("BURNISH_EMULATOR_CACHE", cache.path());
        assert!(command.output().unwrap().status.success());
        let folder = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut texts: Vec<_> = names.filter(|path| path.extension().is_some_and(|end| end == "metal")).collect();
        texts.sort();
        texts
    };
    let first = texts();
    assert!(first.len() > 10, "{first:?}");
    assert_eq!(texts(), first);
}

#[test]
#[ignore = "needs a GPU"]
fn packed_speed() {
    speed::print_packed::<burnish_metal::Metal>(burn::tensor::DType::F16);
}

#[test]
#[ignore = "needs a GPU"]
fn speed() {
    speed::print::<burnish_metal::Metal>(burn::tensor::DType::F16);
}
