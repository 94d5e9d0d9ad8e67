//! Adapters of experts against PEFT on the CPU, and what is read, refused and written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use burnish_kernels::FusedBackend;
use burnish_lora::{
    HostAdapter, LoraConfig, MergedCheckpoint, TargetModules, attach, check_model, load_adapter, read_config, save_adapter,
};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{AnyTensor, Checkpoint, FloatType, LanguageModel, LoadOptions, Pretrained};
use serde_json::{Value, json};

use crate::golden_batch::GoldenBatch;

type Training = Autodiff<Flex>;

/// The cases of `make_expert_adapters.py`, with the checkpoints of `make_parity.py` that they are for.
const CASES: [(&str, &str); 4] = [
    ("qwen3moe-experts", "qwen3moe"),
    ("qwen3moe-all", "qwen3moe-mixed"),
    ("gpt-oss-experts", "gpt-oss"),
    ("gpt-oss-mxfp4-experts", "gpt-oss-mxfp4"),
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

struct Golden {
    work: tempfile::TempDir,
    adapter: PathBuf,
    base: PathBuf,
    batch: GoldenBatch,
}

impl Golden {
    fn open(case: &str) -> Self {
        let base = CASES.iter().find(|(name, _)| *name == case).unwrap().1;
        let (folder, base) = (fixtures().join("experts").join(case), fixtures().join("parity").join(base));
        Self { work: tempfile::tempdir().unwrap(), batch: GoldenBatch::open(&folder), adapter: folder.join("adapter"), base }
    }

    /// The base, with a tokenizer of one token.
    fn pretrained(&self) -> Pretrained {
        let folder = self.work.path();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(self.base.join(name), folder.join(name)).unwrap();
        }
        let tokenizer = json!({ "version": "1.0", "model": { "type": "BPE", "vocab": { "a": 0 }, "merges": [] } });
        std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        Pretrained::open(folder).unwrap()
    }

    fn load<B: FusedBackend>(&self, pretrained: &Pretrained) -> LanguageModel<B> {
        pretrained.load(&Default::default(), LoadOptions::frozen(FloatType::F32)).unwrap()
    }
}

fn logits_of(golden: &Golden, model: &LanguageModel<Flex>) -> Tensor<Flex, 2> {
    model.logits(model.hidden_states(&golden.batch.input(), None))
}

/// The name of a parameter's tensor in PEFT's files, where the adapters of all parameters are beside it.
fn peft_name(name: &str) -> String {
    let name = name.replace(".experts.gate_up_proj.", ".experts.base_layer.").replace(".experts.down_proj.", ".experts.");
    format!("base_model.model.{name}")
}

/// The adapter of a folder: `adapter_model.safetensors` by name, as bytes.
fn bytes_of(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let file = SafetensorsFolder::from_files(&[folder.join("adapter_model.safetensors")]).unwrap();
    let names = file.names().into_iter();
    names.map(|name| (name.clone(), (file.shape(&name).unwrap(), file.read_bytes(&name).unwrap()))).collect()
}

