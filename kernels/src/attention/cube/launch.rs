//! The launches of attention.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::lanes;
use super::registers::RegisterTiles;
use super::scores::{Sight, SizesLaunch, sizes};
use super::units::{self, AttentionTiles};
use super::units_backward;
use super::{registers_backward, registers_forward};
use crate::attention::AttentionOptions;
use crate::cube::launch::{contiguous, cubes, empty, empty_like, greatest_common_divisor, vector_size};
use crate::matrix::registers::{K, ROW};
use crate::matrix::{Route, has_registers, route};

/// Longest head that the kernels hold.
const MAX_HEAD_DIM: usize = 256;
/// Longest head whose sums fit the registers.
const MAX_REGISTER_HEAD_DIM: usize = 128;
const DELTA_UNITS: usize = 128;

/// Whether the kernels hold heads of that length.
pub(crate) fn fits(head_dim: usize) -> bool {
    head_dim <= MAX_HEAD_DIM
}

/// What all kernels are told.
struct Call<R: CubeRuntime> {
    query: CubeTensor<R>,
    key: CubeTensor<R>,
    value: CubeTensor<R>,
    segments: CubeTensor<R>,
    sight: Sight,
    sizes: [usize; 6],
    options: AttentionOptions,
}

impl<R: CubeRuntime> Call<R> {
    fn new([query, key, value]: [CubeTensor<R>; 3], segments: Option<CubeTensor<R>>, options: AttentionOptions) -> Self {
        let [query, key, value] = [query, key, value].map(contiguous);
        let (shape, key_shape) = (query.shape(), key.shape());
        let sizes = [shape[0], shape[1], key_shape[1], shape[2], key_shape[2], shape[3]];
        let sight = Sight::new(segments.is_some(), sizes[2], options);
        let segments = segments.map_or_else(|| empty(&query, [1], DType::I32), contiguous);
        Self { query, key, value, segments, sight, sizes, options }
    }

    fn sizes(&self) -> SizesLaunch<R> {
        let [_, queries, keys, heads, pairs, _] = self.sizes;
        sizes([queries, keys, heads, pairs], self.options)
    }

    /// Tiles on the registers of matrix units, where the device shows them and a head is not too long for them.
    fn register_tiles(&self, backward: bool) -> Option<RegisterTiles> {
        let client = &self.query.client;
        let head_dim = self.sizes[5];
        let operands = [&self.query, &self.key, &self.value];
        if !has_registers(client, self.query.dtype)
            || head_dim % K != 0
            || head_dim > MAX_REGISTER_HEAD_DIM
            || vector_size(&operands, greatest_common_divisor(head_dim, ROW)) != ROW
        {
            return None;
        }
        // Measured on an H100, bf16, 4 x 2048 tokens, 32 heads of 64 and of 128.
        let (columns, planes, fragments) = match (backward, head_dim <= 64) {
            (false, true) => (64, 4, 2),
            (false, false) | (true, true) => (64, 4, 1),
            (true, false) => (32, 4, 1),
        };
        let tiles = RegisterTiles { head_dim, columns, planes, fragments };
        (tiles.shared_bytes(1 + usize::from(backward)) <= client.properties().hardware.max_shared_memory_size)
            .then_some(tiles)
    }

    /// Tiles on matrix units, where the device has them for the dtype and the head is whole fragments.
    fn tiles(&self, backward: bool) -> Option<AttentionTiles> {
        let Route::MatrixUnits(fragment) = route(&self.query.client, self.query.dtype) else { return None };
        let head_dim = self.sizes[5];
        if head_dim % fragment.k != 0 || head_dim % fragment.n != 0 {
            return None;
        }
        let vector = vector_size(&[&self.query, &self.key, &self.value], greatest_common_divisor(head_dim, fragment.k));
        let limit = self.query.client.properties().hardware.max_shared_memory_size;
        let element = self.query.dtype.size();
        let candidates = if backward {
            [(32, 4), (32, 2), (16, 4), (16, 2), (16, 1)]
        } else {
            [(64, 4), (32, 4), (32, 2), (16, 2), (16, 1)]
        };
        candidates
            .into_iter()
            .map(|(columns, planes)| AttentionTiles { head_dim, columns, planes, fragment, vector })
            .find(|tiles| tiles.shared_bytes(element, 1 + usize::from(backward)) <= limit)
    }
}

