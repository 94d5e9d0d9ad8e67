//! The adapters of parameters that hold the experts of a layer.

use std::collections::BTreeSet;
use std::path::Path;

use burn::module::Param;
use burnish_kernels::FusedBackend;
use burnish_models::StackedLowRank;
use burnish_models::part::StackedParameter;
use burnish_models::weight::parameter_id;

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use crate::file::AdapterFile;
use crate::layer::Factors;
use crate::peft::AdapterTensors;

/// The adapter of a parameter. The ids of its tensors depend on the name alone.
pub(crate) fn stacked_low_rank<B: FusedBackend>(
    name: &str,
    factors: Factors,
    scale: f64,
    device: &B::Device,
) -> StackedLowRank<B> {
    let [lora_a, lora_b] = factors.tensors(device);
    let param = |part: &str, tensor: burn::tensor::Tensor<B, 2>| {
        Param::initialized(parameter_id(&format!("{name}.{part}.weight")), tensor.require_grad())
    };
    StackedLowRank { lora_a: param("lora_A", lora_a), lora_b: param("lora_B", lora_b), scale, reference: None }
}

/// The factors of a parameter in an adapter file, in PEFT's shapes, and their scale; `None` if the file has none.
///
/// A file may also have a linear adapter of each expert, as PEFT wrote before transformers 5, or one of all experts for each matrix, as
/// mlx-lm and llama.cpp have. Then the parts of an expert that do not share their `A` get factors beside each other, so that the rank is
/// the sum of theirs.
///
/// # Errors
/// If the file has only some of the experts' factors, or they have several ranks.
///
/// # Source
/// `PeftConcatenate` in `peft/utils/transformers_weight_conversion.py` of PEFT 0.21.
pub(crate) fn stored_factors(
    parameter: &StackedParameter,
    found: &AdapterTensors<'_>,
    file: &AdapterFile,
    stored: &LoraConfig,
    path: &Path,
) -> Result<Option<(Factors, f64)>> {
    let name = parameter.name();
    if let Some([a, b]) = file.parameter(&name) {
        let shape = |tensor: &str| <[usize; 2]>::try_from(file.stored_shape(tensor)).unwrap_or_default();
        let shapes = [shape(&a), shape(&b)];
        let values = [file.read_stored(&a)?, file.read_stored(&b)?];
        let values = values.map(|values| values.to_vec());
        return Ok(Some((Factors { values, shapes }, stored.scale_of(&name))));
    }
    let matrices: Vec<String> = parameter.matrix_names().collect();
    let missing: Vec<&String> = matrices.iter().filter(|name| !found.layers.contains_key(*name)).collect();
    if missing.len() == matrices.len() {
        return Ok(None);
    }
    let mismatch = |problem: String| LoraError::Mismatch { path: path.to_owned(), problems: vec![problem] };
    if let Some(first) = missing.first() {
        return Err(mismatch(format!("{first}: no factors, but other parts of {name} have some")));
    }
    let mut layers = Vec::with_capacity(matrices.len());
    for matrix in &matrices {
        let tensors = &found.layers[matrix];
        layers.push((tensors.factors(matrix, file, stored)?, tensors.scale(matrix, stored)));
    }
    let ranks: BTreeSet<usize> = layers.iter().map(|(factors, _)| factors.shapes[0][0]).collect();
    if ranks.len() > 1 {
        return Err(mismatch(format!("{name}: expected one rank for all experts, got {ranks:?}")));
    }
    Ok(Some(joined(parameter, &layers)))
}

/// The factors of all experts, from those of each matrix in the order of [`StackedParameter::matrix_names`]. All have the same rank.
fn joined(parameter: &StackedParameter, layers: &[(Factors, f64)]) -> (Factors, f64) {
    let parts = parameter.parts.len();
    let (rank, scale) = (layers[0].0.shapes[0][0], layers[0].1);
    let by_expert = || layers.chunks_exact(parts);
    let shares_a = by_expert().all(|layers| layers.iter().all(|layer| layer.0.values[0] == layers[0].0.values[0]));
    let groups = if shares_a { 1 } else { parts };
    let all = groups * rank;
    let of_a = by_expert().flat_map(|layers| layers[..groups].iter().flat_map(|layer| &layer.0.values[0]));
    let lora_a: Vec<f32> = of_a.copied().collect();
    let StackedParameter { experts, outputs, inputs, .. } = *parameter;
    let mut lora_b = vec![0.0; outputs * all * experts];
    for (expert, layers) in by_expert().enumerate() {
        for (part, (factors, own)) in layers.iter().enumerate() {
            let first = if shares_a { 0 } else { part * rank };
            // Only one scale is kept.
            let factor = if (own - scale).abs() > 0.0 { own / scale } else { 1.0 };
            for (row, values) in factors.values[1].chunks_exact(rank).enumerate() {
                let row = parameter.row_of(part, row) * all * experts;
                for (column, value) in values.iter().enumerate() {
                    lora_b[row + (first + column) * experts + expert] = (f64::from(*value) * factor) as f32;
                }
            }
        }
    }
    let shapes = [[experts * all, inputs], [outputs, all * experts]];
    (Factors { values: [lora_a, lora_b], shapes }, scale)
}
