//! Folders of bitsandbytes and MLX, as those libraries save layers (`make_packed_folders.py`), and what they compute with them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burnish_kernels::packed::Packed;
use burnish_models::checkpoint::{Checkpoint, SafetensorsFolder, quantised_folder};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/packed").join(name)
}

fn bitsandbytes() -> Value {
    json!({ "quantization_config": { "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" } })
}

fn mlx() -> Value {
    json!({ "quantization": { "group_size": 64, "bits": 4, "down_proj": { "group_size": 32, "bits": 8 } } })
}

fn open(name: &str, config: &Value) -> burnish_models::Result<Box<dyn Checkpoint>> {
    let inner = SafetensorsFolder::from_files(&[fixture(name)]).unwrap();
    quantised_folder(Path::new("a/folder"), Box::new(inner), config)
}

#[test]
fn packed_layers_have_the_weights_that_their_library_gives_them() {
    let expected = SafetensorsFolder::from_files(&[fixture("values.safetensors")]).unwrap();
    for (name, config) in [("bitsandbytes", bitsandbytes()), ("mlx", mlx())] {
        let checkpoint = open(&format!("{name}.safetensors"), &config).unwrap();
        assert_eq!(checkpoint.names(), ["down_proj.weight", "norm.weight", "q_proj.weight"], "{name}");
        for weight in ["down_proj.weight", "q_proj.weight", "norm.weight"] {
            let key = format!("{name}.{weight}");
            assert_eq!(checkpoint.shape(weight), expected.shape(&key), "{key}");
            assert_eq!(checkpoint.read_f32(weight).unwrap(), expected.read_f32(&key).unwrap(), "{key}");
        }
        assert!(checkpoint.read_packed("norm.weight").unwrap().is_none());
        let packed = checkpoint.read_packed("down_proj.weight").unwrap().unwrap();
        assert_eq!(checkpoint.packed_kind("down_proj.weight"), Some(packed.kind()));
        assert!(checkpoint.packed_kind("norm.weight").is_none());
        assert_eq!(packed.name(), if name == "mlx" { "int8" } else { "nf4" });
        // Scales keep the 16 bits that the file has.
        if let Packed::Affine(affine) = packed {
            assert_eq!(affine.scales().bytes(), 2 * affine.scales().len());
        }
    }
}

#[test]
fn a_folder_of_neither_kind_is_left_as_it_is() {
    let checkpoint = open("mlx.safetensors", &json!({})).unwrap();
    assert!(checkpoint.names().contains(&"q_proj.scales".to_owned()));
    assert!(checkpoint.read_packed("q_proj.weight").unwrap().is_none());
}

/// The fixture without some tensors, or with others in their place.
fn changed(name: &str, change: impl Fn(&str) -> Option<Vec<u8>>) -> (tempfile::TempDir, PathBuf) {
    let bytes = std::fs::read(fixture(name)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .filter_map(|(name, tensor)| {
            let data = match change(&name) {
                Some(data) if data.is_empty() => return None,
                Some(data) => data,
                None => tensor.data().to_vec(),
            };
            let shape = if tensor.shape().len() == 1 {
                vec![data.len() * 8 / tensor.dtype().bitsize()]
            } else {
                tensor.shape().to_vec()
            };
            Some((name, tensor.dtype(), shape, data))
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.clone(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    (folder, path)
}

fn error_of(file: &str, config: &Value, change: impl Fn(&str) -> Option<Vec<u8>>) -> String {
    let (_folder, path) = changed(file, change);
    let inner = SafetensorsFolder::from_files(&[path]).unwrap();
    let read = |checkpoint: Box<dyn Checkpoint>| {
        checkpoint.names().iter().map(|name| checkpoint.read_f32(name)).collect::<burnish_models::Result<Vec<_>>>()
    };
    quantised_folder(Path::new("a/folder"), Box::new(inner), config).and_then(read).unwrap_err().to_string()
}

#[test]
fn what_a_packed_folder_lacks_is_named_with_its_tensor() {
    let without = |part: &'static str| move |name: &str| (name == part).then(Vec::new);
    for (file, config, part, said) in [
        ("bitsandbytes", bitsandbytes(), "q_proj.weight.absmax", "expected `absmax` beside its integers, got none"),
        (
            "bitsandbytes",
            bitsandbytes(),
            "q_proj.weight.quant_state.bitsandbytes__nf4",
            "expected `quant_state` beside its `absmax`, got none",
        ),
        ("bitsandbytes", bitsandbytes(), "q_proj.weight.nested_absmax", "q_proj.weight.nested_absmax: missing"),
        (
            "bitsandbytes",
            bitsandbytes(),
            "q_proj.weight",
            "q_proj.weight.absmax: expected a packed weight that it is part of",
        ),
        ("mlx", mlx(), "q_proj.weight", "q_proj.scales: expected a packed weight that it is part of"),
        ("mlx", mlx(), "q_proj.scales", "expected `scales` beside its integers, got none"),
        ("mlx", mlx(), "q_proj.biases", "expected `biases` beside its integers, got none"),
    ] {
        let error = error_of(&format!("{file}.safetensors"), &config, without(part));
        assert!(error.contains("q_proj") && error.contains(said), "{part}: {error}");
    }
    let state = br#"{"quant_type": "fp4", "blocksize": 64, "dtype": "bfloat16", "shape": [6, 128]}"#;
    let change = |name: &str| (name == "q_proj.weight.quant_state.bitsandbytes__nf4").then(|| state.to_vec());
    let error = error_of("bitsandbytes.safetensors", &bitsandbytes(), change);
    assert!(error.contains("model.safetensors: q_proj.weight: expected nf4, got fp4"), "{error}");
    let change = |name: &str| (name == "q_proj.weight.nested_absmax").then(|| f32::NAN.to_le_bytes().to_vec());
    let error = error_of("bitsandbytes.safetensors", &bitsandbytes(), change);
    assert!(
        error.contains("model.safetensors: ") && error.contains("`q_proj.weight`: NaN in `nested_absmax` is not finite"),
        "{error}"
    );
    let config = json!({ "quantization": { "group_size": 64, "bits": 8 } });
    let error = error_of("mlx.safetensors", &config, |_| None);
    assert!(
        error.contains("q_proj.weight: expected words") && error.contains("8 bits in groups of 64, got words [6, 16]"),
        "{error}"
    );
}
