//! Writes importance matrices, as `llama-imatrix` does.
//!
//! Source: `IMatrixCollector::save_imatrix` in `tools/imatrix/imatrix.cpp` of llama.cpp.

use std::collections::BTreeMap;
use std::path::Path;

use burnish_models::gguf::{GgmlType, Metadata, Value, keys};
use burnish_models::part::gguf_tensors;
use burnish_models::{FloatType, Pretrained};

use super::importance::{CHUNKS, COUNTS, DATASETS, SUMS};
use super::order;
use super::writer::{ALIGNMENT, PlannedTensor, entries, write_header};
use crate::error::{ExportError, Result};
use crate::report::ExportReport;
use crate::target;

/// The inputs of linear layers, as measured on texts.
#[derive(Debug, Clone, Default)]
pub struct MeasuredInputs {
    squares: BTreeMap<String, Vec<f64>>,
    tokens: usize,
    chunks: usize,
}

impl MeasuredInputs {
    /// Adds a pass over that many tokens: with the name of each layer, the sum of the squares of each column of its inputs.
    ///
    /// # Panics
    /// If a layer has another number of columns than before.
    pub fn add(&mut self, tokens: usize, layers: Vec<(String, Vec<f32>)>) {
        self.tokens += tokens;
        self.chunks += 1;
        for (name, sums) in layers {
            let squares = self.squares.entry(name).or_insert_with(|| vec![0.0; sums.len()]);
            assert_eq!(squares.len(), sums.len(), "expected as many columns as before");
            squares.iter_mut().zip(sums).for_each(|(square, sum)| *square += f64::from(sum));
        }
    }

    /// The tokens of all passes.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Writes the importance matrix of `model`: with the name that each layer has in GGUF files, the sums and the number of tokens.
    /// `dataset` says where the texts are from, and `chunk` how many tokens a pass had at most.
    ///
    /// # Errors
    /// [`ExportError::Exists`] or [`ExportError::Occupied`] if the target must not be replaced; [`ExportError::Unsupported`] if a layer
    /// has squares that are not finite, or none has any.
    pub fn write(
        &self,
        model: &Pretrained,
        dataset: &str,
        chunk: usize,
        target: &Path,
        overwrite: bool,
    ) -> Result<ExportReport> {
        let mut layers = Vec::new();
        let mut declared = gguf_tensors(&model.config);
        declared.sort_by_key(|tensor| order(&tensor.source));
        for tensor in declared {
            let layer = tensor.source.name.strip_suffix(".weight");
            let Some(squares) = layer.and_then(|layer| self.squares.get(layer)) else { continue };
            if let Some(at) = squares.iter().position(|square| !square.is_finite()) {
                let reason = format!(
                    "the inputs of `{}` are not finite in column {at}: the model overflows on this data in this type (--dtype)",
                    tensor.source.name
                );
                return Err(ExportError::unsupported(reason));
            }
            layers.push((tensor.name, squares));
        }
        if layers.is_empty() {
            return Err(ExportError::unsupported("no layer of the model was measured"));
        }
        let planned = |name: String, columns: usize| PlannedTensor { name, shape: vec![1, columns], kind: GgmlType::F32 };
        let tensors: Vec<PlannedTensor> = layers
            .iter()
            .flat_map(|(name, squares)| {
                [planned(format!("{name}{SUMS}"), squares.len()), planned(format!("{name}{COUNTS}"), 1)]
            })
            .collect();
        let mut metadata = Metadata::default();
        metadata.insert(keys::TYPE, keys::IMPORTANCE_MATRIX);
        metadata.insert(DATASETS, Value::from_iter([dataset]));
        metadata.insert(CHUNKS, self.chunks);
        metadata.insert("imatrix.chunk_size", chunk);
        let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
        report.count(tensors.iter().map(|tensor| tensor.kind.name()));
        let inputs = target::inputs_of(model, &*model.checkpoint);
        report.bytes = target::write_file(target, overwrite, &inputs, b"GGUF", |file| {
            write_header(file, &entries(&metadata)?, &tensors)?;
            for (name, squares) in &layers {
                let sums: Vec<f32> = squares.iter().map(|square| *square as f32).collect();
                for values in [&sums[..], &[self.tokens as f32]] {
                    file.put(&FloatType::F32.encode(name, values)?)?;
                    file.align(ALIGNMENT)?;
                }
            }
            Ok(())
        })?;
        Ok(report)
    }
}
