//! Adapters on packed weights: losses and gradients are those through the dequantised dense weights.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::backend::{Autodiff, Flex};
use burn::module::{AutodiffModule, Module, Param};
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::packed::{Affine, GgmlType, GgufBlocks, Nf4, PackError, Packed, PackedKind};
use burnish_kernels::tolerance::Tolerance;
use burnish_kernels::{FusedBackend, select_rows};
use burnish_lora::{Init, LoraConfig, TargetModules, WeightChange, attach, attach_to};
use burnish_models::{
    AdapterPass, AnyTensor, BaseTensor, Checkpoint, FloatType, LanguageModel, LoadOptions, ModelConfig, ModelInput,
    Quantization, Result,
};
use serde_json::json;

type Training = Autodiff<Flex>;

/// A checkpoint in memory: floats, and packed matrices in their place.
#[derive(Clone, Default)]
struct Memory {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    packed: BTreeMap<String, Packed>,
}

impl Checkpoint for Memory {
    fn names(&self) -> Vec<String> {
        self.floats.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.floats.get(name).map(|(shape, _)| shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.packed.get(name).map_or_else(|| self.floats[name].1.clone(), Packed::dequantize))
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        self.packed.get(name).map(Packed::kind)
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        Ok(self.packed.get(name).cloned())
    }

    fn float_type(&self, _name: &str) -> Option<FloatType> {
        Some(FloatType::F32)
    }

    fn file_of(&self, _name: &str) -> Option<PathBuf> {
        Some("a/model.safetensors".into())
    }
}

fn config(hidden: usize) -> ModelConfig {
    let json = json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64, "tie_word_embeddings": true,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "attention_bias": true,
    });
    ModelConfig::from_json(&json).unwrap()
}

/// Random weights of a configuration.
fn weights(config: &ModelConfig) -> Memory {
    let model = LanguageModel::<Flex>::random(config, 5, &Default::default()).unwrap();
    let tensors = model.weights().into_iter().map(|(name, tensor)| (name, (tensor.shape(), tensor.to_f32())));
    Memory { floats: tensors.collect(), packed: BTreeMap::new() }
}

const EMBEDDING: &str = "model.embed_tokens.weight";

/// The checkpoint with its matrices packed; the embedding too where asked for.
fn packed(plain: &Memory, embedding: bool, pack: impl Fn(&str, &[f32], [usize; 2]) -> Packed) -> Memory {
    let matrices = plain.floats.iter().filter(|(name, (shape, _))| shape.len() == 2 && (embedding || *name != EMBEDDING));
    let packed = matrices.map(|(name, (shape, values))| (name.clone(), pack(name, values, [shape[0], shape[1]])));
    Memory { packed: packed.collect(), ..plain.clone() }
}

fn tokens<B: FusedBackend>() -> (ModelInput<B>, Tensor<B, 1, Int>, Tensor<B, 1, Int>) {
    let device = Default::default();
    let ids: Vec<u32> = (0..24).map(|at| (at * 7 + 3) % 64).collect();
    let positions: Vec<u32> = (0..24).map(|at| at % 12).collect();
    let ints = |values: Vec<i32>| {
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), &device)
    };
    let learned: Vec<usize> = (0..24).filter(|at| at % 12 != 0).collect();
    let input = ModelInput::packed(&ids, &positions, &[1; 24], 12, &device);
    let rows = ints(learned.iter().map(|at| *at as i32 - 1).collect());
    (input, rows, ints(learned.iter().map(|at| ids[*at] as i32).collect()))
}

fn loss<B: FusedBackend>(model: &LanguageModel<B>, adapters: AdapterPass) -> Tensor<B, 1> {
    let (input, rows, labels) = tokens::<B>();
    let hidden = select_rows(model.hidden_states(&ModelInput { adapters, ..input }, None), rows);
    model.losses(hidden, labels).mean()
}

