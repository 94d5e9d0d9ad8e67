//! The launches of attention.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::fragments::{self, AttentionTiles};
use super::registers::RegisterTiles;
use super::scores::{Extents, Sight, SizesLaunch};
use super::{fragments_backward, registers_backward, registers_forward, threads};
use crate::attention::AttentionOptions;
use crate::cube::launch::{contiguous, cubes, empty, empty_like, greatest_common_divisor, vector_size};
use crate::matrix::registers::{K, ROW};
use crate::matrix::{Route, has_registers, route};

/// Largest head dimension of the kernels.
const MAX_HEAD_DIM: usize = 256;
/// Largest head dimension whose sums fit in registers.
const MAX_REGISTER_HEAD_DIM: usize = 128;
const DELTA_THREADS: usize = 128;

/// Whether the kernels support a head dimension.
pub(super) fn fits(head_dim: usize) -> bool {
    head_dim <= MAX_HEAD_DIM
}

/// The arguments of every kernel.
struct Call<R: CubeRuntime> {
    query: CubeTensor<R>,
    key: CubeTensor<R>,
    value: CubeTensor<R>,
    segments: CubeTensor<R>,
    sight: Sight,
    extents: Extents,
    options: AttentionOptions,
}

impl<R: CubeRuntime> Call<R> {
    fn new([query, key, value]: [CubeTensor<R>; 3], segments: Option<CubeTensor<R>>, options: AttentionOptions) -> Self {
        let [query, key, value] = [query, key, value].map(contiguous);
        let extents = Extents::of(&query.shape(), &key.shape());
        let sight = Sight::new(segments.is_some(), extents.keys, options);
        let segments = segments.map_or_else(|| empty(&query, [1], DType::I32), contiguous);
        Self { query, key, value, segments, sight, extents, options }
    }

    fn sizes(&self) -> SizesLaunch<R> {
        self.extents.sizes(self.options)
    }

    /// Tiles on the registers of matrix units, where kernels can access those and a head fits in them.
    fn register_tiles(&self, backward: bool) -> Option<RegisterTiles> {
        let client = &self.query.client;
        let head_dim = self.extents.head_dim;
        let operands = [&self.query, &self.key, &self.value];
        if !has_registers(client, self.query.dtype)
            || head_dim % K != 0
            || head_dim > MAX_REGISTER_HEAD_DIM
            || vector_size(&operands, greatest_common_divisor(head_dim, ROW)) != ROW
        {
            return None;
        }
        // Measured on an H100, bf16, 4 x 2048 tokens, 32 heads of 64 and of 128.
        let tiles = match (backward, head_dim <= 64) {
            (false, true) => RegisterTiles { head_dim, columns: 64, planes: 4, fragments: 2 },
            (false, false) | (true, true) => RegisterTiles { head_dim, columns: 64, planes: 4, fragments: 1 },
            (true, false) => RegisterTiles { head_dim, columns: 32, planes: 4, fragments: 1 },
        };
        (tiles.shared_bytes(1 + usize::from(backward)) <= client.properties().hardware.max_shared_memory_size)
            .then_some(tiles)
    }

    /// Tiles on matrix units, where the device has them for the dtype and a head is whole fragments.
    fn tiles(&self, backward: bool) -> Option<AttentionTiles> {
        let Route::MatrixUnits(fragment) = route(&self.query.client, self.query.dtype) else { return None };
        let head_dim = self.extents.head_dim;
        if head_dim % fragment.k != 0 || head_dim % fragment.n != 0 {
            return None;
        }
        let vector = vector_size(&[&self.query, &self.key, &self.value], greatest_common_divisor(head_dim, fragment.k));
        let limit = self.query.client.properties().hardware.max_shared_memory_size;
        let element = self.query.dtype.size();
        let of = |columns, planes| AttentionTiles { head_dim, columns, planes, fragment, vector };
        let candidates = if backward {
            [of(32, 4), of(32, 2), of(16, 4), of(16, 2), of(16, 1)]
        } else {
            [of(64, 4), of(32, 4), of(32, 2), of(16, 2), of(16, 1)]
        };
        candidates.into_iter().find(|tiles| tiles.shared_bytes(element, 1 + usize::from(backward)) <= limit)
    }
}

