//! Turns the ONNX file of the example `score_answers` into Rust, with the feature `onnx`.

fn main() {
    #[cfg(feature = "onnx")]
    {
        println!("cargo::rerun-if-changed=assets/reward_head.onnx");
        #[allow(deprecated, reason = "burn-import is burn-onnx under the name that this project keeps: docs/adr/0005")]
        burn_import::onnx::ModelGen::new()
            .input("assets/reward_head.onnx")
            .out_dir("onnx/")
            .load_strategy(burn_import::onnx::LoadStrategy::Embedded)
            .run_from_script();
    }
}
