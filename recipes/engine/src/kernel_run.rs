//! Computes a fused operation on a device, as models and optimizers do.

use anyhow::{Result, anyhow};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Int, Tensor, TensorData, TensorPrimitive};
use burnish_kernels::glu::Activation;
use burnish_kernels::packed::{Packed, PackedTensor};
use burnish_kernels::{
    self as ops, AdamW8bitTensors, AdamWTensors, Dropout, FusedBackend, Group, GroupWeight, Moment8bit, RotaryTable,
};

use crate::broken::is_broken;
use crate::failure::failure;
use crate::kernel_case::{Computed, KernelCase, Layer, Matrix, Operation, Update};
use crate::step::{Training, one_graph};

/// Rarely seen by chance: memory is filled with it beforehand, so that a result that is never written shows it.
pub const FILL: f32 = 776.0;

/// Of all norms.
pub const EPSILON: f64 = 1e-5;

/// Computes results and gradients of a case.
///
/// # Errors
/// When the device fails.
pub(crate) fn compute<B: FusedBackend>(case: &KernelCase, dtype: DType, device: &B::Device) -> Result<Computed> {
    let inputs: Vec<Tensor<B, 2>> = case.inputs.iter().map(|matrix| upload(matrix, dtype, device)).collect();
    fill::<B>(case, dtype, device);
    let results = match &case.operation {
        Operation::Layer(layer) => broken(case, layer_on::<B>(case, layer, &inputs, dtype, device)?),
        Operation::Update(update) => broken(case, update_on::<B>(*update, &inputs, device)),
    };
    // They stay alive during the second pass, whose results can't be theirs then.
    let mut computed = Computed { inference: read_all(&results)?, ..Computed::default() };
    let Operation::Layer(layer) = &case.operation else { return Ok(computed) };
    if case.has_gradients() {
        fill::<B>(case, dtype, device);
        let _one = one_graph();
        let track = |(matrix, input): (&Matrix, &Tensor<B, 2>)| {
            let tracked = Tensor::<Training<B>, 2>::from_inner(input.clone());
            if matrix.has_gradient { tracked.require_grad() } else { tracked }
        };
        let tracked: Vec<_> = case.inputs.iter().zip(&inputs).map(track).collect();
        let results = broken(case, layer_on::<Training<B>>(case, layer, &tracked, dtype, device)?);
        let scaled = results.iter().enumerate().map(|(index, result)| {
            let [rows, columns] = result.dims();
            let data = TensorData::new(case.upstream(index, rows * columns), [rows, columns]);
            let upstream = Tensor::<Training<B>, 2>::from_data(data, (device, DType::F32)).cast(result.dtype());
            (result.clone() * upstream).sum()
        });
        let Some(sum) = scaled.reduce(|a, b| a + b) else { return Ok(computed) };
        let gradients = sum.backward();
        computed.training = results.into_iter().map(|result| read(result.inner())).collect::<Result<_>>()?;
        computed.gradients = (case.inputs.iter().zip(&tracked))
            .map(|(matrix, input)| match input.grad(&gradients) {
                Some(gradient) if matrix.has_gradient => read(gradient),
                _ => Ok(Vec::new()),
            })
            .collect::<Result<_>>()?;
        if is_broken(&format!("{}.backward", case.name)) {
            computed.gradients.iter_mut().flatten().for_each(|value| *value *= 1.25);
        }
    }
    Ok(computed)
}

fn upload<B: Backend>(matrix: &Matrix, dtype: DType, device: &B::Device) -> Tensor<B, 2> {
    let data = TensorData::new(matrix.values.clone(), matrix.dims);
    let tensor = Tensor::<B, 2>::from_data(data, (device, DType::F32));
    if matrix.is_f32 || dtype == DType::F32 { tensor } else { tensor.cast(dtype) }
}

/// Fills memory that results probably get, and frees it.
fn fill<B: Backend>(case: &KernelCase, dtype: DType, device: &B::Device) {
    let rows: Vec<usize> = case.inputs.iter().map(|input| input.dims[0]).collect();
    let products = rows.iter().map(|other| rows.first().unwrap_or(&1) * other);
    let sizes = case.inputs.iter().map(|input| input.values.len()).chain(products);
    let filled: Vec<_> = sizes.map(|size| Tensor::<B, 1>::full([size], FILL, (device, dtype))).collect();
    drop(filled);
}

