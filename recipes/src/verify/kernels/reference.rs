//! The same operations, composed of burn's own on the CPU in f32; gradients are those of burn's autodiff.

use burn::backend::{Autodiff, Flex};
use burn::tensor::activation::log_softmax;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Int, Tensor, TensorData, TensorMetadata, TensorPrimitive};
use burnish_engine::kernel_run::EPSILON;
use burnish_engine::{Computed, KernelCase, Layer, Operation, Update};
use burnish_kernels::packed::Packed;
use burnish_kernels::sink_attention::SinkInputs;
use burnish_kernels::{self as ops, AdamW8bitTensors, AdamWStep, AdamWTensors, Dropout, Moment8bit, soft_cap};

/// Burn's autodiff, without the rules of Burnish.
type Plain = Autodiff<Flex>;

type Rows = Tensor<Plain, 2>;

/// Results and gradients, in f32.
pub(super) fn compute(case: &KernelCase) -> Computed {
    let device = Default::default();
    let layer = match &case.operation {
        Operation::Layer(layer) => layer,
        Operation::Update(update) => {
            let inputs: Vec<_> = case.inputs.iter().map(|input| upload(&input.values, input.dims)).collect();
            let results = updated(*update, &inputs).into_iter().map(read).collect();
            return Computed { inference: results, ..Computed::default() };
        }
    };
    let track = |input: &burnish_engine::Matrix| {
        let tracked = Rows::from_inner(upload(&input.values, input.dims));
        if input.has_gradient { tracked.require_grad() } else { tracked }
    };
    let inputs: Vec<Rows> = case.inputs.iter().map(track).collect();
    let results = computed(case, layer, &inputs);
    let values: Vec<Vec<f32>> = results.iter().map(|result| read(result.clone().inner())).collect();
    if !case.has_gradients() {
        return Computed { inference: values, ..Computed::default() };
    }
    let scaled = results.into_iter().enumerate().map(|(index, result)| {
        let dims = result.dims();
        let data = TensorData::new(case.upstream(index, dims[0] * dims[1]), dims);
        (result * Rows::from_data(data, &device)).sum()
    });
    let gradients = scaled.reduce(|a, b| a + b).map(|sum| sum.backward());
    let gradient = |input: &Rows| {
        let gradient = gradients.as_ref().and_then(|gradients| input.grad(gradients));
        gradient.map(read).unwrap_or_default()
    };
    Computed { inference: values.clone(), training: values, gradients: inputs.iter().map(gradient).collect() }
}

fn upload(values: &[f32], dims: [usize; 2]) -> Tensor<Flex, 2> {
    Tensor::from_data(TensorData::new(values.to_vec(), dims), &Default::default())
}

