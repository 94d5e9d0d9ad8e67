//! The time of a training step on Apple's chips: counts of the emulator, scaled to the step, against each chip's bandwidth and
//! arithmetic. **A prediction**: nothing was measured on any of them, and it is the best case: no chip can be faster.
//!
//! Kernels that are chosen by size are those of the small sizes that were counted.

use burnish_metal::chip::{CHIPS, Chip};
use serde::Serialize;

use super::candidates::CandidateCost;
use super::counters::{Counters, OperationCount, Totals};
use super::entry::{Entry, Kernel, entries};
use super::sizes::Sizes;

/// Printed wherever a prediction is.
pub const LABEL: &str = "a prediction; nothing was measured on these chips";

/// What it assumes.
const ASSUMES: &str = "it assumes every kernel at the chip's full bandwidth or the full rate of its lanes, and no time between launches; rows \
                       `on matrix units` assume that M5's do 1024 operations a core and clock in f16, which Apple does not publish, that \
                       they take all products of linear layers, and that these cost nothing else; they take those that `burnish tune` \
                       chooses on the machine";

/// What an operation of the step does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Demand {
    /// Which operation.
    pub operation: String,
    /// How often the step runs it.
    pub runs: usize,
    /// Bytes of device memory per run.
    pub bytes: f64,
    /// Float operations per run, those of matrices included: `simdgroup_matrix` runs on the same lanes.
    pub flops: f64,
    /// Those of them that matrix units could do: products of linear layers in f16.
    pub unit_flops: f64,
}

impl Demand {
    /// Milliseconds of one run: the longer of moving and computing.
    fn ms(&self, chip: &Chip) -> f64 {
        self.moving_ms(chip).max(self.flops / (chip.tflops() * 1e9))
    }

    /// The same, with what matrix units can do done by them; `None` for a chip without.
    fn ms_on_units(&self, chip: &Chip) -> Option<f64> {
        let units = chip.matrix_tflops()?;
        let computing = (self.flops - self.unit_flops) / (chip.tflops() * 1e9) + self.unit_flops / (units * 1e9);
        Some(self.moving_ms(chip).max(computing))
    }

    fn moving_ms(&self, chip: &Chip) -> f64 {
        self.bytes / (chip.bandwidth * 1e6)
    }

    fn is_bound_by_memory(&self, chip: &Chip) -> bool {
        self.moving_ms(chip) >= self.ms(chip)
    }
}

/// The predicted step on a chip.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChipForecast {
    /// The chip.
    #[serde(flatten)]
    pub chip: Chip,
    /// Time of a step.
    pub step_ms: f64,
    /// Tokens per second at that time.
    pub tokens_per_second: f64,
    /// Share of the time that memory bounds.
    pub memory_share: f64,
    /// The same on matrix units, where the chip has some.
    pub on_units: Option<UnitForecast>,
}

/// The predicted step with products on matrix units.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct UnitForecast {
    /// Their assumed rate.
    pub tflops: f64,
    /// Time of a step.
    pub step_ms: f64,
    /// Tokens per second at that time.
    pub tokens_per_second: f64,
}

/// A prediction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// What it is.
    pub label: &'static str,
    /// What it assumes.
    pub assumes: &'static str,
    /// What was computed in.
    pub dtype: &'static str,
    /// What the step does.
    pub demands: Vec<Demand>,
    /// By chip.
    pub chips: Vec<ChipForecast>,
    /// What the ways to compute a product move, if that was counted.
    pub candidates: Vec<CandidateCost>,
}