fn read_all<B: Backend>(tensors: &[Tensor<B, 2>]) -> Result<Vec<Vec<f32>>> {
    tensors.iter().map(|tensor| read(tensor.clone())).collect()
}

fn read<B: Backend>(tensor: Tensor<B, 2>) -> Result<Vec<f32>> {
    let data = tensor.cast(DType::F32).try_into_data().map_err(|error| anyhow!(failure(error)))?;
    Ok(data.iter::<f32>().collect())
}

/// The results, except in a test of whoever reads them: then they are wrong, or were never computed.
fn broken<B: Backend>(case: &KernelCase, mut results: Vec<Tensor<B, 2>>) -> Vec<Tensor<B, 2>> {
    let Some(first) = results.first_mut() else { return results };
    if is_broken(&case.name) {
        *first = first.clone().mul_scalar(1.25);
    }
    if is_broken(&format!("{}.skipped", case.name)) {
        *first = first.clone().mul_scalar(0.0);
    }
    results
}

fn raw<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// A tensor of any rank as a matrix of so many columns.
fn matrix<B: Backend>(tensor: FloatTensor<B>, columns: usize) -> Tensor<B, 2> {
    let shape = burn::tensor::TensorMetadata::shape(&tensor);
    let rows = shape.num_elements() / columns.max(1);
    Tensor::from_primitive(TensorPrimitive::Float(B::float_reshape(tensor, [rows, columns].into())))
}

