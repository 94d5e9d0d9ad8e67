//! Products by Metal's tensor operations in the emulator: right to the tolerance, counted, and refused where they are wrong.

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData, TensorPrimitive};
use burnish_kernels::lora_linear::LoraSaved;
use burnish_kernels::packed::{Affine, Nf4, Packed, PackedTensor};
use burnish_kernels::{FusedBackend, ProductTrial};
use burnish_metal::emulator::{EmulatorDevice, EmulatorError, FaultKind, KernelCounters, MetalCpu, execute, take_reports};
use half::f16;

use super::alone;

fn raw(rows: usize, columns: usize, dtype: DType, device: EmulatorDevice) -> FloatTensor<MetalCpu> {
    let data = TensorData::new(vec![0.5f32; rows * columns], [rows, columns]);
    Tensor::<MetalCpu, 2>::from_data(data, (&device, dtype)).into_primitive().tensor()
}

/// A layer with an adapter: its forward, and all of its backward.
fn layer([rows, inputs, outputs]: [usize; 3], rank: usize, device: EmulatorDevice) {
    let of = |rows, columns| raw(rows, columns, DType::F16, device);
    let factor = |rows, columns| raw(rows, columns, DType::F32, device);
    let (weight, lora_a, lora_b) = (of(outputs, inputs), factor(rank, inputs), factor(outputs, rank));
    let x = of(rows, inputs);
    let (_, hidden) = MetalCpu::lora_linear(x.clone(), weight.clone(), lora_a.clone(), lora_b.clone(), 2.0, None);
    let saved = LoraSaved { x, weight, lora_a, lora_b, hidden, scale: 2.0, dropout: None };
    MetalCpu::lora_linear_backward(saved, of(rows, outputs), true);
}

/// The same on a packed weight.
fn packed_layer(packed: &Packed, rows: usize, rank: usize, device: EmulatorDevice) {
    let [outputs, inputs] = packed.dims();
    let weight = PackedTensor::<MetalCpu>::new("w", packed, &device).unwrap();
    let of = |rows, columns| raw(rows, columns, DType::F16, device);
    let (lora_a, lora_b) = (raw(rank, inputs, DType::F32, device), raw(outputs, rank, DType::F32, device));
    let x = of(rows, inputs);
    let (_, hidden) = MetalCpu::packed_lora_linear(x.clone(), weight.clone(), lora_a.clone(), lora_b.clone(), 2.0, None);
    let saved = LoraSaved { x, weight, lora_a, lora_b, hidden, scale: 2.0, dropout: None };
    MetalCpu::packed_lora_linear_backward(saved, of(rows, outputs), true);
}

/// Four and eight bits with a bias, and a table.
fn formats(dims: [usize; 2]) -> [Packed; 3] {
    let values: Vec<f32> = (0..dims[0] * dims[1]).map(|at| ((at * 37 % 101) as f32 - 50.0) / 500.0).collect();
    let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let affine = |bits| Packed::Affine(Affine::quantize("w", &halves, dims, bits, 64).unwrap());
    [affine(4), affine(8), Packed::Nf4(Nf4::quantize("w", &values, dims, false).unwrap())]
}

/// The classes of the products of some work.
fn trials(device: EmulatorDevice, work: impl FnOnce()) -> Vec<Box<dyn ProductTrial>> {
    MetalCpu::note_products(&device);
    work();
    MetalCpu::product_trials(&device)
}

/// Checks the candidates on tensor operations in each class, and returns their names by class.
fn check(device: EmulatorDevice, work: impl FnOnce()) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for mut trial in trials(device, work) {
        let names = trial.candidates().to_vec();
        let mut found = Vec::new();
        for (index, name) in names.into_iter().enumerate().filter(|(_, name)| name.starts_with("units ")) {
            let class = trial.class().to_owned();
            trial.check(index).unwrap_or_else(|reason| panic!("{name} for {class}: {reason}"));
            found.push(name);
        }
        all.insert(trial.class().to_owned(), found);
    }
    all
}

fn has(all: &BTreeMap<String, Vec<String>>, class: &str, names: &[&str]) {
    let found = all.get(class).unwrap_or_else(|| panic!("no {class} in {:?}", all.keys()));
    for name in names {
        assert!(found.iter().any(|candidate| candidate == name), "no {name} for {class}: {found:?}");
    }
}

