//! With the feature `onnx`, turns the ONNX file of the example `score_answers` into Rust.

fn main() {
    #[cfg(feature = "onnx")]
    {
        println!("cargo::rerun-if-changed=assets/reward_head.onnx");
        #[allow(deprecated, reason = "burn-import is a deprecated name of burn-onnx: docs/adr/0005")]
        burn_import::onnx::ModelGen::new()
            .input("assets/reward_head.onnx")
            .out_dir("onnx/")
            .load_strategy(burn_import::onnx::LoadStrategy::Embedded)
            .run_from_script();
    }
}
