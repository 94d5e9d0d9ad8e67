//! Weights in 8-bit floats as transformers and compressed-tensors store them (`make_fp8.py`), and what these make of them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burnish_models::checkpoint::{Checkpoint, SafetensorsFolder, quantised_folder};
use burnish_models::{FloatType, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn fixture(name: &str) -> SafetensorsFolder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fp8");
    SafetensorsFolder::from_files(&[folder.join(name)]).unwrap()
}

fn open(inner: SafetensorsFolder, config: &Value) -> Result<Box<dyn Checkpoint>> {
    quantised_folder(Path::new("a/folder"), Box::new(inner), config)
}

fn fp8(block: Value) -> Value {
    json!({ "quantization_config": { "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block } })
}

fn compressed(weights: &[Value]) -> Value {
    let groups: BTreeMap<String, Value> =
        weights.iter().enumerate().map(|(at, weights)| (format!("group_{at}"), json!({ "weights": weights }))).collect();
    json!({ "quantization_config": {
        "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups, "ignore": ["lm_head"],
        "sparsity_config": {}, "kv_cache_scheme": null, "quantization_status": "compressed",
    } })
}

fn weights(strategy: &str) -> Value {
    json!({ "num_bits": 8, "type": "float", "strategy": strategy, "symmetric": true, "dynamic": false })
}

/// Every weight of a file is that of the library, in f32 and in bf16.
fn assert_dequantised(file: &str, method: &str, config: &Value) {
    let (found, values) = (open(fixture(file), config).unwrap(), fixture("values.safetensors"));
    let layers: Vec<String> =
        found.names().iter().filter_map(|name| Some(name.strip_suffix(".weight")?.to_owned())).collect();
    let mut compared = 0;
    for layer in layers.iter().filter(|layer| !layer.starts_with("model")) {
        let name = format!("{layer}.weight");
        assert_eq!(found.shape(&name), Some(vec![24, 32]));
        assert_eq!((found.float_type(&name), found.integer_dtype(&name), found.is_float8(&name)), (None, None, false));
        let read = |dtype: FloatType| found.read(&name, dtype).unwrap();
        let expected =
            |torch: &str, dtype| -> TensorData { values.read(&format!("{method}.{layer}.{torch}"), dtype).unwrap() };
        assert_eq!(read(FloatType::F32), expected("float32", FloatType::F32), "{name}");
        assert_eq!(read(FloatType::BF16), expected("bfloat16", FloatType::BF16), "{name}");
        assert_eq!(found.read_f32(&name).unwrap(), values.read_f32(&format!("{method}.{layer}.float32")).unwrap());
        assert!(found.read_bytes(&name).unwrap_err().to_string().contains(&name));
        compared += 1;
    }
    assert_eq!(compared, 4);
    // Scales are no tensors of the model, whatever they scale.
    assert!(found.names().iter().all(|name| name.ends_with(".weight")), "{:?}", found.names());
}

#[test]
fn weights_equal_those_of_transformers() {
    assert_dequantised("fp8.safetensors", "fp8", &fp8(json!([8, 8])));
    let norm = open(fixture("fp8.safetensors"), &fp8(json!([8, 8]))).unwrap();
    assert_eq!(norm.float_type("model.norm.weight"), Some(FloatType::BF16));
    assert_eq!(norm.read_bytes("model.norm.weight").unwrap().len(), 64);
}

#[test]
fn weights_equal_those_of_compressed_tensors() {
    // By the scales that there are: the fixture has one layer of each strategy.
    assert_dequantised("compressed.safetensors", "compressed", &compressed(&[weights("channel")]));
    let mut block = weights("block");
    block["block_structure"] = json!([8, 8]);
    assert_dequantised("compressed.safetensors", "compressed", &compressed(&[block]));
}

/// A file of one weight of ones and its scales.
fn one(shape: [usize; 2], dtype: Dtype, scales: &[usize], scale_type: Dtype) -> (tempfile::TempDir, PathBuf) {
    let size = |dtype: Dtype| dtype.bitsize() / 8;
    let ones = match dtype {
        Dtype::F8_E4M3 => vec![0x38; shape[0] * shape[1]],
        _ => vec![0; shape[0] * shape[1] * size(dtype)],
    };
    let count: usize = scales.iter().product();
    let values: Vec<u8> = match scale_type {
        Dtype::F32 => (0..count).flat_map(|at| (at as f32 + 1.0).to_le_bytes()).collect(),
        _ => vec![0; count * size(scale_type)],
    };
    let tensors = [
        ("a.weight".to_owned(), TensorView::new(dtype, shape.to_vec(), &ones).unwrap()),
        ("a.weight_scale_inv".to_owned(), TensorView::new(scale_type, scales.to_vec(), &values).unwrap()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    (folder, path)
}

#[test]
fn blocks_may_end_at_the_edges_of_a_matrix() {
    // Five blocks of 128 rows cover 576 rows, three of 128 columns cover 320.
    let (_folder, path) = one([576, 320], Dtype::F8_E4M3, &[5, 3], Dtype::F32);
    let checkpoint = open(SafetensorsFolder::from_files(&[path]).unwrap(), &fp8(json!([128, 128]))).unwrap();
    let values = checkpoint.read_f32("a.weight").unwrap();
    let expected: Vec<f32> = (0..576 * 320).map(|at| (at / 320 / 128 * 3 + at % 320 / 128) as f32 + 1.0).collect();
    assert_eq!(values, expected);
}

#[test]
fn scales_that_do_not_fit_are_named() {
    let error = |(_folder, path): (tempfile::TempDir, PathBuf), block: Value| {
        open(SafetensorsFolder::from_files(&[path]).unwrap(), &fp8(block)).map(drop).unwrap_err().to_string()
    };
    let (float8, float) = (Dtype::F8_E4M3, Dtype::F32);
    let none = Value::Null;
    for (text, word) in [
        (
            error(one([4, 8], float8, &[3, 1], float), none.clone()),
            "expected scales that divide [4, 8], got the shape [3, 1]",
        ),
        (error(one([4, 8], float8, &[2, 2], float), json!([4, 4])), "expected scales for blocks of [4, 4]"),
        (error(one([4, 8], float8, &[5], float), none.clone()), "got the shape [5]"),
        (error(one([4, 8], float8, &[0, 8], float), none.clone()), "got the shape [0, 8]"),
        (error(one([4, 8], float8, &[4, 1], Dtype::U8), none.clone()), "got integers"),
        (error(one([4, 8], Dtype::BF16, &[4, 1], float), none), "expected 8-bit floats in a.weight"),
    ] {
        assert!(text.contains(word) && text.contains("a.weight_scale_inv") && text.contains("model.safetensors"), "{text}");
    }
}

#[test]
fn eight_bit_floats_without_scales_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let weight = TensorView::new(Dtype::F8_E5M2, vec![2, 2], &[0; 4]).unwrap();
    safetensors::serialize_to_file([("a.weight".to_owned(), weight)], None, &path).unwrap();
    let read = |config: &Value| open(SafetensorsFolder::from_files(std::slice::from_ref(&path)).unwrap(), config);
    let error = read(&fp8(Value::Null)).map(drop).unwrap_err().to_string();
    assert!(error.contains("a.weight: has 8-bit floats, but no scales"), "{error}");
    // Where no method is known, their scales may have any name.
    let error = read(&json!({})).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("a/folder has 8-bit floats in `a.weight`") && error.contains("choose the model"), "{error}");
}

#[test]
fn other_methods_are_left_to_the_refusal_by_name() {
    let mut half = weights("channel");
    half["num_bits"] = json!(4);
    let mut skewed = weights("tensor");
    skewed["symmetric"] = json!(false);
    let mut packed = compressed(&[weights("channel")]);
    packed["quantization_config"]["format"] = json!("pack-quantized");
    let mut sparse = compressed(&[weights("channel")]);
    sparse["quantization_config"]["sparsity_config"] = json!({ "format": "sparse-24-bitmask" });
    let method = |name: &str| json!({ "quantization_config": { "quant_method": name } });
    for config in [
        compressed(&[half]),
        compressed(&[skewed]),
        compressed(&[weights("group")]),
        compressed(&[]),
        packed,
        sparse,
        fp8(json!([8])),
        fp8(json!([0, 8])),
        method("fbgemm_fp8"),
        method("modelopt"),
        json!({}),
    ] {
        let stored = fixture("compressed.safetensors");
        let refused = burnish_models::recognise::check_quantised(Path::new("m"), &config, &stored.names());
        assert!(refused.unwrap_err().to_string().contains("weight_scale"), "{config}");
        let refused = open(stored, &config).map(drop).unwrap_err().to_string();
        assert!(refused.contains("has 8-bit floats in `"), "{config}: {refused}");
    }
}
