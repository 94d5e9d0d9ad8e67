//! Results of one launch that share a buffer, which saves the host the other allocations.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::launch;

/// An uninitialised buffer for results of the dtype of `x`, each of `rows` rows, and where each begins, then where the last one ends.
pub(crate) fn empty<R: CubeRuntime>(x: &CubeTensor<R>, rows: usize, outputs: &[usize]) -> (CubeTensor<R>, Vec<usize>) {
    // Each result begins where the device can begin a tensor.
    let aligned = (x.client.properties().memory.alignment as usize / x.dtype.size()).max(1);
    let mut begins = vec![0];
    for count in outputs {
        begins.push(begins[begins.len() - 1] + (rows * count).next_multiple_of(aligned));
    }
    (launch::empty(x, [begins[outputs.len()]], x.dtype), begins)
}

/// The results in a buffer of [`empty`].
pub(crate) fn split<R: CubeRuntime>(
    y: &CubeTensor<R>,
    rows: usize,
    outputs: &[usize],
    begins: &[usize],
) -> Vec<CubeTensor<R>> {
    let (whole, bytes) = (begins[outputs.len()], y.dtype.size());
    let result = |(begin, count): (&usize, &usize)| {
        let end = whole - begin - rows * count;
        let handle = y.handle.clone().offset_start((begin * bytes) as u64).offset_end((end * bytes) as u64);
        CubeTensor::new_contiguous(y.client.clone(), y.device.clone(), [rows, *count].into(), handle, y.dtype)
    };
    begins.iter().zip(outputs).map(result).collect()
}
