//! A document as text.

use super::document::{BackendResult, Document};
use super::kernels::{KernelMemory, KernelRow};
use super::peak::MemoryOf;
use super::step::StepRow;
use super::table::{Table, digits, maybe, percent};
use burnish_engine::gib;

/// Everything, for people.
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
        parts.push(format!("ms a launch, side by side\n{}", side_by_side(&document.backends)));
    }
    if document.backends.iter().filter(|result| result.step.is_some()).count() > 1 {
        parts.push(format!("steps, side by side\n{}", steps(&document.backends)));
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
    let mut lines = Vec::new();
    let problems = result.problems.iter().map(|problem| format!("{}: {problem}", result.backend));
    if !result.kernels.is_empty() || result.step.is_some() {
        let copies = result.copy_gb_per_second.map(|rate| format!(", copies at {} GB/s", digits(rate))).unwrap_or_default();
        lines.push(format!("{} ({}), {}{copies}", result.backend, result.device, result.dtype));
    }
    lines.extend(problems);
    if !result.kernels.is_empty() {
        lines.push(kernels(&result.kernels).to_string());
        if result.kernels.iter().any(|row| row.equal_copy_share.is_some()) {
            lines.push(
                "of copy: against a copy that no cache holds; of equal: against one that moves as much as the row"
                    .to_owned(),
            );
        }
        let first = result.kernels.iter().filter_map(|row| row.timing).map(|timing| timing.first_ms).sum::<f64>();
        lines.push(format!("first launches, compiled and tuned: {} ms", digits(first)));
    }
    lines.extend(memory(&result.memory));
    lines.extend(result.step.as_ref().map(step));
    lines.join("\n")
}

/// What the operations took of the device, where it tells.
fn memory(rows: &[KernelMemory]) -> Option<String> {
    let of = |row: &KernelMemory| {
        let burn = row.burn_bytes.map(|bytes| format!(" ({})", gib(bytes))).unwrap_or_default();
        Some(format!("{} {}{burn}", row.kernel.name(), gib(row.bytes?)))
    };
    let parts: Vec<String> = rows.iter().filter_map(of).collect();
    let head = "inputs, results and scratch on the device, and those of burn's own way";
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
            row.note.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn step(step: &StepRow) -> String {
    let peak = step.peak.map(|peak| {
        let of = match peak.of {
            MemoryOf::Device => "the device",
            MemoryOf::Process => "the process",
        };
        let share = step.peak_share.map(|share| format!(", {} × the least", digits(share))).unwrap_or_default();
        format!("; peak {} of {of}{share}", gib(peak.bytes))
    });
    let mut text = format!(
        "step: {} tok/s, {} ms (first {}){}; loss {:.3} to {:.3}",
        digits(step.tokens_per_second),
        digits(step.ms),
        digits(step.first_ms),
        peak.unwrap_or_default(),
        step.losses[0],
        step.losses[1]
    );
    if let Some(found) = step.efficiency {
        let line = format!(
            "\nstep efficiency {}: its {} TFLOP of products take {} ms at the rates above; {} TFLOP/s overall",
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
    for (result, step) in results.iter().filter_map(|result| Some((result, result.step.as_ref()?))) {
        table.push([
            format!("{} {}", result.backend, result.dtype),
            digits(step.tokens_per_second),
            digits(step.ms),
            maybe(step.peak.map(|peak| peak.bytes as f64 / f64::from(1 << 20))),
            maybe(step.efficiency.map(|found| found.step_efficiency)),
        ]);
    }
    table
}

#[cfg(feature = "emulator")]
mod counted {
    use super::{Table, digits, maybe, percent};
    use crate::counters::{BlockCount, Counters};
    use crate::predict::Prediction;

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
            format!("{said}{} could not be counted: {}\n", failed.kernel.name(), failed.error)
        });
        let block = match &counters.block {
            Ok(block) => of_block(block),
            Err(error) => format!("a block is not counted: {error}"),
        };
        format!(
            "emulator, {}: counted at {} tokens, width {}, feed-forward {}, {} heads of {}; a byte counts once a launch, or as issued\n\
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
            format!(", {} if it were composed of burn's operations ({share})", digits(composed))
        });
        format!(
            "a block, forward and backward: {} launches{composed}; {} bytes a launch\n  {}",
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
        }
        format!("a training step in {}: {}; {}\n{table}", prediction.dtype, prediction.label, prediction.assumes)
    }
}
