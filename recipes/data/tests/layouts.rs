//! However examples are laid out in batches, a step has the same loss and the same gradients.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::DType;
use burnish_data::{Batch, BatchOptions, Batches, Example, IGNORE};
use burnish_engine::objective::{Judge, Judgement, Losses, Term};
use burnish_engine::{Objective, StepGradients, StepItem, Training, gradients};
use burnish_kernels::tolerance::Tolerance;
use burnish_models::{AnyTensor, LanguageModel, ModelConfig, NamedParameter};
use serde_json::{Value, json};

type Model = LanguageModel<Training<Flex>>;

/// A model of 2 blocks; the sliding window of Gemma is shorter than most examples.
fn model(family: &Value) -> Model {
    let mut config = json!({
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "vocab_size": 90, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
    });
    config.as_object_mut().unwrap().extend(family.as_object().unwrap().clone());
    let config = ModelConfig::from_json(&config).unwrap();
    Model::random(&config, 7, &Default::default()).unwrap()
}

fn families() -> [Value; 5] {
    let gemma = json!({
        "model_type": "gemma3_text", "sliding_window": 7, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8,
        "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    });
    [
        json!({ "model_type": "llama" }),
        json!({ "model_type": "qwen2" }),
        json!({ "model_type": "qwen3" }),
        json!({ "model_type": "olmo2" }),
        gemma,
    ]
}

/// Examples whose first third is not learned; the fourth has nothing to learn.
fn examples() -> Vec<Example> {
    let lengths = [17, 70, 3, 1, 40, 9, 64, 24];
    let example = |(number, length): (u32, &usize)| {
        let ids = (0..*length as u32).map(|index| (number * 31 + index * index * 7 + index) % 90);
        let input_ids: Vec<u32> = ids.collect();
        let label = |(index, id): (usize, &u32)| if index * 3 < *length { IGNORE } else { i64::from(*id) };
        Example { labels: input_ids.iter().enumerate().map(label).collect(), input_ids, desirable: true }
    };
    (0..).zip(&lengths).map(example).collect()
}

/// Batches of all examples: padded, end to end, packed, packed end to end, and one row at a time.
fn layouts() -> Vec<(&'static str, Vec<Batch>)> {
    let of = |name, batch_size, packing, padding_free| {
        let options = BatchOptions {
            batch_size,
            packing,
            padding_free,
            max_seq_length: 80,
            pad_token_id: 5,
            ..BatchOptions::default()
        };
        (name, Batches::new(examples(), options).epoch(0).iter().collect::<Vec<_>>())
    };
    vec![
        of("padded", 8, false, false),
        of("padding-free", 8, false, true),
        of("padding-free in threes", 3, false, true),
        of("packed", 8, true, false),
        of("packed, padding-free", 8, true, true),
        of("one at a time", 1, false, true),
    ]
}

/// The loss of a step over all batches, and the gradient of every weight.
fn step(model: &Model, batches: Vec<Batch>, objective: &Objective) -> (f32, Vec<(String, Vec<f32>)>) {
    let item = StepItem { batches, objective: objective.clone(), ..StepItem::default() };
    let StepGradients { loss, grads, .. } = gradients(model, &item, &Default::default()).unwrap();
    let gradient = |NamedParameter { name, id, tensor }: NamedParameter<_>| {
        let data = match tensor {
            AnyTensor::Vector(_) => grads.get::<Flex, 1>(id).unwrap().into_data(),
            AnyTensor::Matrix(_) => grads.get::<Flex, 2>(id).unwrap().into_data(),
        };
        (name, data.iter::<f32>().collect())
    };
    (loss.into_scalar(), model.parameters().into_iter().map(gradient).collect())
}

fn compare(model: &Model, objective: &Objective, layouts: Vec<(&str, Vec<Batch>)>) {
    let check =
        |name: &str, values: &[f32], expected: &[f32]| Tolerance::of(DType::F32).check(name, values, expected).unwrap();
    let mut expected = None;
    for (name, batches) in layouts {
        let found = step(model, batches, objective);
        let (loss, gradients) = expected.get_or_insert_with(|| found.clone());
        assert!(*loss > 1.0 && gradients.iter().all(|(_, values)| values.iter().any(|value| value.abs() > 0.0)));
        check(&format!("loss, {name}"), &[found.0], &[*loss]);
        for ((weight, values), (_, expected)) in found.1.iter().zip(gradients) {
            check(&format!("{weight}, {name}"), values, expected);
        }
    }
}

#[test]
fn every_family_trains_the_same_in_every_layout() {
    assert_eq!(layouts()[1].1[0].rows, 1);
    assert!(layouts()[3].1.iter().all(|batch| batch.examples() > batch.rows));
    for family in families() {
        compare(&model(&family), &Objective::Tokens, layouts());
    }
}

/// The squares of the examples' summed losses.
#[derive(Debug)]
struct Squares;

impl Judge for Squares {
    fn has_reference(&self) -> bool {
        false
    }

    fn counts(&self, batch: &Batch) -> Vec<usize> {
        vec![batch.examples()]
    }

    fn judge(&self, batch: &Batch, losses: &Losses) -> Judgement {
        let examples = batch.target_examples();
        assert_eq!(examples.len(), losses.policy.len());
        let mut sums = vec![0.0; batch.examples()];
        examples.iter().zip(&losses.policy).for_each(|(example, loss)| sums[*example] += loss);
        let loss = sums.iter().map(|sum| sum * sum).sum();
        let factors = examples.iter().map(|example| 2.0 * sums[*example]).collect();
        Judgement { terms: vec![Term { loss, factors }], metrics: Vec::new() }
    }
}

#[test]
fn an_objective_on_examples_is_the_same_in_every_layout() {
    compare(&model(&families()[0]), &Objective::Judged(Arc::new(Squares)), layouts());
}

#[test]
fn preference_pairs_are_the_same_in_every_layout() {
    let of = |padding_free| {
        let options = BatchOptions { batch_size: 4, preference_pairs: true, padding_free, ..BatchOptions::default() };
        Batches::new(examples(), options).epoch(0).iter().collect::<Vec<_>>()
    };
    let (padded, padding_free) = (of(false), of(true));
    assert_eq!((padded[0].examples(), padding_free[0].examples(), padding_free[0].rows), (8, 8, 1));
    assert_eq!(padded[0].target_examples(), padding_free[0].target_examples());
    compare(&model(&families()[0]), &Objective::Judged(Arc::new(Squares)), vec![("padded", padded), ("free", padding_free)]);
}
