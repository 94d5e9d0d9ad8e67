//! Gradients with checkpointed blocks are those without, to the bit, whatever is trained and however.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::backend::Flex;
use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Distribution, Tensor};
use burnish_engine::objective::{Judge, Judgement, Losses, Metric, Term};
use burnish_engine::{Batch, Checkpointing, IGNORE, Objective, StepItem, Training, gradients};
use burnish_kernels::tolerance::Tolerance;
use burnish_lora::{LoraConfig, TargetModules, attach};
use burnish_models::checkpoint::{SafetensorsFolder, experts_apart};
use burnish_models::{AnyTensor, FloatType, LanguageModel, LoadOptions, ModelConfig};

type Train = Training<Flex>;

/// One tiny checkpoint of every family, which the tests of the workspace compare with transformers.
fn families() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 8, "{folders:?}");
    folders
}

fn config(folder: &Path) -> ModelConfig {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    ModelConfig::from_json(&serde_json::from_str(&text).unwrap()).unwrap()
}

fn load(folder: &Path, options: LoadOptions) -> LanguageModel<Train> {
    let config = config(folder);
    let weights = experts_apart(Box::new(SafetensorsFolder::open(folder).unwrap()), &config);
    LanguageModel::load(&config, &*weights, &Default::default(), options).unwrap()
}

/// A frozen model with adapters that differ from a fresh one: a fresh `B` is zero, and then `A` has no gradient.
fn adapted(folder: &Path, targets: &str, num_layers: Option<usize>) -> LanguageModel<Train> {
    let mut model = load(folder, LoadOptions::frozen(FloatType::F32));
    let target_modules = TargetModules::One(targets.to_owned());
    // There is no dropout for adapters of experts.
    let stacks = model.stacks();
    let experts = stacks.iter().map(|stack| format!("mlp.experts.{}", stack.parameter().parameter));
    let target_parameters: Vec<String> = experts.take(2).collect();
    let dropout = if target_parameters.is_empty() { 0.1 } else { 0.0 };
    let plain = LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() };
    let config = LoraConfig { dropout, target_modules, target_parameters, num_layers, ..plain };
    let device = Default::default();
    assert!(attach(&mut model, &config, 5, &device).unwrap() > 0);
    Flex::seed(&device, 7);
    let random = |lora_b: &Param<Tensor<Train, 2>>| {
        let values = Tensor::<Train, 2>::random(lora_b.val().dims(), Distribution::Normal(0.0, 0.2), &device);
        Param::initialized(lora_b.id, values.require_grad())
    };
    for adapter in model.adaptable_mut().into_iter().filter_map(|(_, linear)| linear.adapter.as_mut()) {
        adapter.lora_b = random(&adapter.lora_b);
    }
    for adapter in model.stacks_mut().into_iter().filter_map(|stack| stack.adapter.as_mut()) {
        adapter.lora_b = random(&adapter.lora_b);
    }
    model.keep_reference();
    model
}

/// Two rows with padding, one of them of two segments, and some masked labels.
fn batch(length: usize, seed: u32) -> Batch {
    let (rows, split) = (2, length / 3);
    let count = rows * length;
    let mut state = seed;
    let input_ids: Vec<u32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % 48
        })
        .collect();
    let is_second = |index: usize| index < length && index >= split;
    let is_padding = |index: usize| index >= count - 3;
    let position_ids: Vec<u32> =
        (0..count).map(|index| (index % length - if is_second(index) { split } else { 0 }) as u32).collect();
    let segment = |index| if is_padding(index) { 0 } else { 1 + u32::from(is_second(index)) };
    let label = |index: usize| {
        let masked = position_ids[index] == 0 || index % 5 == 1 || is_padding(index);
        if masked { IGNORE } else { i64::from(input_ids[index]) }
    };
    let labels: Vec<i64> = (0..count).map(label).collect();
    Batch {
        target_tokens: labels.iter().filter(|label| **label != IGNORE).count(),
        segment_ids: (0..count).map(segment).collect(),
        tokens: count - 3,
        labels,
        position_ids,
        input_ids,
        rows,
        length,
        desirable: Vec::new(),
    }
}

/// Two micro-batches of different lengths.
fn item() -> StepItem {
    StepItem { step: 3, seed: 11, batches: vec![batch(13, 1), batch(9, 2)], ..StepItem::default() }
}

/// A loss whose derivatives depend on the losses of this model and of the reference.
#[derive(Debug)]
struct Contrast;

impl Judge for Contrast {
    fn has_reference(&self) -> bool {
        true
    }

    fn counts(&self, batch: &Batch) -> Vec<usize> {
        vec![batch.rows]
    }

