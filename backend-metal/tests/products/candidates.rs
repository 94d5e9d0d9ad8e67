//! Every way in which a device can compute the products of a layer: right to the tolerance, and counted in the emulator.

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::lora_linear::LoraSaved;
use burnish_kernels::packed::{Affine, Nf4, Packed, PackedTensor};
use burnish_kernels::{DEFAULT_CANDIDATE, FusedBackend, ProductTrial};
use burnish_metal::emulator::{KernelCounters, MetalCpu, take_reports};
use half::f16;

use super::alone;

fn raw<B: Backend>(rows: usize, columns: usize, dtype: DType) -> FloatTensor<B> {
    let data = TensorData::new(vec![0.5f32; rows * columns], [rows, columns]);
    Tensor::<B, 2>::from_data(data, (&Default::default(), dtype)).into_primitive().tensor()
}

/// A layer with an adapter: its forward, and all of its backward.
fn layer<B: FusedBackend>([rows, inputs, outputs]: [usize; 3], rank: usize, dtype: DType) {
    let of = |rows, columns| raw::<B>(rows, columns, dtype);
    let factor = |rows, columns| raw::<B>(rows, columns, DType::F32);
    let (weight, lora_a, lora_b) = (of(outputs, inputs), factor(rank, inputs), factor(outputs, rank));
    let x = of(rows, inputs);
    let (_, hidden) = B::lora_linear(x.clone(), weight.clone(), lora_a.clone(), lora_b.clone(), 2.0, None);
    let saved = LoraSaved { x, weight, lora_a, lora_b, hidden, scale: 2.0, dropout: None };
    B::lora_linear_backward(saved, of(rows, outputs), true);
}

/// The same on a packed weight.
fn packed_layer<B: FusedBackend>(packed: &Packed, rows: usize, rank: usize, dtype: DType) {
    let [outputs, inputs] = packed.dims();
    let weight = PackedTensor::<B>::new("w", packed, &Default::default()).unwrap();
    let of = |rows, columns| raw::<B>(rows, columns, dtype);
    let (lora_a, lora_b) = (raw::<B>(rank, inputs, DType::F32), raw::<B>(outputs, rank, DType::F32));
    let x = of(rows, inputs);
    let (_, hidden) = B::packed_lora_linear(x.clone(), weight.clone(), lora_a.clone(), lora_b.clone(), 2.0, None);
    let saved = LoraSaved { x, weight, lora_a, lora_b, hidden, scale: 2.0, dropout: None };
    B::packed_lora_linear_backward(saved, of(rows, outputs), true);
}

fn int4_and_nf4(dims: [usize; 2]) -> [Packed; 2] {
    let values: Vec<f32> = (0..dims[0] * dims[1]).map(|at| ((at * 37 % 101) as f32 - 50.0) / 500.0).collect();
    let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let int4 = Packed::Affine(Affine::quantize("w", &halves, dims, 4, 64).unwrap());
    [int4, Packed::Nf4(Nf4::quantize("w", &values, dims, false).unwrap())]
}

/// The classes of the products of some work.
fn trials_of<B: FusedBackend>(work: impl FnOnce()) -> Vec<Box<dyn ProductTrial>> {
    let device = Default::default();
    B::note_products(&device);
    work();
    B::product_trials(&device)
}

/// Rows, inputs, outputs and rank: whole fragments, and many rows of tiles with a narrow result of a long sum.
const LAYERS: [([usize; 3], usize); 2] = [([72, 64, 96], 8), ([520, 16, 40], 16)];

/// Checks each candidate in one of `every` classes, and returns the candidates by class.
fn check<B: FusedBackend>(
    dtype: DType,
    layers: &[([usize; 3], usize)],
    rows: usize,
    every: usize,
) -> BTreeMap<String, Vec<String>> {
    let trials = trials_of::<B>(|| {
        for (sizes, rank) in layers {
            layer::<B>(*sizes, *rank, dtype);
        }
        for packed in int4_and_nf4([40, 128]) {
            packed_layer::<B>(&packed, rows, 8, dtype);
        }
    });
    let mut all = BTreeMap::new();
    for (number, mut trial) in trials.into_iter().enumerate() {
        let names = trial.candidates().to_vec();
        assert_eq!(names[0], DEFAULT_CANDIDATE);
        for (index, name) in names.iter().enumerate().filter(|(index, _)| (index + number) % every == 0) {
            let class = trial.class().to_owned();
            trial.check(index).unwrap_or_else(|reason| panic!("{name} for {class}: {reason}"));
        }
        assert!(trial.runs() > 0 && all.insert(trial.class().to_owned(), names).is_none());
    }
    all
}

