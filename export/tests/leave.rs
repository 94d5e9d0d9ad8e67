//! Adapters and models for llama.cpp and mlx-lm, against the files of `make_leave.py`, which those programs wrote.
#![allow(clippy::unwrap_used)]

mod model_folder;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burnish_export::{
    ExportError, ExportReport, FloatType, GgufLoraOptions, MlxAdapterOptions, MlxOptions, MlxQuantisation, export_gguf_lora,
    export_mlx, export_mlx_adapter,
};
use burnish_lora::{HostAdapter, HostLayer, MergedCheckpoint, read_config};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::gguf::GgufFile;
use burnish_models::{Checkpoint, Pretrained};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use model_folder::{cases, fixture, model_folder};

fn golden(name: &str) -> PathBuf {
    fixture("llama").join("../../leave").join(name)
}

/// A case with a tokenizer, in a folder of its own.
fn model(case: &str, work: &Path) -> Pretrained {
    let folder = work.join(case);
    model_folder(case, &folder, |_| ());
    Pretrained::open(&folder).unwrap()
}

fn layers(adapter: &HostAdapter<'_>) -> BTreeMap<String, HostLayer> {
    adapter.layers().map(|name| (name.to_owned(), adapter.layer(name).unwrap().unwrap())).collect()
}

fn read(model: &Pretrained, adapter: &Path) -> BTreeMap<String, HostLayer> {
    layers(&HostAdapter::of(model, adapter).unwrap())
}