/// Sets the factors B of all adapters, which begin as zero.
fn set_factors(model: &mut LanguageModel<Training>) {
    for (_, linear) in model.linears_mut() {
        let adapter = linear.adapter.as_mut().unwrap();
        let [outputs, rank] = adapter.lora_b.val().dims();
        let values: Vec<f32> = (0..outputs * rank).map(|at| ((at * 29 % 17) as f32 - 8.0) / 100.0).collect();
        let lora_b = Tensor::from_data(TensorData::new(values, [outputs, rank]), (&Default::default(), DType::F32));
        adapter.lora_b = Param::initialized(adapter.lora_b.id, lora_b.require_grad());
    }
}

/// A model with adapters whose factors are not zero.
fn adapted(config: &ModelConfig, checkpoint: &Memory, options: LoadOptions) -> LanguageModel<Training> {
    let device = Default::default();
    let mut model = LanguageModel::load(config, checkpoint, &device, options).unwrap();
    let lora = LoraConfig { rank: 4, dropout: 0.3, ..LoraConfig::default() };
    attach(&mut model, &lora, 3, &device).unwrap();
    set_factors(&mut model);
    model
}

/// Loss, logits and the gradient of each factor, by name.
fn results(model: &LanguageModel<Training>) -> BTreeMap<String, Vec<f32>> {
    let loss = loss(model, AdapterPass::Dropout(7.into()));
    let gradients = loss.backward();
    let mut results = BTreeMap::from([("loss".to_owned(), loss.into_data().iter::<f32>().collect::<Vec<_>>())]);
    for parameter in model.parameters() {
        let AnyTensor::Matrix(tensor) = parameter.tensor else { panic!("{} is not a matrix", parameter.name) };
        let gradient = tensor.grad(&gradients).unwrap_or_else(|| panic!("{} has no gradient", parameter.name));
        results.insert(parameter.name, gradient.into_data().iter::<f32>().collect());
    }
    let inner = model.valid();
    let logits = inner.logits(inner.hidden_states(&tokens::<Flex>().0, None));
    results.insert("logits".to_owned(), logits.into_data().iter::<f32>().collect());
    results
}

fn check(what: &str, found: &LanguageModel<Training>, expected: &LanguageModel<Training>) {
    let (found, expected) = (results(found), results(expected));
    assert_eq!(found.len(), 2 + 2 * 2 * 7, "{what}");
    for (name, values) in &found {
        assert!(values.iter().any(|value| *value != 0.0), "{what} {name}: all are zero");
        Tolerance::of(DType::F32).check(&format!("{what} {name}"), values, &expected[name]).unwrap();
    }
}

/// The kinds of the matrices of a model, and the bytes of all of them.
fn kinds(model: &LanguageModel<Training>) -> (BTreeMap<String, usize>, usize) {
    let (mut kinds, mut bytes) = (BTreeMap::new(), 0);
    for (_, tensor) in model.weights() {
        if let BaseTensor::Matrix(operand) = tensor {
            *kinds.entry(operand.kind().to_owned()).or_default() += 1;
            bytes += operand.bytes();
        }
    }
    (kinds, bytes)
}

#[test]
fn gradients_are_those_through_the_dequantised_weights() {
    let config = config(256);
    let plain = weights(&config);
    let elements: usize = plain.floats.values().filter(|(shape, _)| shape.len() == 2).map(|(_, data)| data.len()).sum();
    let embedding = plain.floats[EMBEDDING].1.len();
    let affine = |bits| {
        move |name: &str, values: &[f32], dims| Packed::Affine(Affine::quantize(name, values, dims, bits, 64).unwrap())
    };
    let nf4 =
        |double| move |name: &str, values: &[f32], dims| Packed::Nf4(Nf4::quantize(name, values, dims, double).unwrap());
    for (quantization, expected, bits) in [
        (Quantization::Nf4 { double: false }, packed(&plain, false, nf4(false)), 4.5),
        (Quantization::Nf4 { double: true }, packed(&plain, false, nf4(true)), 4.13),
        (Quantization::Int4, packed(&plain, false, affine(4)), 5.0),
        (Quantization::Int8, packed(&plain, false, affine(8)), 9.0),
    ] {
        let options = LoadOptions::frozen(FloatType::F32);
        let quantised = adapted(&config, &plain, options.quantized(quantization));
        let (kinds, bytes) = kinds(&quantised);
        assert_eq!(kinds, [("f32".to_owned(), 1), (quantization.to_string(), 14)].into());
        // A matrix of NF4 that is quantised twice has the 256 values of its scales beside it.
        let values = if quantization == (Quantization::Nf4 { double: true }) { 14.0 * 1024.0 } else { 0.0 };
        let expected_bytes = (elements - embedding) as f64 * bits / 8.0 + embedding as f64 * 4.0 + values;
        assert!((bytes as f64 / expected_bytes - 1.0).abs() < 5e-3, "{quantization:?}: {bytes} and {expected_bytes}");
        check(&format!("{quantization:?}"), &quantised, &adapted(&config, &expected, options));
    }
}

