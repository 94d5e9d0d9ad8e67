//! Every family against transformers and PEFT, on every backend that is built in.
#![allow(clippy::unwrap_used, deprecated)]

use burn::backend::Flex;
use burn::module::AutodiffModule;
use burn::optim::Optimizer;
use burn::tensor::DType;
use burn_train::TrainStep;
use burnish_kernels::FusedBackend;
use burnish_kernels::tolerance::Tolerance;
use burnish_lora::load_adapter;
use burnish_models::{AnyTensor, LanguageModel, LoadOptions, ModelInput};
use burnish_recipes::config::TrainConfig;
use burnish_recipes::data::Batch;
use burnish_recipes::train::{AdamW, StepItem, TrainedModel, Training, batch_loss, squared_gradient_norm};
use burnish_tests::Golden;

const CASES: [&str; 7] = ["llama", "llama3", "mistral", "biased", "qwen2", "qwen3", "gemma3"];

fn close(name: &str, values: &[f32], expected: &[f32]) {
    Tolerance::of(DType::F32).check(name, values, expected).unwrap();
}

fn logits<B: FusedBackend>(model: &LanguageModel<B>, batch: &Batch, device: &B::Device) -> Vec<f32> {
    let input = ModelInput::packed(&batch.input_ids, &batch.position_ids, &batch.segment_ids, batch.length, device);
    model.logits(model.hidden_states(&input, None)).into_data().iter::<f32>().collect()
}

/// Logits of the tokens that are no padding: what padding sees is nobody's business.
fn unpadded(values: &[f32], batch: &Batch) -> Vec<f32> {
    let vocabulary = values.len() / batch.segment_ids.len();
    let rows = values.chunks_exact(vocabulary).zip(&batch.segment_ids).filter(|(_, segment)| **segment > 0);
    rows.flat_map(|(row, _)| row.iter().copied()).collect()
}

fn adapted<B: FusedBackend>(golden: &Golden, device: &B::Device) -> LanguageModel<B> {
    let mut model = LanguageModel::load(&golden.config, &golden.weights, device, LoadOptions::default()).unwrap();
    load_adapter(&mut model, &golden.folder.join("adapter"), None, device).unwrap();
    model
}

fn item(golden: &Golden) -> StepItem {
    StepItem { step: 1, epoch: 0, batches: vec![golden.batch().unwrap()], seed: 0, loss_scale: 1.0 }
}

fn base_logits<B: FusedBackend>(case: &str) {
    let (golden, device) = (Golden::open(case).unwrap(), B::Device::default());
    let batch = golden.batch().unwrap();
    let model = LanguageModel::<B>::load(&golden.config, &golden.weights, &device, LoadOptions::default()).unwrap();
    let expected = unpadded(&golden.floats("logits").unwrap(), &batch);
    close(&format!("{case} logits"), &unpadded(&logits(&model, &batch, &device), &batch), &expected);
    let model = adapted::<B>(&golden, &device);
    let expected = unpadded(&golden.floats("adapter_logits").unwrap(), &batch);
    close(&format!("{case} adapter logits"), &unpadded(&logits(&model, &batch, &device), &batch), &expected);
}

fn gradients<B: FusedBackend>(case: &str) {
    let (golden, device) = (Golden::open(case).unwrap(), B::Device::default());
    let model = TrainedModel { model: adapted::<Training<B>>(&golden, &device) };
    let output = TrainStep::step(&model, item(&golden));
    let loss: Vec<f32> = output.item.loss.into_data().iter::<f32>().collect();
    close(&format!("{case} loss"), &loss, &golden.floats("loss").unwrap());
    let names = golden.names("grad.");
    assert!(!names.is_empty());
    for name in names {
        let own = name.strip_prefix("base_model.model.").unwrap();
        let parameter = model.model.parameters().into_iter().find(|parameter| parameter.name == own).unwrap();
        let gradient = output.grads.get::<B, 2>(parameter.id).unwrap();
        let values: Vec<f32> = gradient.into_data().iter::<f32>().collect();
        close(&format!("{case} {name}"), &values, &golden.floats(&format!("grad.{name}")).unwrap());
    }
}

/// Ten steps; losses, and the adapter that they end with.
fn ten_steps<B: FusedBackend>(case: &str, label: &str, clip: f64) {
    let (golden, device) = (Golden::open(case).unwrap(), B::Device::default());
    let mut model = TrainedModel { model: adapted::<Training<B>>(&golden, &device) };
    let losses = run_steps::<B>(&mut model, &golden, clip);
    close(&format!("{case} {label} losses"), &losses, &golden.floats(&format!("{label}.losses")).unwrap());
    for parameter in model.valid().model.linears() {
        let (name, Some(adapter)) = (parameter.0, &parameter.1.adapter) else { continue };
        for (part, tensor) in [("lora_A", adapter.lora_a.val()), ("lora_B", adapter.lora_b.val())] {
            let key = format!("{label}.base_model.model.{name}.{part}.weight");
            let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
            close(&key, &values, &golden.floats(&key).unwrap());
        }
    }
}

fn run_steps<B: FusedBackend>(model: &mut TrainedModel<Training<B>>, golden: &Golden, clip: f64) -> Vec<f32> {
    let optimizer = AdamW::<Training<B>>::new(&TrainConfig { max_grad_norm: clip, ..TrainConfig::default() });
    let mut losses = Vec::new();
    for _ in 0..10 {
        let output = TrainStep::step(model, item(golden));
        let squares = squared_gradient_norm(&model.model, &output.grads);
        let mut stepping = optimizer.clone();
        let update = || *model = Optimizer::step(&mut stepping, 1e-3, model.clone(), output.grads);
        losses.push(optimizer.queue(squares, output.item.loss, 1.0, update).unwrap().loss as f32);
    }
    losses
}

