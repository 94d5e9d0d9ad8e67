//! From burn's tensors to the arguments of a launch.

use burn::tensor::DType;
use burn::tensor::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::prelude::*;

/// Most cubes along one axis of a launch.
pub(crate) const MAX_CUBES: usize = 65_535;

/// Most tensors of a launch that takes many: more of them would make its kernel long, and save little.
const MAX_BINDINGS: usize = 96;

/// A tensor whose rows follow each other without gaps, copied only where it is not one already. CUDA's allocations of burn have
/// gaps where rows are no multiple of its alignment.
pub(crate) fn contiguous<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    if tensor.is_contiguous() {
        return tensor;
    }
    let packed = empty(&tensor, tensor.meta.shape().clone(), tensor.dtype);
    let (client, dtype) = (tensor.client.clone(), tensor.dtype);
    cubecl::std::tensor::copy_into(&client, tensor.binding(), packed.clone().binding(), dtype.into());
    packed
}

/// An uninitialised tensor without gaps, on the device of another.
pub(crate) fn empty<R: CubeRuntime>(beside: &CubeTensor<R>, shape: impl Into<Shape>, dtype: DType) -> CubeTensor<R> {
    let (shape, client) = (shape.into(), beside.client.clone());
    let handle = client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(client, beside.device.clone(), shape, handle, dtype)
}

/// An uninitialised tensor of the same shape and dtype.
pub(crate) fn empty_like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    empty(tensor, tensor.meta.shape().clone(), tensor.dtype)
}

/// The widest vector in which the device moves elements of the widest dtype, such that rows of `length` are whole vectors and
/// every tensor begins at one.
pub(crate) fn vector_size<R: CubeRuntime>(tensors: &[&CubeTensor<R>], length: usize) -> usize {
    let bytes = tensors.iter().map(|tensor| tensor.dtype.size()).max().unwrap_or(4);
    let narrowest = tensors.iter().map(|tensor| tensor.dtype.size()).min().unwrap_or(4);
    let offset = |tensor: &CubeTensor<R>| tensor.handle.offset_start.unwrap_or(0) as usize;
    let aligned = |size: usize| tensors.iter().all(|tensor| offset(tensor).is_multiple_of(size * tensor.dtype.size()));
    let fits = |size: &usize| length.is_multiple_of(*size) && aligned(*size);
    let client = &tensors[0].client;
    // Vectors as wide as the narrowest dtype allows: the wider one then takes two loads.
    let widest = if bytes == narrowest { bytes } else { narrowest.max(bytes / 2) };
    client.io_optimized_vector_sizes(widest).find(fits).unwrap_or(1)
}

/// Vectors of `size` elements of a tensor that so many bytes hold, and one at least.
pub(crate) fn vectors_in<R: CubeRuntime>(bytes: usize, tensor: &CubeTensor<R>, size: usize) -> usize {
    (bytes / (size * tensor.dtype.size())).max(1)
}

/// The elements of a vector that suits all of many tensors of whatever lengths, and the vectors of each.
pub(crate) fn vectors<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> (usize, Vec<u32>) {
    let elements: Vec<_> = tensors.iter().map(|tensor| tensor.meta.shape().num_elements()).collect();
    let size = vector_size(tensors, elements.iter().copied().fold(0, greatest_common_divisor));
    (size, elements.into_iter().map(|elements| (elements / size) as u32).collect())
}

/// The largest number that divides both; 0 is divided by all.
pub(crate) fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// A launch of at least `count` cubes; kernels compare `CUBE_POS` with the count.
pub(crate) fn cubes(count: usize) -> CubeCount {
    let x = count.clamp(1, MAX_CUBES);
    CubeCount::Static(x as u32, count.div_ceil(x).max(1) as u32, 1)
}

/// How many tensors a launch may bind; one is left for its sizes.
pub(crate) fn bindings<R: CubeRuntime>(client: &ComputeClient<R>) -> usize {
    (client.properties().hardware.max_bindings as usize).min(MAX_BINDINGS) - 1
}

/// Items in groups of at most so many bindings each, in their order; an item that binds more stands alone.
pub(crate) fn groups<T>(items: Vec<T>, most: usize, bindings: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut groups, mut taken) = (Vec::<Vec<T>>::new(), 0);
    for item in items {
        let more = bindings(&item);
        match groups.last_mut() {
            Some(group) if taken + more <= most => {
                group.push(item);
                taken += more;
            }
            _ => {
                groups.push(vec![item]);
                taken = more;
            }
        }
    }
    groups
}

/// Units for a row of so many vectors: a power of two from 32 to 256.
pub(crate) fn row_units(vectors: usize) -> usize {
    vectors.next_power_of_two().clamp(32, 256)
}
