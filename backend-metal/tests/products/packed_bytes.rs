//! Bytes that the product of a few rows with a packed weight moves, counted in the emulator: a weight is read as it is packed.

use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::packed::planes::Scales;
use burnish_kernels::packed::{Affine, GgmlType, GgufBlocks, Nf4, Packed, PackedTensor, Planes};
use burnish_kernels::packed_linear;
use burnish_metal::emulator::{KernelCounters, MetalCpu, take_reports};

use super::alone;

/// Widths of Llama-3.2-1B and Llama-3.1-8B, with some of their outputs.
const DIMS: [[usize; 2]; 4] = [[512, 2048], [2048, 8192], [512, 4096], [256, 14_336]];

fn formats(dims: [usize; 2]) -> Vec<Packed> {
    let values: Vec<f32> = (0..dims[0] * dims[1]).map(|at| (at as f32 * 0.37).sin()).collect();
    let blocks = |kind| Packed::Gguf(GgufBlocks::quantize("w", &values, dims, kind).unwrap());
    let kinds = [GgmlType::Q8_0, GgmlType::Q5_1, GgmlType::Q4_0, GgmlType::Q4K, GgmlType::Q5K, GgmlType::Q6K];
    let mut all = kinds.map(blocks).to_vec();
    all.extend([false, true].map(|double| Packed::Nf4(Nf4::quantize("w", &values, dims, double).unwrap())));
    all.push(Packed::Affine(Affine::quantize("w", &values, dims, 4, 64).unwrap()));
    all
}

/// What the kernel did since the last call.
fn counted() -> KernelCounters {
    let reports = take_reports();
    let found: Vec<_> = reports.iter().filter(|(name, _)| name.contains("few_rows_kernel")).collect();
    assert_eq!(found.len(), 1, "among {:?}", reports.keys());
    found[0].1.counters
}

/// Bytes that lanes read for eight elements of an output: their words, and what gives their scale, which other lanes read too. Beside
/// each word of the latter the emulator reads where its plane begins.
fn issued(planes: Planes) -> f64 {
    let (scale, begins) = match planes.scales {
        Scales::Half { .. } | Scales::HalfPair | Scales::BrainPair | Scales::Table => (1.0, 1.0),
        Scales::FloatPair | Scales::SignedBytes => (2.0, 2.0),
        // The twelve bits of two groups of eight are in two words.
        Scales::SixBits => (2.25, 2.0),
        Scales::DoubleTable => (4.0, 4.0),
    };
    let high = f64::from(planes.high > 0);
    planes.low as f64 + 4.0 * (high + scale + high + begins)
}

#[test]
fn a_weight_is_read_as_it_is_packed() {
    let _alone = alone();
    let device = Default::default();
    for dims in DIMS {
        let [outputs, inputs] = dims;
        for packed in formats(dims) {
            let weight = PackedTensor::<MetalCpu>::new("w", &packed, &device).unwrap();
            let bytes = 4 * weight.planes.words();
            for rows in [1, 2] {
                let values = (0..rows * inputs).map(|at| (at as f32 * 0.11).cos()).collect::<Vec<_>>();
                let x = Tensor::<MetalCpu, 2>::from_data(TensorData::new(values, [rows, inputs]), &device).cast(DType::F16);
                take_reports();
                let _ = packed_linear(x, &weight).into_data();
                let found = counted();
                let name = format!("{dims:?} {} {:?} {rows} rows: {found:?}", packed.name(), weight.planes.scales);
                let x_bytes = 2 * rows * inputs;
                let (unique, least) = (found.unique_bytes_read as usize, bytes + x_bytes);
                // Not all codes of doubly quantised scales occur.
                let spare = if weight.planes.scales == Scales::DoubleTable { 4 * 256 } else { 0 };
                assert!(unique + spare >= least && unique <= least + 64, "{name}, expected {least}");
                // A plane of lanes reads its x once for all of its outputs.
                let shared = if outputs >= 2048 { 2 } else { 1 };
                let expected = (outputs * inputs / 8) as f64 * issued(weight.planes) + (outputs / shared * x_bytes) as f64;
                assert!(found.bytes_read as f64 <= 1.1 * expected, "{name}, expected {expected}");
            }
        }
    }
}
