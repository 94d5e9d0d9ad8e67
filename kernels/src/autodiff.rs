//! `FusedBackend` for any backend under burn's autodiff: each operation's own backward rule, unless burn's are asked for.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::tensor::ops::{FloatTensor, FloatTensorOps, IntTensor};

use crate::attention::AttentionOptions;
use crate::glu::{self, Activation};
use crate::{
    DeviceMemory, FusedBackend, attention, layer_norm, linear, linear_cross_entropy, lora_linear, rms_norm, rotary,
    select_rows,
};

impl<B: FusedBackend, C: CheckpointStrategy> FusedBackend for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        if !B::OWN_GRADIENTS {
            return rms_norm::reference::<Self>(x, weight, epsilon);
        }
        rms_norm::autodiff::forward::<B, C>(x, weight, epsilon)
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !B::OWN_GRADIENTS {
            return rms_norm::reference_add::<Self>(x, residual, weight, epsilon);
        }
        rms_norm::autodiff::add_forward::<B, C>(x, residual, weight, epsilon)
    }

    fn row_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        if !B::OWN_GRADIENTS {
            return layer_norm::reference::<Self>(x, weight, bias, epsilon);
        }
        layer_norm::autodiff::forward::<B, C>(x, weight, bias, epsilon)
    }

    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool) -> FloatTensor<Self> {
        if !B::OWN_GRADIENTS {
            return rotary::reference::<Self>(x, cos, sin, inverse);
        }
        rotary::autodiff::forward::<B, C>(x, cos, sin, inverse)
    }

    fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        if !B::OWN_GRADIENTS {
            return glu::reference::<Self>(gate, up, activation);
        }
        glu::autodiff::forward::<B, C>(gate, up, activation)
    }

    fn segment_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        if !B::OWN_GRADIENTS {
            return attention::reference::<Self>(query, key, value, segments, options);
        }
        attention::autodiff::forward::<B, C>(query, key, value, segments, options)
    }

    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !B::OWN_GRADIENTS {
            return linear::reference::<Self>(x, weight);
        }
        linear::autodiff::forward::<B, C>(x, weight)
    }

    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        lora_a: FloatTensor<Self>,
        lora_b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !B::OWN_GRADIENTS {
            return lora_linear::reference::<Self>(x, weight, lora_a, lora_b, scale);
        }
        // The narrow product has no gradient of its own: only a backward on the inner backend reads it.
        let y = lora_linear::autodiff::forward::<B, C>(x, weight, lora_a, lora_b, scale);
        (y.clone(), y)
    }

    fn device_memory(device: &Self::Device) -> Option<DeviceMemory> {
        B::device_memory(device)
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        if !B::OWN_GRADIENTS {
            return linear_cross_entropy::reference::<Self>(hidden, weight, labels);
        }
        linear_cross_entropy::autodiff::forward::<B, C>(hidden, weight, labels)
    }

    fn select_rows(x: FloatTensor<Self>, places: IntTensor<Self>) -> FloatTensor<Self> {
        if !B::OWN_GRADIENTS {
            return <Self as FloatTensorOps<Self>>::float_select(x, 0, places);
        }
        select_rows::autodiff::forward::<B, C>(x, places)
    }
}
