//! Parameters that are updated in one launch.

use std::collections::BTreeMap;

use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Shape, Tensor};
use burnish_kernels::{AdamWStep, FusedBackend, pack, unpack};

use super::moments::{MomentType, Moments};

/// Maximum elements of a pack (4 MiB), unless one parameter has more. A pack holds parameters and gradients a second time, in buffers
/// of its own size; and the larger the packs, the larger the pages of a device: one pack of 45 MB, for adapters of rank 16 on a 1B
/// model, took half a GiB more on Vulkan.
const MOST_PACKED: usize = 1 << 20;

/// What parameters of a pack have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group {
    /// Norms and biases have no weight decay.
    pub decays: bool,
    /// How their moments are stored.
    pub moments: MomentType,
    /// Factor on the learning rate.
    pub rate: f64,
}

impl Group {
    fn order(&self) -> (bool, MomentType, u64) {
        (self.decays, self.moments, self.rate.to_bits())
    }
}

/// A parameter in a pack.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Packed {
    pub id: u64,
    pub shape: Shape,
    pub dtype: DType,
    pub group: Group,
}

/// A parameter with its gradient.
pub(super) struct Trained<B: FusedBackend> {
    pub packed: Packed,
    pub parameter: FloatTensor<B>,
    pub gradient: FloatTensor<B>,
}

/// Sorts parameters by their group, those of a group in their order.
pub(super) fn by_group<B: FusedBackend>(mut trained: Vec<Trained<B>>) -> Vec<Trained<B>> {
    trained.sort_by_key(|trained| trained.packed.group.order());
    trained
}

/// Divides sorted parameters into packs: of the same dtype and group, up to the size of a pack.
pub(super) fn together<B: FusedBackend>(trained: &[Trained<B>]) -> impl Iterator<Item = &[Trained<B>]> {
    let mut elements = 0;
    trained.chunk_by(move |a, b| {
        elements += a.packed.shape.num_elements();
        let is_alike = a.packed.dtype == b.packed.dtype && a.packed.group == b.packed.group;
        let fits = is_alike && elements + b.packed.shape.num_elements() <= MOST_PACKED;
        if !fits {
            elements = 0;
        }
        fits
    })
}

/// The moments of parameters that are updated in one launch.
pub(super) struct Pack<B: FusedBackend> {
    /// The parameters, in their order in the pack.
    pub of: Vec<Packed>,
    group: Group,
    moments: Moments<B>,
}

impl<B: FusedBackend> Pack<B> {
    /// Packs the existing moments; missing ones are zero. `None` without parameters.
    pub fn new(trained: &[Trained<B>], loose: &mut BTreeMap<u64, Moments<B>>) -> Option<Self> {
        let Trained { packed: Packed { group, .. }, parameter, .. } = trained.first()?;
        let (group, device) = (*group, B::float_device(parameter));
        let of: Vec<Packed> = trained.iter().map(|trained| trained.packed.clone()).collect();
        let elements = of.iter().map(|packed| packed.shape.num_elements());
        let zeros = |elements: &mut dyn Iterator<Item = usize>| Moments::<B>::zeros(group.moments, elements, &device);
        let moments = if of.iter().any(|packed| loose.contains_key(&packed.id)) {
            let all = of.iter().zip(elements).map(|(packed, elements)| match loose.remove(&packed.id) {
                Some(moments) => moments,
                None => zeros(&mut [elements].into_iter()).split(&[elements]).remove(0),
            });
            Moments::concatenated(all.collect())
        } else {
            zeros(&mut elements.into_iter())
        };
        Some(Self { of, group, moments })
    }

    /// Returns the pack with new moments, and the new parameters by id. Nothing else holds the moments, so they are updated in place,
    /// and so is a parameter that is a pack of its own.
    pub fn update(
        self,
        parameters: Vec<FloatTensor<B>>,
        gradients: Vec<FloatTensor<B>>,
        squares: &Tensor<B, 1>,
        step: AdamWStep,
    ) -> (Self, Vec<(u64, FloatTensor<B>)>) {
        let Self { of, group, moments } = self;
        let weight_decay = if group.decays { step.weight_decay } else { 0.0 };
        let step = AdamWStep { weight_decay, learning_rate: step.learning_rate * group.rate, ..step };
        let (parameters, gradients) = (pack::<B>(parameters), pack::<B>(gradients));
        let (parameters, moments) = moments.updated(parameters, gradients, squares, step);
        let shapes = of.iter().map(|packed| packed.shape.clone());
        let parameters = of.iter().map(|packed| packed.id).zip(unpack::<B>(&parameters, shapes)).collect();
        (Self { of, group, moments }, parameters)
    }

    /// The moments of each parameter by id.
    pub fn moments(&self) -> impl Iterator<Item = (u64, Moments<B>)> {
        let elements: Vec<usize> = self.of.iter().map(|packed| packed.shape.num_elements()).collect();
        self.of.iter().map(|packed| packed.id).zip(self.moments.split(&elements))
    }
}