/// Forward, backward and gradients of the adapter, of whole tiles and of ragged ones.
#[test]
fn dense_products_are_right() {
    let _alone = alone();
    let device = EmulatorDevice::Units;
    let all = check(device, || {
        layer([128, 64, 64], 8, device);
        layer([200, 72, 97], 3, device);
    });
    let every = ["units 128x64 planes 4", "units 64x64 planes 4", "units 64x128 planes 4"];
    has(&all, "nt [128]x64x64+8 f16*f16=f16", &every[..2]);
    has(&all, "nn [128]x64x64+8 f16*f16=f16", &every[..2]);
    has(&all, "nt [256]x97x72+3 f16*f16=f16", &every);
    has(&all, "nn [256]x72x97+3 f16*f16=f16", &every);
    // Sums over rows, in f32: in as many parts as the plan finds right, and in others.
    let gradients: Vec<_> = all.iter().filter(|(class, _)| class.starts_with("tn ")).collect();
    assert_eq!(gradients.len(), 4, "{:?}", all.keys());
    assert!(gradients.iter().all(|(class, names)| class.ends_with("=f32") && !names.is_empty()), "{gradients:?}");
}

#[test]
fn packed_products_are_right() {
    let _alone = alone();
    let device = EmulatorDevice::Units;
    let all = check(device, || {
        for packed in formats([72, 192]) {
            packed_layer(&packed, 70, 8, device);
        }
    });
    for stored in ["4bit/64/halfpair", "8bit/64/halfpair", "4bit/64/table"] {
        for form in ["nt [128]x72x192+8", "nn [128]x192x72+8"] {
            has(&all, &format!("{form} f16*{stored}=f16"), &["units 128x64 planes 4", "units 64x64 planes 4"]);
        }
    }
}

/// An operation that computes something else, and a compiler that does not know it: both are found out, and the products are right.
#[test]
fn units_that_are_wrong_or_unknown_are_not_used() {
    let _alone = alone();
    let class = "nt [128]x64x64 f16*f16=f16";
    for device in [EmulatorDevice::WrongUnits, EmulatorDevice::UnknownUnits, EmulatorDevice::Checked] {
        let product = || MetalCpu::dense_linear(raw(128, 64, DType::F16, device), raw(64, 64, DType::F16, device));
        let found = trials(device, || drop(product()));
        assert_eq!(found[0].class(), class);
        assert!(!found[0].candidates().iter().any(|name| name.starts_with("units")), "{:?}", found[0].candidates());
        // A choice that was made when they were right.
        let chosen = [(class.to_owned(), "units 128x64 planes 4".to_owned())];
        MetalCpu::choose_products(&device, &chosen.into_iter().collect());
        MetalCpu::sync(&device).unwrap();
        take_reports();
        let y = Tensor::<MetalCpu, 2>::from_primitive(TensorPrimitive::Float(product())).into_data();
        assert!(y.iter::<f32>().all(|value| (value - 16.0).abs() < 1e-3), "{device:?}");
        let used = take_reports().into_iter().find(|(name, _)| name.contains("product")).unwrap().1.counters;
        assert!(used.barriers > 0, "{device:?}: {used:?}");
        MetalCpu::choose_products(&device, &BTreeMap::new());
        MetalCpu::sync(&device).unwrap();
    }
}

/// What is chosen is computed by tensor operations: no threadgroup memory, no barrier, and each tile read once.
#[test]
fn products_are_computed_by_units_if_chosen() {
    let _alone = alone();
    let device = EmulatorDevice::Units;
    let (m, n, k) = (256, 128, 64);
    let product = || MetalCpu::dense_linear(raw(m, k, DType::F16, device), raw(n, k, DType::F16, device));
    let chosen = [("nt [256]x128x64 f16*f16=f16".to_owned(), "units 128x64 planes 4".to_owned())];
    MetalCpu::choose_products(&device, &chosen.into_iter().collect());
    MetalCpu::sync(&device).unwrap();
    drop(product());
    MetalCpu::sync(&device).unwrap();
    take_reports();
    let y = Tensor::<MetalCpu, 2>::from_primitive(TensorPrimitive::Float(product())).into_data();
    assert!(y.iter::<f32>().all(|value| (value - 16.0).abs() < 1e-3));
    let (_, report) = take_reports().into_iter().find(|(name, _)| name.contains("product")).unwrap();
    let counted = report.counters;
    assert_eq!((counted.barriers, counted.threadgroup_bytes_read, counted.threadgroup_bytes_written), (0, 0, 0));
    assert_eq!(counted.matrix_operations, (m * n * k / 512) as u64);
    // Four tiles of 128 and 64 lines, and each thread the arguments of the launch.
    let least = (4 * (128 + 64) * k * 2) as u64;
    assert!((least..least + least / 2).contains(&counted.bytes_read), "{counted:?}");
    assert_eq!(counted.bytes_written, (m * n * 2) as u64);
    MetalCpu::choose_products(&device, &BTreeMap::new());
}