fn of<'a>(all: &'a BTreeMap<String, Vec<String>>, class: &str) -> &'a [String] {
    all.get(class).unwrap_or_else(|| panic!("no {class} in {:?}", all.keys()))
}

#[test]
fn candidates_of_the_emulator_are_right() {
    let _alone = alone();
    let all = check::<MetalCpu>(DType::F16, &LAYERS, 40, 4);
    let has = |class: &str, name: &str| {
        let found = of(&all, class);
        assert!(found.iter().any(|candidate| candidate == name), "no {name} for {class}: {found:?}");
    };
    // Forward and backward of the layer, dense.
    for class in ["nt [128]x96x64+8 f16*f16=f16", "nn [128]x64x96+8 f16*f16=f16"] {
        has(class, "direct 32x32 planes 1x1");
        has(class, "direct 32x32 planes 2x2");
        has(class, "tiles 64x32x32 planes 2x2");
        has(class, "tiles 64x64x16 planes 1x2");
        has(class, "tiles 64x32x32 planes 2x2 lanes");
    }
    // The gradients of the adapter: sums over rows.
    for class in ["tn 16x16x[1024] f16*f16=f32", "tn 40x16x[1024] f16*f16=f32"] {
        let split = of(&all, class).iter().filter(|name| name.contains("parts")).count();
        assert!(split > 1, "{class}: {:?}", of(&all, class));
    }
    has("nt [1024]x40x16+16 f16*f16=f16", "tiles 64x32x32 planes 2x2");
    assert!(of(&all, "nt [1024]x40x16+16 f16*f16=f16").iter().any(|name| name.contains("band 1")));
    for form in ["nt [64]x40x128+8", "nn [64]x128x40+8"] {
        for stored in ["4bit/64/halfpair", "4bit/64/table"] {
            let class = format!("{form} f16*{stored}=f16");
            has(&class, "scratch");
            assert!(of(&all, &class).iter().any(|name| name.starts_with("tiles ")), "{class}: {:?}", of(&all, &class));
        }
    }
}

#[test]
#[ignore = "takes minutes; .ci/nightly runs it"]
fn every_candidate_of_the_emulator_is_right() {
    let _alone = alone();
    let odd = [([70, 40, 67], 3), ([23, 77, 31], 5), ([130, 72, 200], 8)];
    let all = check::<MetalCpu>(DType::F32, &[&LAYERS[..], &odd].concat(), 70, 1);
    assert!(of(&all, "nt [128]x96x64+8 f32*f32=f32").iter().any(|name| name == "direct 32x32 planes 1x1"));
    check::<MetalCpu>(DType::F16, &[&LAYERS[..], &odd].concat(), 130, 1);
}

#[test]
fn candidates_of_the_gpu_are_right() {
    let _alone = alone();
    let all = check::<burnish_metal::Metal>(DType::F32, &LAYERS, 40, 1);
    assert!(all.values().any(|names| names.len() > 1), "{all:?}");
}

/// Products are computed by what is chosen, and by default where that does not exist.
#[test]
fn products_are_computed_as_chosen() {
    let _alone = alone();
    let device = Default::default();
    let product = || {
        take_reports();
        let (x, weight) = (raw::<MetalCpu>(64, 64, DType::F16), raw::<MetalCpu>(64, 64, DType::F16));
        let y = MetalCpu::dense_linear(x, weight);
        let y = Tensor::<MetalCpu, 2>::from_primitive(burn::tensor::TensorPrimitive::Float(y)).into_data();
        assert!(y.iter::<f32>().all(|value| (value - 16.0).abs() < 1e-3));
        take_reports().into_iter().find(|(name, _)| name.contains("product")).unwrap().1.counters
    };
    let choose = |candidate: &str| {
        let chosen = [("nt [64]x64x64 f16*f16=f16".to_owned(), candidate.to_owned())];
        MetalCpu::choose_products(&device, &chosen.into_iter().collect());
    };
    let planned = product();
    choose("direct 32x32 planes 1x1");
    let direct = product();
    assert!(planned.barriers > 0 && direct.barriers == 0 && direct.threadgroup_bytes_read == 0);
    choose("of another device");
    assert_eq!(product(), planned);
    MetalCpu::choose_products(&device, &BTreeMap::new());
    assert_eq!(product(), planned);
}

