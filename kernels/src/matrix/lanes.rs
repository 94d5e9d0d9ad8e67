//! Results that are written as the lanes of a plane hold them.

use cubecl::prelude::*;

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