    fn judge(&self, batch: &Batch, Losses { policy, reference, .. }: &Losses) -> Judgement {
        assert_eq!(policy.len(), reference.len());
        let differences: Vec<f64> = policy.iter().zip(reference).map(|(loss, reference)| loss - 0.5 * reference).collect();
        let loss = differences.iter().map(|difference| difference * difference / 2.0).sum();
        let metric = Metric { name: "difference", sum: differences.iter().sum(), count: batch.rows };
        Judgement { terms: vec![Term { loss, factors: differences }], metrics: vec![metric] }
    }
}

/// The loss, the metrics and every gradient, by name.
type Computed = (f32, Vec<(&'static str, f64)>, Vec<(String, Vec<f32>)>);

fn computed(model: &LanguageModel<Train>, item: &StepItem) -> Computed {
    let found = gradients(model, item, &Default::default()).unwrap();
    let of = |parameter: burnish_models::NamedParameter<Train>| {
        let gradient = match parameter.tensor {
            AnyTensor::Vector(_) => found.grads.get::<Flex, 1>(parameter.id).map(Tensor::into_data),
            AnyTensor::Matrix(_) => found.grads.get::<Flex, 2>(parameter.id).map(Tensor::into_data),
        };
        let gradient = gradient.unwrap_or_else(|| panic!("{}: no gradient", parameter.name));
        (parameter.name, gradient.iter::<f32>().collect())
    };
    let gradients = model.parameters().into_iter().map(of).collect();
    (found.loss.into_scalar(), found.metrics.clone(), gradients)
}

fn with(item: &StepItem, checkpointing: Option<Checkpointing>) -> StepItem {
    StepItem { checkpointing, ..item.clone() }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Compares both ways to the bit, and with the feed-forward in slices of 4 tokens within the tolerance.
fn check(name: &str, model: &LanguageModel<Train>, item: &StepItem) {
    let (loss, metrics, expected) = computed(model, &with(item, None));
    assert!(expected.iter().any(|(_, values)| values.iter().any(|value| *value != 0.0)), "{name}: no gradient");
    let found = computed(model, &with(item, Some(Checkpointing::default())));
    assert_eq!((loss.to_bits(), &metrics), (found.0.to_bits(), &found.1), "{name}");
    for ((parameter, expected), (_, found)) in expected.iter().zip(&found.2) {
        assert_eq!(bits(expected), bits(found), "{name}: {parameter}");
    }
    let sliced = computed(model, &with(item, Some(Checkpointing { mlp_elements: 1 })));
    let unscaled = |values: &[f32]| values.iter().map(|value| value / item.loss_scale as f32).collect::<Vec<_>>();
    for ((parameter, expected), (_, found)) in expected.iter().zip(&sliced.2) {
        let (expected, found) = (unscaled(expected), unscaled(found));
        Tolerance::of(DType::F32).check(&format!("{name} sliced: {parameter}"), &found, &expected).unwrap();
    }
}

#[test]
fn adapters_of_every_family_with_dropout_and_accumulation() {
    for folder in families() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let model = adapted(&folder, "all-linear", None);
        check(&name, &model, &item());
        check(&format!("{name} scaled"), &model, &StepItem { loss_scale: 1024.0, ..item() });
        check(&format!("{name} judged"), &model, &StepItem { objective: Objective::Judged(Arc::new(Contrast)), ..item() });
    }
}

#[test]
fn all_weights_of_every_family() {
    // Experts are never trained.
    for folder in families().into_iter().filter(|folder| config(folder).experts.is_none()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        check(&name, &load(&folder, LoadOptions::trainable()), &item());
    }
}

#[test]
fn only_some_layers_are_trained() {
    let folder = families().remove(0);
    for targets in ["q_proj", "o_proj", "gate_proj", "down_proj", "all-linear"] {
        for num_layers in [None, Some(1)] {
            check(&format!("{targets} {num_layers:?}"), &adapted(&folder, targets, num_layers), &item());
        }
    }
}

// burn 0.21 loses gradients when two threads run backward passes over leaves that were in earlier graphs.
#[test]
fn threads_that_train_at_the_same_time_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let model = adapted(&families()[0], "all-linear", None);
                for _ in 0..10 {
                    check("a thread", &model, &item());
                }
            });
        }
    });
}

#[test]
fn slices_drop_the_same_elements() {
    // With most elements dropped, other masks would give quite different gradients.
    let mut model = adapted(&families()[0], "all-linear", None);
    for (_, linear) in model.linears_mut() {
        linear.adapter.as_mut().unwrap().dropout = 0.8;
    }
    check("dropout 0.8", &model, &item());
}
