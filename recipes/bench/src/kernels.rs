//! Times the operations one by one, on one backend.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use burnish_kernels::FusedBackend;
use serde::Serialize;

use super::action::{Action, Launch, actions};
use super::attempt::{attempt, too_large};
use super::entry::{Entry, Kernel, entries};
use super::setup::{Setup, in_turns};
use super::stopwatch::{Pace, Timing, wait};

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelRow {
    /// The operation.
    #[serde(flatten)]
    pub entry: Entry,
    /// How long it took.
    pub timing: Option<Timing>,
    /// Why there is no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Least bytes divided by time, GB/s.
    pub gb_per_second: Option<f64>,
    /// That rate divided by the bandwidth of a copy that no cache holds.
    pub copy_share: Option<f64>,
    /// That rate divided by the bandwidth of a copy of as many bytes, for operations without products: both include the start and end
    /// of a launch.
    pub equal_copy_share: Option<f64>,
    /// Matrix operations divided by time, TFLOP/s.
    pub tflops: Option<f64>,
    /// burn's own: its matrix product of these sizes, or the composed operation where there is none.
    pub burn: Option<Rival>,
    /// Why burn's own was not timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burn_error: Option<String>,
}

/// burn's own operation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rival {
    /// How long it took.
    pub timing: Timing,
    /// Matrix operations divided by time, TFLOP/s.
    pub tflops: Option<f64>,
    /// How many times faster ours is; compared by rates where burn's product is smaller.
    pub speedup: Option<f64>,
}

/// Device memory that the rows of an operation take, run one after the other with one set of inputs each.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelMemory {
    /// The operation.
    pub kernel: Kernel,
    /// Inputs, results and scratch, where the backend knows.
    pub bytes: Option<u64>,
    /// The same for burn's own operation.
    pub burn_bytes: Option<u64>,
}

/// Rows of an operation.
///
/// The pools are not emptied before it, so that inputs lie in memory as the tensors of a step do.
pub fn measure<B: FusedBackend>(kernel: Kernel, setup: &Setup<B>, pace: &Pace, copy: Option<f64>) -> Vec<KernelRow> {
    let device = &setup.device;
    let entries = entries(kernel, &setup.sizes, setup.element());
    let made = attempt::<B, _>(device, || {
        let made = actions(kernel, setup);
        wait::<B>(device).map(|()| made)
    });
    let mut actions = match made {
        Ok(actions) => actions,
        Err(error) => {
            let rows = entries.into_iter().map(|entry| row(entry, Err(format!("no inputs: {error}")), copy));
            return rows.collect();
        }
    };
    let time = |launch: &mut Launch| attempt::<B, _>(device, || pace.time::<B>(device, launch.as_mut()));
    let ours: Vec<Result<Timing, String>> = actions.iter_mut().map(|action| time(&mut action.run)).collect();
    let (mut rows, mut copies) = (Vec::new(), BTreeMap::new());
    for ((entry, timing), action) in entries.into_iter().zip(ours).zip(actions) {
        let Action { composed, matmul, composed_refusal, .. } = action;
        let mut row = row(entry, timing, copy);
        row.equal_copy_share = copy.and(row.gb_per_second).filter(|_| row.tflops.is_none()).and_then(|rate| {
            let bytes = row.entry.work.bytes as usize;
            let equal = *copies.entry(bytes).or_insert_with(|| copy_bandwidth(setup, bytes, pace).ok());
            Some(rate / equal?)
        });
        let flops = row.entry.work.flops;
        let rival = matmul.map(|matmul| (matmul.flops, matmul.run)).or(composed.map(|run| (flops, run)));
        row.burn_error = composed_refusal;
        if let (Some(timing), Some((rival_flops, mut run))) = (row.timing, rival) {
            match time(&mut run) {
                Ok(found) => row.burn = Some(against(timing, flops, found, rival_flops)),
                Err(error) => row.burn_error = Some(error),
            }
        }
        rows.push(row);
    }
    rows
}

/// The device memory of an operation, from allocations of exactly the requested sizes: a pool would hold many times what is in use. It
/// empties the pools, so it comes after all rows.
pub fn footprint<B: FusedBackend>(kernel: Kernel, setup: &Setup<B>) -> KernelMemory {
    let device = &setup.device;
    let reserved = || Some(B::device_memory(device)?.reserved);
    let alone = Setup::<B> { sizes: setup.sizes.clone(), dtype: setup.dtype, device: device.clone(), rotation: 0.0 };
    let of = |choose: fn(Action) -> Option<Launch>| -> Option<u64> {
        B::memory_cleanup(device);
        let before = reserved()?;
        let after = B::memory_persistent_allocations(device, &alone, |alone| {
            let launches: Vec<Launch> = actions(kernel, alone).into_iter().filter_map(choose).collect();
            wait::<B>(device).ok()?;
            // Frees the scratch of making the inputs.
            B::memory_cleanup(device);
            for mut launch in launches {
                launch();
                wait::<B>(device).ok()?;
            }
            reserved()
        });
        B::memory_cleanup(device);
        Some(after?.saturating_sub(before))
    };
    let found = |choose: fn(Action) -> Option<Launch>| attempt::<B, _>(device, || Ok(of(choose))).ok().flatten();
    KernelMemory {
        kernel,
        bytes: found(|action| Some(action.run)),
        burn_bytes: found(|action| action.matmul.map(|matmul| matmul.run).or(action.composed)),
    }
}

