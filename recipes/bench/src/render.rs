//! The result as text.

use super::document::{BackendResult, Document};
use super::entry::{Kernel, Pass};
use super::kernels::{KernelMemory, KernelRow};
use super::peak::MemoryOf;
use super::step::{StepOutcome, StepRow};
use super::table::{Table, digits, maybe, percent};
use burnish_engine::gib;

/// The whole result as tables.
pub fn text(document: &Document) -> String {
    let sizes = &document.sizes;
    let mut parts = vec![format!(
        "{}: {} rows of {} tokens, LoRA rank {}; {} on {}",
        document.model,
        sizes.batch,
        sizes.length,
        sizes.rank,
        document.command,
        machine(document)
    )];
    parts.extend(document.backends.iter().map(backend));
    if document.backends.iter().filter(|result| !result.kernels.is_empty()).count() > 1 {
        parts.push(format!("milliseconds per launch, by backend\n{}", side_by_side(&document.backends)));
    }
    if document.backends.iter().filter(|result| result.step.is_some()).count() > 1 {
        parts.push(format!("steps, by backend\n{}", steps(&document.backends)));
    }
    #[cfg(feature = "emulator")]
    {
        parts.extend(document.counters.as_ref().map(counted::counters));
        parts.extend(document.prediction.as_ref().map(counted::prediction));
    }
    parts.join("\n\n")
}

fn machine(document: &Document) -> String {
    let machine = &document.machine;
    let gpus = if machine.gpus.is_empty() { String::new() } else { format!("{}, ", machine.gpus.join(", ")) };
    format!("{gpus}{} ({} threads)", machine.cpu, machine.threads)
}

fn backend(result: &BackendResult) -> String {
    let name = result.backend;
    if let Some(error) = &result.error {
        return format!("{name}: {error}");
    }
    let copies = result.copy_gb_per_second.map(|rate| format!(", copies at {} GB/s", digits(rate))).unwrap_or_default();
    let about = result.about.as_ref().map(|about| format!("; {about}")).unwrap_or_default();
    let mut lines = vec![format!("{name} ({}), {}{copies}{about}", result.device, result.dtype)];
    lines.extend(result.copy_error.as_ref().map(|error| format!("no copy was timed: {error}")));
    if !result.kernels.is_empty() {
        lines.push(kernels(&result.kernels).to_string());
        if result.kernels.iter().any(|row| row.equal_copy_share.is_some()) {
            lines.push(
                "of copy: bandwidth relative to a copy too large for any cache; of equal: relative to a copy of as many bytes"
                    .to_owned(),
            );
        }
        let first = result.kernels.iter().filter_map(|row| row.timing).map(|timing| timing.first_ms).sum::<f64>();
        lines.push(format!("first launches, with compilation and tuning: {} ms", digits(first)));
    }
    lines.extend(memory(&result.memory));
    lines.extend(result.step.as_ref().map(|outcome| match outcome {
        StepOutcome::Measured(row) => step(row),
        StepOutcome::Failed { error } => format!("step: {error}"),
    }));
    lines.extend(attention(result));
    lines.join("\n")
}

/// Attention in the step beside attention timed alone: where the two differ, one of them is wrong.
fn attention(result: &BackendResult) -> Option<String> {
    let found = result.step_row()?.attention?;
    let alone = |pass: Pass| {
        let row = result.kernels.iter().find(|row| row.entry.kernel == Kernel::Attention && row.entry.pass == pass)?;
        Some(row.timing?.ms)
    };
    let (forward, backward) = alone(Pass::Forward).zip(alone(Pass::Backward))?;
    Some(format!(
        "attention of a layer, forward and backward: {} ms in the step (a step in rows of {} tokens takes {} ms), {} + {} ms alone",
        digits(found.layer_ms),
        found.short_length,
        digits(found.short_ms),
        digits(forward),
        digits(backward),
    ))
}

/// Device memory of the operations, where the backend knows it.
fn memory(rows: &[KernelMemory]) -> Option<String> {
    let of = |row: &KernelMemory| {
        let burn = row.burn_bytes.map(|bytes| format!(" ({})", gib(bytes))).unwrap_or_default();
        Some(format!("{} {}{burn}", row.kernel.name(), gib(row.bytes?)))
    };
    let parts: Vec<String> = rows.iter().filter_map(of).collect();
    let head = "device memory of inputs, results and scratch (of burn's own)";
    (!parts.is_empty()).then(|| format!("{head}: {}", parts.join(", ")))
}

