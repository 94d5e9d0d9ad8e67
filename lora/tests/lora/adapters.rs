//! Adapters beyond plain LoRA against PEFT: DoRA, those that change their base, and layers trained beside them.

use std::path::Path;

use burn::backend::{Autodiff, Flex};
use burn::tensor::DType;
use burnish_kernels::FusedBackend;
use burnish_kernels::tolerance::Tolerance;
use burnish_lora::{Init, LoraConfig, MergedCheckpoint, attach, load_adapter, read_config, resume_adapter, save_adapter};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{AdapterPass, AnyTensor, Checkpoint, LanguageModel, LoadOptions, ModelInput};

use crate::golden::Golden;
use crate::golden_batch::GoldenBatch;

type Training = Autodiff<Flex>;

impl Golden {
    fn load<B: FusedBackend>(&self, checkpoint: &dyn Checkpoint) -> LanguageModel<B> {
        LanguageModel::load(&self.config, checkpoint, &Default::default(), LoadOptions::default()).unwrap()
    }

    fn batch(&self) -> GoldenBatch {
        GoldenBatch::open(&self.folder)
    }

    /// The logits of all tokens but padding.
    fn logits<B: FusedBackend>(&self, model: &LanguageModel<B>, adapters: AdapterPass) -> Vec<f32> {
        let batch = self.batch();
        let input = ModelInput { adapters, ..batch.input() };
        let logits = model.logits(model.hidden_states(&input, None)).into_data();
        batch.unpadded(&logits.iter::<f32>().collect::<Vec<_>>())
    }
}

fn close(name: &str, values: &[f32], expected: &[f32]) {
    Tolerance::of(DType::F32).check(name, values, expected).unwrap();
}

fn differs(values: &[f32], expected: &[f32]) -> bool {
    Tolerance::of(DType::F32).check("", values, expected).is_err()
}

/// The base, the case, and the folder of its adapter with the logits that it gives.
const ADAPTERS: [(&str, &str, &str, &str); 6] = [
    ("llama", "dora", "start", "logits"),
    ("biased", "dora_biased", "start", "logits"),
    ("llama", "pissa", "trained", "trained_logits"),
    ("mistral", "olora", "trained", "trained_logits"),
    ("llama", "modules", "start", "logits"),
    ("llama3", "modules_tied", "start", "logits"),
];

#[test]
fn attached_and_merged_adapters_give_the_logits_of_peft() {
    for (base, case, folder, logits) in ADAPTERS {
        let golden = Golden::open(base, case);
        let (folder, expected) = (golden.folder.join(folder), golden.batch().expected(logits));
        let mut model = golden.load::<Flex>(&golden.weights);
        assert!(differs(&golden.logits(&model, AdapterPass::Current), &expected), "{case}");
        load_adapter(&mut model, &folder, None, &Default::default()).unwrap();
        close(case, &golden.logits(&model, AdapterPass::Current), &expected);
        let merged = MergedCheckpoint::open(&golden.weights, &folder).unwrap();
        close(&format!("{case} merged"), &golden.logits(&golden.load::<Flex>(&merged), AdapterPass::Current), &expected);
    }
}

#[test]
fn loss_and_gradients_equal_peft() {
    for (base, case, folder, _) in ADAPTERS {
        if folder == "trained" {
            continue;
        }
        let golden = Golden::open(base, case);
        let mut model = golden.load::<Training>(&golden.weights);
        load_adapter(&mut model, &golden.folder.join(folder), None, &Default::default()).unwrap();
        let loss = golden.batch().loss(&model);
        close("loss", &loss.to_data().to_vec::<f32>().unwrap(), &golden.values.read_f32("loss").unwrap());
        golden.batch().check_gradients(&loss, &model, "grad.", |name| format!("base_model.model.{name}"));
    }
}

/// A folder of its own with the adapter of the model.
fn saved<B: FusedBackend>(model: &LanguageModel<B>, config: &LoraConfig) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    save_adapter(model, config, "base", folder.path()).unwrap();
    folder
}

