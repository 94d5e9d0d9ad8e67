use burnish_bench::shape::Shape;

use super::*;
use crate::config::{QuantizationKind, Recipe};
use crate::hint::hint;

fn config(model: &str) -> TrainConfig {
    TrainConfig { model: model.to_owned(), backend: "cuda".to_owned(), ..TrainConfig::default() }
}

fn budget(gib: u64) -> Budget {
    Budget { memory: gib << 30, available: gib << 30, why: "planted".to_owned() }
}

/// The plan of a configuration in bf16 on a GPU of so many GiB.
fn plan(config: &TrainConfig, tokens: Option<usize>, gib: Option<u64>) -> MemoryPlan {
    let header = Header::open(config).unwrap();
    let dtype = if config.fine_tune_type == FineTuneType::Full { FloatType::F32 } else { FloatType::BF16 };
    let Header { config: model, checkpoint, .. } = &header;
    let planned = Planned {
        config,
        model,
        checkpoint: &**checkpoint,
        backend: "cuda",
        dtype,
        tokens,
        without_gradients: None,
        process: None,
    };
    planned.plan(gib.map(budget)).unwrap()
}

#[test]
fn weights_are_those_of_the_storage() {
    let dense = plan(&config("llama-3.2-1b"), None, None);
    assert_eq!((dense.memory.weights, dense.tokens), (2 * 1_235_814_400, 4 * 2048));
    let packed = plan(&TrainConfig { quantization: QuantizationKind::Nf4, ..config("llama-3.2-1b") }, None, None);
    // 973 M weights of linear layers in 4.5 bits; embedding and norms in 16.
    assert_eq!(packed.memory.weights, 973_078_528 / 16 * 9 + 2 * (1_235_814_400 - 973_078_528));
    assert_eq!(packed.memory.activations, dense.memory.activations);
    let full = plan(&TrainConfig { fine_tune_type: FineTuneType::Full, ..config("llama-3.2-1b") }, None, None);
    assert_eq!((full.memory.weights, full.memory.adapters), (4 * 1_235_814_400, 0));
    assert_eq!(dense.fits, None);
    let dense = dense.allowed(false).unwrap();
    assert!(dense.to_string().contains("`cuda` does not tell how much memory"), "{dense}");
}

#[test]
fn what_does_not_fit_is_refused_with_changes_that_save() {
    let fits = plan(&config("llama-3.2-1b"), None, Some(16));
    assert!(fits.fits == Some(true) && fits.changes.is_empty(), "{fits}");
    fits.allowed(false).unwrap();
    let plan = plan(&config("llama-3.2-1b"), None, Some(4));
    let error = plan.clone().allowed(false).unwrap_err();
    let changes = hint(&error).unwrap();
    assert!(error.to_string().contains("may use only 4.00 GiB here"), "{error}");
    assert!(changes.ends_with("; --allow-over-budget trains anyway"), "{changes}");
    plan.clone().allowed(true).unwrap();
    assert_eq!(plan.changes.len(), 3);
    assert!(plan.changes[0].fits && changes.contains("grad_checkpoint = true saves"), "{changes}");
    for change in &plan.changes {
        assert_eq!(change.fits, plan.total - change.saves <= 4 << 30, "{change}");
    }
    let text = plan.to_string();
    assert!(text.contains("it does not fit") && text.contains("2357.1 MiB in bf16"), "{text}");
    assert!(plan.line().contains("of 4.00 GiB at the peak"));
}