fn layer_on<B: FusedBackend>(
    case: &KernelCase,
    layer: &Layer,
    inputs: &[Tensor<B, 2>],
    dtype: DType,
    device: &B::Device,
) -> Result<Vec<Tensor<B, 2>>> {
    let x = |index: usize| inputs[index].clone();
    let vector = |index: usize| -> Tensor<B, 1> { x(index).flatten(0, 1) };
    let indices = || {
        let data = TensorData::new(case.indices.clone(), [case.indices.len()]);
        Tensor::<B, 1, Int>::from_data(data, device)
    };
    let packed = |weight: &Packed| PackedTensor::<B>::new(&case.name, weight, device);
    let losses = |losses: Tensor<B, 1>| vec![losses.unsqueeze()];
    Ok(match layer {
        Layer::RmsNorm => vec![ops::rms_norm(x(0), vector(1), EPSILON)],
        Layer::AddRmsNorm => {
            let (sum, normed) = ops::add_rms_norm(x(0), x(1), vector(2), EPSILON);
            vec![sum, normed]
        }
        Layer::ForkRmsNorm => {
            let (same, normed) = ops::fork_rms_norm(x(0), vector(1), EPSILON);
            vec![normed, same]
        }
        Layer::LayerNorm => vec![ops::layer_norm(x(0), vector(1), vector(2), EPSILON)],
        Layer::Rotary { heads } => rotated(*heads, inputs),
        Layer::Glu(Activation::Silu) => vec![ops::swiglu(x(0), x(1))],
        Layer::Glu(Activation::GeluTanh) => vec![ops::geglu(x(0), x(1))],
        Layer::Dropout(dropout) => vec![ops::dropout_from(x(0), *dropout)],
        Layer::Attention { heads, options } => {
            let segments = (!case.indices.is_empty()).then(|| indices().unsqueeze());
            attended(*heads, *options, inputs, segments)
        }
        Layer::Linear => vec![ops::linear(x(0), x(1))],
        Layer::PackedLinear(weight) => vec![ops::packed_linear(x(0), &packed(weight)?)],
        Layer::PackedRows(weight) => vec![ops::packed_rows(&packed(weight)?, indices(), dtype)],
        Layer::LoraLinear { scale, dropout } => vec![ops::lora_linear(x(0), x(1), x(2), x(3), *scale, *dropout)],
        Layer::LoraHidden { scale, dropout } => {
            vec![matrix(B::lora_hidden(raw(x(0)), raw(x(1)), *scale, *dropout), inputs[1].dims()[0])]
        }
        Layer::PackedLoraLinear { weight, scale, dropout } => packed_lora(&packed(weight)?, inputs, *scale, *dropout),
        Layer::CrossEntropy { cap: None } => losses(ops::linear_cross_entropy(x(0), x(1), indices())),
        Layer::CrossEntropy { cap: Some(cap) } => losses(ops::capped_linear_cross_entropy(x(0), x(1), indices(), *cap)),
        Layer::PackedCrossEntropy { weight, cap: None } => {
            losses(ops::packed_linear_cross_entropy(x(0), &packed(weight)?, indices()))
        }
        Layer::PackedCrossEntropy { weight, cap: Some(cap) } => {
            losses(ops::packed_capped_linear_cross_entropy(x(0), &packed(weight)?, indices(), *cap))
        }
        Layer::SelectRows => vec![ops::select_rows(x(0), indices())],
        Layer::SinkAttention { heads, options } => {
            let segments = (!case.indices.is_empty()).then(|| indices().unsqueeze());
            let [query, key, value] = split(*heads, inputs);
            let sinks = vector(3);
            vec![ops::sink_attention(query, [key, value], segments, sinks, *options).reshape(inputs[0].dims())]
        }
        Layer::Linears => ops::linears(x(0), inputs[1..].to_vec()),
        Layer::GluLinear(activation) => vec![ops::glu_linear(x(0), [x(1), x(2)], *activation)],
        Layer::PackedLinears(weights) => ops::packed_linears(x(0), weights.iter().map(packed).collect::<Result<_, _>>()?),
        Layer::PackedGluLinear { weights: [gate, up], activation } => {
            vec![ops::packed_glu_linear(x(0), [packed(gate)?, packed(up)?], *activation)]
        }
        Layer::GroupedLinear(groups) => {
            let mut dense = inputs[1..].iter().cloned();
            let group = |(rows, weight): &(usize, Option<Packed>)| {
                let weight = match weight {
                    Some(weight) => GroupWeight::Packed(packed(weight)?),
                    None => GroupWeight::Dense(dense.next().ok_or_else(|| anyhow!("a group has no weight"))?),
                };
                Ok(Group { rows: *rows, weight })
            };
            vec![ops::grouped_linear(x(0), groups.iter().map(group).collect::<Result<_>>()?)]
        }
        Layer::StackedLinear(groups) => vec![ops::stacked_linear(x(0), x(1), groups.clone().into())],
        Layer::Append { heads, start } => {
            let of = |index: usize| text(own(&inputs[index]), *heads);
            rows(ops::append([of(0), of(1)], [of(2), of(3)], *start))
        }
        Layer::AppendRotated { heads: [queries, keys], start } => {
            let table = RotaryTable { cos: x(3), sin: x(4) };
            let of = |index: usize, heads: usize| text::<B>(x(index), heads).squeeze_dim::<3>(0);
            let buffers = [5, 6].map(|index| text(own(&inputs[index]), *keys));
            let (query, buffers) =
                ops::append_rotated(of(0, *queries), [of(1, *keys), of(2, *keys)], &table, buffers, *start);
            [vec![query.flatten(1, 2)], rows(buffers)].concat()
        }
        Layer::Prefix(length) => {
            let width = inputs[0].dims()[1];
            vec![ops::append::prefix(text(x(0), 1), *length).reshape([*length, width])]
        }
        Layer::SampleTokens(draw) => vec![ops::sample_tokens(x(0), *draw).float().cast(DType::F32).unsqueeze()],
    })
}

/// A copy that nothing else holds, so that it may be written in place.
fn own<B: Backend>(tensor: &Tensor<B, 2>) -> Tensor<B, 2> {
    tensor.clone().mul_scalar(1.0)
}

/// The rows of one text, split into heads.
fn text<B: Backend>(tensor: Tensor<B, 2>, heads: usize) -> Tensor<B, 4> {
    let [rows, width] = tensor.dims();
    tensor.reshape([1, rows, heads, width / heads])
}

