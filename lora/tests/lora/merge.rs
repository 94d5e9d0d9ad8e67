//! Adapters against PEFT: merged into the base or attached to it, they give the same logits.

use std::path::{Path, PathBuf};

use burn::backend::Flex;
use burn::backend::flex::FlexDevice;
use burn::tensor::DType;
use burnish_kernels::tolerance::Tolerance;
use burnish_lora::{LoraError, MergedCheckpoint, load_adapter, read_config};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, FloatType, LanguageModel, LoadOptions, ModelConfig};
use serde_json::{Value, json};

use crate::golden_batch::GoldenBatch;

const CASES: [&str; 4] = ["llama", "llama3", "mistral", "biased"];

/// A tiny checkpoint with an adapter, and the values that transformers and PEFT computed.
struct Golden {
    folder: PathBuf,
    config: ModelConfig,
    weights: SafetensorsFolder,
    batch: GoldenBatch,
}

impl Golden {
    fn open(case: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity").join(case);
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        Self {
            config: ModelConfig::from_json(&config).unwrap(),
            weights: SafetensorsFolder::open(&folder).unwrap(),
            batch: GoldenBatch::open(&folder),
            folder,
        }
    }

    fn load(&self, checkpoint: &dyn Checkpoint) -> LanguageModel<Flex> {
        LanguageModel::load(&self.config, checkpoint, &FlexDevice, LoadOptions::default()).unwrap()
    }

    /// The logits of the golden batch, without those of padding.
    fn logits(&self, model: &LanguageModel<Flex>) -> Vec<f32> {
        let logits = model.logits(model.hidden_states(&self.batch.input(), None)).into_data();
        self.batch.unpadded(&logits.iter::<f32>().collect::<Vec<_>>())
    }
}

fn check(name: &str, values: &[f32], expected: &[f32]) {
    Tolerance::of(DType::F32).check(name, values, expected).unwrap();
}

#[test]
fn merged_weights_give_the_logits_of_base_and_adapter() {
    for case in CASES {
        let golden = Golden::open(case);
        let expected = golden.batch.expected("adapter_logits");
        let merged = MergedCheckpoint::open(&golden.weights, &golden.folder.join("adapter")).unwrap();
        check(case, &golden.logits(&golden.load(&merged)), &expected);
        // The adapter changes the logits by more than the tolerance.
        assert!(Tolerance::of(DType::F32).check(case, &golden.batch.expected("logits"), &expected).is_err());
    }
}

