//! Linear layers with the same input.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::FusedBackend;

use crate::error::Result;
use crate::linear::{AdapterPass, Linear};
use crate::operand::Operand;
use crate::part::{PartLoader, Role};

/// Several projections of the same input: one linear layer each, or one layer for all of them, whose outputs are concatenated.
#[derive(Module, Debug)]
pub struct Projections<B: Backend> {
    /// One layer per output, or a single one.
    pub linears: Vec<Linear<B>>,
    #[module(skip)]
    widths: Vec<usize>,
}

impl<B: FusedBackend> Projections<B> {
    /// Loads the layer `fused` if the family declares it, otherwise the layers `separate`.
    ///
    /// # Errors
    /// If neither is declared, or a tensor can't be read.
    pub fn load(parts: &mut PartLoader<B>, separate: &[Role], fused: Role) -> Result<Self> {
        let widths = separate.iter().map(|role| role.shape(parts.config)[0]).collect();
        let roles = if parts.has(fused) { std::slice::from_ref(&fused) } else { separate };
        let linears = roles.iter().map(|role| parts.linear(*role)).collect::<Result<_>>()?;
        Ok(Self { linears, widths })
    }

    /// The weights, if there are `N` layers, without a bias, and without an adapter in this pass.
    pub(super) fn plain_weights<const N: usize>(&self, pass: AdapterPass) -> Option<[Operand<B>; N]> {
        self.linears.iter().map(|linear| linear.plain_weight(pass)).collect::<Option<Vec<_>>>()?.try_into().ok()
    }

    /// The `N` outputs for `x`, `[rows, in]`.
    ///
    /// # Panics
    /// If the number of outputs is not `N`.
    pub fn forward<const N: usize>(&self, x: Tensor<B, 2>, pass: AdapterPass) -> [Tensor<B, 2>; N] {
        assert_eq!(self.widths.len(), N, "projections: expected {} outputs, got {N}", self.widths.len());
        if let ([fused], true) = (self.linears.as_slice(), N > 1) {
            let y = fused.forward(x, pass);
            return std::array::from_fn(|output| {
                let start = self.widths[..output].iter().sum();
                y.clone().narrow(1, start, self.widths[output])
            });
        }
        match self.plain_weights::<N>(pass) {
            Some(weights) => Operand::linears(x, weights),
            None => std::array::from_fn(|output| self.linears[output].forward(x.clone(), pass)),
        }
    }
}