/// Scales the counts to the step and goes through the chips.
pub fn predict(counters: &Counters, full: &Sizes, element: usize) -> Prediction {
    let mut demands: Vec<Demand> = Kernel::ALL
        .into_iter()
        .flat_map(|kernel| {
            let small = counters.operations.iter().filter(move |count| count.entry.kernel == kernel);
            let half = if kernel == Kernel::Attention { counters.attention_at_half.as_slice() } else { &[] };
            entries(kernel, full, element).into_iter().zip(small).enumerate().map(move |(index, (entry, count))| {
                let scaled = match half.get(index) {
                    Some(half) => scale_attention(half, count, &counters.sizes, full),
                    None if kernel == Kernel::LinearCrossEntropy => scale_loss(count, &entry, &counters.sizes, full),
                    None => scale(count, &entry),
                };
                Demand {
                    operation: entry.title(),
                    runs: entry.runs(full.layers),
                    bytes: scaled.unique_bytes,
                    flops: scaled.flops(),
                    unit_flops: if element == 2 && has_products(kernel) { scaled.matrix_flops } else { 0.0 },
                }
            })
        })
        .filter(|demand| demand.runs > 0)
        .collect();
    demands.extend(others(counters, full));
    let chips = CHIPS.iter().map(|chip| forecast(chip, &demands, full.tokens())).collect();
    Prediction { label: LABEL, assumes: ASSUMES, dtype: counters.dtype, demands, chips, candidates: Vec::new() }
}

/// Whether an operation's matrix products are those of linear layers; attention has its own.
fn has_products(kernel: Kernel) -> bool {
    matches!(kernel, Kernel::Linear | Kernel::LoraLinear | Kernel::PackedLinear | Kernel::LinearCrossEntropy)
}

/// The counts at other sizes: bytes grow as the fewest bytes do, operations as those of the matrix products, or as the bytes where
/// there are none.
fn scale(count: &OperationCount, full: &Entry) -> Totals {
    let ratio = |full: f64, small: f64| if small > 0.0 { full / small } else { 0.0 };
    let bytes = ratio(full.work.bytes, count.entry.work.bytes);
    let flops = if full.work.flops > 0.0 { ratio(full.work.flops, count.entry.work.flops) } else { bytes };
    Totals {
        launches: count.totals.launches,
        bytes: count.totals.bytes * bytes,
        unique_bytes: count.totals.unique_bytes * bytes,
        matrix_flops: count.totals.matrix_flops * flops,
        arithmetic: count.totals.arithmetic * flops,
        barriers: count.totals.barriers * bytes,
    }
}

/// The loss moves logits beside its inputs, and they grow with tokens and vocabulary.
fn scale_loss(count: &OperationCount, full: &Entry, small_sizes: &Sizes, full_sizes: &Sizes) -> Totals {
    let logits = |sizes: &Sizes| sizes.tokens() as f64 * sizes.vocabulary as f64;
    let excess = count.totals.unique_bytes - count.entry.work.bytes;
    let unique_bytes = full.work.bytes + excess * logits(full_sizes) / logits(small_sizes);
    Totals { unique_bytes: unique_bytes.max(0.0), ..scale(count, full) }
}

/// Attention has a part that grows with the tokens and one that grows with the pairs of tokens; two lengths tell them apart. Both
/// grow with rows and heads.
fn scale_attention(half: &OperationCount, whole: &OperationCount, small: &Sizes, full: &Sizes) -> Totals {
    let of = |sizes: &Sizes, length: usize| {
        let attention = super::work::AttentionSizes { length, ..sizes.attention() };
        [length as f64, 2.0 * attention.pairs()]
    };
    let (x, y, at) = (of(small, small.length / 2), of(small, small.length), of(full, full.length));
    let factor = (full.batch * full.heads) as f64 / (small.batch * small.heads) as f64;
    let fitted = |field: fn(&Totals) -> f64| {
        let [linear, square] = fit(x, field(&half.totals), y, field(&whole.totals));
        (factor * (linear * at[0] + square * at[1])).max(0.0)
    };
    Totals {
        launches: whole.totals.launches,
        bytes: fitted(|totals| totals.bytes),
        unique_bytes: fitted(|totals| totals.unique_bytes),
        matrix_flops: fitted(|totals| totals.matrix_flops),
        arithmetic: fitted(|totals| totals.arithmetic),
        barriers: fitted(|totals| totals.barriers),
    }
}

