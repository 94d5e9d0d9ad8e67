//! Inputs of the operations, on the device.

use burn::tensor::{DType, Distribution, Int, Tensor, TensorData};
use burnish_kernels::FusedBackend;
use burnish_kernels::packed::nf4::{self, Absmax};
use burnish_kernels::packed::{Nf4, Packed, PackedTensor};

use super::sizes::Sizes;

/// Device and inputs of the operations.
pub struct Setup<B: FusedBackend> {
    /// The sizes.
    pub sizes: Sizes,
    /// Dtype of the operations.
    pub dtype: DType,
    /// The device.
    pub device: B::Device,
    /// Launches alternate between sets of inputs of this many bytes in all, so that no cache holds what they read.
    pub rotation: f64,
}

/// Most sets of inputs.
const MOST_SETS: f64 = 16.0;

impl<B: FusedBackend> Setup<B> {
    /// Bytes of an element.
    pub fn element(&self) -> usize {
        self.dtype.size()
    }

    /// Random numbers within ±1.
    pub fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<B, D> {
        self.random_of(shape, self.dtype)
    }

    /// As [`Setup::random`], in f32 whatever the operations compute in.
    pub fn random_f32<const D: usize>(&self, shape: [usize; D]) -> Tensor<B, D> {
        self.random_of(shape, DType::F32)
    }

    fn random_of<const D: usize>(&self, shape: [usize; D], dtype: DType) -> Tensor<B, D> {
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), (&self.device, dtype))
    }

    /// Whole numbers below a bound, the same in every run.
    pub fn integers(&self, count: usize, below: usize) -> Tensor<B, 1, Int> {
        let mut random = Splitmix(7);
        let values: Vec<i32> = (0..count).map(|_| random.below(below) as i32).collect();
        Tensor::from_data(TensorData::new(values, [count]), &self.device)
    }

    /// A weight of NF4 with random codes.
    pub fn nf4(&self, dims: [usize; 2]) -> PackedTensor<B> {
        let (mut random, elements) = (Splitmix(7), dims[0] * dims[1]);
        let codes = (0..elements.div_ceil(16)).flat_map(|_| random.draw().to_le_bytes()).take(elements.div_ceil(2));
        let absmax = Absmax::Single(vec![1.0; elements.div_ceil(nf4::BLOCK)]);
        let packed = Nf4::new("weight", dims, nf4::BLOCK, codes.collect(), absmax).map(Packed::Nf4);
        packed.and_then(|packed| PackedTensor::new("weight", &packed, &self.device)).expect("rows are whole blocks")
    }

    /// Sets of inputs to alternate between, of `elements` elements of the operation's dtype each.
    pub fn sets<T>(&self, elements: usize, make: impl Fn() -> T) -> Vec<T> {
        let bytes = (elements * self.element()) as f64;
        let count = (self.rotation / bytes.max(1.0)).ceil().clamp(1.0, MOST_SETS);
        (0..count as usize).map(|_| make()).collect()
    }
}

/// A launch that alternates between sets of inputs.
pub fn in_turns<T: 'static>(sets: Vec<T>, run: impl Fn(&T) + 'static) -> Box<dyn FnMut()> {
    let mut turn = 0;
    Box::new(move || {
        run(&sets[turn % sets.len()]);
        turn += 1;
    })
}

/// Steele et al. 2014, "Fast splittable pseudorandom number generators".
#[derive(Debug, Clone)]
pub struct Splitmix(pub u64);

impl Splitmix {
    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn launches_take_turns() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let kept = seen.clone();
        let mut launch = in_turns(vec!['a', 'b', 'c'], move |set| kept.borrow_mut().push(*set));
        (0..4).for_each(|_| launch());
        assert_eq!(*seen.borrow(), ['a', 'b', 'c', 'a']);
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut random = Splitmix(7);
        let drawn: Vec<usize> = (0..100).map(|_| random.below(10)).collect();
        assert!(drawn.iter().all(|number| *number < 10) && drawn.contains(&0) && drawn.contains(&9));
    }
}
