//! Every fused operation on the device, forward and backward, against the composed one on the CPU.

mod cases;
mod compare;
mod reference;

use anyhow::Result;
use burnish_engine::guard::guarded;
use burnish_engine::{Device, KernelCase, Operation};
use burnish_models::FloatType;

use self::cases::Sizes;
use self::compare::{Comparison, Rows, compare};
use super::check::Check;
use super::findings::{Detail, Findings};
use super::progress::Progress;
use super::target::Target;

/// Whole tiles and fragments of matrix units, with a rest.
const QUICK: [Sizes; 1] = [Sizes { rows: 70, features: 128, outputs: 136 }];

/// One row, odd sizes, and several tiles.
const FULL: [Sizes; 4] = [
    QUICK[0],
    Sizes { rows: 1, features: 64, outputs: 3 },
    Sizes { rows: 23, features: 88, outputs: 77 },
    Sizes { rows: 300, features: 256, outputs: 520 },
];

/// Operations after which compiled kernels are kept, so that a check that is stopped has not compiled them in vain.
const KEPT_AFTER: usize = 8;

/// Checks every operation in f32, and in the dtype that training uses here.
///
/// # Errors
/// When inputs can't be made.
pub(super) fn check(target: &Target<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let all = if target.full { &FULL[..] } else { &QUICK };
    let mut layers: Vec<KernelCase> = all.iter().flat_map(|sizes| sized(*sizes, all.len() > 1)).collect();
    layers.extend(cases::packed(target.full)?);
    let mut total = Comparison::default();
    let dtypes = target.dtypes();
    let count = layers.len() + cases::updates().len();
    let begin = |number: usize, case: &KernelCase, dtype: FloatType| {
        let part = format!("{} in {dtype} ({} of {count})", case.name, number + 1);
        (target.tell)(Progress::Part(Check::Kernels, &part));
        if number.is_multiple_of(KEPT_AFTER) {
            // What was asked of the device is done: each result was read.
            burnish_backends::publish_kernels();
        }
    };
    let of_layers = layers.len();
    burnish_backends::enter(target.backend, |device| {
        for (number, case) in layers.into_iter().enumerate() {
            let expected = reference::compute(&case);
            for dtype in &dtypes {
                begin(number, &case, *dtype);
                let rows = Rows::of(&case, *dtype, target.backend == "cuda");
                let comparison = of_device(device, &case, *dtype, |found| compare(&case, &found, &expected, rows));
                note(target, &mut findings, &mut total, &case, *dtype, comparison);
            }
        }
        for (number, case) in cases::updates().into_iter().enumerate() {
            begin(of_layers + number, &case, FloatType::F32);
            let expected = reference::compute(&case);
            let rows = Rows::of(&case, FloatType::F32, false);
            let comparison = of_device(device, &case, FloatType::F32, |found| compare(&case, &found, &expected, rows));
            note(target, &mut findings, &mut total, &case, FloatType::F32, comparison);
        }
        Ok(())
    })?;
    let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
    findings.summary = format!(
        "{count} operations forward and backward in {}; {} tensors compared, the worst at {:.0} % of its tolerance",
        names.join(" and "),
        total.compared,
        100.0 * total.worst
    );
    Ok(findings)
}

/// The operations of models at a size, with the size in the name if there are several.
fn sized(sizes: Sizes, is_named: bool) -> Vec<KernelCase> {
    let mut cases = cases::layers(sizes);
    if is_named && sizes.rows != QUICK[0].rows {
        cases.iter_mut().for_each(|case| case.name = format!("{}@{}x{}", case.name, sizes.rows, sizes.features));
    }
    cases
}

fn of_device(
    device: &dyn Device,
    case: &KernelCase,
    dtype: FloatType,
    compare: impl FnOnce(burnish_engine::Computed) -> Comparison,
) -> Comparison {
    match guarded(|| device.compute(case, dtype)) {
        Ok(found) => compare(found),
        Err(error) => Comparison { faults: vec![format!("{error:#}")], ..Comparison::default() },
    }
}

fn note(
    target: &Target<'_>,
    findings: &mut Findings,
    total: &mut Comparison,
    case: &KernelCase,
    dtype: FloatType,
    comparison: Comparison,
) {
    total.compared += comparison.compared;
    total.worst = total.worst.max(comparison.worst);
    findings.details.push(Detail {
        name: case.name.clone(),
        dtype: Some(dtype.name()),
        passed: comparison.faults.is_empty(),
        tolerance_used: Some(comparison.worst),
    });
    if comparison.faults.is_empty() {
        return;
    }
    let what = comparison.faults.join("; ");
    let means = match case.operation {
        Operation::Layer(_) if !what.contains("forward") => "training with this operation is wrong on this device",
        Operation::Layer(_) => "models that use this operation compute wrong results on this device",
        Operation::Update(_) => "the optimizer's updates are wrong on this device: do not train on it",
    };
    findings.fail(format!("{} in {dtype}", case.name), what, means, target.whom_for_kernels());
}
