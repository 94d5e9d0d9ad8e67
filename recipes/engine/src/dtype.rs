//! The dtypes that a device supports, and a test of each.

use anyhow::{Result, anyhow, bail};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_models::FloatType;

use crate::failure::failure;

/// Whether a backend reports that its device supports a dtype.
pub(crate) fn supports<B: Backend>(device: &B::Device, dtype: FloatType) -> bool {
    B::supports_dtype(device, dtype.into())
}

/// Computes `A·Aᵀ` of small integers, which every float type represents exactly, and checks the result.
///
/// # Errors
/// When the device fails, or the product is wrong.
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
            bail!("self-test failed: expected {expected}, got {found}");
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
