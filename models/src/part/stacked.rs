//! The parameters that hold a matrix of every expert of a layer.

use super::{LAYERS, Part};
use crate::config::{ModelConfig, Stacking};

/// A parameter of transformers that holds a matrix of every expert of a layer, or two of each. PEFT attaches an adapter to all of it,
/// whose factors are those of each expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackedParameter {
    /// The module that has it, such as `model.layers.0.mlp.experts`.
    pub module: String,
    /// Its name in the module, such as `gate_up_proj`.
    pub parameter: &'static str,
    /// The block that it belongs to.
    pub layer: usize,
    /// What it holds of each expert: matrices of the same shape.
    pub parts: Vec<&'static Part>,
    /// The number of experts.
    pub experts: usize,
    /// How many of them a token uses.
    pub per_token: usize,
    /// Features after all matrices of an expert.
    pub outputs: usize,
    /// Features before them.
    pub inputs: usize,
    /// How it has the matrices of an expert.
    pub stacking: Stacking,
}

impl StackedParameter {
    /// Its whole name, such as `model.layers.0.mlp.experts.gate_up_proj`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.module, self.parameter)
    }

    /// The checkpoint name, without `.weight`, of the matrix of one expert.
    pub fn matrix_name(&self, part: &Part, expert: usize) -> String {
        part.expert_name(Some(self.layer), expert)
    }

    /// The checkpoint names, without `.weight`, of all its matrices: those of each expert after those of the one before it.
    pub fn matrix_names(&self) -> impl Iterator<Item = String> {
        (0..self.experts).flat_map(move |expert| self.parts.iter().map(move |part| self.matrix_name(part, expert)))
    }

    /// The shape of each of its matrices, `[out, in]`.
    pub fn matrix_dims(&self) -> [usize; 2] {
        [self.outputs / self.parts.len(), self.inputs]
    }

    /// Where the parameter has a row of a matrix, among all rows of the expert.
    pub fn row_of(&self, part: usize, row: usize) -> usize {
        match self.stacking {
            Stacking::Rows => part * self.matrix_dims()[0] + row,
            Stacking::Columns => row * self.parts.len() + part,
        }
    }
}

/// The parameters of a model that hold its experts, in the order of the layers, and in a layer that of its parts.
pub fn stacked_parameters(config: &ModelConfig) -> Vec<StackedParameter> {
    (0..config.num_hidden_layers).flat_map(|layer| of_layer(config, layer)).collect()
}

/// Those of one layer.
pub(crate) fn of_layer(config: &ModelConfig, layer: usize) -> Vec<StackedParameter> {
    let mut found: Vec<StackedParameter> = Vec::new();
    let Some(experts) = config.experts_of(layer) else { return found };
    for part in config.family.parts.iter().filter(|part| part.role.is_expert()) {
        let Some(parameter) = part.parameter else { continue };
        let shape = part.role.shape(config);
        if let Some(same) = found.iter_mut().find(|same| same.parameter == parameter) {
            same.parts.push(part);
            same.outputs += shape[0];
            continue;
        }
        let name = part.checkpoint_name(Some(layer));
        let module = name.split(".{}").next().unwrap_or_default().to_owned();
        found.push(StackedParameter {
            module,
            parameter,
            layer,
            parts: vec![part],
            experts: experts.count,
            per_token: experts.per_token,
            outputs: shape[0],
            inputs: shape[1],
            stacking: experts.stacking,
        });
    }
    found
}

impl Part {
    /// The name of its linear layer in mlx-lm, in a block.
    pub fn mlx_name(&self) -> String {
        self.mlx.map_or_else(|| self.name.replacen(".{}", "", 1), str::to_owned)
    }

    /// The whole name of its linear layer in mlx-lm.
    pub fn mlx_name_in(&self, layer: usize) -> String {
        format!("{LAYERS}{layer}.{}", self.mlx_name())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(case: &str) -> Vec<StackedParameter> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity").join(case);
        let json = crate::json_file::read(&folder.join("config.json")).unwrap();
        stacked_parameters(&ModelConfig::from_json(&json).unwrap())
    }

    #[test]
    fn parameters_hold_the_matrices_of_all_experts_in_the_order_of_the_family() {
        let found = of("qwen3moe");
        let names: Vec<String> = found.iter().map(StackedParameter::name).collect();
        assert_eq!(names[..2], ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"]);
        assert_eq!((found.len(), found[0].outputs, found[0].inputs, found[0].experts), (4, 32, 32, 8));
        let matrices: Vec<String> = found[2].matrix_names().collect();
        assert_eq!(matrices.len(), 16);
        assert_eq!(matrices[3], "model.layers.1.mlp.experts.1.up_proj");
        assert_eq!((found[0].row_of(1, 3), of("gpt-oss")[0].row_of(1, 3)), (16 + 3, 2 * 3 + 1));
        // Only every other layer has experts.
        assert!(of("qwen3moe-mixed").iter().all(|found| found.layer % 2 == 1));
        assert!(of("llama").is_empty());
    }
}