fn kernels(rows: &[KernelRow]) -> Table {
    let head = ["kernel", "first ms", "ms", "GB/s", "of copy", "of equal", "TFLOP/s", "burn ms", "× burn"];
    let mut table = Table::new(1, head);
    for row in rows {
        table.push([
            row.entry.title(),
            maybe(row.timing.map(|timing| timing.first_ms)),
            maybe(row.timing.map(|timing| timing.ms)),
            maybe(row.gb_per_second),
            percent(row.copy_share),
            percent(row.equal_copy_share),
            maybe(row.tflops),
            maybe(row.burn.map(|burn| burn.timing.ms)),
            maybe(row.burn.and_then(|burn| burn.speedup)),
            remark(row),
        ]);
    }
    table
}

/// A spread of the samples beyond this factor is reported.
const MOST_SPREAD: f64 = 1.5;

/// What failed, or how far the samples lie apart.
fn remark(row: &KernelRow) -> String {
    let spread = row.timing.map(|timing| timing.range_ms).filter(|[least, most]| *most > MOST_SPREAD * *least);
    let spread = spread.map(|[least, most]| format!("samples of {} to {} ms", digits(least), digits(most)));
    let burn = row.burn_error.as_ref().map(|error| format!("burn's own: {error}"));
    let parts: Vec<String> = row.error.clone().into_iter().chain(spread).chain(burn).collect();
    parts.join("; ")
}

