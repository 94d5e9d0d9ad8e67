//! The bindings of a product's kernel.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::packed::{OperandArgs, WordsLaunch};
use super::product::More;
use crate::packed::Planes;
use crate::runtime::KernelRuntime;

/// The bindings of a kernel. They are always the same, so another tensor replaces an absent one.
pub(super) struct Operands<R: KernelRuntime> {
    pub a: CubeTensor<R>,
    pub b: CubeTensor<R>,
    /// That of `A`, where `B` is packed.
    pub b_dtype: DType,
    pub more_a: CubeTensor<R>,
    pub more_b: CubeTensor<R>,
}

impl<R: KernelRuntime> Operands<R> {
    pub fn new(a: CubeTensor<R>, b: CubeTensor<R>, planes: Option<Planes>, more: Option<More<R>>) -> Self {
        let dense = if planes.is_some() { &a } else { &b };
        let (b_dtype, absent) = (dense.dtype, (a.clone(), dense.clone()));
        let (more_a, more_b) = more.map_or(absent, |more| (more.a, more.b));
        Self { a, b, b_dtype, more_a, more_b }
    }
}

/// `B` as a kernel binds it.
pub(super) fn operand<E: CubePrimitive, R: KernelRuntime>(b: CubeTensor<R>, planes: Option<Planes>) -> OperandArgs<E, R> {
    match planes {
        None => OperandArgs::Dense(b.into_array_arg()),
        Some(planes) => OperandArgs::Packed(WordsLaunch::new(b.into_array_arg(), planes.starts(), planes.code())),
    }
}