#[test]
fn blocks_of_a_file_are_taken_as_they_are() {
    use GgmlType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let config = config(256);
    let plain = weights(&config);
    for kind in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K] {
        let blocks =
            |name: &str, values: &[f32], dims| Packed::Gguf(GgufBlocks::quantize(name, values, dims, kind).unwrap());
        let file = packed(&plain, true, blocks);
        let options = LoadOptions::frozen(FloatType::F32);
        let as_it_is = adapted(&config, &file, options.quantized(Quantization::Auto));
        assert_eq!(kinds(&as_it_is).0, [(kind.name().to_owned(), 15)].into());
        // What a file has packed stays so, whatever kind is asked for.
        assert_eq!(kinds(&adapted(&config, &file, options.quantized(Quantization::Int4))).0.len(), 1);
        assert_eq!(kinds(&adapted(&config, &file, options)).0, [("f32".to_owned(), 15)].into());
        check(kind.name(), &as_it_is, &adapted(&config, &file, options));
    }
}

#[test]
fn the_embedding_is_packed_in_eight_bits_by_its_key_alone() {
    let config = config(64);
    let plain = weights(&config);
    let options = LoadOptions { quantize_embedding: true, ..LoadOptions::frozen(FloatType::F32) };
    let int8 = |name: &str, values: &[f32], dims| Packed::Affine(Affine::quantize(name, values, dims, 8, 64).unwrap());
    let mut expected = packed(&plain, true, int8);
    expected.packed.retain(|name, _| name == EMBEDDING);
    let found = adapted(&config, &plain, options);
    assert_eq!(kinds(&found).0, [("f32".to_owned(), 14), ("int8".to_owned(), 1)].into());
    check("embedding", &found, &adapted(&config, &expected, LoadOptions::frozen(FloatType::F32)));
}

#[test]
fn matrices_without_a_packed_form_stay_dense() {
    // 64 does not divide rows of 96, and Q2_K is read on the host alone.
    let config = config(96);
    let plain = weights(&config);
    let options = LoadOptions::frozen(FloatType::F32).quantized(Quantization::Nf4 { double: false });
    // Those with rows of 256 are packed.
    assert_eq!(kinds(&adapted(&config, &plain, options)).0, [("f32".to_owned(), 13), ("nf4".to_owned(), 2)].into());
    let config = self::config(256);
    let plain = weights(&config);
    let zeros = |name: &str, _: &[f32], dims: [usize; 2]| {
        let bytes = vec![0; dims[0] * dims[1] / GgmlType::Q2K.block_elements() * GgmlType::Q2K.block_bytes()];
        Packed::Gguf(GgufBlocks::new(name, dims, GgmlType::Q2K, bytes).unwrap())
    };
    let file = packed(&plain, false, zeros);
    let options = LoadOptions::frozen(FloatType::F32).quantized(Quantization::Auto);
    assert_eq!(kinds(&adapted(&config, &file, options)).0, [("f32".to_owned(), 15)].into());
}