/// A copy of the adapter of a case, with a changed configuration.
fn changed(case: &str, target: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let (source, folder) = (fixture(case).join("adapter"), target.join("changed"));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(source.join("adapter_model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
    let mut json: Value = serde_json::from_str(&fs::read_to_string(source.join("adapter_config.json")).unwrap()).unwrap();
    change(&mut json);
    fs::write(folder.join("adapter_config.json"), json.to_string()).unwrap();
    folder
}

fn to_gguf(model: &Pretrained, adapter: &Path, target: &Path) -> burnish_export::Result<ExportReport> {
    let options = GgufLoraOptions { float: FloatType::F32, overwrite: true };
    export_gguf_lora(model, &HostAdapter::of(model, adapter).unwrap(), target, &options)
}

fn to_mlx(model: &Pretrained, adapter: &Path, target: &Path) -> burnish_export::Result<ExportReport> {
    export_mlx_adapter(
        model,
        &HostAdapter::of(model, adapter).unwrap(),
        target,
        &MlxAdapterOptions { card: None, overwrite: true },
    )
}

/// Type, shape and bytes of each tensor.
fn tensors(file: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let of =
        |view: &safetensors::tensor::TensorView| (view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec());
    read.tensors().iter().map(|(name, view)| (name.clone(), of(view))).collect()
}

#[test]
fn adapters_of_llama_cpp_and_mlx_are_those_of_peft() {
    let work = tempfile::tempdir().unwrap();
    let model = model("llama", work.path());
    let peft = read(&model, &fixture("llama").join("adapter"));
    assert_eq!(peft.len(), 14);
    for name in ["adapter.gguf", "mlx-adapter"] {
        assert_eq!(read(&model, &golden(name)), peft, "{name}");
        let config = read_config(&golden(name)).unwrap();
        assert_eq!((config.rank, config.alpha), (4, 8.0), "{name}");
    }
    // A GGUF's rows of queries and keys need the size of a head.
    let error = MergedCheckpoint::open(&*model.checkpoint, &golden("adapter.gguf")).err().unwrap().to_string();
    assert!(error.contains("MergedCheckpoint::of"), "{error}");
}

#[test]
fn a_lora_gguf_equals_that_of_llama_cpp() {
    let work = tempfile::tempdir().unwrap();
    let (model, target) = (model("llama", work.path()), work.path().join("adapter.gguf"));
    let report = to_gguf(&model, &fixture("llama").join("adapter"), &target).unwrap();
    assert_eq!((report.notes.len(), report.tensors["F32"]), (0, 28));
    let (own, theirs) = (GgufFile::open(&target).unwrap(), GgufFile::open(&golden("adapter.gguf")).unwrap());
    let tensors = |file: &GgufFile| -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let infos = file.tensors().map(|info| (info.name.clone(), (info.shape.clone(), file.read_f32(&info.name).unwrap())));
        infos.collect()
    };
    assert_eq!(tensors(&own), tensors(&theirs));
    for key in ["general.architecture", "general.type", "adapter.type", "adapter.lora.alpha", "general.quantization_version"]
    {
        assert!(own.metadata().get(key).is_some(), "{key}");
        assert_eq!(own.metadata().get(key), theirs.metadata().get(key), "{key}");
    }
    let error = Pretrained::open(&target).err().unwrap().to_string();
    assert!(error.contains("expected a model, got a GGUF adapter"), "{error}");
}

#[test]
fn an_mlx_adapter_equals_that_of_mlx() {
    let work = tempfile::tempdir().unwrap();
    let (model, target) = (model("llama", work.path()), work.path().join("mlx"));
    to_mlx(&model, &fixture("llama").join("adapter"), &target).unwrap();
    let file = |folder: &Path| tensors(&folder.join("adapters.safetensors"));
    assert_eq!(file(&target), file(&golden("mlx-adapter")));
    let config = |folder: &Path| -> Value {
        serde_json::from_str(&fs::read_to_string(folder.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (own, theirs) = (config(&target), config(&golden("mlx-adapter")));
    for key in ["fine_tune_type", "num_layers", "lora_parameters"] {
        assert_eq!(own[key], theirs[key], "{key}");
    }
}

#[test]
fn the_adapters_of_every_family_go_around_the_circle() {
    let work = tempfile::tempdir().unwrap();
    for case in &cases() {
        let model = model(case, work.path());
        let adapter = fixture(case).join("adapter");
        let (gguf, mlx, again) = (work.path().join("a.gguf"), work.path().join("mlx"), work.path().join("b.gguf"));
        to_gguf(&model, &adapter, &gguf).unwrap();
        if case == "granite4" {
            // Its layers have other names in GGUF files, which are those of a Granite 3, and in mlx-lm: refused, not read as another.
            assert!(HostAdapter::of(&model, &gguf).is_err());
            let error = to_mlx(&model, &adapter, &mlx).unwrap_err().to_string();
            assert!(error.contains("shared_mlp.input_linear"), "{error}");
            continue;
        }
        to_mlx(&model, &gguf, &mlx).unwrap();
        to_gguf(&model, &mlx, &again).unwrap();
        let peft = read(&model, &adapter);
        for path in [&gguf, &mlx, &again] {
            assert_eq!(read(&model, path), peft, "{case}: {}", path.display());
        }
        assert_eq!(fs::read(&gguf).unwrap(), fs::read(&again).unwrap(), "{case}");
    }
}

#[test]
fn scales_that_differ_between_layers_go_into_b() {
    let work = tempfile::tempdir().unwrap();
    let model = model("llama", work.path());
    for (change, notes) in
        [(json!({ "use_rslora": true }), 0), (json!({ "alpha_pattern": { "q_proj": 3.0, "layers.1.mlp.up_proj": 0.5 } }), 1)]
    {
        let adapter = changed("llama", work.path(), |json| {
            for (key, value) in change.as_object().unwrap() {
                json[key] = value.clone();
            }
        });
        let merged = |path: &Path| {
            let merged = MergedCheckpoint::of(&model, path).unwrap();
            merged.names().into_iter().map(|name| merged.read_f32(&name).unwrap()).collect::<Vec<_>>().concat()
        };
        let (gguf, mlx) = (work.path().join("a.gguf"), work.path().join("mlx"));
        assert_eq!(to_gguf(&model, &adapter, &gguf).unwrap().notes.len(), notes);
        assert_eq!(to_mlx(&model, &adapter, &mlx).unwrap().notes.len(), notes);
        let expected = merged(&adapter);
        assert_ne!(expected, merged(&fixture("llama").join("adapter")));
        for path in [gguf, mlx] {
            let distance = merged(&path).iter().zip(&expected).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
            assert!(distance < 1e-6, "{change}: {distance}");
        }
    }
}

#[test]
fn what_a_format_can_not_hold_is_refused_by_name() {
    let work = tempfile::tempdir().unwrap();
    let model = model("llama", work.path());
    let (gguf, mlx) = (work.path().join("a.gguf"), work.path().join("mlx"));
    let adapters = fixture("llama").join("../../adapters");
    let error = to_gguf(&model, &adapters.join("dora/start"), &gguf).unwrap_err().to_string();
    assert!(error.contains("`use_dora`") && error.contains("--format gguf"), "{error}");
    // mlx-lm has magnitudes.
    to_mlx(&model, &adapters.join("dora/start"), &mlx).unwrap();
    let dora = read(&model, &adapters.join("dora/start"));
    assert!(dora.values().all(|layer| layer.magnitude.is_some()));
    assert_eq!(read(&model, &mlx), dora);
    for error in [
        to_gguf(&model, &adapters.join("modules/start"), &gguf).unwrap_err(),
        to_mlx(&model, &adapters.join("modules/start"), &mlx).unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("`modules_to_save`: lm_head") || error.to_string().contains("embed_tokens"),
            "{error}"
        );
    }
    let none = changed("llama", work.path(), |json| json["lora_alpha"] = json!(0));
    assert!(to_gguf(&model, &none, &gguf).unwrap_err().to_string().contains("alpha is 0"));
    assert!(to_mlx(&model, &none, &mlx).unwrap_err().to_string().contains("scale is 0"));
    assert!(!gguf.exists());
}

#[test]
fn a_model_in_four_bits_equals_that_of_mlx() {
    let work = tempfile::tempdir().unwrap();
    let (model, target) = (model("llama", work.path()), work.path().join("mlx"));
    let quantisation = Some(MlxQuantisation { bits: 4, group: 32 });
    let options = MlxOptions { quantisation, overwrite: true, ..MlxOptions::default() };
    let report = export_mlx(&model, &*model.checkpoint, &target, &options).unwrap();
    let file = |folder: &Path| tensors(&folder.join("model.safetensors"));
    assert_eq!(file(&target), file(&golden("mlx-int4")));
    let json = |folder: &Path, name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    for key in ["quantization", "quantization_config"] {
        assert_eq!(json(&target, "config.json")[key], json(&golden("mlx-int4"), "config.json")[key], "{key}");
    }
    let index = "model.safetensors.index.json";
    assert_eq!(json(&target, index), json(&golden("mlx-int4"), index));
    // Rows of 48 can't be divided into groups of 32.
    assert!(report.notes.len() == 1 && report.notes[0].contains("2 matrices stay floats"), "{:?}", report.notes);
    // What is packed already is copied.
    let packed = Pretrained::open(&target).unwrap();
    let again = work.path().join("again");
    export_mlx(&packed, &*packed.checkpoint, &again, &options).unwrap();
    assert_eq!(file(&again), file(&target));
    // Other bits would add to the errors.
    let eight = MlxOptions { quantisation: Some(MlxQuantisation { bits: 8, group: 32 }), ..options };
    let error = export_mlx(&packed, &*packed.checkpoint, &again, &eight).unwrap_err();
    assert!(matches!(error, ExportError::Requantizes { from: "int4", to: "int8", .. }), "{error}");
    assert_eq!(file(&again), file(&target));
    let eight = MlxOptions { requantize: true, ..eight };
    let report = export_mlx(&packed, &*packed.checkpoint, &again, &eight).unwrap();
    assert!(report.tensors["int8"] > 0 && file(&again) != file(&target));
}

#[test]
fn a_dense_folder_has_the_weights_of_the_model() {
    let work = tempfile::tempdir().unwrap();
    let (model, target) = (model("qwen3", work.path()), work.path().join("mlx"));
    let options = MlxOptions { float: FloatType::F32, shard_bytes: 20_000, ..MlxOptions::default() };
    export_mlx(&model, &*model.checkpoint, &target, &options).unwrap();
    let written = SafetensorsFolder::open(&target).unwrap();
    assert!(written.files().len() > 2);
    for name in model.checkpoint.names() {
        assert_eq!(written.read_f32(&name).unwrap(), model.checkpoint.read_f32(&name).unwrap(), "{name}");
    }
    let bytes = fs::read(&written.files()[0]).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "mlx");
    assert!(!target.join("README.md").exists());
    Pretrained::open(&target).unwrap();
}