/// Every weight trains: its gradient, and ten steps.
fn full<B: FusedBackend>(case: &str) {
    let (golden, device) = (Golden::open(case).unwrap(), B::Device::default());
    let base =
        LanguageModel::<Training<B>>::load(&golden.config, &golden.weights, &device, LoadOptions::trainable()).unwrap();
    let mut model = TrainedModel { model: base };
    let output = TrainStep::step(&model, item(&golden));
    let parameters = model.model.parameters();
    assert_eq!(parameters.len(), golden.names("full_grad.").len());
    for parameter in parameters {
        let data = match parameter.tensor {
            AnyTensor::Vector(_) => output.grads.get::<B, 1>(parameter.id).unwrap().into_data(),
            AnyTensor::Matrix(_) => output.grads.get::<B, 2>(parameter.id).unwrap().into_data(),
        };
        let key = format!("full_grad.{}", parameter.name);
        close(&key, &data.iter::<f32>().collect::<Vec<_>>(), &golden.floats(&key).unwrap());
    }
    let losses = run_steps::<B>(&mut model, &golden, 0.0);
    close(&format!("{case} full losses"), &losses, &golden.floats("full_losses").unwrap());
}

/// Both rows of the batch in one row, neither seeing the other.
fn packed<B: FusedBackend>(case: &str) {
    let (golden, device) = (Golden::open(case).unwrap(), B::Device::default());
    let batch = golden.batch().unwrap();
    let kept: Vec<usize> = (0..batch.input_ids.len()).filter(|index| batch.segment_ids[*index] > 0).collect();
    let row = Batch {
        input_ids: kept.iter().map(|index| batch.input_ids[*index]).collect(),
        labels: kept.iter().map(|index| batch.labels[*index]).collect(),
        position_ids: kept.iter().map(|index| batch.position_ids[*index]).collect(),
        segment_ids: kept.iter().map(|index| 1 + (*index / batch.length) as u32).collect(),
        rows: 1,
        length: kept.len(),
        tokens: kept.len(),
        target_tokens: batch.target_tokens,
    };
    let model = LanguageModel::<B>::load(&golden.config, &golden.weights, &device, LoadOptions::default()).unwrap();
    let loss = batch_loss(&model, &row, None, &device).into_data().iter::<f32>().sum::<f32>();
    close(&format!("{case} packed"), &[loss], &[golden.floats("row_losses").unwrap().iter().sum()]);
}

/// One row after the other through the key-value cache, token by token.
fn cached<B: FusedBackend>(case: &str) {
    let (golden, device) = (Golden::open(case).unwrap(), B::Device::default());
    let batch = golden.batch().unwrap();
    let model = LanguageModel::<B>::load(&golden.config, &golden.weights, &device, LoadOptions::default()).unwrap();
    let mut cache = burnish_models::Cache::new(model.num_layers());
    let (head, tail) = batch.input_ids[..batch.length].split_at(5);
    let mut last = burnish_models::generate::last_logits(&model, &mut cache, head, &device);
    for token in tail {
        last = burnish_models::generate::last_logits(&model, &mut cache, &[*token], &device);
    }
    let expected = golden.floats("logits").unwrap();
    let vocabulary = golden.config.vocab_size;
    close(&format!("{case} cached"), &last, &expected[(batch.length - 1) * vocabulary..batch.length * vocabulary]);
}

fn everything<B: FusedBackend>() {
    for case in CASES {
        base_logits::<B>(case);
        gradients::<B>(case);
        ten_steps::<B>(case, "plain", 0.0);
        ten_steps::<B>(case, "clipped", 0.1);
        packed::<B>(case);
        cached::<B>(case);
    }
    for case in ["llama", "gemma3"] {
        full::<B>(case);
    }
}

#[test]
fn cpu_equals_transformers_and_peft() {
    everything::<Flex>();
}

#[cfg(feature = "candle")]
#[test]
fn candle_equals_transformers_and_peft() {
    everything::<burn_candle::Candle>();
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_equals_transformers_and_peft() {
    everything::<burn_wgpu::Wgpu>();
}

/// What `bench` compares with: burn's kernels, and the gradients of burn's autodiff.
#[cfg(feature = "wgpu")]
#[test]
fn burn_alone_equals_transformers_and_peft() {
    use burnish_kernels::runtime::StockWgpu;
    for case in CASES {
        gradients::<StockWgpu>(case);
    }
    ten_steps::<StockWgpu>("llama", "clipped", 0.1);
}

#[cfg(feature = "metal")]
#[test]
fn our_runtime_equals_transformers_and_peft() {
    everything::<burnish_metal::Metal>();
}

/// The code that a Mac would run, each kernel repaired and checked at every access to memory.
#[cfg(feature = "emulator")]
#[test]
fn emulated_metal_equals_transformers_and_peft() {
    use burnish_metal::emulator::MetalCpu;
    base_logits::<MetalCpu>("llama3");
    gradients::<MetalCpu>("llama");
    ten_steps::<MetalCpu>("llama", "clipped", 0.1);
    packed::<MetalCpu>("mistral");
}