fn json_of(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn logits_loss_and_gradients_of_all_experts_equal_peft() {
    for (case, _) in CASES {
        let golden = Golden::open(case);
        let pretrained = golden.pretrained();
        let mut model = golden.load::<Flex>(&pretrained);
        load_adapter(&mut model, &golden.adapter, None, &Default::default()).unwrap();
        golden.batch.check_logits("adapter_logits", logits_of(&golden, &model));
        let mut model = golden.load::<Training>(&pretrained);
        load_adapter(&mut model, &golden.adapter, None, &Default::default()).unwrap();
        let loss = golden.batch.loss(&model);
        golden.batch.close("loss", &loss.to_data().to_vec::<f32>().unwrap(), &golden.batch.values.read_f32("loss").unwrap());
        assert!(model.parameters().iter().all(|parameter| matches!(parameter.tensor, AnyTensor::Matrix(_))));
        golden.batch.check_gradients(&loss, &model, "grad.", peft_name);
    }
}

#[test]
fn what_is_written_has_the_bytes_of_peft() {
    for (case, _) in CASES {
        let golden = Golden::open(case);
        let mut model = golden.load::<Flex>(&golden.pretrained());
        let config = load_adapter(&mut model, &golden.adapter, None, &Default::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_adapter(&model, &config, "base", folder.path()).unwrap();
        assert_eq!(bytes_of(folder.path()), bytes_of(&golden.adapter), "{case}");
        assert_eq!(
            read_config(folder.path()).unwrap().scale_of("model.layers.1.mlp.experts.gate_up_proj"),
            config.scale_of("model.layers.1.mlp.experts.gate_up_proj")
        );
        // As a run that starts from an adapter keeps of its configuration.
        let poorer = LoraConfig { rank_pattern: Vec::new(), alpha_pattern: Vec::new(), ..config };
        save_adapter(&model, &poorer, "base", folder.path()).unwrap();
        load_adapter(&mut model, folder.path(), None, &Default::default()).unwrap();
        golden.batch.check_logits("adapter_logits", logits_of(&golden, &model));
    }
}

#[test]
fn targets_are_written_as_peft_reads_them() {
    let golden = Golden::open("qwen3moe-experts");
    let pretrained = golden.pretrained();
    let both = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"].map(str::to_owned).to_vec();
    let no_modules = || TargetModules::Named(Vec::new());
    let plain = LoraConfig { rank: 2, alpha: 6.0, ..LoraConfig::default() };
    for (config, modules, parameters) in [
        (
            LoraConfig { target_modules: no_modules(), target_parameters: both.clone(), ..plain.clone() },
            json!([]),
            json!(["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]),
        ),
        (
            LoraConfig {
                target_modules: no_modules(),
                target_parameters: both[..1].to_vec(),
                num_layers: Some(1),
                ..plain.clone()
            },
            json!([]),
            json!(["model.layers.1.mlp.experts.gate_up_proj"]),
        ),
        (
            plain.clone(),
            json!(["k_proj", "o_proj", "q_proj", "v_proj"]),
            json!(["mlp.experts.down_proj", "mlp.experts.gate_up_proj", "mlp.gate.weight"]),
        ),
    ] {
        let mut model = golden.load::<Flex>(&pretrained);
        attach(&mut model, &config, 3, &Default::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_adapter(&model, &config, "base", folder.path()).unwrap();
        let json = json_of(folder.path());
        assert_eq!((&json["target_modules"], &json["target_parameters"]), (&modules, &parameters));
        // A new adapter changes nothing, and what was written is read again.
        golden_like(&golden, &pretrained, &model);
        load_adapter(&mut golden.load::<Flex>(&pretrained), folder.path(), None, &Default::default()).unwrap();
    }
}

/// The logits are those of the base.
fn golden_like(golden: &Golden, pretrained: &Pretrained, model: &LanguageModel<Flex>) {
    let logits = |model: &LanguageModel<Flex>| -> Vec<f32> { logits_of(&golden, model).into_data().to_vec().unwrap() };
    golden.batch.close("a new adapter", &logits(model), &logits(&golden.load(pretrained)));
}

#[test]
fn merged_experts_give_the_logits_of_peft() {
    for (case, _) in CASES {
        let golden = Golden::open(case);
        let pretrained = golden.pretrained();
        let merged = MergedCheckpoint::of(&pretrained, &golden.adapter).unwrap();
        let model = LanguageModel::<Flex>::load(
            &pretrained.config,
            &merged,
            &Default::default(),
            LoadOptions::frozen(FloatType::F32),
        );
        golden.batch.check_logits("merged_logits", logits_of(&golden, &model.unwrap()));
        let error = MergedCheckpoint::open(&*pretrained.checkpoint, &golden.adapter).err().unwrap().to_string();
        assert!(error.contains("MergedCheckpoint::of"), "{error}");
    }
}

/// A linear adapter of each expert, as PEFT wrote before transformers 5.
#[test]
fn adapters_of_single_experts_are_joined() {
    let golden = Golden::open("qwen3moe-experts");
    let pretrained = golden.pretrained();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut state = 7u32;
    let mut random = |count: usize| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next()).collect()
    };
    for layer in 0..2 {
        for expert in 0..8 {
            for (name, [outputs, inputs]) in [("gate_proj", [16, 32]), ("up_proj", [16, 32]), ("down_proj", [32, 16])] {
                let stem = format!("base_model.model.model.layers.{layer}.mlp.experts.{expert}.{name}");
                tensors.push((format!("{stem}.lora_A.weight"), vec![2, inputs], random(2 * inputs)));
                tensors.push((format!("{stem}.lora_B.weight"), vec![outputs, 2], random(2 * outputs)));
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |tensors: &[(String, Vec<usize>, Vec<f32>)]| {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let all: Vec<_> = tensors.iter().map(|(name, shape, values)| (name, shape, bytes(values))).collect();
        let views = all.iter().map(|(name, shape, bytes)| {
            (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, (*shape).clone(), bytes).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
    };
    let json =
        json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["gate_proj", "up_proj", "down_proj"] });
    std::fs::write(folder.path().join("adapter_config.json"), json.to_string()).unwrap();
    write(&tensors);
    let logits = |model: &LanguageModel<Flex>| -> Vec<f32> { logits_of(&golden, model).into_data().to_vec().unwrap() };
    let mut model = golden.load::<Flex>(&pretrained);
    let config = load_adapter(&mut model, folder.path(), None, &Default::default()).unwrap();
    let rank = model.stacks()[0].adapter.as_ref().unwrap().lora_a.dims()[0] / 8;
    assert_eq!(rank, 4, "gate and up have factors of their own");
    let merged = MergedCheckpoint::open(&*pretrained.checkpoint, folder.path()).unwrap();
    let options = LoadOptions::frozen(FloatType::F32);
    let expected = LanguageModel::<Flex>::load(&pretrained.config, &merged, &Default::default(), options).unwrap();
    golden.batch.close("joined", &logits(&model), &logits(&expected));
    // Written again as PEFT writes them now.
    let again = tempfile::tempdir().unwrap();
    save_adapter(&model, &config, "base", again.path()).unwrap();
    let mut other = golden.load::<Flex>(&pretrained);
    load_adapter(&mut other, again.path(), None, &Default::default()).unwrap();
    golden.batch.close("written again", &logits(&other), &logits(&model));
    // One expert is missing.
    tensors.retain(|(name, ..)| !name.contains("layers.1.mlp.experts.3.up_proj"));
    write(&tensors);
    let error = load_adapter(&mut other, folder.path(), None, &Default::default()).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.mlp.experts.3.up_proj: no factors"), "{error}");
}

#[test]
fn what_peft_refuses_is_refused() {
    let golden = Golden::open("gpt-oss-experts");
    let pretrained = golden.pretrained();
    let parameters = vec!["mlp.experts.down_proj".to_owned()];
    let plain = LoraConfig { target_parameters: parameters, ..LoraConfig::default() };
    let refused = |config: &LoraConfig| check_model(config, &pretrained.config).unwrap_err().to_string();
    check_model(&plain, &pretrained.config).unwrap();
    assert!(refused(&LoraConfig { dropout: 0.1, ..plain.clone() }).contains("set dropout = 0"));
    assert!(refused(&LoraConfig { dora: true, ..plain.clone() }).contains("set dora = false"));
    assert!(refused(&LoraConfig { init: burnish_lora::Init::Pissa, ..plain.clone() }).contains("init = \"pissa\""));
    let unknown = |name: &str| LoraConfig { target_parameters: vec![name.to_owned()], ..LoraConfig::default() };
    let error = refused(&unknown("experts.gate_proj"));
    assert!(error.contains("named experts.gate_proj") && error.contains("down_proj, gate_up_proj"), "{error}");
    // A bias is no matrix of each expert.
    assert!(refused(&unknown("experts.down_proj_bias")).contains("down_proj_bias"));
    let golden = Golden::open("qwen3moe-experts");
    let error = check_model(&LoraConfig { dropout: 0.1, ..LoraConfig::default() }, &golden.pretrained().config).unwrap_err();
    assert!(error.to_string().contains("dropout"), "{error}");
}

/// Rank and number of experts of the tensors must be those of model and configuration.
#[test]
fn damaged_adapters_of_experts_are_refused_by_name() {
    let golden = Golden::open("gpt-oss-experts");
    let pretrained = golden.pretrained();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden.adapter.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors"))
        .unwrap();
    let with = |key: &str, value: Value| {
        let mut json = json_of(&golden.adapter);
        json[key] = value;
        std::fs::write(folder.path().join("adapter_config.json"), json.to_string()).unwrap();
        let error = HostAdapter::of(&pretrained, folder.path()).err().unwrap().to_string();
        let mut model = golden.load::<Flex>(&pretrained);
        let other = load_adapter(&mut model, folder.path(), None, &Default::default()).unwrap_err().to_string();
        assert_eq!(error, other);
        error
    };
    assert!(with("r", json!(2)).contains("mlp.experts.0.down_proj.lora_A.weight: expected [2, 48], got [3, 48]"));
    let error = with("target_parameters", json!(["mlp.experts.down_proj", "mlp.router.weight"]));
    assert!(error.contains("experts.base_layer.lora_A.weight: `target_parameters` does not say which"), "{error}");
    let error = with("target_parameters", json!(["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]));
    assert!(error.contains("mlp.router.lora_A.weight: `target_modules` does not name its layer"), "{error}");
}