#[test]
fn what_cannot_be_packed_is_refused_with_tensor_and_file() {
    let config = config(96);
    let mut plain = weights(&config);
    let load = |checkpoint: &Memory, options: LoadOptions| {
        LanguageModel::<Flex>::load(&config, checkpoint, &Default::default(), options).unwrap_err().to_string()
    };
    let frozen = LoadOptions::frozen(FloatType::F32);
    let error = load(&plain, frozen.quantized(Quantization::Int4));
    let name = "`model.layers.0.self_attn.q_proj.weight`";
    assert!(error.starts_with("a/model.safetensors: ") && error.contains(name) && error.contains("64"), "{error}");
    let error = load(&plain, LoadOptions { quantize_embedding: true, ..frozen });
    assert!(error.starts_with("a/model.safetensors: ") && error.contains("`model.embed_tokens.weight`"), "{error}");
    plain.floats.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().1[7] = f32::NAN;
    let error = load(&plain, frozen.quantized(Quantization::Nf4 { double: true }));
    assert!(error.starts_with("a/model.safetensors: ") && error.contains("down_proj.weight") && error.contains("NaN"));
    let trained = LoadOptions::trainable();
    let error = load(&plain, trained.quantized(Quantization::Nf4 { double: false }));
    assert!(error.contains("trainable weights: expected quantization none, got nf4"), "{error}");
    assert!(load(&plain, LoadOptions { quantize_embedding: true, ..trained }).contains("embedding"));
    let wrong = Affine::quantize("w", &[0.5f32; 96], [1, 96], 4, 64);
    assert!(matches!(wrong, Err(PackError::Group { columns: 96, group: 64, .. })));
}

#[test]
fn a_change_is_measured_in_quantisation_steps() {
    let config = config(256);
    let plain = weights(&config);
    let file = packed(&plain, false, |name, values, dims| {
        Packed::Gguf(GgufBlocks::quantize(name, values, dims, GgmlType::Q8_0).unwrap())
    });
    let name = "model.layers.0.self_attn.q_proj.weight".to_owned();
    // Where the step of a block is known: its largest magnitude is 127 steps.
    let before = file.read_f32(&name).unwrap();
    let steps = before.chunks(32).map(|block| block.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 127.0);
    let after: Vec<f32> =
        before.chunks(32).zip(steps).flat_map(|(block, step)| block.iter().map(move |value| value + 0.25 * step)).collect();
    let mut changed = plain.clone();
    changed.floats.get_mut(&name).unwrap().1 = after;
    let change = WeightChange::of(&file, &changed, [name.clone(), "model.norm.weight".to_owned()].into_iter());
    let change = change.unwrap().unwrap();
    assert!(change.matrices == 1 && (change.steps() - 0.25).abs() < 1e-3, "{change:?}");
    assert_eq!(WeightChange::of(&plain, &changed, [name].into_iter()).unwrap(), None);
}

#[test]
fn records_leave_packed_weights_out() {
    let config = config(256);
    let plain = weights(&config);
    let options = LoadOptions::frozen(FloatType::F32).quantized(Quantization::Int4);
    let model = adapted(&config, &plain, options);
    let count: usize = model.parameters().iter().map(|parameter| parameter.tensor.shape().iter().product::<usize>()).sum();
    assert_eq!(model.num_params(), count);
    let before = results(&model);
    let record = model.clone().into_record();
    assert_eq!(results(&model.load_record(record)), before);
}