/// The factors of two basis functions that give two values at two lengths.
fn fit(x: [f64; 2], at_x: f64, y: [f64; 2], at_y: f64) -> [f64; 2] {
    let determinant = x[0] * y[1] - x[1] * y[0];
    if determinant == 0.0 {
        return [at_y / y[0].max(1.0), 0.0];
    }
    [(at_x * y[1] - at_y * x[1]) / determinant, (at_y * x[0] - at_x * y[0]) / determinant]
}

/// What a block does beside its operations, such as adding gradients: it grows with tokens and width.
fn others(counters: &Counters, full: &Sizes) -> Option<Demand> {
    let block = counters.block.as_ref().ok()?;
    let small = &counters.sizes;
    let rest = counters
        .operations
        .iter()
        .fold(block.totals, |rest, count| rest.plus(-(count.entry.per_block as f64), count.totals));
    let ratio = (full.tokens() * full.hidden) as f64 / (small.tokens() * small.hidden) as f64;
    Some(Demand {
        operation: "all else of a block".to_owned(),
        runs: full.layers,
        bytes: rest.unique_bytes * ratio,
        // Products are the operations'; what is left of them by rounding is no work.
        flops: rest.arithmetic.min(rest.unique_bytes) * ratio,
        unit_flops: 0.0,
    })
}

fn forecast(chip: &Chip, demands: &[Demand], tokens: usize) -> ChipForecast {
    let sum = |counts: &dyn Fn(&Demand) -> bool| -> f64 {
        demands.iter().filter(|demand| counts(demand)).map(|demand| demand.runs as f64 * demand.ms(chip)).sum()
    };
    let step_ms = sum(&|_| true);
    let per_second = |step_ms: f64| tokens as f64 / (step_ms / 1e3).max(1e-12);
    let on_units = chip.matrix_tflops().map(|tflops| {
        let ms = |demand: &Demand| demand.ms_on_units(chip).unwrap_or_else(|| demand.ms(chip));
        let step_ms = demands.iter().map(|demand| demand.runs as f64 * ms(demand)).sum();
        UnitForecast { tflops, step_ms, tokens_per_second: per_second(step_ms) }
    });
    ChipForecast {
        chip: *chip,
        step_ms,
        tokens_per_second: per_second(step_ms),
        memory_share: sum(&|demand| demand.is_bound_by_memory(chip)) / step_ms.max(1e-12),
        on_units,
    }
}

#[cfg(test)]
mod tests {
    use burnish_metal::chip::chip;

    use super::*;
    use crate::shape::Shape;

    /// Counters of kernels that do exactly what they must, and attention with a linear part.
    fn ideal(full: &Sizes, shape: &Shape) -> Counters {
        let sizes = full.grouped_as(&shape.shrunk(1).config, 1, 128);
        let exact = |kernel: Kernel, sizes: &Sizes| -> Vec<OperationCount> {
            let count = |entry: Entry| {
                let (bytes, flops) = (entry.work.bytes, entry.work.flops);
                let totals = Totals { launches: 1.0, unique_bytes: bytes, matrix_flops: flops, ..Totals::default() };
                OperationCount { entry, totals, composed: None }
            };
            entries(kernel, sizes, 2).into_iter().map(count).collect()
        };
        let half = exact(Kernel::Attention, &Sizes { length: 64, ..sizes.clone() });
        Counters {
            operations: Kernel::ALL.into_iter().flat_map(|kernel| exact(kernel, &sizes)).collect(),
            failed: Vec::new(),
            attention_at_half: half,
            sizes,
            dtype: "f16",
            block: Err("not counted".to_owned()),
        }
    }

    #[test]
    fn two_lengths_give_both_parts() {
        let value = |x: [f64; 2]| 3.0 * x[0] + 0.5 * x[1];
        let (x, y) = ([64.0, 4096.0], [128.0, 16384.0]);
        let [linear, square] = fit(x, value(x), y, value(y));
        assert!((linear - 3.0).abs() < 1e-9 && (square - 0.5).abs() < 1e-12);
    }

