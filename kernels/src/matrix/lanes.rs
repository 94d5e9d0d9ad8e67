//! Fragments of sums as the lanes of a plane hold them: zeros at first, and results that are written so.

use cubecl::prelude::*;

use super::plan::Fragment;

/// So many fragments of zeros.
#[cube]
pub(super) fn zeros(#[comptime] fragment: Fragment, #[comptime] count: usize) -> Sequence<cmma::Matrix<f32>> {
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..count {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            fragment.m,
            fragment.n,
            fragment.k,
            cmma::MatrixLayout::Undefined,
            0.0f32,
        ));
    }
    sums
}

/// Writes a fragment of sums to the result, from element `to` on; `cast` where the result has another dtype.
#[cube]
pub(super) fn write_fragment<O: Float, V: Size>(
    out: &mut Array<Vector<O, V>>,
    sum: &cmma::Matrix<f32>,
    to: u32,
    stride: u32,
    #[comptime] cast: bool,
) {
    let mut target = out.slice_mut(to as usize, to as usize + 1);
    if comptime!(cast) {
        let value = cmma::cast::<f32, O>(sum);
        cmma::store(&mut target, &value, stride, cmma::MatrixLayout::RowMajor);
    } else {
        cmma::store(&mut target, sum, stride, cmma::MatrixLayout::RowMajor);
    }
}