/// The factors of LoftQ are the best of their rank: what is left of the error is orthogonal to both.
#[test]
fn loftq_makes_up_for_the_error_of_quantisation() {
    let config = config(256);
    let plain = weights(&config);
    let device = Default::default();
    let options = LoadOptions::frozen(FloatType::F32).quantized(Quantization::Nf4 { double: false });
    let lora = LoraConfig { rank: 8, alpha: 16.0, init: Init::Loftq, ..LoraConfig::default() };
    let load = |options| LanguageModel::<Flex>::load(&config, &plain, &device, options).unwrap();
    let mut model = load(options);
    assert_eq!(attach_to(&mut model, &lora, 1, &plain, &device).unwrap(), 14);
    let matrix = |values: Vec<f32>, shape: [usize; 2]| Tensor::<Flex, 2>::from_data(TensorData::new(values, shape), &device);
    let norm = |tensor: Tensor<Flex, 2>| tensor.powi_scalar(2).sum().sqrt().into_scalar();
    for (name, linear) in model.linears() {
        let shape = linear.dims();
        let adapter = linear.adapter.as_ref().unwrap();
        let (lora_a, lora_b) = (adapter.lora_a.val(), adapter.lora_b.val());
        let error = matrix(plain.floats[&format!("{name}.weight")].1.clone(), shape)
            - matrix(linear.weight.operand().to_f32(), shape);
        let left = error.clone() - lora_b.clone().matmul(lora_a.clone()) * 2.0;
        assert!(norm(left.clone()) < 0.97 * norm(error.clone()), "{name}");
        let along = norm(left.clone().matmul(lora_a.clone().transpose())) / norm(lora_a)
            + norm(lora_b.clone().transpose().matmul(left)) / norm(lora_b);
        assert!(along < 1e-4 * norm(error), "{name}: {along}");
    }
    // Nothing is quantised, or it was so in the file.
    for (checkpoint, options) in [
        (&plain, LoadOptions::frozen(FloatType::F32)),
        (
            &packed(&plain, false, |name, values, dims| Packed::Nf4(Nf4::quantize(name, values, dims, false).unwrap())),
            options,
        ),
    ] {
        let mut model = LanguageModel::<Flex>::load(&config, checkpoint, &device, options).unwrap();
        let error = attach_to(&mut model, &lora, 1, checkpoint, &device).unwrap_err().to_string();
        assert!(error.contains("quantization = \"nf4\""), "{error}");
    }
    let error = attach(&mut load(options), &lora, 1, &device).unwrap_err().to_string();
    assert!(error.contains("checkpoint"), "{error}");
    let pissa = LoraConfig { init: Init::Pissa, ..lora };
    let error = attach_to(&mut load(options), &pissa, 1, &plain, &device).unwrap_err().to_string();
    assert!(error.contains("must not be quantised") && error.contains("is nf4"), "{error}");
}

/// What DoRA computes on packed weights is what it computes on the dequantised ones.
#[test]
fn gradients_of_dora_are_those_through_the_dequantised_weights() {
    let config = config(256);
    let plain = weights(&config);
    let nf4 = |name: &str, values: &[f32], dims| Packed::Nf4(Nf4::quantize(name, values, dims, false).unwrap());
    let device = Default::default();
    let dora = |checkpoint: &Memory, options: LoadOptions| {
        let mut model = LanguageModel::<Training>::load(&config, checkpoint, &device, options).unwrap();
        let lora = LoraConfig { rank: 4, dropout: 0.3, dora: true, ..LoraConfig::default() };
        attach(&mut model, &lora, 3, &device).unwrap();
        set_factors(&mut model);
        let gradients = loss(&model, AdapterPass::Dropout(7.into())).backward();
        let of = |tensor: AnyTensor<Training>| match tensor {
            AnyTensor::Vector(tensor) => tensor.grad(&gradients).unwrap().into_data().iter::<f32>().collect::<Vec<_>>(),
            AnyTensor::Matrix(tensor) => tensor.grad(&gradients).unwrap().into_data().iter::<f32>().collect(),
        };
        model.parameters().into_iter().map(|parameter| (parameter.name, of(parameter.tensor))).collect::<BTreeMap<_, _>>()
    };
    let options = LoadOptions::frozen(FloatType::F32);
    let found = dora(&plain, options.quantized(Quantization::Nf4 { double: false }));
    let expected = dora(&packed(&plain, false, nf4), options);
    assert_eq!(found.len(), 3 * 14);
    for (name, values) in &found {
        Tolerance::of(DType::F32).check(name, values, &expected[name]).unwrap();
    }
}

