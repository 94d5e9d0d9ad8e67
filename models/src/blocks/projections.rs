//! Linear layers that read the same input.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::FusedBackend;

use crate::error::Result;
use crate::linear::{AdapterPass, Linear};
use crate::part::{PartLoader, Role};

/// One layer for each of several outputs, or one for all of them, whose rows stand side by side.
#[derive(Module, Debug)]
pub struct Projections<B: Backend> {
    /// As many as outputs, or one.
    pub linears: Vec<Linear<B>>,
    #[module(skip)]
    widths: Vec<usize>,
}

impl<B: FusedBackend> Projections<B> {
    /// Loads the layers: `fused` where the family declares it, else `separate` ones.
    ///
    /// # Errors
    /// When neither is declared, or one can't be read.
    pub fn load(parts: &mut PartLoader<B>, separate: &[Role], fused: Role) -> Result<Self> {
        let widths = separate.iter().map(|role| role.shape(parts.config)[0]).collect();
        let roles = if parts.has(fused) { std::slice::from_ref(&fused) } else { separate };
        let linears = roles.iter().map(|role| parts.linear(*role)).collect::<Result<_>>()?;
        Ok(Self { linears, widths })
    }

    /// The outputs for `[rows, in]`.
    ///
    /// # Panics
    /// When there are not `N` of them.
    pub fn forward<const N: usize>(&self, x: Tensor<B, 2>, pass: AdapterPass) -> [Tensor<B, 2>; N] {
        assert_eq!(self.widths.len(), N, "projections: {} outputs, asked for {N}", self.widths.len());
        if let ([fused], true) = (self.linears.as_slice(), N > 1) {
            let y = fused.forward(x, pass);
            return std::array::from_fn(|output| {
                let start = self.widths[..output].iter().sum();
                y.clone().narrow(1, start, self.widths[output])
            });
        }
        std::array::from_fn(|output| self.linears[output].forward(x.clone(), pass))
    }
}