/// The result, and `log Σ exp(score)` `[batch, heads, queries]`, f32.
pub(super) fn forward<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 3],
    segments: Option<CubeTensor<R>>,
    options: AttentionOptions,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let call = Call::new(inputs, segments, options);
    let Extents { batch, queries, heads, head_dim, .. } = call.extents;
    let out = empty_like(&call.query);
    let log_sums = empty(&call.query, [batch, heads, queries], DType::F32);
    let (client, dtype, segment_dtype) = (call.query.client.clone(), call.query.dtype, call.segments.dtype);
    let (sizes, sight) = (call.sizes(), call.sight);
    // SAFETY: threads check rows and columns against the sizes before they read or write.
    unsafe {
        macro_rules! launch {
            ($module:ident, $rows:expr, $threads:expr, [$($vector:expr),*], $shape:expr) => {
                $module::forward_kernel::launch_unchecked::<R>(
                    &launching(&client),
                    CubeCount::Static(queries.div_ceil($rows) as u32, heads as u32, batch as u32),
                    CubeDim::new_1d($threads as u32),
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
            launch!(registers_forward, tiles.rows(), tiles.threads(), [ROW, 2], tiles);
        } else if let Some(tiles) = call.tiles(false) {
            launch!(fragments, tiles.rows(), tiles.threads(), [tiles.vector], tiles);
        } else {
            launch!(threads, threads::ROWS, threads::ROWS, [], head_dim);
        }
    }
    (out, log_sums)
}

/// `Σ dO O` of each query, `[batch, heads, queries]`, f32.
pub(crate) fn deltas<R: CubeRuntime>(out: CubeTensor<R>, grad: &CubeTensor<R>) -> CubeTensor<R> {
    let shape = out.shape();
    let (batch, queries, heads, head_dim) = (shape[0], shape[1], shape[2], shape[3]);
    let deltas = empty(&out, [batch, heads, queries], DType::F32);
    let size = vector_size(&[&out, grad], head_dim);
    let (client, dtype, count) = (out.client.clone(), out.dtype, batch * queries * heads);
    // SAFETY: a thread reads one of `count` rows and writes one of `count` sums.
    unsafe {
        threads::delta_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(count.div_ceil(DELTA_THREADS)),
            CubeDim::new_1d(DELTA_THREADS as u32),
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
pub(super) fn backward<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 3],
    segments: Option<CubeTensor<R>>,
    [out, log_sums, grad]: [CubeTensor<R>; 3],
    options: AttentionOptions,
) -> [CubeTensor<R>; 3] {
    let call = Call::new(inputs, segments, options);
    let [out, log_sums, grad] = [out, log_sums, grad].map(contiguous);
    let Extents { batch, queries, keys, heads, key_value_heads, head_dim } = call.extents;
    let deltas = deltas(out, &grad);
    let (d_query, d_key, d_value) = (empty_like(&call.query), empty_like(&call.key), empty_like(&call.value));
    let (client, dtype, segment_dtype) = (call.query.client.clone(), call.query.dtype, call.segments.dtype);
    let sight = call.sight;
    let in_registers = call.register_tiles(true).filter(|_| vector_size(&[&grad], head_dim) >= ROW);
    let argument = |tensor: &CubeTensor<R>| tensor.clone().into_array_arg();
    // SAFETY: threads check rows and columns against the sizes before they read or write.
    unsafe {
        macro_rules! launch {
            ($module:ident::$kernel:ident, $length:expr, $heads:expr, $rows:expr, $threads:expr, [$($vector:expr),*], $shape:expr, [$($out:expr),*]) => {
                $module::$kernel::launch_unchecked::<R>(
                    &launching(&client),
                    CubeCount::Static($length.div_ceil($rows) as u32, $heads as u32, batch as u32),
                    CubeDim::new_1d($threads as u32),
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
            ($module:ident, $rows:expr, $threads:expr, $vectors:tt, $shape:expr) => {
                launch!($module::query_kernel, queries, heads, $rows, $threads, $vectors, $shape, [&d_query]);
                launch!($module::key_kernel, keys, key_value_heads, $rows, $threads, $vectors, $shape, [&d_key, &d_value]);
            };
        }
        if let Some(tiles) = in_registers {
            launch_both!(registers_backward, tiles.rows(), tiles.threads(), [ROW, 2], tiles);
        } else if let Some(tiles) = call.tiles(true) {
            launch_both!(fragments_backward, tiles.rows(), tiles.threads(), [tiles.vector], tiles);
        } else {
            launch_both!(threads, threads::ROWS, threads::ROWS, [], head_dim);
        }
    }
    [d_query, d_key, d_value]
}
