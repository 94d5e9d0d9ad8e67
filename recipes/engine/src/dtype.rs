//! What a device computes in, and whether it does so rightly.

use anyhow::{Result, anyhow, bail};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_models::FloatType;

use crate::failure::failure;

/// Whether a backend says that its device has a dtype.
pub(crate) fn supports<B: Backend>(device: &B::Device, dtype: FloatType) -> bool {
    B::supports_dtype(device, dtype.into())
}

/// Multiplies `A·Aᵀ` of whole numbers, which every float type holds exactly.
///
/// # Errors
/// When the device fails, or gives another product.
pub fn known_product<B: Backend>(device: &B::Device, dtype: DType) -> Result<()> {
    const SIZE: usize = 16;
    let value = |index: usize| ((index * 7) % 5) as f32 - 2.0;
    let values: Vec<f32> = (0..SIZE * SIZE).map(value).collect();
    let matrix = Tensor::<B, 2>::from_data(TensorData::new(values.clone(), [SIZE, SIZE]), (device, dtype));
    let product = matrix.clone().matmul(matrix.transpose()).try_into_data().map_err(|error| anyhow!(failure(error)))?;
    for (at, found) in product.iter::<f32>().enumerate() {
        let (row, column) = (at / SIZE, at % SIZE);
        let expected: f32 = (0..SIZE).map(|k| values[row * SIZE + k] * values[column * SIZE + k]).sum();
        if (found - expected).abs() > 1e-3 {
            bail!("its self-test gave {found}, expected {expected}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn the_self_test_passes_on_the_cpu() {
        for dtype in FloatType::ALL {
            assert!(supports::<Flex>(&Default::default(), dtype));
            known_product::<Flex>(&Default::default(), dtype.into()).unwrap();
        }
    }
}
