//! A matrix as products take it: floats, or packed in few bits.

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::glu::Activation;
use burnish_kernels::packed::{PackError, Packed, PackedTensor, Planes};
use burnish_kernels::{
    Dropout, FusedBackend, GroupWeight, capped_linear_cross_entropy, exact_buffers, geglu, glu_linear, linear,
    linear_cross_entropy, linears, lora_linear, packed_capped_linear_cross_entropy, packed_glu_linear, packed_linear,
    packed_linear_cross_entropy, packed_linears, packed_lora_linear, packed_rows, swiglu,
};

/// A matrix `[out, in]` of a model. This is the one place that chooses between operations on dense and on packed weights.
#[derive(Module, Debug)]
pub enum Operand<B: Backend> {
    /// Floats, `[out, in]`. A gradient reaches them if they have one.
    Dense(Tensor<B, 2>),
    /// Few bits a weight. It has no gradient.
    Packed(PackedWeight<B>),
}

/// A packed matrix on a device. Like a frozen tensor it is not in records, and it is the same on the inner backend of autodiff.
#[derive(Module, Debug)]
pub struct PackedWeight<B: Backend> {
    words: Tensor<B, 1, Int>,
    #[module(skip)]
    planes: Planes,
    #[module(skip)]
    kind: String,
}

impl<B: Backend> PackedWeight<B> {
    /// Moves a matrix to a device; `name` is for the error.
    ///
    /// # Errors
    /// [`PackError::Group`] and [`PackError::Planes`] if devices have no form for it.
    pub fn new(name: &str, matrix: &Packed, device: &B::Device) -> Result<Self, PackError> {
        let (planes, words) = matrix.to_planes(name)?;
        let count = words.len();
        let data = TensorData::new(words.into_iter().map(u32::cast_signed).collect::<Vec<_>>(), [count]);
        // In the pool, weights beside activations would keep pages from being reused.
        let words = exact_buffers::<B, _>(device, || Tensor::from_data(data, device));
        Ok(Self { words, planes, kind: matrix.name().to_owned() })
    }

    /// The word that users know, such as `nf4` or `Q4_1`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The operand of the kernels.
    pub fn tensor(&self) -> PackedTensor<B> {
        PackedTensor { planes: self.planes, words: self.words.clone().into_primitive() }
    }
}

impl<B: Backend> Operand<B> {
    /// The shape, `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(tensor) => tensor.dims(),
            Self::Packed(weight) => weight.planes.dims,
        }
    }

    /// What a weight is stored as, such as `f16`, `nf4` or `Q4_1`.
    pub fn kind(&self) -> &str {
        match self {
            Self::Dense(tensor) => tensor.dtype().name(),
            Self::Packed(weight) => weight.kind(),
        }
    }

    /// The bytes that it takes on the device.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.shape().num_elements() * tensor.dtype().size(),
            Self::Packed(weight) => weight.planes.words() * size_of::<u32>(),
        }
    }

    /// The weight of a group of rows, see [`burnish_kernels::grouped_linear()`].
    pub fn into_group_weight(self) -> GroupWeight<Tensor<B, 2>, PackedTensor<B>> {
        match self {
            Self::Dense(weight) => GroupWeight::Dense(weight),
            Self::Packed(weight) => GroupWeight::Packed(weight.tensor()),
        }
    }

    /// The weights on the host, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Dense(tensor) => tensor.to_data().iter::<f32>().collect(),
            Self::Packed(weight) => weight.planes.dequantize(&weight.tensor().to_words()),
        }
    }
}

/// `f(gate) · up`.
pub(crate) fn gated<B: FusedBackend>(gate: Tensor<B, 2>, up: Tensor<B, 2>, activation: Activation) -> Tensor<B, 2> {
    match activation {
        Activation::Silu => swiglu(gate, up),
        Activation::GeluTanh => geglu(gate, up),
    }
}

impl<B: FusedBackend> Operand<B> {
    /// `x · Wᵀ`: `[rows, out]` of `[rows, in]`.
    pub fn linear(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self {
            Self::Dense(weight) => linear(x, weight.clone()),
            Self::Packed(weight) => packed_linear(x, &weight.tensor()),
        }
    }

    /// `x · Wᵀ` of each of the matrices, in one launch where they are stored alike and a few rows are multiplied.
    pub fn linears<const N: usize>(x: Tensor<B, 2>, operands: [Self; N]) -> [Tensor<B, 2>; N] {
        let dense = operands.iter().map(|operand| match operand {
            Self::Dense(weight) => Some(weight.clone()),
            Self::Packed(_) => None,
        });
        let packed = operands.iter().map(|operand| match operand {
            Self::Packed(weight) => Some(weight.tensor()),
            Self::Dense(_) => None,
        });
        let products = if let Some(weights) = dense.collect() {
            linears(x, weights)
        } else if let Some(weights) = packed.collect() {
            packed_linears(x, weights)
        } else {
            operands.iter().map(|operand| operand.linear(x.clone())).collect()
        };
        <[_; N]>::try_from(products).unwrap_or_else(|_| unreachable!("a product for each matrix"))
    }

    /// `f(x · Gᵀ) · (x · Uᵀ)` of the matrices `[G, U]`, see [`glu_linear()`].
    pub fn glu_linear(x: Tensor<B, 2>, operands: [Self; 2], activation: Activation) -> Tensor<B, 2> {
        match operands {
            [Self::Dense(gate), Self::Dense(up)] => glu_linear(x, [gate, up], activation),
            [Self::Packed(gate), Self::Packed(up)] => packed_glu_linear(x, [gate.tensor(), up.tensor()], activation),
            [gate, up] => gated(gate.linear(x.clone()), up.linear(x), activation),
        }
    }

    /// `x · Wᵀ` plus the update of an adapter, see [`lora_linear()`]. The matrix gets no gradient.
    pub fn lora_linear(
        &self,
        x: Tensor<B, 2>,
        lora_a: Tensor<B, 2>,
        lora_b: Tensor<B, 2>,
        scale: f64,
        dropout: Option<Dropout>,
    ) -> Tensor<B, 2> {
        match self {
            Self::Dense(weight) => lora_linear(x, weight.clone(), lora_a, lora_b, scale, dropout),
            Self::Packed(weight) => packed_lora_linear(x, &weight.tensor(), lora_a, lora_b, scale, dropout),
        }
    }

    /// The loss of each row of hidden states with this matrix as the head, see [`linear_cross_entropy()`]; `cap` is the soft-cap of
    /// the logits.
    pub fn linear_cross_entropy(&self, hidden: Tensor<B, 2>, labels: Tensor<B, 1, Int>, cap: Option<f64>) -> Tensor<B, 1> {
        match (self, cap) {
            (Self::Dense(weight), None) => linear_cross_entropy(hidden, weight.clone(), labels),
            (Self::Packed(weight), None) => packed_linear_cross_entropy(hidden, &weight.tensor(), labels),
            (Self::Dense(weight), Some(cap)) => capped_linear_cross_entropy(hidden, weight.clone(), labels, cap),
            (Self::Packed(weight), Some(cap)) => packed_capped_linear_cross_entropy(hidden, &weight.tensor(), labels, cap),
        }
    }

    /// Rows, `[count, in]`, as an embedding reads them. Those of a packed matrix are given in `dtype`, others in their own.
    pub fn rows(&self, rows: Tensor<B, 1, Int>, dtype: DType) -> Tensor<B, 2> {
        match self {
            Self::Dense(weight) => weight.clone().select(0, rows),
            Self::Packed(weight) => packed_rows(&weight.tensor(), rows, dtype),
        }
    }
}