#[test]
fn the_largest_sizes_fit_and_one_more_does_not() {
    let config = TrainConfig { grad_checkpoint: true, ..config("llama-3.2-1b") };
    let of = |config: &TrainConfig| plan(config, None, Some(6));
    let found = of(&config);
    let sizes = [found.largest_batch_size, found.largest_max_seq_length, found.largest_rank];
    let [rows, length, most] = sizes.map(Option::unwrap);
    assert!(rows > 1 && length > 2 && most > 16, "{found}");
    for (rank, fits) in [(most, true), (most + 1, false)] {
        assert_eq!(of(&TrainConfig { rank, ..config.clone() }).fits, Some(fits), "rank {rank}");
    }
    for (batch_size, fits) in [(rows, true), (rows + 1, false)] {
        assert_eq!(of(&TrainConfig { batch_size, ..config.clone() }).fits, Some(fits), "{batch_size} rows");
    }
    for (max_seq_length, fits) in [(length, true), (length + 1, false)] {
        assert_eq!(of(&TrainConfig { max_seq_length, ..config.clone() }).fits, Some(fits), "{max_seq_length} tokens");
    }
}

#[test]
fn known_tokens_replace_the_longest_rows() {
    let config = config("llama-3.2-1b");
    let (longest, known) = (plan(&config, None, None), plan(&config, Some(512), None));
    assert_eq!((known.tokens, known.memory.weights), (512, longest.memory.weights));
    assert!(known.memory.activations * 16 == longest.memory.activations, "{known}");
}

#[test]
fn every_type_and_storage_is_told() {
    let plan = plan(&config("llama-3.2-1b"), None, Some(6));
    let of = |dtype: &str, quantization: &str| {
        plan.stored.iter().find(|stored| (stored.dtype, stored.quantization) == (dtype, quantization)).unwrap()
    };
    assert_eq!(plan.stored.len(), 8);
    assert_eq!(of("bf16", "none").total, plan.total);
    assert!(of("f32", "none").total > plan.total && of("bf16", "nf4").total < of("bf16", "int8").total, "{plan}");
    assert!(plan.stored.iter().all(|stored| stored.fits == (stored.total <= 6 << 30)));
}

#[test]
fn a_reference_and_rows_beside_the_batch_are_counted() {
    let of = |recipe, without_gradients| {
        let config = TrainConfig { recipe, ..config("llama-3.2-1b") };
        let Header { config: model, checkpoint, .. } = Header::open(&config).unwrap();
        let (checkpoint, dtype, tokens) = (&*checkpoint, FloatType::BF16, Some(64));
        let planned = Planned {
            config: &config,
            model: &model,
            checkpoint,
            backend: "cuda",
            dtype,
            tokens,
            without_gradients,
            process: None,
        };
        planned.memory().unwrap().total()
    };
    assert_eq!(of(Recipe::Kto, None), of(Recipe::Sft, Some(1 << 16)));
    assert!(of(Recipe::Kto, Some(1 << 16)) > of(Recipe::Kto, None));
}

#[test]
fn shapes_need_no_weights() {
    assert!(Shape::NAMES.iter().all(|name| Header::open(&config(name)).is_ok()));
    assert!(Header::open(&config("no/such/folder.json")).is_err());
}

#[test]
fn the_documents_show_the_plan_of_a_mac() {
    let config = TrainConfig { quantization: QuantizationKind::Nf4, batch_size: 1, ..config("llama-3.1-8b") };
    let Header { config: model, checkpoint, .. } = Header::open(&config).unwrap();
    let (checkpoint, dtype) = (&*checkpoint, FloatType::F16);
    let (tokens, without_gradients, backend) = (None, None, "metal");
    let planned =
        Planned { config: &config, model: &model, checkpoint, backend, dtype, tokens, without_gradients, process: None };
    // Two thirds of 16 GiB, less a tenth: `MemoryBudget` of burnish-metal, which not every build has.
    let (memory, working_set) = (16u64 << 30, (16u64 << 30) / 3 * 2);
    let why = "10.67 GiB that Metal allows, less 1.07 GiB for its pools".to_owned();
    let text = planned.plan(Some(Budget { memory, available: working_set - working_set / 10, why })).unwrap().to_string();
    let documents = include_str!("../../../docs/usage.md");
    assert!(text.lines().all(|line| documents.contains(line)), "docs/usage.md does not show:\n{text}");
}
