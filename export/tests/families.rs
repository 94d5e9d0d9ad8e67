//! Every family written to GGUF files and Hugging Face folders and read again: the logits stay the same.
#![allow(clippy::unwrap_used)]

mod model_folder;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::backend::Flex;
use burn::tensor::{DType, TensorData};
use burnish_export::{
    ExportError, FloatType, GgufOptions, GgufType, HuggingFaceOptions, Mixture, export_gguf, export_hugging_face,
};
use burnish_kernels::packed::{Packed, PackedKind};
use burnish_kernels::tolerance::Tolerance;
use burnish_models::gguf::GgufFile;
use burnish_models::{Checkpoint, LanguageModel, LoadOptions, ModelInput, Pretrained};
use safetensors::Dtype;
use serde_json::{Value, json};

use model_folder::{cases, model_folder};

/// As many tokens as the shortest window of the cases, because llama.cpp has no windows for some families.
const TOKENS: [u32; 6] = [3, 90, 17, 64, 5, 41];

fn open(path: &Path) -> Pretrained {
    Pretrained::open(path).unwrap()
}

fn logits(model: &Pretrained) -> Vec<f32> {
    let device = Default::default();
    let loaded = LanguageModel::<Flex>::load(&model.config, &*model.checkpoint, &device, LoadOptions::default()).unwrap();
    let input = ModelInput::texts(&TOKENS, 1, 0, &device);
    loaded.logits(loaded.hidden_states(&input, None)).into_data().to_vec().unwrap()
}

fn close(name: &str, values: &[f32], expected: &[f32]) {
    Tolerance::of(DType::F32).check(name, values, expected).unwrap();
}

fn gguf(model: &Pretrained, target: &Path) -> Result<Vec<String>, ExportError> {
    let options = GgufOptions { kind: GgufType::Float(FloatType::F32), overwrite: true, ..GgufOptions::default() };
    export_gguf(model, &*model.checkpoint, target, &options).map(|report| report.notes)
}

#[test]
fn every_family_is_written_to_gguf_and_read_again() {
    let work = tempfile::tempdir().unwrap();
    for case in &cases() {
        let (folder, target) = (work.path().join(case), work.path().join(format!("{case}.gguf")));
        model_folder(case, &folder, |_| ());
        let model = open(&folder);
        if case == "qwen3moe-mixed" {
            let error = gguf(&model, &target).unwrap_err().to_string();
            assert!(error.contains("llama.cpp does not support layers without experts"), "{error}");
            continue;
        }
        let notes = gguf(&model, &target).unwrap();
        let rounds = case == "gpt-oss-mxfp4";
        assert_eq!(notes.len(), usize::from(case == "mistral" || rounds), "{notes:?}");
        let mut read = open(&target);
        if rounds {
            // As the note says: the logits are the same only with the frequencies of the folder.
            assert!(notes[0].contains("`rope_parameters.truncate` is false"), "{notes:?}");
            read.config.rotary.clone_from(&model.config.rotary);
            close(case, &logits(&read), &logits(&model));
            continue;
        }
        let has_windows = model.config.family.gguf.has_windows;
        assert_eq!(read.config.window(0), model.config.window(0).filter(|_| has_windows));
        assert_eq!(read.config.max_position_embeddings, if case == "mistral" { 6 } else { 64 });
        close(case, &logits(&read), &logits(&model));
        // From the GGUF to a Hugging Face folder.
        let again = work.path().join(format!("{case}-again"));
        let options = HuggingFaceOptions { float: FloatType::F32, ..Default::default() };
        export_hugging_face(&read, &*read.checkpoint, &again, &options).unwrap();
        close(case, &logits(&open(&again)), &logits(&model));
    }
}

