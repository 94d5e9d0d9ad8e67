//! Linear layers with the same input.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{FusedBackend, linears};

use crate::error::Result;
use crate::linear::{AdapterPass, Linear};
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

    /// The weights of all layers, if each is of floats and has no adapter in this pass.
    fn plain_weights(&self, pass: AdapterPass) -> Option<Vec<Tensor<B, 2>>> {
        self.linears.iter().map(|linear| linear.plain_weight(pass)).collect()
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
        if let (true, Some(weights)) = (N > 1, self.plain_weights(pass)) {
            let products = linears(x, weights).into_iter().zip(&self.linears).map(|(y, linear)| linear.biased(y));
            let products: [_; N] =
                products.collect::<Vec<_>>().try_into().unwrap_or_else(|_| unreachable!("one for each layer"));
            return products;
        }
        std::array::from_fn(|output| self.linears[output].forward(x.clone(), pass))
    }
}
