//! What each way to compute a product costs on an Apple chip, counted by the emulator. **A prediction**: no time is measured.
//!
//! All candidates do the same arithmetic. They differ in what a core has to move for it, which is the same on every chip if it is told per
//! clock at the core's full rate.

use anyhow::{Result, anyhow};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_engine::guard::guarded;
use burnish_kernels::{FusedBackend, ProductTrial};
use burnish_metal::chip::MATRIX_OPERATIONS;
use burnish_metal::emulator::{EmulatorDevice, KernelCounters, MetalCpu, take_reports};
use serde::Serialize;

/// Rows, inputs and outputs of the layer whose products are counted: whole tiles of every shape.
const LAYER: [usize; 3] = [256, 128, 128];
/// Float operations of a core's lanes in a clock: 128 fused multiply-adds.
const OPERATIONS: f64 = 256.0;

/// What they are.
pub const CANDIDATES: &str = "ways to compute a product, one core at its full rate of 256 operations a clock, on the lanes of every chip \
                              alike, or of an assumed 1024 on M5's matrix units (`units`); bytes as issued, of which most of the device's hit a cache; `burnish tune` measures them on a Mac";

/// What a candidate moves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateCost {
    /// The class of products.
    pub class: String,
    /// The candidate.
    pub candidate: String,
    /// Bytes of device memory in a clock of a core.
    pub device_bytes: f64,
    /// Bytes of threadgroup memory in a clock of a core.
    pub threadgroup_bytes: f64,
    /// Barriers in a thousand clocks of a core.
    pub barriers: f64,
}

/// Counts forward and backward of a layer by every candidate.
///
/// # Errors
/// When the emulator fails.
pub fn costs(dtype: DType) -> Result<Vec<CandidateCost>> {
    let device = match EmulatorDevice::default() {
        EmulatorDevice::Checked => EmulatorDevice::Units,
        other => other,
    };
    let of = |rows: usize, columns: usize| {
        let data = TensorData::new(vec![0.5f32; rows * columns], [rows, columns]);
        Tensor::<MetalCpu, 2>::from_data(data, (&device, dtype)).into_primitive().tensor()
    };
    let [rows, inputs, outputs] = LAYER;
    let trials = guarded(|| {
        MetalCpu::note_products(&device);
        let weight = of(outputs, inputs);
        MetalCpu::dense_linear(of(rows, inputs), weight.clone());
        MetalCpu::linear_backward_input(of(rows, outputs), weight);
        Ok(MetalCpu::product_trials(&device))
    })?;
    let mut all = Vec::new();
    for mut trial in trials {
        for index in 0..trial.candidates().len() {
            all.push(cost(&mut *trial, index, device)?);
        }
    }
    Ok(all)
}

fn cost(trial: &mut dyn ProductTrial, index: usize, device: EmulatorDevice) -> Result<CandidateCost> {
    // Its operands are made at the first use.
    trial.seconds(index, 0).map_err(|reason| anyhow!(reason))?;
    take_reports();
    trial.seconds(index, 1).map_err(|reason| anyhow!(reason))?;
    MetalCpu::sync(&device).map_err(|error| anyhow!("{error:?}"))?;
    let counted: Vec<KernelCounters> = take_reports().into_values().map(|report| report.counters).collect();
    let sum = |of: fn(&KernelCounters) -> u64| counted.iter().map(|counters| of(counters) as f64).sum::<f64>();
    let candidate = trial.candidates()[index].clone();
    let rate = if candidate.starts_with("units ") { MATRIX_OPERATIONS } else { OPERATIONS };
    let clocks = 2.0 * trial.extents().iter().map(|extent| *extent as f64).product::<f64>() / rate;
    Ok(CandidateCost {
        class: trial.class().to_owned(),
        candidate,
        device_bytes: sum(|counters| counters.bytes_read + counters.bytes_written) / clocks,
        threadgroup_bytes: sum(|counters| counters.threadgroup_bytes_read + counters.threadgroup_bytes_written) / clocks,
        barriers: sum(|counters| counters.barriers) / clocks * 1e3,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::PoisonError;

    use super::*;
    use crate::counting::COUNTING;

    #[test]
    fn candidates_cost_what_their_tiles_move() {
        let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        let all = costs(DType::F16).unwrap();
        for form in ["nt", "nn"] {
            let of = |name: &str| {
                let mut found = all.iter().filter(|cost| cost.class.starts_with(form) && cost.candidate == name);
                found.next().unwrap_or_else(|| panic!("no {name} in {all:?}")).clone()
            };
            let (planned, direct) = (of("default"), of("direct 32x32 planes 1x1"));
            // 64 elements of two bytes for 32 · 32 multiply-adds, and the result once for 128 of them.
            let least = 256.0 * (128.0 / 2048.0 + 2.0 / 256.0);
            assert!((least..1.4 * least).contains(&direct.device_bytes), "{direct:?}");
            assert!(direct.threadgroup_bytes + direct.barriers < 1e-9 && planned.barriers > 0.0, "{planned:?}");
            // 192 elements for 128 · 64 multiply-adds at four times the rate, and nothing else.
            let units = of("units 128x64 planes 4");
            let least = 1024.0 * (384.0 / 16384.0 + 2.0 / 256.0);
            assert!((least..1.5 * least).contains(&units.device_bytes), "{units:?}");
            assert!(units.threadgroup_bytes + units.barriers < 1e-9, "{units:?}");
            assert!(of("tiles 64x64x16 planes 1x2").threadgroup_bytes < planned.threadgroup_bytes);
        }
    }
}