/// What is unusual about a step.
fn about(step: &StepRow) -> String {
    let parts = [
        step.full.then(|| "all weights trained".to_owned()),
        step.grad_checkpoint.then(|| "checkpointing".to_owned()),
        step.adamw8bit.then(|| "moments in eight bits".to_owned()),
        (step.dropout > 0.0).then(|| format!("dropout {}", step.dropout)),
        step.num_layers.map(|layers| format!("adapters in the last {layers}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!(" with {}", parts.join(", ")) }
}

fn step(step: &StepRow) -> String {
    let peak = step.peak.map(|peak| {
        let of = match peak.of {
            MemoryOf::Pool => "device memory in its pool",
            MemoryOf::Resident => "resident memory of the process",
        };
        let share = step.peak_share.map(|share| format!(", {} × the least", digits(share))).unwrap_or_default();
        let live = step.live_bytes.map(|bytes| format!(", {} live", gib(bytes))).unwrap_or_default();
        format!("; peak {} {of}{share}{live}", gib(peak.bytes))
    });
    let mut text = format!(
        "step{}{}: {} tok/s, {} ms (first {}){}; loss {:.3} to {:.3}",
        about(step),
        step.weights.as_ref().map(|weights| format!(" on weights of {weights}")).unwrap_or_default(),
        digits(step.tokens_per_second),
        digits(step.ms),
        digits(step.first_ms),
        peak.unwrap_or_default(),
        step.losses[0],
        step.losses[1]
    );
    if let Some(found) = step.efficiency {
        let line = format!(
            "\nstep efficiency {}: the {} TFLOP of its products take {} ms at the rates above; {} TFLOP/s overall",
            digits(found.step_efficiency),
            digits(found.model_flops.total() / 1e12),
            digits(found.matmul_ms),
            digits(found.model_tflops)
        );
        text.push_str(&line);
    }
    text
}

/// Rows of every backend beside each other, by title.
fn side_by_side(results: &[BackendResult]) -> Table {
    let measured: Vec<&BackendResult> = results.iter().filter(|result| !result.kernels.is_empty()).collect();
    let heads = measured.iter().map(|result| format!("{} {}", result.backend, result.dtype));
    let mut table = Table::new(1, std::iter::once("kernel".to_owned()).chain(heads));
    for row in &measured[0].kernels {
        let title = row.entry.title();
        let cells = measured.iter().map(|result| {
            let same = result.kernels.iter().find(|other| other.entry.title() == title);
            maybe(same.and_then(|row| row.timing).map(|timing| timing.ms))
        });
        table.push(std::iter::once(title.clone()).chain(cells));
    }
    table
}

fn steps(results: &[BackendResult]) -> Table {
    let mut table = Table::new(1, ["backend", "tok/s", "ms", "peak MiB", "efficiency"]);
    for (result, outcome) in results.iter().filter_map(|result| Some((result, result.step.as_ref()?))) {
        let name = format!("{} {}", result.backend, result.dtype);
        match outcome {
            StepOutcome::Measured(step) => table.push([
                name,
                digits(step.tokens_per_second),
                digits(step.ms),
                maybe(step.peak.map(|peak| peak.bytes as f64 / f64::from(1 << 20))),
                maybe(step.efficiency.map(|found| found.step_efficiency)),
            ]),
            StepOutcome::Failed { error } => {
                table.push([name, "-".into(), "-".into(), "-".into(), "-".into(), error.clone()]);
            }
        }
    }
    table
}

#[cfg(feature = "emulator")]
mod counted {
    use super::{Table, digits, maybe, percent};
    use crate::candidates::{CANDIDATES, CandidateCost};
    use crate::counters::{BlockCount, Counters};
    use crate::predict::{Prediction, UnitForecast};

    pub(super) fn counters(counters: &Counters) -> String {
        let sizes = &counters.sizes;
        let head =
            ["kernel", "launches", "burn's", "bytes ÷ fewest", "issued ÷ fewest", "matrix ÷ FLOP", "arithmetic", "barriers"];
        let mut table = Table::new(1, head);
        for count in &counters.operations {
            let (work, totals) = (count.entry.work, count.totals);
            table.push([
                count.entry.title(),
                digits(totals.launches),
                maybe(count.composed.map(|composed| composed.launches)),
                digits(totals.unique_bytes / work.bytes),
                digits(totals.bytes / work.bytes),
                maybe((work.flops > 0.0).then(|| totals.matrix_flops / work.flops)),
                digits(totals.arithmetic),
                digits(totals.barriers),
            ]);
        }
        let failed = counters.failed.iter().fold(String::new(), |said, failed| {
            format!("{said}{} was not counted: {}\n", failed.kernel.name(), failed.error)
        });
        let block = match &counters.block {
            Ok(block) => of_block(block),
            Err(error) => format!("no block was counted: {error}"),
        };
        format!(
            "emulator, {}: counted at {} tokens, width {}, feed-forward {}, {} heads of {}; bytes are counted once per launch, or as issued\n\
             {table}\n{failed}{block}",
            counters.dtype,
            sizes.tokens(),
            sizes.hidden,
            sizes.intermediate,
            sizes.heads,
            sizes.head_dim
        )
    }

    fn of_block(block: &BlockCount) -> String {
        let totals = block.totals;
        let mut kernels: Vec<(&String, &i64)> = block.kernels.iter().collect();
        kernels.sort_by_key(|(name, launches)| (-**launches, name.as_str()));
        let kernels: Vec<String> = kernels.iter().map(|(name, launches)| format!("{launches} {name}")).collect();
        let composed = block.composed_launches.filter(|composed| *composed > 0.0).map_or_else(String::new, |composed| {
            let share = percent(Some(totals.launches / composed));
            format!(", {} when composed of burn's operations ({share})", digits(composed))
        });
        format!(
            "a block, forward and backward: {} launches{composed}; {} bytes per launch\n  {}",
            digits(totals.launches),
            digits(totals.unique_bytes / totals.launches.max(1.0)),
            kernels.join(", ")
        )
    }

    pub(super) fn prediction(prediction: &Prediction) -> String {
        let mut table = Table::new(1, ["chip", "cores", "GB/s", "TFLOP/s", "step ms", "tok/s", "bound by memory"]);
        for found in &prediction.chips {
            let chip = found.chip;
            table.push([
                chip.name.to_owned(),
                chip.gpu_cores.to_string(),
                digits(chip.bandwidth),
                digits(chip.tflops()),
                digits(found.step_ms),
                digits(found.tokens_per_second),
                percent(Some(found.memory_share)),
            ]);
            if let Some(UnitForecast { tflops, step_ms, tokens_per_second }) = found.on_units {
                let (cores, bandwidth) = (chip.gpu_cores.to_string(), digits(chip.bandwidth));
                let [rate, step, tokens] = [tflops, step_ms, tokens_per_second].map(digits);
                table.push([format!("{} on matrix units", chip.name), cores, bandwidth, rate, step, tokens, String::new()]);
            }
        }
        let step = format!("a training step in {}: {}; {}\n{table}", prediction.dtype, prediction.label, prediction.assumes);
        if prediction.candidates.is_empty() {
            return step;
        }
        let mut table =
            Table::new(2, ["products", "candidate", "device B/clock", "threadgroup B/clock", "barriers/1000 clocks"]);
        for cost in &prediction.candidates {
            let CandidateCost { class, candidate, device_bytes, threadgroup_bytes, barriers } = cost;
            let numbers = [*device_bytes, *threadgroup_bytes, *barriers].map(digits);
            table.push([class.clone(), candidate.clone()].into_iter().chain(numbers));
        }
        format!("{step}\n\n{CANDIDATES}\n{table}")
    }
}
