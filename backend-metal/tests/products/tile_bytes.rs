//! Bytes that a product with a packed weight reads, counted in the emulator at the widths of Llama, against those of its tiles.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData, TensorPrimitive};
use burnish_kernels::packed::{Affine, GgmlType, GgufBlocks, Nf4, Packed, PackedTensor};
use burnish_kernels::{FusedBackend, PackedRoute, multiply_packed};
use burnish_metal::emulator::{KernelCounters, MetalCpu, take_reports};
use half::f16;

use super::alone;

/// Rows of `x`, which are one row of tiles, and columns of a tile.
const TILE: usize = 64;
/// Bytes of an element of `x`.
const ELEMENT: usize = 2;

fn tensor(rows: usize, columns: usize) -> Tensor<MetalCpu, 2> {
    let data = TensorData::new(vec![0.5f32; rows * columns], [rows, columns]);
    Tensor::from_data(data, (&Default::default(), DType::F16))
}

/// Most bytes that a product reads, for each byte of its tiles.
const MOST: f64 = 1.1;

/// Any matrix in every format. Values don't matter, so a row is repeated.
fn weights(dims: [usize; 2]) -> Vec<Packed> {
    use GgmlType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let row: Vec<f32> = (0..dims[1]).map(|at| ((at * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let values = row.repeat(dims[0]);
    let f16s: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let affine = |bits| Packed::Affine(Affine::quantize("w", &f16s, dims, bits, 64).unwrap());
    let blocks = |kind| Packed::Gguf(GgufBlocks::quantize("w", &values, dims, kind).unwrap());
    let mut all = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K].map(blocks).to_vec();
    all.extend([false, true].map(|double| Packed::Nf4(Nf4::quantize("w", &values, dims, double).unwrap())));
    all.extend([4, 8].map(affine));
    all.push(Packed::Affine(Affine::quantize("w", &values, dims, 4, 64).unwrap()));
    all
}

/// Counts of the only product that runs.
fn counted(product: impl FnOnce() -> FloatTensor<MetalCpu>) -> KernelCounters {
    <MetalCpu as Backend>::sync(&Default::default()).unwrap();
    take_reports();
    drop(Tensor::<MetalCpu, 2>::from_primitive(TensorPrimitive::Float(product())).into_data());
    let mut found = take_reports().into_iter().filter(|(name, _)| name.contains("product"));
    let report = found.next().unwrap().1;
    assert!(found.next().is_none() && report.launches == 1);
    report.counters
}

fn check(dims: [usize; 2]) {
    let [outputs, inputs] = dims;
    let x = |depth| tensor(TILE, depth).into_primitive().tensor();
    // A tile of x is read for every tile of columns, a tile of the weight once; arguments of the launch count too.
    let dense = [true, false].map(|transposed| {
        let w = tensor(outputs, inputs).into_primitive().tensor();
        let found = if transposed {
            counted(|| MetalCpu::dense_linear(x(inputs), w))
        } else {
            counted(|| MetalCpu::linear_backward_input(x(outputs), w))
        };
        let tiles = 2 * outputs * inputs * ELEMENT;
        assert!(found.bytes_read as usize >= tiles, "{dims:?}: {} bytes of {tiles}", found.bytes_read);
        found.bytes_read as usize - outputs * inputs * ELEMENT
    });
    for packed in weights(dims) {
        let weight = PackedTensor::<MetalCpu>::new("w", &packed, &Default::default()).unwrap();
        let bytes = weight.planes.words() * 4;
        // The values of the codes of doubly quantised scales are kept beside them.
        assert!(bytes < packed.bytes() + 8 + 4 * 256, "{bytes} bytes for {} of {:?}", packed.bytes(), packed.kind());
        for (transposed, beside) in [true, false].into_iter().zip(dense) {
            let depth = if transposed { inputs } else { outputs };
            let words = weight.words.clone();
            let product = || multiply_packed(x(depth), weight.planes, words, transposed, PackedRoute::Tiles);
            let counters = counted(|| product().unwrap());
            let kind = packed.kind();
            let name = format!("{kind:?} of {outputs} x {inputs}, transposed {transposed}");
            let ratio = counters.bytes_read as f64 / (beside + bytes) as f64;
            println!("{name}: {} bytes read, {ratio:.3} of the tiles'", counters.bytes_read);
            assert!(ratio < MOST, "{name}: {ratio:.3} of the bytes of its tiles");
            let unique = counters.unique_bytes_read as usize - TILE * depth * ELEMENT;
            assert!(unique.abs_diff(bytes) <= bytes / 1000 + 64, "{name}: {unique} bytes of {bytes}");
        }
    }
}

#[test]
#[ignore = "two minutes; .ci/nightly runs it"]
fn reads_are_those_of_packed_tiles() {
    let _alone = alone();
    check([512, 2048]);
}

#[test]
#[ignore = "takes minutes; .ci/nightly runs it"]
fn reads_at_the_widths_of_llama() {
    let _alone = alone();
    check([8192, 2048]);
    check([2048, 8192]);
    check([14336, 4096]);
}