    #[test]
    fn exact_kernels_are_predicted_exactly() {
        let shape = Shape::open("llama-3.2-1b").unwrap();
        let full = Sizes::new(&shape.config, 4, 2048, 16);
        let prediction = predict(&ideal(&full, &shape), &full, 2);
        for demand in &prediction.demands {
            let all = Kernel::ALL.into_iter().flat_map(|kernel| entries(kernel, &full, 2));
            let entry = all.into_iter().find(|entry| entry.title() == demand.operation).unwrap();
            assert!((demand.bytes / entry.work.bytes - 1.0).abs() < 1e-6, "{demand:?} {entry:?}");
            assert!((demand.flops - entry.work.flops).abs() <= 1e-6 * entry.work.flops, "{demand:?} {entry:?}");
        }
        // The matrix products alone bound the step from below; more cores take less time.
        let least = full.model_flops().total();
        for found in &prediction.chips {
            assert!(found.step_ms / 1e3 >= least / (found.chip.tflops() * 1e12), "{found:?}");
        }
        let ms = |name| prediction.chips.iter().find(|found| found.chip.name == name).unwrap().step_ms;
        assert!(ms("Apple M4 Max") < ms("Apple M4 Pro") && ms("Apple M4 Pro") < ms("Apple M4"));
    }

    #[test]
    fn matrix_units_take_the_products_of_linear_layers() {
        let m5 = chip("Apple M5 Pro", Some(20)).unwrap();
        let units = m5.matrix_tflops().unwrap();
        assert!((units / m5.tflops() - 4.0).abs() < 1e-9);
        let demand = |unit_flops| Demand { operation: String::new(), runs: 3, bytes: 1.0, flops: units * 1e12, unit_flops };
        let found = |demand| forecast(m5, &[demand], 6).on_units.unwrap();
        // A second of the units' work, and four of the lanes'.
        let (all, none) = (found(demand(units * 1e12)), found(demand(0.0)));
        assert!((all.step_ms - 3e3).abs() < 1e-6 && (none.step_ms - 12e3).abs() < 1e-6, "{all:?} {none:?}");
        assert!((all.tokens_per_second - 2.0).abs() < 1e-9 && (all.tflops - units).abs() < 1e-9);
        // Bandwidth bounds them as well, and other chips have none.
        let moving = Demand { bytes: m5.bandwidth * 1e9, ..demand(units * 1e9) };
        assert!((found(Demand { flops: units * 1e9, ..moving }).step_ms - 3e3).abs() < 1e-6);
        assert!(forecast(chip("Apple M4 Pro", Some(20)).unwrap(), &[demand(0.0)], 6).on_units.is_none());

        let shape = Shape::open("llama-3.2-1b").unwrap();
        let full = Sizes::new(&shape.config, 4, 2048, 16);
        for (element, faster) in [(2, true), (4, false)] {
            let prediction = predict(&ideal(&full, &shape), &full, element);
            assert!(prediction.assumes.contains("1024 operations a core"));
            for found in prediction.chips.iter().filter(|found| found.chip.generation.has_matrix_units()) {
                assert_eq!(found.on_units.unwrap().step_ms < 0.9 * found.step_ms, faster, "{found:?}");
            }
        }
    }

    #[test]
    fn a_run_takes_the_longer_of_moving_and_computing() {
        let chip = chip("Apple M4", Some(10)).unwrap();
        let demand = |bytes, flops| Demand { operation: String::new(), runs: 2, bytes, flops, unit_flops: 0.0 };
        let moving = demand(chip.bandwidth * 1e9, 1.0);
        assert!((moving.ms(chip) - 1e3).abs() < 1e-6 && moving.is_bound_by_memory(chip));
        let computing = demand(1.0, chip.tflops() * 1e12);
        assert!((computing.ms(chip) - 1e3).abs() < 1e-6 && !computing.is_bound_by_memory(chip));
        let both = forecast(chip, &[moving, computing], 8);
        assert!((both.step_ms - 4e3).abs() < 1e-6 && (both.memory_share - 0.5).abs() < 1e-9);
        assert!((both.tokens_per_second - 2.0).abs() < 1e-9);
    }
}