#[test]
fn an_adapter_is_written_as_it_was_read() {
    for (base, case, folder, _) in ADAPTERS {
        if folder == "trained" {
            continue;
        }
        let golden = Golden::open(base, case);
        let folder = golden.folder.join(folder);
        let mut model = golden.load::<Flex>(&golden.weights);
        let config = load_adapter(&mut model, &folder, None, &Default::default()).unwrap();
        let written = saved(&model, &config);
        let file = |folder: &Path| SafetensorsFolder::from_files(&[folder.join("adapter_model.safetensors")]).unwrap();
        let (own, peft) = (file(written.path()), file(&folder));
        let names = |file: &SafetensorsFolder| file.names().into_iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(names(&own), names(&peft), "{case}");
        for name in peft.names() {
            let read = |file: &SafetensorsFolder| (file.shape(&name), file.read_f32(&name).unwrap());
            assert_eq!(read(&own), read(&peft), "{case}: {name}");
        }
        let (own, peft) = (json(written.path()), json(&folder));
        for key in
            ["use_dora", "use_rslora", "modules_to_save", "ensure_weight_tying", "r", "lora_alpha", "init_lora_weights"]
        {
            assert_eq!(own[key], peft[key], "{case}: {key}");
        }
    }
}

fn json(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn an_embedding_and_a_head_are_trained_as_a_whole_and_a_tied_one_stays_both() {
    for (base, modules, trained, stored) in [
        ("llama", &["lm_head"][..], &["lm_head.weight"][..], &["lm_head"][..]),
        (
            "llama",
            &["lm_head", "embed_tokens"],
            &["model.embed_tokens.weight", "lm_head.weight"],
            &["model.embed_tokens", "lm_head"],
        ),
        ("llama3", &["lm_head"], &["model.embed_tokens.weight"], &["model.embed_tokens", "lm_head"]),
    ] {
        let golden = Golden::open(base, "modules");
        let modules_to_save: Vec<String> = modules.iter().map(|name| (*name).to_owned()).collect();
        let config = LoraConfig { rank: 2, modules_to_save, ..LoraConfig::default() };
        let mut model = golden.load::<Training>(&golden.weights);
        let before = golden.logits(&model, AdapterPass::Current);
        attach(&mut model, &config, 3, &Default::default()).unwrap();
        close(base, &golden.logits(&model, AdapterPass::Current), &before);
        let parameters = model.parameters().into_iter().map(|parameter| parameter.name);
        let own: Vec<String> = parameters.filter(|name| !name.contains("lora_")).collect();
        assert_eq!(own, trained);
        let folder = saved(&model, &config);
        let file = SafetensorsFolder::from_files(&[folder.path().join("adapter_model.safetensors")]).unwrap();
        let mut outer: Vec<String> = file.names().into_iter().filter(|name| !name.contains("lora_")).collect();
        outer.sort();
        let mut expected: Vec<String> = stored.iter().map(|name| format!("base_model.model.{name}.weight")).collect();
        expected.sort();
        assert_eq!(outer, expected);
        assert_eq!(json(folder.path())["ensure_weight_tying"], base == "llama3");
        // For inference, they are frozen again.
        model.freeze_matrices();
        assert!(model.parameters().iter().all(|parameter| parameter.name.contains("lora_")));
        close(base, &golden.logits(&model, AdapterPass::Current), &before);
        let wrong = LoraConfig { modules_to_save: vec!["norm".to_owned()], ..config };
        let error = attach(&mut model, &wrong, 3, &Default::default()).unwrap_err().to_string();
        assert!(error.contains("modules_to_save") && error.contains("got norm"), "{error}");
    }
}

/// What a model with an embedding in f32 computes in half precision, forward and backward.
#[test]
fn trained_matrices_are_rounded_to_the_type_that_the_model_computes_in() {
    let golden = Golden::open("llama", "modules");
    let options = LoadOptions::frozen(burnish_models::FloatType::BF16);
    let mut model = LanguageModel::<Training>::load(&golden.config, &golden.weights, &Default::default(), options).unwrap();
    load_adapter(&mut model, &golden.folder.join("start"), None, &Default::default()).unwrap();
    let gradients = golden.batch().loss(&model).backward();
    for parameter in model.parameters() {
        let AnyTensor::Matrix(tensor) = parameter.tensor else { panic!("{} is not a matrix", parameter.name) };
        assert_eq!((tensor.dtype(), tensor.grad(&gradients).unwrap().dtype()), (DType::F32, DType::F32));
    }
    let found = golden.logits(&model, AdapterPass::Current);
    model.freeze_matrices();
    assert!(model.matrices().iter().all(|matrix| matrix.weight.operand().kind() == "bf16"));
    assert_eq!(golden.logits(&model, AdapterPass::Current), found);
}

#[test]
fn a_tied_matrix_that_was_trained_apart_is_refused() {
    let golden = Golden::open("llama3", "modules_tied");
    let both = |folder: &Path| -> [String; 2] {
        let mut model = golden.load::<Flex>(&golden.weights);
        [
            MergedCheckpoint::open(&golden.weights, folder).err().unwrap().to_string(),
            load_adapter(&mut model, folder, None, &Default::default()).unwrap_err().to_string(),
        ]
    };
    for left_out in ["lm_head", "embed_tokens", "neither"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("adapter_config.json"), json(&golden.folder.join("start")).to_string()).unwrap();
        let bytes = std::fs::read(golden.folder.join("start/adapter_model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let zeros = vec![0u8; golden.config.vocab_size * golden.config.hidden_size * 4];
        let tensors = file.tensors().into_iter().filter(|(name, _)| !name.contains(left_out)).map(|(name, view)| {
            let other = left_out == "neither" && name.contains("lm_head");
            let data = if other { zeros.clone() } else { view.data().to_vec() };
            (name, (view.dtype(), view.shape().to_vec(), data))
        });
        let tensors: Vec<_> = tensors.collect();
        let views = tensors.iter().map(|(name, (dtype, shape, data))| {
            (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let path = folder.path().join("adapter_model.safetensors");
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
        for error in both(folder.path()) {
            assert!(error.contains("`ensure_weight_tying` was off"), "{left_out}: {error}");
        }
    }
}

/// Each kind of start leaves the model as it was; a saved adapter is one on the base as it was; and a checkpoint resumes.
#[test]
fn every_start_keeps_the_model_and_is_saved_for_the_base_as_it_was() {
    let golden = Golden::open("llama", "pissa");
    let base = golden.logits(&golden.load::<Flex>(&golden.weights), AdapterPass::Current);
    for init in [Init::Default, Init::Gaussian, Init::Pissa, Init::PissaNiter(4), Init::Olora] {
        for (dora, rslora) in [(false, false), (true, true)] {
            let name = format!("{init} {dora}");
            let config = LoraConfig { rank: 4, alpha: 8.0, init, dora, rslora, ..LoraConfig::default() };
            let mut model = golden.load::<Flex>(&golden.weights);
            attach(&mut model, &config, 7, &Default::default()).unwrap();
            close(&name, &golden.logits(&model, AdapterPass::Current), &base);
            close(&format!("{name}, the reference"), &golden.logits(&model, AdapterPass::Reference), &base);
            let taken_out = model.linears()[0].1.weight.operand().to_f32();
            let own = golden.weights.read_f32(&format!("{}.weight", model.linears()[0].0)).unwrap();
            assert_eq!(taken_out != own, init.changes_base(), "{name}");
            // As if some steps had been taken.
            for (_, linear) in model.linears_mut() {
                let adapter = linear.adapter.as_mut().unwrap();
                let (id, value) = (adapter.lora_b.id, adapter.lora_b.val());
                adapter.lora_b = burn::module::Param::initialized(id, value + 0.05);
            }
            let trained = golden.logits(&model, AdapterPass::Current);
            assert!(differs(&trained, &base), "{name}");
            let folder = saved(&model, &config);
            let found = read_config(folder.path()).unwrap();
            assert_eq!((found.rank, found.init), (if init.changes_base() { 8 } else { 4 }, Init::Default), "{name}");
            let mut plain = golden.load::<Flex>(&golden.weights);
            load_adapter(&mut plain, folder.path(), None, &Default::default()).unwrap();
            close(&format!("{name}, loaded"), &golden.logits(&plain, AdapterPass::Current), &trained);
            let merged = MergedCheckpoint::open(&golden.weights, folder.path()).unwrap();
            close(&format!("{name}, merged"), &golden.logits(&golden.load::<Flex>(&merged), AdapterPass::Current), &trained);
            let mut resumed = golden.load::<Flex>(&golden.weights);
            resume_adapter(&mut resumed, &config, folder.path(), &Default::default()).unwrap();
            assert_eq!(golden.logits(&resumed, AdapterPass::Current), trained, "{name}, resumed");
            let again = saved(&resumed, &config);
            for file in burnish_lora::ADAPTER_FILES {
                let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
                assert_eq!(read(folder.path()), read(again.path()), "{name}: {file}");
            }
        }
    }
}

/// PEFT's singular vectors, which `torch.linalg.svd` finds, up to their sign; and its `Q` and `R` as they are.
#[test]
fn the_starts_are_those_of_peft() {
    for (base, case, init, rslora) in [("llama", "pissa", Init::Pissa, false), ("mistral", "olora", Init::Olora, true)] {
        let golden = Golden::open(base, case);
        let config = LoraConfig { rank: 4, alpha: 8.0, init, rslora, ..LoraConfig::default() };
        let mut model = golden.load::<Training>(&golden.weights);
        attach(&mut model, &config, 7, &Default::default()).unwrap();
        close(case, &golden.logits(&model, AdapterPass::Current), &golden.batch().expected("logits"));
        let loss = golden.batch().loss(&model).to_data().to_vec::<f32>().unwrap();
        close(case, &loss, &golden.values.read_f32("losses").unwrap()[..1]);
    }
}

#[test]
fn a_start_that_a_layer_can_not_have_is_refused() {
    let golden = Golden::open("llama", "pissa");
    // The key projection has 16 outputs.
    let config = LoraConfig { rank: 20, init: Init::Pissa, ..LoraConfig::default() };
    let mut model = golden.load::<Flex>(&golden.weights);
    let error = attach(&mut model, &config, 7, &Default::default()).unwrap_err().to_string();
    assert!(error.contains("init = \"pissa\"") && error.contains("k_proj") && error.contains("at most 16"), "{error}");
    // A checkpoint of another rank.
    let config = LoraConfig { rank: 4, init: Init::Olora, ..LoraConfig::default() };
    attach(&mut model, &config, 7, &Default::default()).unwrap();
    let folder = saved(&model, &config);
    let other = LoraConfig { rank: 8, ..config };
    let error = resume_adapter(&mut model, &other, folder.path(), &Default::default()).unwrap_err().to_string();
    assert!(error.contains("expected the rank 16") && error.contains("got 8"), "{error}");
}

#[test]
fn an_adapter_of_torch_equals_the_one_in_safetensors() {
    let golden = Golden::open("biased", "dora_biased");
    let fixtures = golden.folder.join("../..");
    let own = fixtures.join("parity/biased/adapter");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(own.join("adapter_config.json"), folder.path().join("adapter_config.json")).unwrap();
    std::fs::copy(fixtures.join("pytorch/adapter_model.bin"), folder.path().join("adapter_model.bin")).unwrap();
    let [merged, expected] = [folder.path(), &own].map(|path| MergedCheckpoint::open(&golden.weights, path).unwrap());
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(merged.read_f32(name).unwrap(), expected.read_f32(name).unwrap());
    assert_ne!(merged.read_f32(name).unwrap(), golden.weights.read_f32(name).unwrap());
    let logits = [folder.path(), &own].map(|path| {
        let mut model = golden.load::<Flex>(&golden.weights);
        load_adapter(&mut model, path, None, &Default::default()).unwrap();
        golden.logits(&model, AdapterPass::Current)
    });
    assert_eq!(logits[0], logits[1]);
    // Where both are there, safetensors is read.
    std::fs::write(folder.path().join("adapter_model.bin"), "damaged").unwrap();
    assert!(MergedCheckpoint::open(&golden.weights, folder.path()).is_err());
    std::fs::copy(own.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors")).unwrap();
    assert!(MergedCheckpoint::open(&golden.weights, folder.path()).is_ok());
}