/// MLX's tile of 64 × 64 × 16 for four SIMD-groups, as its kernel reads and writes it, for whole tiles.
fn mlx([m, n, k]: [u64; 3]) -> KernelCounters {
    let (tile, step, element) = (64, 16, 2);
    let tiles = (m / tile) * (n / tile);
    let read = tiles * 2 * tile * k * element;
    KernelCounters {
        bytes_read: read,
        bytes_written: m * n * element,
        threadgroup_bytes_written: read,
        // Each of the groups reads 32 rows and 32 columns.
        threadgroup_bytes_read: tiles * 4 * 2 * 32 * k * element,
        barriers: tiles * 2 * (k / step),
        matrix_operations: m * n * k / 512,
        ..KernelCounters::default()
    }
}

/// Printed with `--nocapture`, for docs/metal.md.
#[test]
fn counters_of_candidates() {
    let _alone = alone();
    let [rows, inputs, outputs] = [256, 128, 128];
    let trials = trials_of::<MetalCpu>(|| {
        let weight = raw::<MetalCpu>(outputs, inputs, DType::F16);
        MetalCpu::dense_linear(raw::<MetalCpu>(rows, inputs, DType::F16), weight.clone());
        MetalCpu::linear_backward_input(raw::<MetalCpu>(rows, outputs, DType::F16), weight);
    });
    assert_eq!(trials.len(), 2);
    for mut trial in trials {
        let extents = trial.extents().map(|extent| extent as u64);
        let peer = mlx(extents);
        println!("\n{} ({rows} rows)\n", trial.class());
        println!("| candidate | device bytes read | written | threadgroup bytes read | written | barriers |");
        println!("|---|---|---|---|---|---|");
        let row = |name: &str, found: &KernelCounters| {
            let KernelCounters {
                bytes_read,
                bytes_written,
                threadgroup_bytes_read,
                threadgroup_bytes_written,
                barriers,
                ..
            } = found;
            println!(
                "| {name} | {bytes_read} | {bytes_written} | {threadgroup_bytes_read} | {threadgroup_bytes_written} | {barriers} |"
            );
        };
        row("MLX 64x64x16, by formula", &peer);
        let mut counted = BTreeMap::new();
        for (index, name) in trial.candidates().to_vec().into_iter().enumerate() {
            trial.check(index).unwrap();
            take_reports();
            trial.seconds(index, 1).unwrap();
            let found = take_reports().into_iter().find(|(name, _)| name.contains("product")).unwrap().1.counters;
            row(&name, &found);
            assert_eq!(found.matrix_operations, peer.matrix_operations, "{name}");
            counted.insert(name, found);
        }
        let of = |name: &str| *counted.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", counted.keys()));
        let (planned, direct) = (of(DEFAULT_CANDIDATE), of("direct 32x32 planes 1x1"));
        assert!(direct.barriers == 0 && direct.threadgroup_bytes_read == 0 && direct.threadgroup_bytes_written == 0);
        // A group reads 32 rows and 32 columns for each tile of 32 × 32, and each thread the arguments of the launch.
        let [m, n, k] = extents;
        let least = (m / 32) * (n / 32) * 64 * k * 2;
        assert!((least..least + least / 3).contains(&direct.bytes_read), "{direct:?}");
        // Tiles of 64 × 64 are those of MLX.
        assert!((peer.bytes_read..2 * peer.bytes_read).contains(&planned.bytes_read), "{planned:?} {peer:?}");
        // Two groups for the same tile read less of it, and direct writes need no scratch.
        let (two, lanes) = (of("tiles 64x64x16 planes 1x2"), of("tiles 64x32x32 planes 2x2 lanes"));
        assert!(two.threadgroup_bytes_read < planned.threadgroup_bytes_read);
        let through_scratch = of("tiles 64x32x32 planes 2x2");
        assert_eq!(through_scratch.threadgroup_bytes_written - lanes.threadgroup_bytes_written, m * n * 4);
    }
}
