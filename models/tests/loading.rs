//! The memory of loading, counted at every allocation of this process: the model as it is stored, and one tensor more.
#![allow(clippy::unwrap_used)]

mod allocations;

use std::collections::BTreeMap;

use burn::backend::Flex;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{FloatType, LanguageModel, LoadOptions, ModelConfig, Quantization, Storage};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const HIDDEN: usize = 512;
const VOCABULARY: usize = 4096;

#[test]
fn a_model_is_loaded_one_tensor_at_a_time() {
    let json = serde_json::json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 2048, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": VOCABULARY, "tie_word_embeddings": true,
    });
    let config = ModelConfig::from_json(&json).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    {
        let bytes = |elements: usize| {
            (0..elements).flat_map(|at| bf16::from_f32(((at * 37) % 101) as f32 / 500.0 - 0.1).to_le_bytes()).collect()
        };
        let tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = LanguageModel::<Flex>::tensor_shapes(&config)
            .into_iter()
            .map(|(name, shape)| (name, (shape.clone(), bytes(shape.iter().product()))))
            .collect();
        let views =
            tensors.iter().map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &path).unwrap();
    }
    let checkpoint = SafetensorsFolder::from_files(&[path]).unwrap();
    let largest = VOCABULARY * HIDDEN;
    for (dtype, quantization, quantize_embedding) in [
        (FloatType::F32, Quantization::None, false),
        (FloatType::F16, Quantization::None, false),
        (FloatType::BF16, Quantization::None, false),
        (FloatType::F16, Quantization::Nf4 { double: false }, false),
        (FloatType::F16, Quantization::Nf4 { double: true }, true),
        (FloatType::F16, Quantization::Int4, true),
        (FloatType::F16, Quantization::Int8, false),
    ] {
        let options = LoadOptions { quantize_embedding, ..LoadOptions::frozen(dtype).quantized(quantization) };
        let stored = Storage::of(&config, &checkpoint, options).unwrap().bytes() as usize;
        let memory = allocations::watch();
        let model = LanguageModel::<Flex>::load(&config, &checkpoint, &Default::default(), options).unwrap();
        let (live, peak) = (memory.live(), memory.peak());
        let what = format!("{dtype} {quantization} {quantize_embedding}");
        println!("{what}: {stored} bytes are stored, {live} live after loading, {peak} at the peak");
        assert!(live >= stored && live < stored + stored / 50, "{what}: {live} live, {stored} stored");
        // The largest tensor as f32 is enough for its own conversion, whatever it becomes.
        assert!(peak <= stored + largest * size_of::<f32>(), "{what}: {peak} at the peak, {stored} stored");
        drop(model);
    }
}