/// Buffers of one text as matrices.
fn rows<B: Backend>(buffers: [Tensor<B, 4>; 2]) -> Vec<Tensor<B, 2>> {
    buffers.map(|buffer| buffer.flatten::<3>(2, 3).squeeze_dim(0)).into()
}

fn packed_lora<B: FusedBackend>(
    weight: &PackedTensor<B>,
    inputs: &[Tensor<B, 2>],
    scale: f64,
    dropout: Option<Dropout>,
) -> Vec<Tensor<B, 2>> {
    let [x, lora_a, lora_b] = [0, 1, 2].map(|index| inputs[index].clone());
    vec![ops::packed_lora_linear(x, weight, lora_a, lora_b, scale, dropout)]
}

fn rotated<B: FusedBackend>(heads: [usize; 2], inputs: &[Tensor<B, 2>]) -> Vec<Tensor<B, 2>> {
    let of = |index: usize| {
        let [tokens, width] = inputs[index].dims();
        inputs[index].clone().reshape([tokens, heads[index], width / heads[index]])
    };
    let table = RotaryTable { cos: inputs[2].clone(), sin: inputs[3].clone() };
    let (query, key) = ops::rotary(of(0), of(1), &table);
    vec![query.flatten(1, 2), key.flatten(1, 2)]
}

/// Query, key and value of one text.
fn split<B: Backend>(heads: [usize; 2], inputs: &[Tensor<B, 2>]) -> [Tensor<B, 4>; 3] {
    [(0, heads[0]), (1, heads[1]), (2, heads[1])].map(|(index, heads)| text(inputs[index].clone(), heads))
}

fn attended<B: FusedBackend>(
    heads: [usize; 2],
    options: ops::AttentionOptions,
    inputs: &[Tensor<B, 2>],
    segments: Option<Tensor<B, 2, Int>>,
) -> Vec<Tensor<B, 2>> {
    let [query, key, value] = split(heads, inputs);
    vec![ops::attention(query, key, value, segments, options).reshape(inputs[0].dims())]
}

fn update_on<B: FusedBackend>(update: Update, inputs: &[Tensor<B, 2>], device: &B::Device) -> Vec<Tensor<B, 2>> {
    let x = |index: usize| inputs[index].clone();
    let all = || inputs.iter().cloned().map(raw).collect::<Vec<_>>();
    match update {
        Update::AdamW(step) => {
            let columns = x(0).dims()[1];
            let tensors = AdamWTensors::new(x(0), x(1), x(2), x(3)).clipped_by(x(4).flatten(0, 1));
            ops::adamw(tensors, step).map(|tensor| matrix(tensor, columns)).into()
        }
        Update::AdamW8bit(step) => {
            let [rows, columns] = x(0).dims();
            let [first, second] = [0; 2].map(|_| Moment8bit::zeros(rows * columns, device));
            let squares = || Some(raw(x(3).flatten::<1>(0, 1)));
            let tensors = AdamW8bitTensors { parameter: raw(x(0)), gradient: raw(x(1)), first, second, squares: squares() };
            let after = ops::adamw8bit(tensors, step);
            let tensors = AdamW8bitTensors {
                parameter: after.parameter,
                gradient: raw(x(2)),
                first: after.first,
                second: after.second,
                squares: squares(),
            };
            let after = ops::adamw8bit(tensors, ops::AdamWStep { step: step.step + 1, ..step });
            let blocks = |moment: Moment8bit<B>| matrix(moment.absmax, 1);
            vec![matrix(after.parameter, columns), blocks(after.first), blocks(after.second)]
        }
        Update::Pack => vec![matrix(ops::pack::<B>(all()), 1)],
        Update::Unpack => {
            let shapes: Vec<_> = inputs.iter().map(Tensor::shape).collect();
            let pieces = ops::unpack::<B>(&ops::pack::<B>(all()), shapes);
            pieces.into_iter().zip(inputs).map(|(piece, input)| matrix(piece, input.dims()[1])).collect()
        }
        Update::SquaredNorm => vec![ops::squared_norm::<B>(all(), device).unsqueeze()],
    }
}
