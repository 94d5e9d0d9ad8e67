//! The CPU kernel.

use burn::tensor::TensorMetadata;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{Dropout, TASK, philox, reference};
use crate::flex::{all_f32, tensor, vector};

/// `x` with elements dropped.
pub(crate) fn forward(x: FlexTensor, dropout: Dropout) -> FlexTensor {
    if !all_f32(&[&x]) {
        return reference::<Flex>(x, dropout);
    }
    let mut y = vec![0.0; x.shape().num_elements()];
    add(&mut y, x.to_contiguous().storage(), dropout);
    tensor(y, x.shape().to_vec())
}

/// `y += dropout(x)`.
pub(crate) fn add(y: &mut [f32], x: &[f32], dropout: Dropout) {
    let (threshold, factor) = (dropout.threshold(), dropout.factor());
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).enumerate().for_each(|(index, (y, x))| {
        let mut words = [0; TASK];
        let words = &mut words[..x.len()];
        philox::fill(words, dropout.first + (index * TASK) as u64, dropout.key);
        vector::add_kept(y, x, words, threshold, factor);
    });
}