fn row(entry: Entry, timing: Result<Timing, String>, copy: Option<f64>) -> KernelRow {
    let (timing, error) = match timing {
        Ok(timing) => (Some(timing), None),
        Err(error) => (None, Some(error)),
    };
    let gb_per_second = timing.map(|timing| per_second(entry.work.bytes, timing) / 1e9);
    KernelRow {
        copy_share: gb_per_second.zip(copy).map(|(rate, copy)| rate / copy),
        equal_copy_share: None,
        tflops: timing.and_then(|timing| tflops(entry.work.flops, timing)),
        gb_per_second,
        timing,
        error,
        entry,
        burn: None,
        burn_error: None,
    }
}

fn against(timing: Timing, flops: f64, found: Timing, rival_flops: f64) -> Rival {
    // Launches may differ in size: products are compared by their rates.
    let amount = if flops > 0.0 && rival_flops > 0.0 { flops / rival_flops } else { 1.0 };
    let speedup = (timing.ms > 0.0).then(|| found.ms * amount / timing.ms);
    Rival { timing: found, tflops: tflops(rival_flops, found), speedup }
}

fn per_second(amount: f64, timing: Timing) -> f64 {
    amount / (timing.ms / 1e3).max(1e-12)
}

fn tflops(flops: f64, timing: Timing) -> Option<f64> {
    (flops > 0.0).then(|| per_second(flops, timing) / 1e12)
}

/// Bandwidth of the device in GB/s for `bytes` read and written, in f32 whatever the operations compute in.
///
/// # Errors
/// The reason why the copy failed.
pub fn copy_bandwidth<B: FusedBackend>(setup: &Setup<B>, bytes: usize, pace: &Pace) -> Result<f64, String> {
    let elements = (bytes / (2 * size_of::<f32>())).max(1);
    if let Some(refusal) = too_large::<B>(&setup.device, (elements * size_of::<f32>()) as u64) {
        return Err(refusal);
    }
    let timing = attempt::<B, _>(&setup.device, || {
        let sets = setup.sets(bytes / 2 / setup.element(), || setup.random_f32([elements]));
        pace.time::<B>(&setup.device, &mut in_turns(sets, |x: &Tensor<B, 1>| drop(x.clone().mul_scalar(2.0))))
    })?;
    Ok(per_second((2 * size_of::<f32>() * elements) as f64, timing) / 1e9)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use burn::backend::Flex;
    use burn::tensor::DType;

    use super::*;
    use crate::shape::Shape;
    use crate::sizes::Sizes;

    fn timing(ms: f64) -> Timing {
        Timing { first_ms: ms, ms, range_ms: [ms; 2], samples: 1, launches: 1 }
    }

    #[test]
    fn rivals_are_compared_by_what_they_do() {
        // The same product in twice the time, a fourth of it in half the time, and no product at all.
        assert_eq!(against(timing(1.0), 8e9, timing(2.0), 8e9).speedup, Some(2.0));
        assert_eq!(against(timing(1.0), 8e9, timing(0.5), 2e9).speedup, Some(2.0));
        assert_eq!(against(timing(1.0), 0.0, timing(3.0), 0.0).speedup, Some(3.0));
        assert_eq!(against(timing(1.0), 8e9, timing(2.0), 8e9).tflops, Some(4.0));
    }

    #[test]
    fn rows_have_times_rates_and_rivals() {
        let sizes = Sizes::new(&Shape::open("llama-3.2-1b").unwrap().shrunk(1).config, 1, 16, 4);
        let setup = Setup::<Flex> { sizes, dtype: DType::F32, device: Default::default(), rotation: 0.0 };
        let pace = Pace { repeats: 3, warmup: 1, budget: Duration::from_secs(1), settle: Duration::ZERO };
        let copy = copy_bandwidth(&setup, 1 << 19, &pace).unwrap();
        let rows = measure(Kernel::Linear, &setup, &pace, Some(copy));
        assert_eq!(rows.len(), 10);
        for row in rows {
            assert!(row.timing.unwrap().ms > 0.0 && row.tflops.unwrap() > 0.0 && row.copy_share.unwrap() > 0.0);
            assert!(row.burn.unwrap().speedup.unwrap() > 0.0);
            assert!(row.error.is_none() && row.burn_error.is_none());
        }
        let rows = measure(Kernel::Swiglu, &setup, &pace, None);
        assert!(rows.iter().all(|row| row.tflops.is_none() && row.copy_share.is_none() && row.burn.is_some()));
        assert!(rows.iter().all(|row| row.equal_copy_share.is_none()));
        let rows = measure(Kernel::Swiglu, &setup, &pace, Some(copy));
        assert!(rows.iter().all(|row| row.copy_share.unwrap() > 0.0 && row.equal_copy_share.unwrap() > 0.0));
    }
}