/// The result, and `log Σ exp(score)` `[batch, heads, queries]`, f32.
pub(crate) fn forward<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 3],
    segments: Option<CubeTensor<R>>,
    options: AttentionOptions,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let call = Call::new(inputs, segments, options);
    let [batch, queries, _, heads, _, head_dim] = call.sizes;
    let out = empty_like(&call.query);
    let log_sums = empty(&call.query, [batch, heads, queries], DType::F32);
    let (client, dtype, segment_dtype) = (call.query.client.clone(), call.query.dtype, call.segments.dtype);
    let (sizes, sight) = (call.sizes(), call.sight);
    // SAFETY: rows and columns beyond the tensors are compared with the sizes before they are read or written.
    unsafe {
        macro_rules! launch {
            ($module:ident, $rows:expr, $units:expr, [$($vector:expr),*], $shape:expr) => {
                $module::forward_kernel::launch_unchecked::<R>(
                    &client,
                    CubeCount::Static(queries.div_ceil($rows) as u32, heads as u32, batch as u32),
                    CubeDim::new_1d($units as u32),
                    $($vector,)*
                    call.query.into_array_arg(),
                    call.key.into_array_arg(),
                    call.value.into_array_arg(),
                    call.segments.into_array_arg(),
                    out.clone().into_array_arg(),
                    log_sums.clone().into_array_arg(),
                    sizes,
                    $shape,
                    sight,
                    dtype.into(),
                    segment_dtype.into(),
                )
            };
        }
        if let Some(tiles) = call.register_tiles(false) {
            launch!(registers_forward, tiles.rows(), tiles.units(), [ROW, 2], tiles);
        } else if let Some(tiles) = call.tiles(false) {
            launch!(units, tiles.rows(), tiles.units(), [tiles.vector], tiles);
        } else {
            launch!(lanes, lanes::ROWS, lanes::ROWS, [], head_dim);
        }
    }
    (out, log_sums)
}

/// `Σ dO O` of each query, `[batch, heads, queries]`, f32.
fn deltas<R: CubeRuntime>(out: CubeTensor<R>, grad: &CubeTensor<R>) -> CubeTensor<R> {
    let shape = out.shape();
    let (batch, queries, heads, head_dim) = (shape[0], shape[1], shape[2], shape[3]);
    let deltas = empty(&out, [batch, heads, queries], DType::F32);
    let size = vector_size(&[&out, grad], head_dim);
    let (client, dtype, count) = (out.client.clone(), out.dtype, batch * queries * heads);
    // SAFETY: a unit reads one of `count` rows and writes one of `count` sums.
    unsafe {
        lanes::delta_kernel::launch_unchecked::<R>(
            &client,
            cubes(count.div_ceil(DELTA_UNITS)),
            CubeDim::new_1d(DELTA_UNITS as u32),
            size,
            out.into_array_arg(),
            grad.clone().into_array_arg(),
            deltas.clone().into_array_arg(),
            count as u32,
            queries as u32,
            heads as u32,
            head_dim / size,
            dtype.into(),
        );
    }
    deltas
}

/// Gradients for query, key and value.
pub(crate) fn backward<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 3],
    segments: Option<CubeTensor<R>>,
    [out, log_sums, grad]: [CubeTensor<R>; 3],
    options: AttentionOptions,
) -> [CubeTensor<R>; 3] {
    let call = Call::new(inputs, segments, options);
    let [out, log_sums, grad] = [out, log_sums, grad].map(contiguous);
    let [batch, queries, keys, heads, pairs, head_dim] = call.sizes;
    let deltas = deltas(out, &grad);
    let (d_query, d_key, d_value) = (empty_like(&call.query), empty_like(&call.key), empty_like(&call.value));
    let (client, dtype, segment_dtype) = (call.query.client.clone(), call.query.dtype, call.segments.dtype);
    let sight = call.sight;
    let in_registers = call.register_tiles(true).filter(|_| vector_size(&[&grad], head_dim) >= ROW);
    let argument = |tensor: &CubeTensor<R>| tensor.clone().into_array_arg();
    // SAFETY: rows and columns beyond the tensors are compared with the sizes before they are read or written.
    unsafe {
        macro_rules! launch {
            ($module:ident::$kernel:ident, $length:expr, $heads:expr, $rows:expr, $units:expr, [$($vector:expr),*], $shape:expr, [$($out:expr),*]) => {
                $module::$kernel::launch_unchecked::<R>(
                    &client,
                    CubeCount::Static($length.div_ceil($rows) as u32, $heads as u32, batch as u32),
                    CubeDim::new_1d($units as u32),
                    $($vector,)*
                    argument(&call.query),
                    argument(&call.key),
                    argument(&call.value),
                    argument(&grad),
                    argument(&call.segments),
                    argument(&log_sums),
                    argument(&deltas),
                    $(argument($out),)*
                    call.sizes(),
                    $shape,
                    sight,
                    dtype.into(),
                    segment_dtype.into(),
                )
            };
        }
        macro_rules! launch_both {
            ($module:ident, $rows:expr, $units:expr, $vectors:tt, $shape:expr) => {
                launch!($module::query_kernel, queries, heads, $rows, $units, $vectors, $shape, [&d_query]);
                launch!($module::key_kernel, keys, pairs, $rows, $units, $vectors, $shape, [&d_key, &d_value]);
            };
        }
        if let Some(tiles) = in_registers {
            launch_both!(registers_backward, tiles.rows(), tiles.units(), [ROW, 2], tiles);
        } else if let Some(tiles) = call.tiles(true) {
            launch_both!(units_backward, tiles.rows(), tiles.units(), [tiles.vector], tiles);
        } else {
            launch_both!(lanes, lanes::ROWS, lanes::ROWS, [], head_dim);
        }
    }
    [d_query, d_key, d_value]
}