#[test]
fn gemma_3_has_the_keys_that_llama_cpp_reads() {
    let work = tempfile::tempdir().unwrap();
    let (folder, target) = (work.path().join("model"), work.path().join("model.gguf"));
    model_folder("gemma3", &folder, |_| ());
    let model = open(&folder);
    gguf(&model, &target).unwrap();
    let file = GgufFile::open(&target).unwrap();
    let (text, number) = (|key: &str| file.metadata().text(key), |key: &str| file.metadata().number(key));
    assert_eq!((text("general.architecture"), text("tokenizer.ggml.model")), (Some("gemma3"), Some("llama")));
    assert_eq!(file.metadata().flag("tokenizer.ggml.add_space_prefix"), Some(false));
    assert_eq!((number("gemma3.attention.key_length"), number("gemma3.attention.sliding_window")), (Some(12), Some(6)));
    assert_eq!(number("gemma3.attention.sliding_window_pattern"), Some(2));
    assert_eq!(file.metadata().float("gemma3.rope.freq_base"), Some(1e6));
    assert_eq!(
        (text("gemma3.rope.scaling.type"), file.metadata().float("gemma3.rope.scaling.factor")),
        (Some("linear"), Some(8.0))
    );
    let names: Vec<&str> = file.tensors().map(|info| info.name.as_str()).collect();
    for name in [
        "blk.2.attn_q_norm.weight",
        "blk.0.post_attention_norm.weight",
        "blk.1.ffn_norm.weight",
        "blk.1.post_ffw_norm.weight",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    // A norm is stored as 1 + w, and read as w.
    let norm = "model.layers.1.self_attn.k_norm.weight";
    close(norm, &file.read_f32(norm).unwrap(), &model.checkpoint.read_f32(norm).unwrap());
}

#[test]
fn configurations_that_llama_cpp_can_not_run_are_refused() {
    let work = tempfile::tempdir().unwrap();
    for (index, (key, value, word)) in [
        ("query_pre_attn_scalar", json!(24), "query_pre_attn_scalar"),
        ("layer_types", json!(["full_attention", "full_attention", "sliding_attention"]), "layer_types"),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = work.path().join(index.to_string());
        model_folder("gemma3", &folder, |config| config[key] = value);
        let error = gguf(&open(&folder), &work.path().join("model.gguf")).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn divisors_of_frequencies_are_written_only_where_llama_cpp_loads_them() {
    let work = tempfile::tempdir().unwrap();
    let llama3 = json!({ "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    let loaded = ["llama", "granite", "granite4", "exaone4-full"];
    for case in loaded.iter().chain(&["gemma", "gemma2", "olmo2", "qwen2", "qwen3", "qwen3moe", "seed-oss", "smollm3"]) {
        let (folder, target) = (work.path().join(case), work.path().join(format!("{case}.gguf")));
        model_folder(case, &folder, |config| config["rope_parameters"] = llama3.clone());
        let written = gguf(&open(&folder), &target);
        if loaded.contains(case) {
            written.unwrap();
            assert!(open(&target).config.rotary[0].scaling.is_some(), "{case}");
        } else {
            let error = written.unwrap_err().to_string();
            assert!(error.contains("`rope_scaling`: llama.cpp has only linear scaling and YaRN"), "{case}: {error}");
        }
    }
}

/// No program could open a file whose weights do not fit the configuration.
#[test]
fn weights_of_another_size_are_refused_by_name() {
    let work = tempfile::tempdir().unwrap();
    for (key, value, word) in [
        ("intermediate_size", json!(40), "model.layers.0.mlp.up_proj.weight"),
        ("num_hidden_layers", json!(3), "model.layers.2.mlp.up_proj.weight"),
    ] {
        let folder = work.path().join(key);
        model_folder("qwen3", &folder, |config| {
            config[key] = value;
            config["layer_types"] = Value::Null;
        });
        let (model, target) = (open(&folder), work.path().join("target"));
        let options = HuggingFaceOptions::default();
        for error in [
            gguf(&model, &target).unwrap_err(),
            export_hugging_face(&model, &*model.checkpoint, &target, &options).unwrap_err(),
        ] {
            assert!(error.to_string().contains(word), "{error}");
            assert!(!target.exists());
        }
    }
}

/// A checkpoint with one more tensor.
struct Extended<'a>(&'a dyn Checkpoint, &'static str);

impl Checkpoint for Extended<'_> {
    fn names(&self) -> Vec<String> {
        [self.0.names(), vec![self.1.to_owned()]].concat()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        if name == self.1 { Some(vec![2]) } else { self.0.shape(name) }
    }

    fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
        if name == self.1 { Ok(vec![0.0; 2]) } else { self.0.read_f32(name) }
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> burnish_models::Result<Option<Vec<f32>>> {
        if name == self.1 { Ok(None) } else { self.0.read_rows(name, rows) }
    }

    fn read(&self, name: &str, dtype: FloatType) -> burnish_models::Result<TensorData> {
        if name == self.1 { dtype.convert(name, vec![0.0; 2]) } else { self.0.read(name, dtype) }
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        self.0.packed_kind(name)
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        self.0.float_type(name)
    }

    fn is_float8(&self, name: &str) -> bool {
        self.0.is_float8(name)
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.0.file_of(name)
    }

    fn read_packed(&self, name: &str) -> burnish_models::Result<Option<Packed>> {
        if name == self.1 { Ok(None) } else { self.0.read_packed(name) }
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        self.0.integer_dtype(name)
    }

    fn read_bytes(&self, name: &str) -> burnish_models::Result<Vec<u8>> {
        self.0.read_bytes(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.0.files()
    }
}

#[test]
fn a_tensor_without_a_gguf_name_is_refused_by_name() {
    let work = tempfile::tempdir().unwrap();
    let (folder, target) = (work.path().join("model"), work.path().join("model.gguf"));
    model_folder("llama", &folder, |_| ());
    let model = open(&folder);
    // The family does not have this norm, and the configuration does not have this bias.
    for name in ["model.layers.0.self_attn.q_norm.weight", "model.layers.1.self_attn.q_proj.bias"] {
        let error = export_gguf(&model, &Extended(&*model.checkpoint, name), &target, &GgufOptions::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("`{name}` has no name in GGUF files")), "{error}");
        assert!(!target.exists());
    }
    let buffer = Extended(&*model.checkpoint, "model.layers.0.self_attn.rotary_emb.inv_freq");
    export_gguf(&model, &buffer, &target, &GgufOptions::default()).unwrap();
}

/// Writes a model whose configuration ties embedding and head, although both are stored, or only the head.
fn with_head(target: &Path, keep_embedding: bool, change: f32) {
    model_folder("qwen2", target, |_| ());
    let model = open(target);
    let mut weights = Stored::default();
    for name in model.checkpoint.names() {
        let (shape, values) = (model.checkpoint.shape(&name).unwrap(), model.checkpoint.read_f32(&name).unwrap());
        if name == "model.embed_tokens.weight" {
            weights
                .0
                .insert("lm_head.weight".to_owned(), (shape.clone(), values.iter().map(|value| value + change).collect()));
            if !keep_embedding {
                continue;
            }
        }
        weights.0.insert(name, (shape, values));
    }
    burnish_export::write_safetensors(&weights, target, FloatType::F32).unwrap();
}

#[derive(Default)]
struct Stored(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Checkpoint for Stored {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }

    fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
        Ok(self.0[name].1.clone())
    }
}

#[test]
fn stored_tensors_decide_the_head_in_every_format() {
    let work = tempfile::tempdir().unwrap();
    let plain = work.path().join("plain");
    model_folder("qwen2", &plain, |_| ());
    let expected = logits(&open(&plain));
    for (name, keep_embedding, change) in [("alone", false, 0.0), ("equal", true, 0.0), ("different", true, 0.5)] {
        let folder = work.path().join(name);
        with_head(&folder, keep_embedding, change);
        let model = open(&folder);
        let own = logits(&model);
        if change == 0.0 {
            close(name, &own, &expected);
        } else {
            assert!(Tolerance::of(DType::F32).check(name, &own, &expected).is_err());
        }
        assert_eq!(model.config.tie_word_embeddings, change == 0.0);
        let target = work.path().join(format!("{name}.gguf"));
        gguf(&model, &target).unwrap();
        close(name, &logits(&open(&target)), &own);
        let again = work.path().join(format!("{name}-again"));
        let options = HuggingFaceOptions { float: FloatType::F32, ..Default::default() };
        export_hugging_face(&model, &*model.checkpoint, &again, &options).unwrap();
        close(name, &logits(&open(&again)), &own);
    }
}

#[test]
fn the_text_part_of_a_multimodal_model_is_exported_as_a_text_model() {
    let work = tempfile::tempdir().unwrap();
    let (plain, whole) = (work.path().join("plain"), work.path().join("whole"));
    model_folder("gemma3", &plain, |_| ());
    let model = open(&plain);
    model_folder("gemma3", &whole, |config| {
        *config = json!({ "model_type": "gemma3", "text_config": config, "vision_config": {}, "eos_token_id": [1, 2] });
    });
    let mut weights = Stored::default();
    for name in model.checkpoint.names() {
        let values = (model.checkpoint.shape(&name).unwrap(), model.checkpoint.read_f32(&name).unwrap());
        weights.0.insert(format!("language_model.{name}"), values);
    }
    weights.0.insert("vision_tower.patch_embedding.bias".to_owned(), (vec![1], vec![0.0]));
    burnish_export::write_safetensors(&weights, &whole, FloatType::F32).unwrap();
    let text = open(&whole);
    close("text part", &logits(&text), &logits(&model));
    let again = work.path().join("again");
    export_hugging_face(&text, &*text.checkpoint, &again, &HuggingFaceOptions::default()).unwrap();
    assert_eq!(open(&again).config.model_type, "gemma3_text");
}

#[test]
fn blocks_of_a_gguf_are_handed_over_as_they_are_and_stand_for_what_is_read() {
    let work = tempfile::tempdir().unwrap();
    // `llama` has rows in another order than its checkpoints.
    for case in ["llama", "qwen3"] {
        let (folder, target) = (work.path().join(case), work.path().join(format!("{case}.gguf")));
        model_folder(case, &folder, |_| {});
        let model = open(&folder);
        let options = GgufOptions { kind: GgufType::Quantized(Mixture::Q8_0), overwrite: true, ..GgufOptions::default() };
        export_gguf(&model, &*model.checkpoint, &target, &options).unwrap();
        let file = open(&target).checkpoint;
        let mut packed = 0;
        for name in file.names() {
            if let Some(blocks) = file.read_packed(&name).unwrap() {
                packed += 1;
                assert_eq!((blocks.name(), blocks.dims().to_vec()), ("Q8_0", file.shape(&name).unwrap()));
                assert_eq!(blocks.dequantize(), file.read_f32(&name).unwrap(), "{case}: {name}");
            }
        }
        assert!(packed > 7, "{case}: {packed}");
    }
}