/// A kernel of 128 threads that multiplies `x` `[64, 32]` and `y`, by way of threadgroup memory.
fn text(barrier: &str, groups: u32, extent: &str, guard: &str) -> String {
    format!(
        "#include <metal_stdlib>
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
using namespace metal;

[[kernel]]
void planted(
    device float * x [[buffer(0)]],
    device float * y [[buffer(1)]],
    device float * z [[buffer(2)]],
    uint t [[thread_index_in_threadgroup]]
) {{
threadgroup uchar dynamic_shared_mem[8192];
threadgroup float* s = reinterpret_cast<threadgroup float*>(&dynamic_shared_mem[0]);
for (uint i = t; i < 64 * 32; i += 128) {{ s[i] = y[i]; }}
{barrier}
constexpr auto shape = mpp::tensor_ops::matmul2d_descriptor(64, 64, static_cast<int>(metal::dynamic_extent), false, true);
mpp::tensor_ops::matmul2d<shape, metal::execution_simdgroups<{groups}>> product;
auto left = tensor(x, dextents<int32_t, 2>(32, {extent}), array<int, 2>({{1, 32}}));
auto right = tensor(s, dextents<int32_t, 2>(32, 64), array<int, 2>({{1, 32}}));
auto sums = product.get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
product.run(left, right, sums);
for (ushort e = 0; e < sums.get_capacity(); e++) {{ if ({guard}) {{ const auto at = sums.get_multidimensional_index(e); z[at[1] * 64 + at[0]] = sums[e]; }} }}
}}
"
    )
}

const BARRIER: &str = "threadgroup_barrier(mem_flags::mem_threadgroup);";
const GUARD: &str = "sums.is_valid_element(e)";

fn run(text: &str, device: EmulatorDevice) -> Result<(Vec<f32>, KernelCounters), EmulatorError> {
    let values =
        |seed: usize| -> Vec<u8> { (0..64 * 32).flat_map(|at| ((at * seed % 17) as f32 - 8.0).to_ne_bytes()).collect() };
    let (mut x, mut y, mut z) = (values(5), values(3), vec![0u8; 64 * 64 * 4]);
    let counters = execute(text, [128, 1, 1], [1, 1, 1], &mut [&mut x, &mut y, &mut z], device)?;
    Ok((z.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect(), counters))
}

fn fault(text: &str) -> FaultKind {
    match run(text, EmulatorDevice::Checked) {
        Err(EmulatorError::Fault(fault)) => fault.kind,
        other => panic!("expected a fault, got {other:?}"),
    }
}

#[test]
fn an_operation_multiplies_tiles_within_their_extents() {
    let _alone = alone();
    let element = |seed: usize, at: usize| (at * seed % 17) as f32 - 8.0;
    for (rows, extent) in [(64, "64"), (50, "50")] {
        for device in [EmulatorDevice::Checked, EmulatorDevice::Reversed, EmulatorDevice::Shuffled] {
            let (z, counters) = run(&text(BARRIER, 4, extent, GUARD), device).unwrap();
            for (at, value) in z.iter().enumerate() {
                let (row, column) = (at / 64, at % 64);
                let sum: f32 = (0..32).map(|k| element(5, row * 32 + k) * element(3, column * 32 + k)).sum();
                let expected = if row < rows { sum } else { 0.0 };
                assert!((value - expected).abs() < 1e-2, "{value} at {row}, {column}, not {expected}");
            }
            // The operation's own waits do not count as barriers.
            assert_eq!((counters.barriers, counters.matrix_operations), (1, 64 * 64 * 32 / 512));
            assert_eq!(counters.bytes_read, ((rows + 64) * 32 * 4) as u64);
        }
    }
}

#[test]
fn faults_of_operations_are_found() {
    let _alone = alone();
    assert!(matches!(fault(&text("", 4, "64", GUARD)), FaultKind::Race { buffer: None, .. }));
    assert!(matches!(fault(&text(BARRIER, 2, "64", GUARD)), FaultKind::TensorOperation { detail: 64 }));
    let outside = text(BARRIER, 4, "64", GUARD).replace("tensor(x, ", "tensor(x + (1 << 26), ");
    assert!(matches!(fault(&outside), FaultKind::OutOfBounds { is_write: false, .. }));
    let deeper =
        text(BARRIER, 4, "64", GUARD).replace("tensor(s, dextents<int32_t, 2>(32,", "tensor(s, dextents<int32_t, 2>(31,");
    assert!(matches!(fault(&deeper), FaultKind::TensorOperation { detail: 31 }));
    // Elements that do not exist would be written over others.
    assert!(matches!(fault(&text(BARRIER, 4, "64", "true")), FaultKind::Race { .. }));
}
