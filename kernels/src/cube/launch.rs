//! From burn's tensors to the arguments of a launch.

use burn::tensor::DType;
use burn::tensor::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::prelude::*;

/// Most cubes along one axis of a launch.
pub(crate) const MAX_CUBES: usize = 65_535;

/// Most tensors of a launch that binds many: with more of them the kernel grows long, and little is saved.
const MAX_BINDINGS: usize = 96;

/// Whether all tensors have one float dtype that kernels support.
pub(crate) fn same_float<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> bool {
    let dtype = tensors[0].dtype;
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && tensors.iter().all(|tensor| tensor.dtype == dtype)
}

/// Whether all tensors are f32.
pub(crate) fn all_f32<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype == DType::F32)
}

/// The tensor without gaps between its rows, copied only where it has some: burn pads rows on CUDA that are no multiple of its
/// alignment.
pub(crate) fn contiguous<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    let mut expected = 1;
    // Compared one by one: `CubeTensor::is_contiguous` makes all strides first, for each operand of each launch.
    let is_contiguous = tensor.meta.shape().iter().zip(tensor.meta.strides().iter()).rev().all(|(extent, stride)| {
        let same = *stride == expected;
        expected *= extent;
        same
    });
    if is_contiguous {
        return tensor;
    }
    let packed = empty(&tensor, tensor.meta.shape().clone(), tensor.dtype);
    let (client, dtype) = (tensor.client.clone(), tensor.dtype);
    cubecl::std::tensor::copy_into(&client, tensor.binding(), packed.clone().binding(), dtype.into());
    packed
}

/// An uninitialised contiguous tensor on the device of another.
pub(crate) fn empty<R: CubeRuntime>(beside: &CubeTensor<R>, shape: impl Into<Shape>, dtype: DType) -> CubeTensor<R> {
    let (shape, client) = (shape.into(), beside.client.clone());
    let handle = client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(client, beside.device.clone(), shape, handle, dtype)
}

/// An uninitialised tensor of the same shape and dtype.
pub(crate) fn empty_like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    empty(tensor, tensor.meta.shape().clone(), tensor.dtype)
}

/// A result like `x`, the kernel's input of that number, and how the kernel takes it: over `x` itself where `in_place`, which nothing else
/// may hold then and each thread must have read before it writes.
pub(crate) fn result_like<R: CubeRuntime>(
    x: &CubeTensor<R>,
    input_pos: usize,
    in_place: bool,
) -> (CubeTensor<R>, ArrayArg<R>) {
    if in_place {
        let length = [x.meta.shape().num_elements()];
        return (x.clone(), ArrayArg::Alias { input_pos, length });
    }
    let result = empty_like(x);
    (result.clone(), result.into_array_arg())
}

/// The widest vector in which the device loads elements of the widest dtype, such that rows of `length` are whole vectors and
/// every tensor is aligned to one.
pub(crate) fn vector_size<R: CubeRuntime>(tensors: &[&CubeTensor<R>], length: usize) -> usize {
    let bytes = tensors.iter().map(|tensor| tensor.dtype.size()).max().unwrap_or(4);
    let narrowest = tensors.iter().map(|tensor| tensor.dtype.size()).min().unwrap_or(4);
    let offset = |tensor: &CubeTensor<R>| tensor.handle.offset_start.unwrap_or(0) as usize;
    let aligned = |size: usize| tensors.iter().all(|tensor| offset(tensor).is_multiple_of(size * tensor.dtype.size()));
    let fits = |size: &usize| length.is_multiple_of(*size) && aligned(*size);
    let client = &tensors[0].client;
    // As wide as the narrowest dtype allows: the wider one then takes two loads.
    let widest = if bytes == narrowest { bytes } else { narrowest.max(bytes / 2) };
    client.io_optimized_vector_sizes(widest).find(fits).unwrap_or(1)
}

/// Vectors of `size` elements of a tensor that fit in so many bytes, at least one.
pub(crate) fn vectors_in<R: CubeRuntime>(bytes: usize, tensor: &CubeTensor<R>, size: usize) -> usize {
    (bytes / (size * tensor.dtype.size())).max(1)
}

/// The size of a vector that divides all of the tensors, and the vectors of each.
pub(crate) fn vectors<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> (usize, Vec<u32>) {
    let elements: Vec<_> = tensors.iter().map(|tensor| tensor.meta.shape().num_elements()).collect();
    let size = vector_size(tensors, elements.iter().copied().fold(0, greatest_common_divisor));
    (size, elements.into_iter().map(|elements| (elements / size) as u32).collect())
}

/// The greatest common divisor; that of 0 and a number is the number.
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

/// Items in groups of at most `most` bindings each, in their order; an item that binds more is a group of its own.
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

/// Threads for a row of so many vectors: a power of two from 32 to 256.
pub(crate) fn row_threads(vectors: usize) -> usize {
    vectors.next_power_of_two().clamp(32, 256)
}
