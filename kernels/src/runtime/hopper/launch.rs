//! The launches.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubeCount;
use cubecl::server::{KernelArguments, MetadataBindingInfo, TensorMapBinding, TensorMapMeta};
use cubecl_cuda::CudaRuntime;
use cubecl_runtime::tma::{OobFill, TensorMapFormat, TensorMapInterleave, TensorMapPrefetch, TensorMapSwizzle, TiledArgs};

use super::task::{COLUMNS, Pass, Plan, ROWS, Task};
use crate::attention::AttentionOptions;
use crate::attention::cube::deltas;
use crate::cube::launch::{contiguous, empty, empty_like};

type Tensor = CubeTensor<CudaRuntime>;

/// A tensor `[batch, length, heads, head_dim]`, copied in tiles of 64 positions and 64 elements of a head, with zeros past the last
/// position.
fn tiles(tensor: &Tensor) -> TensorMapBinding {
    TensorMapBinding {
        binding: tensor.handle.clone().binding(),
        map: TensorMapMeta {
            format: TensorMapFormat::Tiled(TiledArgs { tile_size: [1, ROWS, 1, COLUMNS].into() }),
            metadata: tensor.meta.as_ref().clone(),
            elem_stride: [1, 1, 1, 1].into(),
            interleave: TensorMapInterleave::None,
            swizzle: TensorMapSwizzle::B128,
            prefetch: TensorMapPrefetch::B256,
            oob_fill: OobFill::Zero,
            storage_ty: tensor.dtype.into(),
        },
    }
}

/// The arguments of every kernel.
struct Call {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Option<Tensor>,
    options: AttentionOptions,
}

impl Call {
    fn new(inputs: [Tensor; 3], segments: Option<Tensor>, options: AttentionOptions) -> Self {
        let [query, key, value] = inputs.map(contiguous);
        Self { query, key, value, segments: segments.map(contiguous), options }
    }

    /// Launches a kernel, which reads `inputs` in tiles and `others` in words.
    fn launch(&self, pass: Pass, inputs: &[&Tensor], others: &[&Tensor]) {
        let (query, key) = (self.query.meta.shape(), self.key.meta.shape());
        let (batch, queries, heads, head_dim) = (query[0], query[1], query[2], query[3]);
        let (keys, key_value_heads) = (key[1], key[2]);
        let window = self.options.sliding_window.filter(|window| *window < keys);
        let plan =
            Plan { pass, head_dim, dtype: self.query.dtype, segments: self.segments.is_some(), window: window.is_some() };
        let (length, across) = if pass == Pass::Key { (keys, key_value_heads) } else { (queries, heads) };
        let words = [queries, keys, heads, key_value_heads, window.unwrap_or(keys)].map(|size| size as u32);
        let two = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let sizes =
            vec![two(words[0], words[1]), two(words[2], words[3]), two(words[4], (self.options.scale as f32).to_bits())];
        let dynamic = sizes.len();
        // A kernel that is compiled without segments does not read this argument.
        let segments = self.segments.as_ref().unwrap_or(&self.query);
        let arguments = KernelArguments::new()
            .with_tensor_maps(inputs.iter().map(|tensor| tiles(tensor)).collect())
            // Inputs are among them too: cubecl waits for other streams' work on buffers only, and keeps only buffers from them.
            .with_buffers(
                [&[segments], others, inputs].concat().into_iter().map(|tensor| tensor.handle.clone().binding()).collect(),
            )
            .with_info(MetadataBindingInfo::new(sizes, dynamic));
        let count = CubeCount::Static((batch * across) as u32, length.div_ceil(plan.rows()) as u32, 1);
        // SAFETY: copies of tiles end where tensors do, and threads check rows against the sizes before they read or write others. Loops
        // end: each query sees a key at least, because `takes` asks for a window and for as many keys as queries.
        unsafe { self.query.client.launch_unchecked(Box::new(Task(plan)), count, arguments) };
    }
}

/// The result, and `log Σ exp(score)` `[batch, heads, queries]`, f32.
pub(crate) fn forward(inputs: [Tensor; 3], segments: Option<Tensor>, options: AttentionOptions) -> (Tensor, Tensor) {
    let call = Call::new(inputs, segments, options);
    let shape = call.query.meta.shape();
    let out = empty_like(&call.query);
    let log_sums = empty(&call.query, [shape[0], shape[2], shape[1]], DType::F32);
    call.launch(Pass::Forward, &[&call.query, &call.key, &call.value], &[&out, &log_sums]);
    (out, log_sums)
}

/// Gradients for query, key and value.
pub(crate) fn backward(
    inputs: [Tensor; 3],
    segments: Option<Tensor>,
    [out, log_sums, grad]: [Tensor; 3],
    options: AttentionOptions,
) -> [Tensor; 3] {
    let call = Call::new(inputs, segments, options);
    let [out, log_sums, grad] = [out, log_sums, grad].map(contiguous);
    let deltas = deltas(out, &grad);
    let (d_query, d_key, d_value) = (empty_like(&call.query), empty_like(&call.key), empty_like(&call.value));
    let inputs = [&call.query, &call.key, &call.value, &grad];
    call.launch(Pass::Query, &inputs, &[&log_sums, &deltas, &d_query]);
    call.launch(Pass::Key, &inputs, &[&log_sums, &deltas, &d_key, &d_value]);
    [d_query, d_key, d_value]
}
