//! Products with a thin operand, in enough rows for the kernels that are made for them.

use burn::tensor::{DType, Distribution, Tensor};
use burnish_kernels::lora_linear::LoraSaved;
use burnish_kernels::{FusedBackend, ProductTrial};

use crate::products::lora_linear_of;
use crate::sample::raw;

/// Numbers of rows that tiles do not divide, and ranks from half a fragment to several fragments.
pub fn adapters<B: FusedBackend>(dtype: DType) {
    for (sizes, rank) in [([1100, 128, 192], 16), ([1029, 192, 64], 8), ([2110, 64, 128], 32), ([1024, 128, 64], 64)] {
        lora_linear_of::<B>(dtype, [(sizes, rank)]);
    }
}

/// The products of a layer with an adapter, to be tried.
fn trials<B: FusedBackend>([rows, inputs, outputs]: [usize; 3], rank: usize, dtype: DType) -> Vec<Box<dyn ProductTrial>> {
    let device = B::Device::default();
    let normal =
        |shape: [usize; 2], dtype| raw(Tensor::<B, 2>::random(shape, Distribution::Normal(0.0, 1.0), &device).cast(dtype));
    let (x, grad) = (normal([rows, inputs], dtype), normal([rows, outputs], dtype));
    let weight = normal([outputs, inputs], dtype);
    let (lora_a, lora_b) = (normal([rank, inputs], DType::F32), normal([outputs, rank], DType::F32));
    B::note_products(&device);
    let (_, hidden) = B::lora_linear(x.clone(), weight.clone(), lora_a.clone(), lora_b.clone(), 2.0, None);
    B::lora_linear_backward(LoraSaved { x, weight, lora_a, lora_b, hidden, scale: 2.0, dropout: None }, grad, true);
    B::product_trials(&device).into_iter().filter(|trial| !trial.class().contains('+')).collect()
}

/// Each of these kernels' candidates, whole and ragged.
pub fn candidates<B: FusedBackend>(dtype: DType) {
    let mut checked = 0;
    for (sizes, rank) in [([1100, 128, 192], 16), ([1536, 192, 64], 8), ([2048, 64, 128], 32)] {
        for mut trial in trials::<B>(sizes, rank, dtype) {
            for (index, name) in trial.candidates().to_vec().into_iter().enumerate() {
                if index == 0 || name.starts_with("thin") {
                    trial.check(index).unwrap_or_else(|reason| panic!("{name} for {}: {reason}", trial.class()));
                    checked += usize::from(index > 0);
                }
            }
        }
    }
    assert!(checked > 20, "only {checked} candidates");
}

/// Times of the products of adapters at the sizes of Llama-3.2-1B, and what was read a second.
pub fn print_speed<B: FusedBackend>(dtype: DType) {
    for sizes in [[8192, 2048, 2048], [8192, 2048, 512], [8192, 2048, 8192], [8192, 8192, 2048]] {
        for mut trial in trials::<B>(sizes, 16, dtype) {
            let [m, n, k] = trial.extents();
            let bytes = dtype.size() * (m * k + k * n - 16 * k).max(m * k);
            for (index, name) in trial.candidates().to_vec().into_iter().enumerate() {
                let seconds = trial.seconds(index, 3).and_then(|_| trial.seconds(index, 50)).unwrap();
                let rate = bytes as f64 / seconds * 1e-9;
                println!("{} {name}: {:.1} us, {rate:.0} GB/s", trial.class(), seconds * 1e6);
            }
        }
    }
}
