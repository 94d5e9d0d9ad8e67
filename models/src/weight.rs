//! One tensor of a model, frozen or trained.

use burn::module::{Module, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

/// A tensor that a checkpoint gave.
///
/// A frozen one is a raw tensor: burn's records, optimizers and gradients pass it by.
#[derive(Module, Debug)]
pub enum Weight<B: Backend, const D: usize> {
    /// Never changes.
    Frozen(Tensor<B, D>),
    /// Trains.
    Trainable(Param<Tensor<B, D>>),
}

impl<B: Backend, const D: usize> Weight<B, D> {
    /// Wraps a tensor under its checkpoint's name.
    pub fn new(name: &str, tensor: Tensor<B, D>, trainable: bool) -> Self {
        if trainable {
            Self::Trainable(Param::initialized(parameter_id(name), tensor.require_grad()))
        } else {
            Self::Frozen(tensor)
        }
    }

    /// The tensor.
    pub fn val(&self) -> Tensor<B, D> {
        match self {
            Self::Frozen(tensor) => tensor.clone(),
            Self::Trainable(param) => param.val(),
        }
    }
}

/// The id of the parameter of that name: the same in every process, so that optimizer state finds its parameter.
///
/// Source: FNV-1a, 64 bits.
pub fn parameter_id(name: &str) -> ParamId {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    ParamId::from(hash)
}

/// A trained tensor of either rank, with its name.
#[derive(Debug, Clone)]
pub struct NamedParameter<B: Backend> {
    /// The checkpoint's name.
    pub name: String,
    /// Key of gradients and optimizer state.
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
    /// Its dims.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Vector(tensor) => tensor.dims().to_vec(),
            Self::Matrix(tensor) => tensor.dims().to_vec(),
        }
    }

    /// Its elements on the host.
    pub fn to_f32(&self) -> Vec<f32> {
        let data = match self {
            Self::Vector(tensor) => tensor.to_data(),
            Self::Matrix(tensor) => tensor.to_data(),
        };
        data.iter::<f32>().collect()
    }
}

impl<B: Backend> AnyTensor<B> {
    /// An f32 tensor from the host; `None` for ranks other than 1 and 2.
    pub fn from_f32(values: Vec<f32>, shape: &[usize], device: &B::Device) -> Option<Self> {
        let data = TensorData::new(values, shape.to_vec());
        match shape.len() {
            1 => Some(Self::Vector(Tensor::from_data(data, (device, DType::F32)))),
            2 => Some(Self::Matrix(Tensor::from_data(data, (device, DType::F32)))),
            _ => None,
        }
    }
}
