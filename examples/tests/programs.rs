//! Runs the examples, and reads what they write.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use burnish_lora::MergedCheckpoint;
use burnish_models::gguf::GgufFile;
use burnish_models::{Checkpoint, Pretrained};

#[allow(dead_code, reason = "its `main`")]
#[path = "../src/bin/training_loop.rs"]
mod training_loop;

/// What a program printed in a folder.
fn run(program: &str, folder: &Path) -> String {
    let output = Command::new(program).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_model_is_fine_tuned_merged_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(env!("CARGO_BIN_EXE_fine_tune"), folder.path());
    let losses: Vec<f64> = said.lines().filter_map(|line| line.split_once("loss ")?.1.parse().ok()).collect();
    assert!(losses.len() == 20 && losses[19] < 0.5 * losses[0], "{said}");
    assert!(said.lines().last().unwrap().starts_with('{'), "the answer is no JSON: {said}");

    run(env!("CARGO_BIN_EXE_merge_and_export"), folder.path());
    let (adapter, exported) = (folder.path().join("runs/fine_tune/adapter"), folder.path().join("runs/exported"));
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model");
    let base = Pretrained::open(base).unwrap();
    let merged = MergedCheckpoint::open(&base.checkpoint, &adapter).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let expected = merged.read_f32(name).unwrap();
    assert_ne!(expected, base.checkpoint.read_f32(name).unwrap());
    // Written in bf16, and in the 4 and more bits of Q4_K_M.
    let folder = Pretrained::open(exported.join("model")).unwrap();
    let file = GgufFile::open(&exported.join("model.gguf")).unwrap();
    for (written, allowed) in [(&*folder.checkpoint, 1e-2), (&file as &dyn Checkpoint, 1e-1)] {
        let written = written.read_f32(name).unwrap();
        let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for (written, expected) in written.iter().zip(&expected) {
            assert!((written - expected).abs() <= allowed * largest, "{written} is not {expected}");
        }
    }
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert_eq!(read(&exported.join("adapter")), read(&adapter), "{name}");
    }
}

#[test]
#[cfg(feature = "metal")]
fn an_operation_is_replaced_by_a_kernel() {
    let said = run(env!("CARGO_BIN_EXE_own_kernel"), &std::env::temp_dir());
    let base = Pretrained::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model")).unwrap();
    let blocks = base.config.num_hidden_layers;
    assert!(said.contains(&format!("the kernel ran {blocks} times, once in each of the {blocks} blocks")), "{said}");
    let difference: f32 = said.lines().last().and_then(|line| line.rsplit_once(": ")).unwrap().1.parse().unwrap();
    assert!(difference < 1e-3, "{said}");
}

#[test]
fn the_training_loop_has_the_same_losses_on_flex_and_ndarray() {
    let folder = tempfile::tempdir().unwrap();
    let losses = training_loop::train::<burn::backend::Flex>(10, &folder.path().join("flex")).unwrap();
    assert!(losses.len() == 10 && losses[9] < 0.9 * losses[0], "{losses:?}");
    let others = training_loop::train::<burn_ndarray::NdArray>(10, &folder.path().join("ndarray")).unwrap();
    for (loss, other) in losses.iter().zip(&others) {
        assert!((loss - other).abs() < 1e-4 * loss, "{losses:?} {others:?}");
    }
}
