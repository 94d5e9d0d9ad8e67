use burnish_lora::TargetModules;
use serde_json::json;

use super::*;

/// Two blocks of width 8 with two heads of 4 and one key-value head, an inner width of 16, and 32 tokens.
fn model() -> ModelConfig {
    ModelConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true,
    }))
    .unwrap()
}

/// Elements of both factors of all seven layers of a block, per unit of the rank.
const SIDES: u64 = 2 * (8 + 8) + 2 * (8 + 4) + 3 * (8 + 16);

#[test]
fn adapters_have_gradients_and_moments_in_f32() {
    let (model, lora) = (model(), LoraConfig { rank: 2, ..LoraConfig::default() });
    let step = Step { tokens: 3, ..Step::new(&model, Trained::Adapters(&lora), 1000, Place::Device) };
    let memory = step.memory();
    let elements = 2 * 2 * SIDES;
    assert_eq!((memory.weights, memory.adapters, memory.gradients), (1000, 4 * elements, 4 * elements));
    assert_eq!(memory.optimizer, 8 * elements);
    // Every factor has fewer than 4,096 elements, so its moments stay in f32.
    assert_eq!(Step { moments: MomentType::EightBit, ..step }.memory().optimizer, 8 * elements);
    assert_eq!(Step { accumulates: true, ..step }.memory().gradients, 8 * elements);
    let attention = LoraConfig { target_modules: TargetModules::One("q_proj".to_owned()), ..lora.clone() };
    let trained = Trained::Adapters(&attention);
    assert_eq!(Step { trained, ..step }.memory().adapters, 4 * 2 * 2 * (8 + 8));
    let dora = LoraConfig { dora: true, ..attention };
    assert_eq!(Step { trained: Trained::Adapters(&dora), ..step }.memory().adapters, 4 * 2 * (2 * (8 + 8) + 8));
}

#[test]
fn blocks_keep_what_their_backward_reads() {
    let (model, lora) = (model(), LoraConfig { rank: 2, ..LoraConfig::default() });
    let step = Step { tokens: 3, ..Step::new(&model, Trained::Adapters(&lora), 0, Place::Device) };
    // Two streams, query and result of 8, key and value of 4, gate and up of 16, x·Aᵀ of seven adapters, two log-sum-exps.
    let block = 2 * (2 * 8 + 2 * 8 + 2 * 4 + 2 * 16 + 7 * 2) + 2 * 4;
    // The stream after them, the gradient of the hidden states, and half a head of cosines and of sines in f32.
    let ends = 2 * 2 * 8 + 4 * 4;
    assert_eq!(step.memory().activations, 3 * (2 * block + ends));
    // Of the first block nothing is kept, if it has no adapter.
    let last = LoraConfig { num_layers: Some(1), ..lora.clone() };
    assert_eq!(Step { trained: Trained::Adapters(&last), ..step }.memory().activations, 3 * (block + ends));
    // Two inputs, and the attention half of one block.
    let again = 2 * (8 + 2 * 8 + 2 * 4 + 7 * 2) + 2 * 4;
    let checkpointed = Step { checkpointing: Some(Checkpointing::default()), ..step };
    assert_eq!(checkpointed.memory().activations, 3 * (2 * 2 * 8 + again + ends));
    // Norms of queries and keys keep their inputs.
    let json = json!({
        "model_type": "qwen3", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "tie_word_embeddings": true,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "hidden_act": "silu",
    });
    let normed = ModelConfig::from_json(&json).unwrap();
    let more = Step { model: &normed, ..step }.memory().activations - step.memory().activations;
    assert_eq!(more, 3 * 2 * 2 * (8 + 4));
}

#[test]
fn a_full_run_trains_every_weight() {
    let model = model();
    let weights = 4 * model.parameter_count() as u64;
    let step = Step { tokens: 3, ..Step::new(&model, Trained::All, weights, Place::Device) };
    let memory = step.memory();
    assert_eq!((memory.adapters, memory.gradients, memory.optimizer), (0, weights, 2 * weights));
    assert_eq!(memory.least(), 4 * weights + memory.activations);
    assert!(memory.total() >= 4 * weights, "{memory:?}");
    // In eight bits, moments of large matrices take 2 bytes of an element and a scale for each block of 256.
    assert_eq!(formulas::moments(1 << 20, true, MomentType::EightBit), (2 << 20) + 2 * 4 * 4096);
    assert_eq!(formulas::moments(1 << 20, false, MomentType::EightBit), 8 << 20);
}

