//! The formulas of `burnish-memory` against every measured step that has its live bytes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burnish_bench::shape::Shape;
use burnish_engine::{Checkpointing, MomentType};
use burnish_lora::LoraConfig;
use burnish_memory::{Memory, Place, Step, Trained};
use serde_json::Value;

const MIB: f64 = 1_048_576.0;

/// Bytes of packed weights, from `3744.0 MiB in nf4, 2004.5 MiB in bf16`.
fn stored(text: &str) -> u64 {
    let kinds = text.split(", ").map(|kind| kind.split(' ').next().unwrap().parse::<f64>().unwrap());
    (kinds.sum::<f64>() * MIB) as u64
}

/// The plan of a row's step.
fn planned(row: &Value, backend: &Value) -> Memory {
    let (sizes, step) = (&row["sizes"], &backend["step"]);
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let model = Shape::open(row["model"].as_str().unwrap()).unwrap().config;
    let element = if backend["dtype"] == "f32" { 4 } else { 2 };
    let lora = LoraConfig {
        rank: number(&sizes["rank"]),
        num_layers: step["num_layers"].as_u64().map(|layers| layers as usize),
        ..LoraConfig::default()
    };
    let trained = if step["full"] == true { Trained::All } else { Trained::Adapters(&lora) };
    let weights = step["weights"].as_str().map_or((model.parameter_count() * element) as u64, stored);
    Step {
        element,
        tokens: number(&sizes["batch"]) * number(&sizes["length"]),
        checkpointing: (step["grad_checkpoint"] == true).then(|| Checkpointing::of(backend["backend"].as_str().unwrap())),
        moments: if step["adamw8bit"] == true { MomentType::EightBit } else { MomentType::F32 },
        has_dropout: step["dropout"].is_number(),
        ..Step::new(&model, trained, weights, Place::Device)
    }
    .memory()
}

/// A row for each step with live bytes: name, plan, live bytes, bytes of the pool.
fn rows() -> Vec<(String, u64, u64, u64)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results");
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let row: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for backend in row["backends"].as_array().into_iter().flatten() {
            let Some(live) = backend["step"]["live_bytes"].as_u64() else { continue };
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            rows.push((name, planned(&row, backend).total(), live, backend["step"]["peak"]["bytes"].as_u64().unwrap()));
        }
    }
    rows.sort();
    rows
}

#[test]
fn plans_are_within_a_tenth_of_what_was_measured() {
    let rows = rows();
    // Dense and packed weights, adapters and full fine-tuning, with and without checkpointing, of models of 1B and 8B.
    assert!(rows.len() >= 8, "only {} rows have live bytes", rows.len());
    for (name, plan, live, pool) in &rows {
        let [of_live, of_pool] = [live, pool].map(|bytes| *plan as f64 / *bytes as f64);
        println!(
            "{name}: plan {:.0} MiB, live {:.0} MiB ({of_live:.3}), pool {:.0} MiB ({of_pool:.3})",
            *plan as f64 / MIB,
            *live as f64 / MIB,
            *pool as f64 / MIB
        );
    }
    for (name, plan, _, pool) in &rows {
        // Live bytes are sampled, and samples may miss the peak: the largest of equal steps counts, and the pool bounds it.
        let live = rows.iter().filter(|row| row.1 == *plan).map(|row| row.2).max().unwrap();
        let share = *plan as f64 / live as f64;
        let is_between = (live..*pool).contains(plan);
        assert!((0.9..1.1).contains(&share) || is_between, "{name}: planned {plan}, measured {live}, pool {pool}");
    }
}
