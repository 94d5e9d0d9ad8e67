//! `FusedBackend` for burn's CubeCL backends: kernels of ours where the runtime asks for them, else the composed operations.

use burn::tensor::ops::{FloatTensor, FloatTensorOps, IntTensor};
use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};

use super::rows;
use crate::adamw::{AdamWStep, AdamWTensors};
use crate::attention::{AttentionOptions, Statistics};
use crate::backend::DeviceMemory;
use crate::dropout::{self, Dropout};
use crate::glu::{self, Activation};
use crate::lora_linear::{self, LoraGradients, LoraSaved};
use crate::matrix::{Product, multiply};
use crate::primitive::{raw, typed};
use crate::runtime::KernelRuntime;
use crate::{
    FusedBackend, adamw, attention, layer_norm, linear, linear_cross_entropy, pack, rms_norm, rotary, select_rows,
    squared_norm,
};

/// Whether all tensors are of one float dtype that kernels are written for.
fn alike<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> bool {
    let dtype = tensors[0].dtype;
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && tensors.iter().all(|tensor| tensor.dtype == dtype)
}

fn is_f32<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype == DType::F32)
}

impl<R, F, I, BT> FusedBackend for CubeBackend<R, F, I, BT>
where
    R: KernelRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    const OWN_GRADIENTS: bool = R::OWN_GRADIENTS;

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        if !R::FUSED || !alike(&[&x, &weight]) || !rows::fits(x.shape()[1]) {
            return rms_norm::reference::<Self>(x, weight, epsilon);
        }
        rms_norm::cube::forward(x, weight, epsilon)
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !R::FUSED || !alike(&[&x, &residual, &weight]) || !rows::fits(x.shape()[1]) {
            return rms_norm::reference_add::<Self>(x, residual, weight, epsilon);
        }
        rms_norm::cube::add_forward(x, residual, weight, epsilon)
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        residual: Option<FloatTensor<Self>>,
        epsilon: f64,
        weight_gradient: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let residual_fits = residual.as_ref().is_none_or(|residual| alike(&[&x, residual]));
        if !R::FUSED || !residual_fits || !alike(&[&x, &weight, &grad]) || !rows::fits(x.shape()[1]) {
            return rms_norm::reference_backward::<Self>(x, weight, grad, residual, epsilon, weight_gradient);
        }
        let dtype = weight.dtype;
        let (dx, partial) = rms_norm::cube::backward(x, weight, grad, residual, epsilon, weight_gradient);
        (dx, partial.map(|partial| raw(typed::<Self, 2>(partial).sum_dim(0).squeeze_dim::<1>(0).cast(dtype))))
    }

    fn row_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        if !R::FUSED || !alike(&[&x, &weight, &bias]) || !rows::fits(x.shape()[1]) {
            return layer_norm::reference::<Self>(x, weight, bias, epsilon);
        }
        layer_norm::cube::forward(x, weight, bias, epsilon)
    }

    fn row_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        weight_gradients: bool,
    ) -> (FloatTensor<Self>, Option<[FloatTensor<Self>; 2]>) {
        if !R::FUSED || !alike(&[&x, &weight, &grad]) || !rows::fits(x.shape()[1]) {
            return layer_norm::reference_backward::<Self>(x, weight, grad, epsilon, weight_gradients);
        }
        let dtype = weight.dtype;
        let sum = |partial| raw(typed::<Self, 2>(partial).sum_dim(0).squeeze_dim::<1>(0).cast(dtype));
        let (dx, partial) = layer_norm::cube::backward(x, weight, grad, epsilon, weight_gradients);
        (dx, partial.map(|partial| partial.map(sum)))
    }

    fn rotary(
        heads: [FloatTensor<Self>; 2],
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> [FloatTensor<Self>; 2] {
        if !R::FUSED || !alike(&heads.each_ref()) || !is_f32(&[&cos, &sin]) {
            return rotary::reference_both::<Self>(heads, cos, sin, inverse);
        }
        rotary::cube::turn(heads, cos, sin, inverse)
    }

    fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        if !R::FUSED || !alike(&[&gate, &up]) {
            return glu::reference::<Self>(gate, up, activation);
        }
        glu::cube::forward(gate, up, activation)
    }

    fn glu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !R::FUSED || !alike(&[&gate, &up, &grad]) {
            return glu::reference_backward::<Self>(gate, up, grad, activation);
        }
        glu::cube::backward(gate, up, grad, activation)
    }

    fn dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self> {
        if !R::FUSED || !alike(&[&x]) {
            return dropout::reference::<Self>(x, dropout);
        }
        dropout::cube::forward(x, dropout)
    }

    fn segment_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        if !R::FUSED || !alike(&[&query, &key, &value]) || !attention::cube::fits(query.shape()[3]) {
            return attention::reference::<Self>(query, key, value, segments, options);
        }
        if let Some(out) = attention::cube::decode([&query, &key, &value], options) {
            return out;
        }
        attention::cube::forward([query, key, value], segments, options).0
    }

    fn attention_for_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, Option<Statistics<Self>>) {
        if !R::FUSED || !alike(&[&query, &key, &value]) || !attention::cube::fits(query.shape()[3]) {
            return (attention::reference::<Self>(query, key, value, segments, options), None);
        }
        let (output, log_sum_exp) = attention::cube::forward([query, key, value], segments, options);
        (output.clone(), Some(Statistics { output, log_sum_exp }))
    }

    fn attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        statistics: Option<Statistics<Self>>,
        grad: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> [FloatTensor<Self>; 3] {
        match statistics {
            Some(Statistics { output, log_sum_exp }) if alike(&[&query, &grad]) => {
                attention::cube::backward([query, key, value], segments, [output, log_sum_exp, grad], options)
            }
            _ => attention::reference_backward::<Self>(query, key, value, segments, grad, options),
        }
    }

    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if R::FUSED && alike(&[&x, &weight]) {
            let out = x.dtype;
            let (a, b) = (x.clone(), weight.clone());
            let product = Product { a, b, transposed_a: false, transposed_b: true, more: None, alpha: 1.0, out };
            if let Some(y) = multiply(product) {
                return y;
            }
        }
        linear::reference::<Self>(x, weight)
    }

    fn linear_backward_input(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if R::FUSED && alike(&[&grad, &weight]) {
            let out = grad.dtype;
            let (a, b) = (grad.clone(), weight.clone());
            let product = Product { a, b, transposed_a: false, transposed_b: false, more: None, alpha: 1.0, out };
            if let Some(dx) = multiply(product) {
                return dx;
            }
        }
        linear::reference_backward_input::<Self>(grad, weight)
    }

    fn linear_backward_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if R::FUSED && alike(&[&grad, &x]) {
            let out = grad.dtype;
            let (a, b) = (grad.clone(), x.clone());
            let product = Product { a, b, transposed_a: true, transposed_b: false, more: None, alpha: 1.0, out };
            if let Some(dw) = multiply(product) {
                return dw;
            }
        }
        linear::reference_backward_weight::<Self>(x, grad)
    }

    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        lora_a: FloatTensor<Self>,
        lora_b: FloatTensor<Self>,
        scale: f64,
        dropout: Option<Dropout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if R::FUSED && alike(&[&x, &weight]) && lora_linear::cube::fits(&x, &weight, [&lora_a, &lora_b]) {
            let inputs = (x.clone(), weight.clone(), lora_a.clone(), lora_b.clone());
            if let Some(found) = lora_linear::cube::forward(inputs.0, inputs.1, inputs.2, inputs.3, scale, dropout) {
                return found;
            }
        }
        lora_linear::reference::<Self>(x, weight, lora_a, lora_b, scale, dropout)
    }

    fn lora_linear_backward(saved: LoraSaved<Self>, grad: FloatTensor<Self>, input_gradient: bool) -> LoraGradients<Self> {
        let LoraSaved { x, weight, lora_a, lora_b, hidden, scale, dropout } = saved.clone();
        if R::FUSED && alike(&[&x, &weight, &hidden, &grad]) && lora_linear::cube::fits(&x, &weight, [&lora_a, &lora_b]) {
            let saved = lora_linear::cube::Saved { x, weight, lora_a, lora_b, hidden, scale, dropout };
            if let Some((x, lora_a, lora_b)) = lora_linear::cube::backward(saved, grad.clone(), input_gradient) {
                return LoraGradients { x, lora_a, lora_b };
            }
        }
        lora_linear::reference_backward::<Self>(saved, grad, input_gradient)
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        if !R::FUSED || !alike(&[&hidden, &weight]) {
            return linear_cross_entropy::reference::<Self>(hidden, weight, labels);
        }
        linear_cross_entropy::cube::forward::<R, Self>(hidden, weight, labels)
    }

    fn linear_cross_entropy_with_gradient(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !R::FUSED || !alike(&[&hidden, &weight]) {
            return linear_cross_entropy::reference_with_gradient::<Self>(hidden, weight, labels);
        }
        linear_cross_entropy::cube::forward_with_gradient::<R, Self>(hidden, weight, labels)
    }

    fn linear_cross_entropy_backward_weight(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
        factors: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !R::FUSED || !alike(&[&hidden, &weight]) || !is_f32(&[&factors]) {
            return linear_cross_entropy::reference_backward_weight::<Self>(hidden, weight, labels, factors);
        }
        linear_cross_entropy::cube::backward_weight::<R, Self>(hidden, weight, labels, factors)
    }

    fn select_rows_backward(grad: FloatTensor<Self>, places: IntTensor<Self>, rows: usize) -> FloatTensor<Self> {
        if !R::FUSED || !alike(&[&grad]) {
            return select_rows::reference_backward::<Self>(grad, places, rows);
        }
        let zeros = Self::float_zeros([rows, grad.shape()[1]].into(), &grad.device, grad.dtype.into());
        select_rows::cube::spread(grad, places, zeros)
    }

    fn adamw(tensors: AdamWTensors<Self>, step: AdamWStep) -> [FloatTensor<Self>; 3] {
        let AdamWTensors { parameter, gradient, first, second, squares } = &tensors;
        let all: Vec<_> = [parameter, gradient, first, second].into_iter().chain(squares).collect();
        if !R::FUSED || !is_f32(&all) {
            return adamw::reference::<Self>(tensors, step);
        }
        let AdamWTensors { parameter, gradient, first, second, squares } = tensors;
        adamw::cube::update([parameter, gradient, first, second], squares, step)
    }

    fn pack(tensors: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        if !R::FUSED || !is_f32(&tensors.iter().collect::<Vec<_>>()) {
            return pack::reference::<Self>(tensors);
        }
        pack::cube::pack(tensors)
    }

    fn squared_norm(tensors: Vec<FloatTensor<Self>>, device: &Self::Device) -> FloatTensor<Self> {
        if !R::FUSED || !is_f32(&tensors.iter().collect::<Vec<_>>()) {
            return squared_norm::reference::<Self>(tensors, device);
        }
        squared_norm::cube::sum(tensors, device)
    }

    fn device_memory(device: &Self::Device) -> Option<DeviceMemory> {
        let usage = R::client(device).memory_usage().ok()?;
        Some(DeviceMemory { in_use: usage.bytes_in_use, reserved: usage.bytes_reserved })
    }

    fn largest_allocation(device: &Self::Device) -> Option<u64> {
        Some(R::client(device).properties().memory.max_page_size)
    }
}