#[test]
fn matrices_that_are_trained_as_a_whole_take_the_place_of_frozen_ones() {
    let (model, lora) = (model(), LoraConfig { rank: 2, ..LoraConfig::default() });
    let weights = 2 * model.parameter_count() as u64;
    let step = Step { tokens: 3, ..Step::new(&model, Trained::Adapters(&lora), weights, Place::Device) };
    for name in ["embed_tokens", "lm_head"] {
        let whole = LoraConfig { modules_to_save: vec![name.to_owned()], ..lora.clone() };
        let memory = Step { trained: Trained::Adapters(&whole), ..step }.memory();
        assert_eq!(memory.weights, weights - 2 * 32 * 8, "{name}");
        assert_eq!(memory.adapters, step.memory().adapters + 4 * 32 * 8, "{name}");
    }
}

/// The gradient of a head that is the embedding too: it exists twice while it is a sum of parts, and again when the embedding's is added.
#[test]
fn a_trained_head_has_its_moments() {
    let model = ModelConfig { vocab_size: 1_000_000, ..model() };
    let weights = 4 * model.parameter_count() as u64;
    let head = 4 * 1_000_000 * 8;
    let of = |tokens| Step { tokens, ..Step::new(&model, Trained::All, weights, Place::Device) }.memory();
    // Logits of 16 tokens are computed together. Then all gradients and the second one of the head are most.
    let few = of(4);
    assert_eq!((few.peak.moment, few.peak.gradients), (Moment::BackwardEnds, weights + head));
    assert_eq!(few.peak.activations, 4 * 8 * 4);
    // In parts, the logits are there beside two of the head.
    let many = of(4000);
    assert_eq!((many.peak.moment, many.peak.gradients), (Moment::BackwardBegins, 2 * head));
    assert_eq!(many.peak.logits, 16 * 1_000_000 * 4);
    assert_eq!(many.peak.activations, many.activations);
}

#[test]
fn rows_beside_a_micro_batch_take_memory_before_it() {
    let (model, lora) = (model(), LoraConfig::default());
    let step = Step { tokens: 8, ..Step::new(&model, Trained::Adapters(&lora), 1000, Place::Device) };
    let beside = |without_gradients| Step { without_gradients, ..step }.memory();
    assert_eq!(beside(8).total(), step.memory().total());
    let many = beside(4096);
    assert_eq!((many.peak.moment, many.activations), (Moment::WithoutGradients, step.memory().activations));
    // The stream and the normed one of 8, and three inner activations of 16; and the logits of all 32 tokens.
    assert_eq!(many.peak.activations, 4096 * 2 * (2 * 8 + 3 * 16));
    assert_eq!(many.peak.logits, 4096 * 2 * 32);
}

#[test]
fn soft_capped_logits_take_three_buffers_of_f32() {
    let capped = ModelConfig { logits_softcap: Some(30.0), ..model() };
    for place in [Place::Device, Place::Host] {
        assert_eq!(formulas::logits(&capped, 2, 5, place), 3 * 5 * 32 * 4);
        assert_eq!(
            formulas::logits(&ModelConfig { vocab_size: 256_000, ..capped.clone() }, 2, 5000, place),
            3 * 32 * 256_000 * 4
        );
    }
}

#[test]
fn the_total_is_that_of_the_largest_moment() {
    let (model, lora) = (model(), LoraConfig::default());
    for tokens in [1, 64, 4096] {
        for checkpointing in [None, Some(Checkpointing::default())] {
            let step = Step::new(&model, Trained::Adapters(&lora), 1000, Place::Device);
            let memory = Step { tokens, checkpointing, ..step }.memory();
            let all = memory.least() + memory.logits + memory.workspace;
            assert!(memory.total() <= all && memory.total() > memory.weights, "{memory:?}");
            // A process has the program and a second copy of the adapters besides.
            let process = Step { tokens, checkpointing, place: Place::Host, ..step }.memory();
            assert!(process.total() > memory.total() + process.process, "{process:?}");
            let more = Step { tokens: tokens + 1, checkpointing, ..step }.memory();
            assert!(more.total() >= memory.total());
        }
    }
}
