//! Every family against transformers and PEFT on the CPU, without a training loop.

use std::path::{Path, PathBuf};

use burn::backend::{Autodiff, Flex};
use burnish_kernels::FusedBackend;
use burnish_lora::load_adapter;
use burnish_models::checkpoint::{SafetensorsFolder, experts_apart};
use burnish_models::families::FAMILIES;
use burnish_models::{AnyTensor, Cache, Checkpoint, LanguageModel, LoadOptions, ModelConfig, Stream};

use crate::golden_batch::GoldenBatch;

type Training = Autodiff<Flex>;

/// The folders that `make_parity.py` wrote.
fn cases() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// The files that `make_parity.py` wrote for a case.
struct Golden {
    folder: PathBuf,
    config: ModelConfig,
    weights: Box<dyn Checkpoint>,
    batch: GoldenBatch,
}

impl Golden {
    fn open(case: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity").join(case);
        let json = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config = ModelConfig::from_json(&serde_json::from_str(&json).unwrap()).unwrap();
        Self {
            weights: experts_apart(Box::new(SafetensorsFolder::open(&folder).unwrap()), &config),
            config,
            batch: GoldenBatch::open(&folder),
            folder,
        }
    }
}

fn load<B: FusedBackend>(golden: &Golden, options: LoadOptions) -> LanguageModel<B> {
    LanguageModel::load(&golden.config, &golden.weights, &Default::default(), options).unwrap()
}

#[test]
fn every_model_type_has_a_case() {
    let tested: Vec<String> = cases().iter().map(|case| Golden::open(case).config.model_type).collect();
    for known in FAMILIES.iter().flat_map(|family| family.model_types) {
        assert!(tested.iter().any(|name| name == known.name), "no case in `make_parity.py` has the type {}", known.name);
    }
}

#[test]
fn logits_equal_transformers_and_peft() {
    for case in &cases() {
        let golden = Golden::open(case);
        let mut model = load::<Flex>(&golden, LoadOptions::default());
        golden.batch.check_logits("logits", model.logits(model.hidden_states(&golden.batch.input(), None)));
        load_adapter(&mut model, &golden.folder.join("adapter"), None, &Default::default()).unwrap();
        golden.batch.check_logits("adapter_logits", model.logits(model.hidden_states(&golden.batch.input(), None)));
    }
}

#[test]
fn adapters_of_llama_cpp_and_mlx_give_the_logits_of_peft() {
    let golden = Golden::open("llama");
    for name in ["adapter.gguf", "mlx-adapter"] {
        let mut model = load::<Flex>(&golden, LoadOptions::default());
        let adapter = golden.folder.join("../../leave").join(name);
        load_adapter(&mut model, &adapter, None, &Default::default()).unwrap();
        golden.batch.check_logits("adapter_logits", model.logits(model.hidden_states(&golden.batch.input(), None)));
    }
}

#[test]
fn loss_and_gradients_of_adapters_equal_peft() {
    for case in &cases() {
        let golden = Golden::open(case);
        let mut model = load::<Training>(&golden, LoadOptions::default());
        load_adapter(&mut model, &golden.folder.join("adapter"), None, &Default::default()).unwrap();
        let loss = golden.batch.loss(&model);
        golden.batch.close("loss", &loss.to_data().to_vec::<f32>().unwrap(), &golden.batch.values.read_f32("loss").unwrap());
        assert!(model.parameters().iter().all(|parameter| matches!(parameter.tensor, AnyTensor::Matrix(_))));
        golden.batch.check_gradients(&loss, &model, "grad.", |name| format!("base_model.model.{name}"));
    }
}

#[test]
fn gradients_of_all_weights_equal_transformers() {
    for case in &cases() {
        let golden = Golden::open(case);
        if !golden.batch.values.names().iter().any(|name| name.starts_with("full_grad.")) {
            continue;
        }
        let model = load::<Training>(&golden, LoadOptions::trainable());
        golden.batch.check_gradients(&golden.batch.loss(&model), &model, "full_grad.", str::to_owned);
    }
}

#[test]
fn decoding_with_the_cache_gives_the_logits_of_the_whole_text() {
    for case in &cases() {
        let golden = Golden::open(case);
        let model = load::<Flex>(&golden, LoadOptions::default());
        let ids: Vec<u32> = golden.batch.ints("input_ids").iter().map(|id| *id as u32).collect();
        let length = ids.len() / 2;
        let mut cache = Cache::new(model.num_layers());
        let (head, tail) = ids[..length].split_at(5);
        let last = |cache: &mut Cache<Flex>, tokens: &[u32]| {
            burnish_models::generate::last_logits(&model, cache, tokens, &Default::default())
        };
        let mut logits = last(&mut cache, head);
        for token in tail {
            logits = last(&mut cache, &[*token]);
        }
        let vocabulary = golden.config.vocab_size;
        let expected = golden.batch.values.read_f32("logits").unwrap();
        golden.batch.close("cached", &logits, &expected[(length - 1) * vocabulary..length * vocabulary]);
    }
}

/// With one tensor between blocks, as block-wise gradient checkpointing calls them.
#[test]
fn separate_blocks_give_the_logits_of_the_whole_model() {
    for case in &cases() {
        let golden = Golden::open(case);
        let model = load::<Flex>(&golden, LoadOptions::default());
        let input = golden.batch.input();
        let state = model.state(&input);
        let mut x = model.embed(&input).into_tensor();
        for index in 0..model.num_layers() {
            x = model.block(index, Stream::from(x), &state, None).into_tensor();
        }
        golden.batch.check_logits("logits", model.logits(model.finish(Stream::from(x))));
    }
}

/// Also where the model computes with another value, such as the `1 + w` of a norm.
#[test]
fn a_model_returns_the_weights_of_its_checkpoint() {
    for case in &cases() {
        let golden = Golden::open(case);
        // Experts are never trained.
        let trainable = Some(LoadOptions::trainable()).filter(|_| golden.config.experts.is_none());
        for options in [LoadOptions::default()].into_iter().chain(trainable) {
            let weights = load::<Flex>(&golden, options).weights();
            assert_eq!(weights.len(), golden.weights.names().len());
            for (name, tensor) in weights {
                golden.batch.close(&name, &tensor.to_f32(), &golden.weights.read_f32(&name).unwrap());
            }
        }
    }
}