/// Experts, with a router that no quantisation touches.
fn of_experts(model_type: &str) -> ModelConfig {
    let json = json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64,
        "num_local_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": true, "tie_word_embeddings": true,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "sliding_window": 6,
        "rope_parameters": { "rope_type": "default", "rope_theta": 500.0 },
    });
    ModelConfig::from_json(&json).unwrap()
}

/// A matrix of factors that are not zero.
fn factor(param: &Param<Tensor<Training, 2>>) -> Param<Tensor<Training, 2>> {
    let dims = param.val().dims();
    let values: Vec<f32> = (0..dims[0] * dims[1]).map(|at| ((at * 29 % 17) as f32 - 8.0) / 50.0).collect();
    let values = Tensor::from_data(TensorData::new(values, dims), (&Default::default(), DType::F32));
    Param::initialized(param.id, values.require_grad())
}

/// With adapters on attention, routers and experts.
#[test]
fn gradients_through_packed_experts_are_those_through_the_dequantised_ones() {
    for model_type in ["qwen3_moe", "gpt_oss"] {
        let config = of_experts(model_type);
        let mut state = 7u32;
        let mut random = |name: &str| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5;
            if name.contains("norm") { 1.0 + value } else { 0.5 * value }
        };
        let floats = LanguageModel::<Flex>::tensor_shapes(&config).into_iter().map(|(name, shape)| {
            let values = (0..shape.iter().product::<usize>()).map(|_| random(&name)).collect();
            (name, (shape, values))
        });
        let plain = Memory { floats: floats.collect(), packed: BTreeMap::new() };
        let load = |checkpoint: &Memory, options: LoadOptions| {
            let device = Default::default();
            let mut model = LanguageModel::<Training>::load(&config, checkpoint, &device, options).unwrap();
            let router = if model_type == "gpt_oss" { "mlp.router.weight" } else { "mlp.gate.weight" };
            let target_parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", router].map(str::to_owned).into();
            let modules = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).into();
            let target_modules = TargetModules::Named(modules);
            let lora = LoraConfig { rank: 4, target_modules, target_parameters, ..LoraConfig::default() };
            attach(&mut model, &lora, 3, &device).unwrap();
            for adapter in model.adaptable_mut().into_iter().filter_map(|(_, linear)| linear.adapter.as_mut()) {
                adapter.lora_b = factor(&adapter.lora_b);
            }
            for adapter in model.stacks_mut().into_iter().filter_map(|stack| stack.adapter.as_mut()) {
                adapter.lora_b = factor(&adapter.lora_b);
            }
            model
        };
        let options = LoadOptions::frozen(FloatType::F32);
        for double in [false, true] {
            let quantization = Quantization::Nf4 { double };
            let found = load(&plain, options.quantized(quantization));
            // Embedding and routers stay as they are; 4 matrices of attention and 4 experts of 3 in each layer don't.
            let what = format!("{model_type}, {quantization:?}");
            assert_eq!(
                kinds(&found).0,
                [("f32".to_owned(), 3), (quantization.to_string(), 2 * (4 + 4 * 3))].into(),
                "{what}"
            );
            let nf4 = |name: &str, values: &[f32], dims| Packed::Nf4(Nf4::quantize(name, values, dims, double).unwrap());
            let mut dequantised = packed(&plain, false, nf4);
            dequantised.packed.retain(|name, _| name.contains(".experts.") || name.contains(".self_attn."));
            let (found, expected) = (results(&found), results(&load(&dequantised, options)));
            // Four linear layers, a router and two parameters of experts.
            assert_eq!(found.len(), 2 + 2 * 2 * (4 + 1 + 2), "{what}");
            for (name, values) in &found {
                assert!(values.iter().any(|value| *value != 0.0), "{what} {name}: all are zero");
                Tolerance::of(DType::F32).check(&format!("{what} {name}"), values, &expected[name]).unwrap();
            }
            let base = results(&load(&plain, options));
            assert_ne!(base["logits"], found["logits"], "{what}: nothing was quantised");
        }
    }
}
