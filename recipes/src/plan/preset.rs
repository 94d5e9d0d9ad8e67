//! Settings that fit into so much memory, for keys that the user left open.

use std::collections::BTreeSet;

use anyhow::Result;
use burnish_engine::{gib, with_hint};

use super::{Budget, Planned};
use crate::config::{FineTuneType, QuantizationKind, TrainConfig};

/// Rows are not made shorter than this.
const SHORTEST: usize = 128;

/// A chosen configuration.
#[derive(Debug)]
pub struct Preset {
    /// The configuration.
    pub config: TrainConfig,
    /// What was set, and why.
    pub line: String,
}

/// Parses `16gb`, or `16`.
///
/// # Errors
/// If it is no amount of memory; the reason.
pub fn amount(text: &str) -> Result<u64, String> {
    let number = text.to_lowercase();
    let number = number.trim_end_matches("gib").trim_end_matches("gb");
    match number.parse() {
        Ok(gib @ 1..=4096) => Ok(gib),
        _ => Err("expected an amount of memory such as 16gb".to_owned()),
    }
}

/// The settings that cost least time and quality and fit, of keys that are not `given`. The order: smaller micro-batches with more
/// accumulation, which learn the same; then checkpointing, which takes time; then packed weights; then shorter rows.
///
/// # Errors
/// When nothing fits.
pub fn choose(planned: &Planned<'_>, given: &BTreeSet<String>, gib_of_memory: u64) -> Result<Preset> {
    let budget = Budget::of_gib(planned.backend, gib_of_memory)?;
    let mut least = u64::MAX;
    let all = candidates(planned, given);
    let nothing = if all.len() == 1 { " sets nothing, because file and flags set all of its keys" } else { "" };
    for config in all {
        let total = Planned { config: &config, tokens: None, without_gradients: None, ..*planned }.memory()?.total();
        if total <= budget.available {
            let line = format!(
                "preset {gib_of_memory}gb{nothing}: {}; a step takes about {} of {}",
                settings(&config),
                gib(total),
                gib(budget.available)
            );
            return Ok(Preset { config, line });
        }
        least = least.min(total);
    }
    Err(with_hint(
        format!(
            "no settings fit into {gib_of_memory} GB: the smallest step takes about {}, and {} may be used",
            gib(least),
            gib(budget.available)
        ),
        "use a smaller model, or leave more keys open: batch_size, grad_checkpoint, quantization, max_seq_length",
    ))
}

/// All configurations that are tried, in order.
fn candidates(planned: &Planned<'_>, given: &BTreeSet<String>) -> Vec<TrainConfig> {
    let config = planned.config;
    let open = |key: &str| !given.contains(key);
    let halved = |most: usize, least: usize| {
        std::iter::successors(Some(most), move |size| Some(size / 2).filter(|half| *half >= least))
    };
    let lengths: Vec<usize> =
        if open("max_seq_length") { halved(planned.length(), SHORTEST).collect() } else { vec![config.max_seq_length] };
    let batches: Vec<usize> =
        if open("batch_size") { halved(config.batch_size, 1).collect() } else { vec![config.batch_size] };
    let mut storages = vec![(config.quantization, config.quantize_embedding)];
    let is_lora = config.fine_tune_type == FineTuneType::Lora;
    if is_lora && open("quantization") && !config.lora().init.changes_base() {
        storages.push((QuantizationKind::Nf4, config.quantize_embedding));
    }
    if let (true, Some((last, false))) = (is_lora && open("quantize_embedding"), storages.last().copied()) {
        storages.push((last, true));
    }
    let mut all = Vec::new();
    for max_seq_length in lengths {
        for (quantization, quantize_embedding) in &storages {
            for grad_checkpoint in [false, true] {
                if !open("grad_checkpoint") && grad_checkpoint != config.grad_checkpoint {
                    continue;
                }
                for batch_size in &batches {
                    let rows = config.batch_size * config.grad_accumulation_steps;
                    let accumulation = if open("grad_accumulation_steps") {
                        rows.div_ceil(*batch_size)
                    } else {
                        config.grad_accumulation_steps
                    };
                    all.push(TrainConfig {
                        max_seq_length,
                        quantization: *quantization,
                        quantize_embedding: *quantize_embedding,
                        grad_checkpoint,
                        batch_size: *batch_size,
                        grad_accumulation_steps: accumulation,
                        ..config.clone()
                    });
                }
            }
        }
    }
    all
}

/// The keys that a preset sets, with their values.
fn settings(config: &TrainConfig) -> String {
    let values: toml::Table = toml::from_str(&config.to_toml()).unwrap_or_default();
    let keys =
        ["quantization", "quantize_embedding", "grad_checkpoint", "batch_size", "grad_accumulation_steps", "max_seq_length"];
    let lines = keys.iter().filter_map(|key| values.get(*key).map(|value| format!("{key} = {value}")));
    lines.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use burnish_models::FloatType;

    use super::*;
    use crate::plan::Header;

    fn preset(config: &TrainConfig, given: &[&str], gib: u64) -> Result<Preset> {
        let header = Header::open(config).unwrap();
        let Header { config: model, checkpoint, .. } = &header;
        let planned = Planned {
            config,
            model,
            checkpoint: &**checkpoint,
            backend: "cuda",
            dtype: FloatType::F16,
            tokens: None,
            without_gradients: None,
            process: None,
        };
        choose(&planned, &given.iter().map(|key| (*key).to_owned()).collect(), gib)
    }

    #[test]
    fn less_memory_costs_time_first_and_then_quality() {
        let config = TrainConfig { model: "llama-3.1-8b".to_owned(), ..TrainConfig::default() };
        let of = |gib| preset(&config, &[], gib).unwrap().config;
        assert_eq!(of(80), config);
        let small = of(16);
        assert!(small.quantization == QuantizationKind::Nf4 && small.max_seq_length == 2048, "{small:?}");
        assert_eq!(small.batch_size * small.grad_accumulation_steps, 4);
        let middle = of(20);
        assert!(middle.grad_checkpoint && middle.quantization == QuantizationKind::Auto, "{middle:?}");
        // A key that was given stays.
        let kept =
            preset(&TrainConfig { batch_size: 2, ..config.clone() }, &["batch_size", "quantization"], 24).unwrap().config;
        assert_eq!((kept.batch_size, kept.quantization), (2, QuantizationKind::Auto));
        let error = preset(&config, &["quantization"], 12).unwrap_err();
        assert!(error.to_string().contains("no settings fit into 12 GB"), "{error}");
        assert!(preset(&config, &[], 24).unwrap().line.starts_with("preset 24gb: quantization = "));
    }

    #[test]
    fn amounts_of_memory_are_read() {
        assert_eq!([amount("16gb"), amount("24GB"), amount("8"), amount("36GiB")].map(Result::unwrap), [16, 24, 8, 36]);
        assert!(amount("small").is_err() && amount("0gb").is_err() && amount("16mb").is_err());
    }
}