#[test]
fn an_adapter_that_is_not_finite_is_not_merged() {
    let golden = Golden::open("biased");
    let folder = changed(&golden, |_| {});
    let own = SafetensorsFolder::from_files(&[golden.folder.join("adapter/adapter_model.safetensors")]).unwrap();
    let bytes: Vec<_> = own
        .names()
        .into_iter()
        .map(|name| {
            let mut values = own.read_f32(&name).unwrap();
            values[0] = if name.contains("layers.1.self_attn.v_proj.lora_B") { f32::NAN } else { values[0] };
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, bytes)| {
        let shape = own.shape(name).unwrap();
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap())
    });
    std::fs::write(folder.path().join("adapter_model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let merged = MergedCheckpoint::open(&golden.weights, folder.path()).unwrap();
    let error = merged.read_f32("model.layers.1.self_attn.v_proj.weight").unwrap_err().to_string();
    assert!(error.contains("model.layers.1.self_attn.v_proj.weight") && error.contains("not finite"), "{error}");
    merged.read_f32("model.layers.0.self_attn.v_proj.weight").unwrap();
}

#[test]
fn tensors_that_peft_ignores_are_refused() {
    let golden = Golden::open("biased");
    let folder = changed(&golden, |config| config["target_modules"] = json!(["q_proj", "self_attn.v_proj"]));
    let error = MergedCheckpoint::open(&golden.weights, folder.path()).err().unwrap().to_string();
    assert!(error.contains("mlp.down_proj.lora_A.weight: `target_modules` does not name its layer"), "{error}");
    assert!(!error.contains("v_proj.lora_A") && !error.contains("q_proj.lora_A"), "{error}");
    // An expression may name it.
    let folder = changed(&golden, |config| config["target_modules"] = json!(".*_proj"));
    MergedCheckpoint::open(&golden.weights, folder.path()).unwrap();
}

#[test]
fn only_tensors_without_an_adapter_are_those_of_the_base() {
    let golden = Golden::open("biased");
    let merged = MergedCheckpoint::open(&golden.weights, &golden.folder.join("adapter")).unwrap();
    let (adapted, own) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight");
    let values =
        |checkpoint: &dyn Checkpoint, name: &str| checkpoint.read(name, FloatType::F32).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(values(&merged, own), values(&golden.weights, own));
    assert_eq!(merged.read_bytes(own).unwrap(), golden.weights.read_bytes(own).unwrap());
    assert_eq!(values(&merged, adapted), merged.read_f32(adapted).unwrap());
    assert_ne!(values(&merged, adapted), values(&golden.weights, adapted));
    assert!(merged.read_packed(adapted).unwrap().is_none());
    assert!(merged.read_bytes(adapted).unwrap_err().to_string().contains("merged"));
}

/// The adapter of a case with a changed configuration.
fn changed(golden: &Golden, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let own = golden.folder.join("adapter");
    std::fs::copy(own.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors")).unwrap();
    let text = std::fs::read(own.join("adapter_config.json")).unwrap();
    let mut config = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn patterns_of_ranks_and_alphas_apply_to_merged_and_attached_adapters() {
    let golden = Golden::open("llama");
    let own = read_config(&golden.folder.join("adapter")).unwrap();
    // The same adapter in other words: the patterns give the right values, and the defaults are wrong.
    let folder = changed(&golden, |config| {
        config["r"] = json!(own.rank + 1);
        config["lora_alpha"] = json!(own.alpha * 3.0);
        config["rank_pattern"] = json!({ r".*_proj": own.rank });
        config["alpha_pattern"] = json!({ r"model\.layers\.\d+\.[a-z_]+\.[a-z]+_proj": own.alpha });
    });
    let expected = golden.batch.expected("adapter_logits");
    let merged = MergedCheckpoint::open(&golden.weights, folder.path()).unwrap();
    check("merged", &golden.logits(&golden.load(&merged)), &expected);
    let mut model = golden.load(&golden.weights);
    load_adapter(&mut model, folder.path(), None, &FlexDevice).unwrap();
    check("attached", &golden.logits(&model), &expected);
}

#[test]
fn unsupported_adapters_are_refused_when_merged_or_attached() {
    let golden = Golden::open("biased");
    let bytes = |rank: usize, size: usize| vec![0u8; rank * size * 4];
    let (hidden, vocabulary) = (golden.config.hidden_size, golden.config.vocab_size);
    let own = read_config(&golden.folder.join("adapter")).unwrap();
    let both = |folder: &Path| -> [String; 2] {
        let mut model = golden.load(&golden.weights);
        let attached = load_adapter(&mut model, folder, None, &FlexDevice).unwrap_err();
        let merged = MergedCheckpoint::open(&golden.weights, folder).err().unwrap();
        assert!(matches!(merged, LoraError::Unsupported { .. } | LoraError::Format { .. }), "{merged}");
        [attached.to_string(), merged.to_string()]
    };
    for (name, parts, words) in [
        ("lm_head", ["lora_A.weight", "lora_B.weight"], "only linear layers of the blocks"),
        ("model.embed_tokens", ["lora_embedding_A", "lora_embedding_B"], "an adapter of the embedding"),
        ("lm_head", ["weight", "modules_to_save.weight"], "`modules_to_save`"),
        ("model.layers.0.self_attn.q_proj", ["lora_magnitude_vector", "lora_B.bias"], "DoRA"),
    ] {
        let folder = changed(&golden, |_| {});
        let (a, b) = (bytes(own.rank, hidden), bytes(own.rank, vocabulary));
        let view = |shape, data| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, data).unwrap();
        let tensors = [(parts[0], view(vec![own.rank, hidden], &a)), (parts[1], view(vec![vocabulary, own.rank], &b))];
        let named = tensors.map(|(part, view)| (format!("base_model.model.{name}.{part}"), view));
        std::fs::write(folder.path().join("adapter_model.safetensors"), safetensors::serialize(named, None).unwrap())
            .unwrap();
        for text in both(folder.path()) {
            assert!(text.contains(name) && text.contains(words), "{text}");
        }
    }
    for (key, value) in [("init_lora_weights", json!("pissa_niter_4")), ("layer_replication", json!([[0, 1], [0, 1]]))] {
        for text in both(changed(&golden, |config| config[key] = value).path()) {
            assert!(text.contains(&format!("`{key}`")), "{text}");
        }
    }
}

/// The adapter of a case as that of another model: its tensors renamed by `rename`, and a pattern in its configuration.
fn renamed(golden: &Golden, pattern: Option<&str>, rename: impl Fn(&str) -> String) -> tempfile::TempDir {
    let own = read_config(&golden.folder.join("adapter")).unwrap();
    let folder = changed(golden, |config| {
        if let Some(pattern) = pattern {
            config["rank_pattern"] = json!({ pattern: own.rank + 1 });
        }
    });
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, _)> = file.tensors().into_iter().map(|(name, view)| (rename(&name), view)).collect();
    // PEFT also adapts layers of the same names in the vision tower.
    let vision = tensors[0].1.clone();
    tensors.push(("base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight".to_owned(), vision));
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    folder
}

/// Names as PEFT writes them for `Gemma3ForConditionalGeneration`, since and before transformers 4.52.
#[test]
fn the_adapter_of_a_multimodal_model_is_read_as_that_of_its_text_part() {
    let golden = Golden::open("gemma3");
    let expected = golden.batch.expected("adapter_logits");
    for prefix in ["model.language_model.", "language_model.model."] {
        let rename = |name: &str| name.replacen("base_model.model.model.", &format!("base_model.model.{prefix}"), 1);
        let folder = renamed(&golden, None, rename);
        let merged = MergedCheckpoint::open(&golden.weights, folder.path()).unwrap();
        check("merged", &golden.logits(&golden.load(&merged)), &expected);
        let mut model = golden.load(&golden.weights);
        load_adapter(&mut model, folder.path(), None, &FlexDevice).unwrap();
        check("attached", &golden.logits(&model), &expected);
        // This pattern matches names of the multimodal model, and would match none of the text model.
        let folder = renamed(&golden, Some(&format!("{prefix}layers.0.*")), rename);
        let error = MergedCheckpoint::open(&golden.weights, folder.path()).err().unwrap().to_string();
        assert!(error.contains("`rank_pattern`") && error.contains("multimodal"), "{error}");
    }
}
