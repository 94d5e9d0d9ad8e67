//! What the CPU kernels share: strided products on `gemm`, vector loops, and views of Flex tensors.
//!
//! The kernels themselves stand with their operations, in `<operation>/flex.rs`.

pub(crate) mod matrix;
pub(crate) mod vector;

use burn::tensor::ops::{FloatTensor, FloatTensorOps, IntTensor};
use burn::tensor::{DType, TensorData, TensorMetadata};
use burn_flex::{Flex, FlexTensor};

use crate::adamw::AdamWStep;
use crate::adamw8bit::{self, AdamW8bitTensors, AdamW8bitUpdate};
use crate::attention::{AttentionOptions, Statistics};
use crate::dropout::{self, Dropout};
use crate::glu::{self, Activation};
use crate::lora_linear::{LoraGradients, LoraSaved};
use crate::packed::PackedTensor;
use crate::{FusedBackend, attention, linear, linear_cross_entropy, lora_linear, rms_norm, rotary};

/// Whether all tensors are f32, the dtype that the CPU kernels are written for.
pub(crate) fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// A contiguous tensor over values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Vec<usize>>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// Both dims of a matrix.
pub(crate) fn dims2(tensor: &FlexTensor) -> (usize, usize) {
    let shape = tensor.shape();
    (shape[0], shape[1])
}

impl FusedBackend for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        if !all_f32(&[&x, &weight]) {
            return rms_norm::reference::<Self>(x, weight, epsilon);
        }
        rms_norm::flex::forward(&x, &weight, epsilon)
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        residual: Option<FloatTensor<Self>>,
        epsilon: f64,
        weight_gradient: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        if weight_gradient || !all_f32(&[&x, &weight, &grad]) {
            return rms_norm::reference_backward::<Self>(x, weight, grad, residual, epsilon, weight_gradient);
        }
        let dx = rms_norm::flex::backward(&x, &weight, &grad, epsilon);
        let dx = match residual {
            Some(residual) => <Self as FloatTensorOps<Self>>::float_add(dx, residual),
            None => dx,
        };
        (dx, None)
    }

    fn rotary(
        heads: [FloatTensor<Self>; 2],
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> [FloatTensor<Self>; 2] {
        let [query, key] = &heads;
        let turns_wholly = 2 * dims2(&cos).1 == query.shape()[2];
        if !turns_wholly || !all_f32(&[query, key, &cos, &sin]) {
            return rotary::reference_both::<Self>(heads, cos, sin, inverse);
        }
        heads.map(|x| rotary::flex::turn(&x, &cos, &sin, inverse))
    }

    fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        if activation != Activation::Silu || !all_f32(&[&gate, &up]) {
            return glu::reference::<Self>(gate, up, activation);
        }
        glu::flex::forward(&gate, &up)
    }

    fn glu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if activation != Activation::Silu || !all_f32(&[&gate, &up, &grad]) {
            return glu::reference_backward::<Self>(gate, up, grad, activation);
        }
        glu::flex::backward(&gate, &up, &grad)
    }

    fn dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return dropout::reference::<Self>(x, dropout);
        }
        dropout::flex::forward(&x, dropout)
    }

    fn segment_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        if options.softcap.is_some() || !all_f32(&[&query, &key, &value]) {
            return attention::reference::<Self>(query, key, value, segments, options);
        }
        attention::flex::forward(&query, &key, &value, segments.as_ref(), options)
    }

    fn attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        _statistics: Option<Statistics<Self>>,
        grad: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> [FloatTensor<Self>; 3] {
        if options.softcap.is_some() || !all_f32(&[&query, &key, &value, &grad]) {
            return attention::reference_backward::<Self>(query, key, value, segments, grad, options);
        }
        attention::flex::backward(&query, &key, &value, segments.as_ref(), &grad, options)
    }

    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x, &weight]) || dims2(&x).0 > linear::flex::FEW_ROWS {
            return linear::reference::<Self>(x, weight);
        }
        linear::flex::few_rows(&x, &weight)
    }

    fn packed_linear(x: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self> {
        match linear::flex::words(&weight).filter(|_| all_f32(&[&x])) {
            Some(words) => linear::flex::packed_forward(&x, weight.planes, words),
            None => linear::packed::reference::<Self>(x, &weight),
        }
    }

    fn packed_linear_backward_input(grad: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self> {
        match linear::flex::words(&weight).filter(|_| all_f32(&[&grad])) {
            Some(words) => linear::flex::packed_backward_input(&grad, weight.planes, words),
            None => linear::packed::reference_backward_input::<Self>(grad, &weight),
        }
    }

    fn packed_rows(weight: PackedTensor<Self>, rows: IntTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        match linear::flex::words(&weight) {
            Some(words) => linear::packed::rows_from::<Self>(weight.planes, words, rows, dtype),
            None => linear::packed::reference_rows::<Self>(&weight, rows, dtype),
        }
    }

    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        lora_a: FloatTensor<Self>,
        lora_b: FloatTensor<Self>,
        scale: f64,
        dropout: Option<Dropout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if dims2(&x).0 <= linear::flex::FEW_ROWS || !all_f32(&[&x, &weight, &lora_a, &lora_b]) {
            return lora_linear::reference::<Self>(x, weight, lora_a, lora_b, scale, dropout);
        }
        lora_linear::flex::forward(&x, &weight, &lora_a, &lora_b, scale, dropout)
    }

    fn lora_linear_backward(saved: LoraSaved<Self>, grad: FloatTensor<Self>, input_gradient: bool) -> LoraGradients<Self> {
        if !all_f32(&[&saved.x, &saved.weight, &saved.lora_a, &saved.lora_b, &saved.hidden, &grad]) {
            return lora_linear::reference_backward::<Self>(saved, grad, input_gradient);
        }
        lora_linear::flex::backward(&saved, &grad, input_gradient)
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&hidden, &weight]) {
            return linear_cross_entropy::reference::<Self>(hidden, weight, labels);
        }
        linear_cross_entropy::flex::losses(&hidden, &weight, labels)
    }

    fn linear_cross_entropy_with_gradient(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&hidden, &weight]) {
            return linear_cross_entropy::reference_with_gradient::<Self>(hidden, weight, labels);
        }
        linear_cross_entropy::flex::with_gradient(&hidden, &weight, labels)
    }

    fn linear_cross_entropy_backward_weight(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
        factors: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&hidden, &weight, &factors]) {
            return linear_cross_entropy::reference_backward_weight::<Self>(hidden, weight, labels, factors);
        }
        linear_cross_entropy::flex::backward_weight(&hidden, &weight, labels, &factors)
    }

    fn adamw8bit(tensors: AdamW8bitTensors<Self>, step: AdamWStep) -> AdamW8bitUpdate<Self> {
        if !adamw8bit::flex::fits(&tensors) {
            return adamw8bit::reference::<Self>(tensors, step);
        }
        adamw8bit::flex::update(tensors, step)
    }
}
