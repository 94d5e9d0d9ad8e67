//! The adapters of experts: factors of all experts of a layer in two tensors.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{FusedBackend, GroupRows, scale, stacked_linear};

use crate::config::Stacking;
use crate::linear::AdapterPass;
use crate::part::StackedParameter;

/// A parameter that holds a matrix of every expert of a layer, with its adapter if it has one. The matrices themselves are apart.
#[derive(Module, Debug)]
pub struct ExpertStack<B: Backend> {
    /// The adapter.
    pub adapter: Option<StackedLowRank<B>>,
    #[module(skip)]
    parameter: StackedParameter,
}

/// A low-rank adapter of all experts of a layer: the update `scale · B_e A_e x` of the expert `e`.
///
/// # Source
/// `ParamWrapper` of PEFT 0.21, which has the factors in these shapes, and rows of `B` in the order of transformers' parameter.
#[derive(Module, Debug)]
pub struct StackedLowRank<B: Backend> {
    /// `[experts · rank, in]`, the rows of each expert below those of the one before it, in f32 whatever the type of the experts.
    pub lora_a: Param<Tensor<B, 2>>,
    /// `[out, rank · experts]`: column `r · experts + e` is column `r` of the expert `e`. In f32 too.
    pub lora_b: Param<Tensor<B, 2>>,
    /// The factor on the update.
    pub scale: f64,
    /// The adapter of the reference model; without one, the reference model is the base as it was.
    pub reference: Option<[Tensor<B, 2>; 2]>,
}

impl<B: Backend> ExpertStack<B> {
    /// Without an adapter.
    pub fn new(parameter: StackedParameter) -> Self {
        Self { adapter: None, parameter }
    }

    /// What it holds.
    pub fn parameter(&self) -> &StackedParameter {
        &self.parameter
    }
}

impl<B: FusedBackend> ExpertStack<B> {
    /// The update of groups of rows, `[rows, in]` in the order of their experts; `[rows, out]`, with the columns of each part beside
    /// those of the one before it. `None` if the pass uses no adapter.
    pub(crate) fn update(&self, x: &Tensor<B, 2>, rows: &GroupRows, pass: AdapterPass) -> Option<Tensor<B, 2>> {
        let adapter = self.adapter.as_ref()?;
        let [lora_a, lora_b] = adapter.factors(pass)?.map(|factor| factor.cast(x.dtype()));
        let hidden = scale(stacked_linear(x.clone(), lora_a, rows.clone()), adapter.scale);
        Some(stacked_linear(hidden, self.by_expert(lora_b), rows.clone()))
    }

    /// `B` as `[experts · out, rank]`, with the rows of each part below those of the one before it.
    fn by_expert(&self, lora_b: Tensor<B, 2>) -> Tensor<B, 2> {
        let StackedParameter { parts, experts, outputs, stacking, .. } = &self.parameter;
        let (parts, each) = (parts.len(), outputs / parts.len());
        let rank = lora_b.dims()[1] / experts;
        let sorted = match stacking {
            Stacking::Rows => lora_b.reshape([parts, each, rank, *experts]).permute([3, 0, 1, 2]),
            Stacking::Columns => lora_b.reshape([each, parts, rank, *experts]).permute([3, 1, 0, 2]),
        };
        sorted.reshape([experts * outputs, rank])
    }
}

impl<B: Backend> StackedLowRank<B> {
    /// The factors that a pass uses. There is no dropout: PEFT has none for such adapters.
    fn factors(&self, pass: AdapterPass) -> Option<[Tensor<B, 2>; 2]> {
        match pass {
            AdapterPass::Current | AdapterPass::Dropout(_) => Some([self.lora_a.val(), self.lora_b.val()]),
            AdapterPass::Reference => self.reference.clone(),
        }
    }

    /// Makes the current adapter that of the reference model too.
    pub fn keep_reference(&mut self) {
        self.reference = Some([self.lora_a.val().detach(), self.lora_b.val().detach()]);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::backend::Flex;
    use burn::tensor::Distribution;

    use super::*;
    use crate::config::ModelConfig;
    use crate::part::stacked_parameters;
    use crate::weight::parameter_id;

    /// Against loops over the elements, as PEFT's `einsum` says.
    #[test]
    fn each_row_gets_the_update_of_its_expert_in_the_order_of_the_parts() {
        for case in ["qwen3moe", "gpt-oss"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity").join(case);
            let json = crate::json_file::read(&folder.join("config.json")).unwrap();
            let parameter = stacked_parameters(&ModelConfig::from_json(&json).unwrap()).remove(0);
            let StackedParameter { experts, outputs, inputs, .. } = parameter;
            let (rank, device) = (3, Default::default());
            let random = |shape| Tensor::<Flex, 2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
            let [a, b] = [random([experts * rank, inputs]), random([outputs, rank * experts])];
            let values = |tensor: &Tensor<Flex, 2>| tensor.to_data().to_vec::<f32>().unwrap();
            let param = |name: &str, tensor: &Tensor<Flex, 2>| Param::initialized(parameter_id(name), tensor.clone());
            let adapter = StackedLowRank { lora_a: param("a", &a), lora_b: param("b", &b), scale: 0.5, reference: None };
            let stack = ExpertStack { adapter: Some(adapter), ..ExpertStack::new(parameter.clone()) };
            let mut rows = vec![0; experts];
            (rows[1], rows[3]) = (2, 1);
            let x = random([3, inputs]);
            let found = values(&stack.update(&x, &rows.into(), AdapterPass::Current).unwrap());
            assert!(stack.update(&x, &vec![1; experts].into(), AdapterPass::Reference).is_none());
            let (x, a, b) = (values(&x), values(&a), values(&b));
            let mut expected = Vec::new();
            for (row, expert) in [(0, 1), (1, 1), (2, 3)] {
                for (part, output) in
                    (0..parameter.parts.len()).flat_map(|part| (0..parameter.matrix_dims()[0]).map(move |row| (part, row)))
                {
                    let output = parameter.row_of(part, output);
                    let of_rank = |r: usize| -> f32 {
                        let factors = a[(expert * rank + r) * inputs..].iter();
                        let hidden: f32 = x[row * inputs..(row + 1) * inputs].iter().zip(factors).map(|(x, a)| x * a).sum();
                        hidden * b[output * rank * experts + r * experts + expert]
                    };
                    expected.push(0.5 * (0..rank).map(of_rank).sum::<f32>());
                }
            }
            burnish_kernels::tolerance::Tolerance::of(burn::tensor::DType::F32).check(case, &found, &expected).unwrap();
        }
    }
}
