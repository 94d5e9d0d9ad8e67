//! The tensors of a model.

use burn::module::{Module, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use crate::operand::Operand;

/// A vector of a model, frozen or trainable.
///
/// A frozen one is not a `Param`, so burn's records, optimizers and gradients ignore it.
#[derive(Module, Debug)]
pub enum VectorWeight<B: Backend> {
    /// It is not trained.
    Frozen(Tensor<B, 1>),
    /// It is trained.
    Trainable(Param<Tensor<B, 1>>),
}

impl<B: Backend> VectorWeight<B> {
    /// Wraps a tensor; `name` is its checkpoint name, which gives a trainable one its id.
    pub fn new(name: &str, tensor: Tensor<B, 1>, trainable: bool) -> Self {
        if trainable { Self::Trainable(trained(name, tensor)) } else { Self::Frozen(tensor) }
    }

    /// The tensor.
    pub fn val(&self) -> Tensor<B, 1> {
        match self {
            Self::Frozen(tensor) => tensor.clone(),
            Self::Trainable(param) => param.val(),
        }
    }
}

/// A matrix `[out, in]` of a model, frozen or trainable. Like a frozen vector, a frozen one is not a `Param`.
#[derive(Module, Debug)]
pub enum MatrixWeight<B: Backend> {
    /// It is not trained.
    Frozen(Operand<B>),
    /// It is trained.
    Trainable(Param<Tensor<B, 2>>),
}

impl<B: Backend> MatrixWeight<B> {
    /// Wraps a tensor; `name` is its checkpoint name, which gives a trainable one its id.
    pub fn new(name: &str, tensor: Tensor<B, 2>, trainable: bool) -> Self {
        if trainable { Self::Trainable(trained(name, tensor)) } else { Self::Frozen(Operand::Dense(tensor)) }
    }

    /// The matrix as products take it.
    pub fn operand(&self) -> Operand<B> {
        match self {
            Self::Frozen(operand) => operand.clone(),
            Self::Trainable(param) => Operand::Dense(param.val()),
        }
    }

    /// The shape, `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Frozen(operand) => operand.dims(),
            Self::Trainable(param) => param.val().dims(),
        }
    }
}

fn trained<B: Backend, const D: usize>(name: &str, tensor: Tensor<B, D>) -> Param<Tensor<B, D>> {
    Param::initialized(parameter_id(name), tensor.require_grad())
}

/// A tensor whose rows are adjacent. burn pads those of a matrix on CUDA where they are no multiple of 512 bytes, and each kernel would
/// first copy it.
pub fn unpadded<B: Backend, const D: usize>(
    data: TensorData,
    shape: [usize; D],
    device: &B::Device,
    dtype: DType,
) -> Tensor<B, D> {
    let flat = TensorData { shape: [data.num_elements()].into(), ..data };
    Tensor::<B, 1>::from_data(flat, (device, dtype)).reshape(shape)
}

/// The id of the parameter of that name. It is the same in every process, so a saved optimizer state fits.
///
/// # Source
/// The 64-bit FNV-1a hash.
pub fn parameter_id(name: &str) -> ParamId {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    ParamId::from(hash)
}

/// A trainable tensor with its name.
#[derive(Debug, Clone)]
pub struct NamedParameter<B: Backend> {
    /// Its checkpoint name.
    pub name: String,
    /// Its key in gradients and optimizer state.
    pub id: ParamId,
    /// The tensor.
    pub tensor: AnyTensor<B>,
}

/// A float tensor of rank 1 or 2.
#[derive(Debug, Clone)]
pub enum AnyTensor<B: Backend> {
    /// A vector.
    Vector(Tensor<B, 1>),
    /// A matrix.
    Matrix(Tensor<B, 2>),
}

impl<B: Backend> AnyTensor<B> {
    /// The shape.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Vector(tensor) => tensor.dims().to_vec(),
            Self::Matrix(tensor) => tensor.dims().to_vec(),
        }
    }

    /// The elements as f32, in row-major order.
    pub fn to_f32(&self) -> Vec<f32> {
        let data = match self {
            Self::Vector(tensor) => tensor.to_data(),
            Self::Matrix(tensor) => tensor.to_data(),
        };
        data.iter::<f32>().collect()
    }
}

impl<B: Backend> AnyTensor<B> {
    /// An f32 tensor of that shape on the device; `None` if the shape has other than 1 or 2 dimensions.
    pub fn from_f32(values: Vec<f32>, shape: &[usize], device: &B::Device) -> Option<Self> {
        let data = TensorData::new(values, shape.to_vec());
        match shape.len() {
            1 => Some(Self::Vector(Tensor::from_data(data, (device, DType::F32)))),
            2 => Some(Self::Matrix(unpadded(data, [shape[0], shape[1]], device, DType::F32))),
            _ => None,
        }
    }
}

/// A tensor of the base model, trained or not.
#[derive(Debug, Clone)]
pub enum BaseTensor<B: Backend> {
    /// A vector.
    Vector(Tensor<B, 1>),
    /// A matrix.
    Matrix(Operand<B>),
}

impl<B: Backend> BaseTensor<B> {
    /// The shape.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Vector(tensor) => tensor.dims().to_vec(),
            Self::Matrix(operand) => operand.dims().to_vec(),
        }
    }

    /// What an element is stored as, such as `f16` or `nf4`.
    pub fn kind(&self) -> &str {
        match self {
            Self::Vector(tensor) => tensor.dtype().name(),
            Self::Matrix(operand) => operand.kind(),
        }
    }

    /// The bytes that it takes on the device.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Vector(tensor) => tensor.dims()[0] * tensor.dtype().size(),
            Self::Matrix(operand) => operand.bytes(),
        }
    }

    /// The elements as f32, in row-major order.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Vector(tensor) => tensor.to_data().iter::<f32>().collect(),
            Self::Matrix(operand) => operand.to_f32(),
        }
    }
}

impl<B: Backend> From<AnyTensor<B>> for BaseTensor<B> {
    fn from(tensor: AnyTensor<B>) -> Self {
        match tensor {
            AnyTensor::Vector(tensor) => Self::Vector(tensor),
            AnyTensor::Matrix(tensor) => Self::Matrix(Operand::Dense(tensor)),
        }
    }
}
