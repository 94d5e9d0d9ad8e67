//! The moments of a parameter, or of several that are updated in one launch.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burnish_kernels::{
    AdamW8bitTensors, AdamW8bitUpdate, AdamWStep, AdamWTensors, FusedBackend, Moment8bit, adamw, adamw8bit, exact_buffers,
    pack, packed_elements, unpack,
};

/// How moments are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MomentType {
    /// In f32.
    #[default]
    F32,
    /// In eight bits, with a scale for each block of 256.
    EightBit,
}

/// The running means of a parameter's gradients and of their squares, flattened.
#[derive(Debug, Clone)]
pub enum Moments<B: FusedBackend> {
    /// In f32.
    F32([Tensor<B, 1>; 2]),
    /// In eight bits. Each parameter has whole blocks of its own, so they don't depend on what it is packed with.
    EightBit([Moment8bit<B>; 2]),
}

impl<B: FusedBackend> Moments<B> {
    /// Those before the first update, of parameters of so many elements each, packed.
    pub fn zeros(kind: MomentType, elements: impl IntoIterator<Item = usize>, device: &B::Device) -> Self {
        let elements: usize = elements.into_iter().map(packed_elements).sum();
        // They live as long as the run.
        exact_buffers::<B, _>(device, || match kind {
            MomentType::F32 => Self::F32([(); 2].map(|()| Tensor::zeros([elements], (device, DType::F32)))),
            MomentType::EightBit => Self::EightBit([(); 2].map(|()| Moment8bit::zeros(elements, device))),
        })
    }

    /// Moments of the same type one after the other, as [`pack`] concatenates the parameters.
    pub(super) fn concatenated(moments: Vec<Self>) -> Self {
        let (mut floats, mut codes) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for moments in moments {
            match moments {
                Self::F32([first, second]) => {
                    floats.0.push(first.into_primitive().tensor());
                    floats.1.push(second.into_primitive().tensor());
                }
                Self::EightBit([first, second]) => {
                    codes.0.push(first);
                    codes.1.push(second);
                }
            }
        }
        if codes.0.is_empty() {
            Self::F32([floats.0, floats.1].map(|tensors| typed(pack::<B>(tensors))))
        } else {
            Self::EightBit([codes.0, codes.1].map(Moment8bit::concatenated))
        }
    }

    /// The inverse of [`Moments::concatenated`], for parameters of so many elements.
    pub(super) fn split(&self, elements: &[usize]) -> Vec<Self> {
        match self {
            Self::F32(moments) => {
                let shapes = elements.iter().map(|elements| Shape::from([*elements]));
                let [first, second] = moments
                    .each_ref()
                    .map(|tensor| unpack::<B>(&tensor.clone().into_primitive().tensor(), shapes.clone()).into_iter());
                first.zip(second).map(|(first, second)| Self::F32([typed(first), typed(second)])).collect()
            }
            Self::EightBit(moments) => {
                let [first, second] = moments.each_ref().map(|moment| moment.split(elements.iter().copied()).into_iter());
                first.zip(second).map(|(first, second)| Self::EightBit([first, second])).collect()
            }
        }
    }

    /// The parameter and the moments after an update: in place where nothing else holds them.
    pub(super) fn updated(
        self,
        parameter: FloatTensor<B>,
        gradient: FloatTensor<B>,
        squares: &Tensor<B, 1>,
        step: AdamWStep,
    ) -> (FloatTensor<B>, Self) {
        match self {
            Self::F32([first, second]) => {
                let tensors = AdamWTensors::new(typed::<B>(parameter), typed(gradient), first, second);
                let [parameter, first, second] = adamw(tensors.clipped_by(squares.clone()), step);
                (parameter, Self::F32([typed(first), typed(second)]))
            }
            Self::EightBit([first, second]) => {
                let squares = Some(squares.clone().into_primitive().tensor());
                let tensors = AdamW8bitTensors { parameter, gradient, first, second, squares };
                let AdamW8bitUpdate { parameter, first, second } = adamw8bit(tensors, step);
                (parameter, Self::EightBit([first, second]))
            }
        }
    }
}

fn typed<B: FusedBackend>(primitive: FloatTensor<B>) -> Tensor<B, 1> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}
