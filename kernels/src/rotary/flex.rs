//! The CPU kernel: every head of a token is rotated by the same row of the table.

use burn::tensor::TensorMetadata;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::reference_both;
use crate::flex::{all_f32, dims2, tensor, vector};

/// Query and key, rotated. Partly rotated heads take the composed operation.
pub(crate) fn rotate(heads: [FlexTensor; 2], cos: FlexTensor, sin: FlexTensor, inverse: bool) -> [FlexTensor; 2] {
    let [query, key] = &heads;
    let [_, half] = dims2(&cos);
    if 2 * half != query.shape()[2] || !all_f32(&[query, key, &cos, &sin]) {
        return reference_both::<Flex>(heads, cos, sin, inverse);
    }
    heads.map(|x| rotate_one(&x, &cos, &sin, inverse))
}

fn rotate_one(x: &FlexTensor, cos: &FlexTensor, sin: &FlexTensor, inverse: bool) -> FlexTensor {
    let shape = x.shape();
    let (tokens, heads, head_dim) = (shape[0], shape[1], shape[2]);
    let (x, cos, sin) = (x.to_contiguous(), cos.to_contiguous(), sin.to_contiguous());
    let (x, cos, sin) = (x.storage::<f32>(), cos.storage::<f32>(), sin.storage::<f32>());
    let half = head_dim / 2;
    let sign = if inverse { -1.0 } else { 1.0 };
    let mut y = vec![0.0; x.len()];
    let row = heads * head_dim;
    y.par_chunks_mut(row).zip(x.par_chunks(row)).enumerate().with_min_len(32).for_each(|(token, (y, x))| {
        let (cos, sin) = (&cos[token * half..][..half], &sin[token * half..][..half]);
        for (y, x) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
            vector::rotate(y, x, cos, sin, sign);
        }
    });
    tensor(y, [tokens, heads, head_dim])
}
