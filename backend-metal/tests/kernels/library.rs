//! Products by the library of a device's vendor, which must be there.

use burn::tensor::{DType, Tensor};
use burnish_kernels::KernelRuntime;

use crate::products::wide_linear_of;
use crate::sample::{random, typed};
use crate::tiles::OnRuntime;

/// Products large enough for the library, of whole tiles and not, against the CPU.
pub fn products<B: OnRuntime>(dtype: DType) {
    assert!(B::Runtime::product_library(&B::Device::default()).is_some(), "no library of products was found");
    for sizes in [[1048, 1032, 1000], [1024, 1024, 2048], [2570, 1032, 4104], [1048, 1032, 1001]] {
        wide_linear_of::<B>(dtype, sizes);
    }
}

/// The same bits each time, while other tensors take the memory of operands that were dropped right after the call.
pub fn order<B: OnRuntime>(dtype: DType) {
    let device = B::Device::default();
    let [rows, inputs, outputs] = [4096, 2048, 2048];
    let product = |seed| {
        let x = random::<B, 2>([rows, inputs], seed, dtype).device;
        let w = random::<B, 2>([outputs, inputs], seed + 1, dtype).device;
        let [b, a] = [[outputs, 16], [16, inputs]].map(|shape| random::<B, 2>(shape, seed + 2, DType::F32).device);
        move || {
            // Copies, so that the product's operands are the last owners of their memory.
            let [x, w, a, b] = [&x, &w, &a, &b].map(|tensor| tensor.clone().mul_scalar(1.0).into_primitive().tensor());
            typed::<B, 2>(B::lora_linear(x, w, a, b, 0.5, None).0)
        }
    };
    let bits = |tensor: Tensor<B, 2>| tensor.into_data().bytes.to_vec();
    let (one, other) = (product(1), product(7));
    let expected = [bits(one()), bits(other())];
    assert!(expected[0] != expected[1]);
    for round in 0..20 {
        let found = [one(), other(), one(), other()];
        let others: Vec<_> = (0..8).map(|_| Tensor::<B, 2>::ones([rows, inputs], (&device, dtype))).collect();
        for (index, found) in found.into_iter().enumerate() {
            assert!(bits(found) == expected[index % 2], "round {round}, product {index} in {dtype:?}");
        }
        drop(others);
    }
}
