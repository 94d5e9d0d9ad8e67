//! Experts in one tensor a layer, as transformers and gpt-oss have them, against experts apart.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use burnish_models::checkpoint::{SafetensorsFolder, Stacked, experts_apart};
use burnish_models::{Checkpoint, FloatType, ModelConfig, Result};
use safetensors::Dtype;

fn open(case: &str) -> (ModelConfig, SafetensorsFolder) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity").join(case);
    let json = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = ModelConfig::from_json(&serde_json::from_str(&json).unwrap()).unwrap();
    (config, SafetensorsFolder::open(&folder).unwrap())
}

/// Tensors in memory: f32, or bytes.
#[derive(Default)]
struct Named(BTreeMap<String, (Vec<usize>, Vec<u8>, bool)>);

impl Named {
    fn add(&mut self, name: String, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0.insert(name, (shape.to_vec(), bytes, true));
    }
}

impl Checkpoint for Named {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, ..)| shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.0[name].1.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        self.0.get(name).filter(|(.., is_float)| *is_float).map(|_| FloatType::F32)
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        self.0.get(name).filter(|(.., is_float)| !is_float).map(|_| Dtype::U8)
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        Ok(self.0[name].1.clone())
    }
}

/// As `Qwen3MoeExperts` of transformers 5 has them in memory.
#[test]
fn stacked_rows_are_those_of_experts_apart() {
    let (config, apart) = open("qwen3moe");
    let experts = config.experts.clone().unwrap();
    let (inner, hidden) = (experts.intermediate_size, config.hidden_size);
    let mut stacked = Named::default();
    for name in apart.names().iter().filter(|name| !name.contains(".experts.")) {
        stacked.add(name.clone(), &apart.shape(name).unwrap(), &apart.read_f32(name).unwrap());
    }
    for layer in 0..config.num_hidden_layers {
        let start = format!("model.layers.{layer}.mlp.experts.");
        let of = |names: &[&str]| -> Vec<f32> {
            let all = (0..experts.count).flat_map(|expert| names.iter().map(move |name| (expert, *name)));
            all.flat_map(|(expert, name)| apart.read_f32(&format!("{start}{expert}.{name}.weight")).unwrap()).collect()
        };
        stacked.add(format!("{start}gate_up_proj"), &[experts.count, 2 * inner, hidden], &of(&["gate_proj", "up_proj"]));
        stacked.add(format!("{start}down_proj"), &[experts.count, hidden, inner], &of(&["down_proj"]));
    }
    let found = experts_apart(Box::new(stacked), &config);
    assert_eq!(found.names(), apart.names());
    for name in apart.names() {
        assert_eq!(found.shape(&name), apart.shape(&name), "{name}");
        assert_eq!(found.read_f32(&name).unwrap(), apart.read_f32(&name).unwrap(), "{name}");
    }
}

#[test]
fn columns_are_taken_apart_and_stacked_again() {
    let (config, stored) = open("gpt-oss");
    let apart = experts_apart(Box::new(open("gpt-oss").1), &config);
    let again = Stacked::of(&*apart, &config).unwrap();
    assert_eq!(again.names(), stored.names());
    for name in stored.names() {
        assert_eq!(again.shape(&name), stored.shape(&name), "{name}");
        assert_eq!(again.read_f32(&name).unwrap(), stored.read_f32(&name).unwrap(), "{name}");
    }
    let (config, apart) = open("qwen3moe");
    assert!(Stacked::of(&apart, &config).is_none());
}

#[test]
fn damaged_blocks_of_mxfp4_are_refused_by_name() {
    let (config, stored) = open("gpt-oss-mxfp4");
    let damaged = |part: &str, shape: &[usize]| {
        let mut named = Named::default();
        for name in stored.names() {
            let own = stored.shape(&name).unwrap();
            let shape = if name.ends_with(part) { shape.to_vec() } else { own };
            if stored.integer_dtype(&name).is_some() {
                let mut bytes = stored.read_bytes(&name).unwrap();
                bytes.resize(shape.iter().product(), 0);
                named.0.insert(name, (shape, bytes, false));
            } else {
                named.add(name.clone(), &shape, &stored.read_f32(&name).unwrap());
            }
        }
        experts_apart(Box::new(named), &config)
    };
    let name = "model.layers.0.mlp.experts.1.down_proj.weight";
    assert_eq!(damaged("none", &[]).read_f32(name).unwrap().len(), 64 * 32);
    for (part, shape) in [
        ("layers.0.mlp.experts.down_proj_blocks", &[4, 64, 1, 8][..]),
        ("layers.0.mlp.experts.down_proj_blocks", &[64, 16]),
        ("layers.0.mlp.experts.down_proj_scales", &[4, 64, 2]),
        ("layers.0.mlp.experts.down_proj_scales", &[]),
    ] {
        let checkpoint = damaged(part, shape);
        assert_eq!(checkpoint.shape(name), None, "{part} {shape:?}");
        let error = checkpoint.read_f32(name).unwrap_err().to_string();
        assert!(error.contains("down_proj_blocks") && error.contains("expected blocks of 16 bytes"), "{error}");
    }
    // Fewer experts than the configuration says.
    let checkpoint = damaged("layers.0.mlp.experts.down_proj_bias", &[1, 64]);
    let error = checkpoint.read_f32("model.layers.0.mlp.experts.1.down_proj.bias").unwrap_err().to_string();
    assert!(error.contains("expected that of expert 1, got 1 experts"), "{error}");
}
