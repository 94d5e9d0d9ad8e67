//! The squares of what linear layers take in, from which importance matrices are made.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::backend::{Backend, ExecutionError};
use burn::tensor::{DType, Tensor, TensorData};

/// The sum of the squares of each column of a layer's input. Copies share it, and so do the copies of their layer.
#[derive(Debug, Clone)]
pub struct InputSquares {
    rows: usize,
    sums: Arc<Mutex<Option<Sums>>>,
}

/// `[in]`, on the host and in f32.
type Sums = Result<TensorData, ExecutionError>;

impl InputSquares {
    /// Of the first rows of the next input; the others are padding.
    pub fn of_rows(rows: usize) -> Self {
        Self { rows, sums: Arc::default() }
    }

    /// Sums the squares of an input, `[rows, in]`, and waits for the device.
    pub(crate) fn see<B: Backend>(&self, x: &Tensor<B, 2>) {
        let rows = self.rows.min(x.dims()[0]);
        let x = x.clone().narrow(0, 0, rows).cast(DType::F32);
        let sums = (x.clone() * x).sum_dim(0).try_into_data();
        *self.sums.lock().unwrap_or_else(PoisonError::into_inner) = Some(sums);
    }

    /// The sums; `None` if the layer was not reached.
    pub fn take(&self) -> Option<Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