fn read(tensor: Tensor<Flex, 2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn raw<const D: usize>(tensor: Tensor<Plain, D>) -> FloatTensor<Plain> {
    tensor.into_primitive().tensor()
}

fn typed<const D: usize>(tensor: FloatTensor<Plain>) -> Tensor<Plain, D> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// A packed weight as it is dequantised.
fn dense(weight: &Packed) -> Rows {
    Rows::from_inner(upload(&weight.dequantize(), weight.dims()))
}

fn product(x: Rows, weight: Rows) -> Rows {
    x.matmul(weight.transpose())
}

fn dropped(x: Rows, dropout: Option<Dropout>) -> Rows {
    match dropout {
        Some(dropout) => typed(ops::dropout::reference::<Plain>(raw(x), dropout)),
        None => x,
    }
}

fn adapted(x: Rows, weight: Rows, [lora_a, lora_b]: [Rows; 2], scale: f64, dropout: Option<Dropout>) -> Rows {
    let update = product(product(dropped(x.clone(), dropout), lora_a), lora_b);
    product(x, weight) + update.mul_scalar(scale)
}

fn losses(logits: Rows, labels: Tensor<Plain, 1, Int>) -> Vec<Rows> {
    let count = labels.dims()[0];
    let chosen = log_softmax(logits, 1).gather(1, labels.reshape([count, 1]));
    vec![chosen.neg().reshape([1, count])]
}

fn computed(case: &KernelCase, layer: &Layer, inputs: &[Rows]) -> Vec<Rows> {
    let x = |index: usize| inputs[index].clone();
    let vector = |index: usize| raw::<1>(x(index).flatten(0, 1));
    let indices = || {
        let data = TensorData::new(case.indices.clone(), [case.indices.len()]);
        Tensor::<Plain, 1, Int>::from_data(data, &Default::default())
    };
    let rms = |x: Rows, weight| typed::<2>(ops::rms_norm::reference::<Plain>(raw(x), weight, EPSILON));
    let capped = |logits: Rows, cap: Option<f64>| match cap {
        Some(cap) => soft_cap(logits, cap),
        None => logits,
    };
    match layer {
        Layer::RmsNorm => vec![rms(x(0), vector(1))],
        Layer::AddRmsNorm => {
            let sum = x(0) + x(1);
            vec![sum.clone(), rms(sum, vector(2))]
        }
        Layer::ForkRmsNorm => vec![rms(x(0), vector(1)), x(0)],
        Layer::LayerNorm => {
            vec![typed(ops::layer_norm::reference::<Plain>(raw(x(0)), vector(1), vector(2), EPSILON))]
        }
        Layer::Rotary { heads } => {
            let rotate = |index: usize| {
                let [tokens, width] = inputs[index].dims();
                let split = x(index).reshape([tokens, heads[index], width / heads[index]]);
                let rotated = ops::rotary::reference::<Plain>(raw(split), raw(x(2)), raw(x(3)), false);
                typed::<3>(rotated).reshape([tokens, width])
            };
            vec![rotate(0), rotate(1)]
        }
        Layer::Glu(activation) => vec![typed(ops::glu::reference::<Plain>(raw(x(0)), raw(x(1)), *activation))],
        Layer::Dropout(dropout) => vec![dropped(x(0), Some(*dropout))],
        Layer::Attention { heads, options } => {
            let split = |index: usize, heads: usize| {
                let [tokens, width] = inputs[index].dims();
                raw(x(index).reshape([1, tokens, heads, width / heads]))
            };
            let segments = (!case.indices.is_empty()).then(|| indices().unsqueeze::<2>().into_primitive());
            let [query, key, value] = [split(0, heads[0]), split(1, heads[1]), split(2, heads[1])];
            let attended = ops::attention::reference::<Plain>(query, key, value, segments, *options);
            vec![typed::<4>(attended).reshape(inputs[0].dims())]
        }
        Layer::Linear => vec![product(x(0), x(1))],
        Layer::PackedLinear(weight) => vec![product(x(0), dense(weight))],
        Layer::PackedRows(weight) => vec![dense(weight).select(0, indices())],
        Layer::LoraLinear { scale, dropout } => vec![adapted(x(0), x(1), [x(2), x(3)], *scale, *dropout)],
        Layer::LoraHidden { scale, dropout } => vec![product(dropped(x(0), *dropout), x(1)).mul_scalar(*scale)],
        Layer::PackedLoraLinear { weight, scale, dropout } => {
            vec![adapted(x(0), dense(weight), [x(1), x(2)], *scale, *dropout)]
        }
        Layer::CrossEntropy { cap } => losses(capped(product(x(0), x(1)), *cap), indices()),
        Layer::PackedCrossEntropy { weight, cap } => losses(capped(product(x(0), dense(weight)), *cap), indices()),
        Layer::SelectRows => vec![x(0).select(0, indices())],
        Layer::SinkAttention { heads, options } => {
            let split = |index: usize, heads: usize| raw(text(x(index), heads));
            let segments = (!case.indices.is_empty()).then(|| indices().unsqueeze::<2>().into_primitive());
            let (query, key, value) = (split(0, heads[0]), split(1, heads[1]), split(2, heads[1]));
            let inputs = SinkInputs { query, key, value, segments, sinks: vector(3) };
            vec![rows(typed(ops::sink_attention::reference::<Plain>(inputs, *options)))]
        }
        Layer::Linears => (1..inputs.len()).map(|index| product(x(0), x(index))).collect(),
        Layer::GluLinear(activation) => {
            let [gate, up] = [1, 2].map(|index| raw(product(x(0), x(index))));
            vec![typed(ops::glu::reference::<Plain>(gate, up, *activation))]
        }
        Layer::PackedLinears(weights) => weights.iter().map(|weight| product(x(0), dense(weight))).collect(),
        Layer::PackedGluLinear { weights, activation } => {
            let [gate, up] = weights.each_ref().map(|weight| raw(product(x(0), dense(weight))));
            vec![typed(ops::glu::reference::<Plain>(gate, up, *activation))]
        }
        Layer::GroupedLinear(groups) => vec![grouped(groups, inputs)],
        Layer::StackedLinear(groups) => {
            let outputs = inputs[1].dims()[0] / groups.len();
            let weight = |group: usize| x(1).narrow(0, group * outputs, outputs);
            let all: Vec<Rows> = (0..groups.len()).map(weight).collect();
            let groups: Vec<(usize, Option<Packed>)> = groups.iter().map(|rows| (*rows, None)).collect();
            vec![grouped(&groups, &[vec![x(0)], all].concat())]
        }
        Layer::Append { start, .. } => vec![written(x(0), x(2), *start), written(x(1), x(3), *start)],
        Layer::AppendRotated { heads: [queries, keys], start } => {
            let rotate = |index: usize, heads: usize| {
                let split = text(x(index), heads).squeeze_dim::<3>(0);
                typed::<3>(ops::rotary::reference::<Plain>(raw(split), raw(x(3)), raw(x(4)), false)).flatten::<2>(1, 2)
            };
            let key = written(x(5), rotate(1, *keys), *start);
            vec![rotate(0, *queries), key, written(x(6), x(2), *start)]
        }
        Layer::Prefix(length) => vec![x(0).narrow(0, 0, *length)],
        Layer::SampleTokens(draw) => {
            let ids = ops::sample_tokens::reference::<Plain>(raw(x(0)), *draw);
            vec![Tensor::<Plain, 1, Int>::from_primitive(ids).float().unsqueeze()]
        }
    }
}

/// The rows of one text, split into heads.
fn text(x: Rows, heads: usize) -> Tensor<Plain, 4> {
    let [tokens, width] = x.dims();
    x.reshape([1, tokens, heads, width / heads])
}

/// The inverse of [`text`].
fn rows(x: Tensor<Plain, 4>) -> Rows {
    x.flatten::<3>(2, 3).squeeze_dim(0)
}

/// A buffer with other rows from one on.
fn written(buffer: Rows, new: Rows, start: usize) -> Rows {
    let (all, count) = (buffer.dims()[0], new.dims()[0]);
    let after = start + count;
    let part = |from: usize, to: usize| (to > from).then(|| buffer.clone().narrow(0, from, to - from));
    Tensor::cat([part(0, start), Some(new), part(after, all)].into_iter().flatten().collect(), 0)
}

/// The products of groups of rows, one after the other.
fn grouped(groups: &[(usize, Option<Packed>)], inputs: &[Rows]) -> Rows {
    let (mut start, mut next) = (0, 1);
    let mut parts = Vec::new();
    for (count, weight) in groups {
        let weight = if let Some(weight) = weight {
            dense(weight)
        } else {
            next += 1;
            inputs[next - 1].clone()
        };
        if *count > 0 {
            parts.push(product(inputs[0].clone().narrow(0, start, *count), weight));
        }
        start += count;
    }
    Tensor::cat(parts, 0)
}

fn updated(update: Update, inputs: &[Tensor<Flex, 2>]) -> Vec<Tensor<Flex, 2>> {
    let x = |index: usize| inputs[index].clone();
    let raw = |index: usize| x(index).into_primitive().tensor();
    let rows = |tensor: FloatTensor<Flex>, columns: usize| -> Tensor<Flex, 2> {
        let elements = tensor.shape().num_elements();
        let shaped = <Flex as burn::tensor::ops::FloatTensorOps<Flex>>::float_reshape;
        Tensor::from_primitive(TensorPrimitive::Float(shaped(tensor, [elements / columns, columns].into())))
    };
    let all = || (0..inputs.len()).map(raw).collect::<Vec<_>>();
    match update {
        Update::AdamW(step) => {
            let columns = x(0).dims()[1];
            let tensors = AdamWTensors::new(x(0), x(1), x(2), x(3)).clipped_by(x(4).flatten(0, 1));
            ops::adamw::reference::<Flex>(tensors, step).map(|tensor| rows(tensor, columns)).into()
        }
        Update::AdamW8bit(step) => {
            let [count, columns] = x(0).dims();
            let mut parameter = raw(0);
            let [mut first, mut second] = [0; 2].map(|_| Moment8bit::zeros(count * columns, &Default::default()));
            for number in [1, 2] {
                let squares = Some(x(3).flatten::<1>(0, 1).into_primitive().tensor());
                let tensors = AdamW8bitTensors { parameter, gradient: raw(number), first, second, squares };
                let step = AdamWStep { step: step.step + number - 1, ..step };
                let after = ops::adamw8bit::reference::<Flex>(tensors, step);
                (parameter, first, second) = (after.parameter, after.first, after.second);
            }
            vec![rows(parameter, columns), rows(first.absmax, 1), rows(second.absmax, 1)]
        }
        Update::Unpack => inputs.to_vec(),
        Update::Pack => vec![rows(ops::pack::reference::<Flex>(all()), 1)],
        Update::SquaredNorm => vec![rows(ops::squared_norm::reference::<Flex>(all(), &Default::default()), 1)],
    }
}
