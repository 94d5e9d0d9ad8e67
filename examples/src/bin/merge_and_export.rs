//! Merges an adapter into its base model, and writes a Hugging Face folder, a GGUF file and a PEFT folder.
//!
//! `cargo run --release -p burnish-examples --bin merge_and_export -- runs/fine_tune/adapter runs/exported`

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::backend::Flex;
use burnish_export::{GgufOptions, GgufType, HuggingFaceOptions, Mixture};
use burnish_export::{export_adapter, export_gguf, export_hugging_face};
use burnish_lora::{MergedCheckpoint, load_adapter};
use burnish_models::{LoadOptions, Pretrained};

fn main() -> Result<()> {
    let adapter = env::args().nth(1).map_or_else(|| PathBuf::from("runs/fine_tune/adapter"), PathBuf::from);
    let output = env::args().nth(2).map_or_else(|| PathBuf::from("runs/exported"), PathBuf::from);
    let base = Pretrained::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model"))?;

    // A checkpoint that adds the adapter to each tensor when it is read: it needs no device and one tensor of memory.
    let merged = MergedCheckpoint::of(&base, &adapter)?;
    let options = HuggingFaceOptions { overwrite: true, ..HuggingFaceOptions::default() };
    export_hugging_face(&base, &merged, &output.join("model"), &options)?;
    let options = GgufOptions { kind: GgufType::Quantized(Mixture::Q4KM), overwrite: true, ..GgufOptions::default() };
    let report = export_gguf(&base, &merged, &output.join("model.gguf"), &options)?;
    println!("{}: {} bytes", report.path.display(), report.bytes);

    // The adapter of a model on a device, such as one that was just trained, as a PEFT folder.
    let device = Default::default();
    let mut model = base.load::<Flex>(&device, LoadOptions::default())?;
    let config = load_adapter(&mut model, &adapter, None, &device)?;
    export_adapter(&model, &config, &base.source, &output.join("adapter"), true, &[adapter])?;
    Ok(())
}
