//! Importance matrices: the mean square of the inputs of each matrix, as `llama-imatrix` measures them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burnish_models::gguf::{GgmlType, GgufFile};
use burnish_models::{Checkpoint, ModelError};

use crate::error::{ExportError, Result};

/// How much each column of each matrix matters.
#[derive(Debug, Clone)]
pub struct ImportanceMatrix {
    path: PathBuf,
    /// The importance of columns, by the tensor's name in GGUF files.
    columns: BTreeMap<String, Vec<f32>>,
    datasets: Vec<String>,
    chunks: usize,
}

/// What the names of a matrix's tensors end with: its sums of squares, and how many inputs there were.
pub(super) const SUMS: &str = ".in_sum2";
pub(super) const COUNTS: &str = ".counts";
/// The keys with the texts, and with the number of passes over parts of them.
pub(super) const DATASETS: &str = "imatrix.datasets";
pub(super) const CHUNKS: &str = "imatrix.chunk_count";

impl ImportanceMatrix {
    /// Reads a file of `llama-imatrix` in the format of GGUF.
    ///
    /// # Errors
    /// If the file can't be read, and an [`ExportError::Unsupported`] that names it if it is not an importance matrix.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| ExportError::unsupported(format!("{}: {reason}", path.display()));
        if path.is_dir() {
            return Err(wrong("expected a GGUF file of llama-imatrix, got a folder".to_owned()));
        }
        let file = GgufFile::open(path).map_err(|error| match error {
            ModelError::Format { reason, .. } if reason.starts_with("not a GGUF file") => wrong(format!(
                "{reason}; llama-imatrix --in-file OLD.dat -o NEW.gguf converts importance matrices in the old format"
            )),
            other => other.into(),
        })?;
        let names = file.names();
        let floats: BTreeSet<&str> =
            file.tensors().filter(|info| info.kind == GgmlType::F32).map(|info| info.name.as_str()).collect();
        let mut columns = BTreeMap::new();
        for name in names.iter().filter_map(|name| name.strip_suffix(SUMS)) {
            let read = |suffix: &str| {
                let tensor = format!("{name}{suffix}");
                if !floats.contains(tensor.as_str()) {
                    return Err(wrong(format!("expected the tensor `{tensor}` in F32")));
                }
                Ok(file.read_f32(&tensor)?)
            };
            let (sums, counts) = (read(SUMS)?, read(COUNTS)?);
            let [count] = counts[..] else {
                return Err(wrong(format!(
                    "`{name}{COUNTS}`: expected one number, got {}; experts are not supported",
                    counts.len()
                )));
            };
            let count = count.round();
            // As llama.cpp: inputs that were never seen count alike.
            let mean = |sum: &f32| if count > 0.0 { sum / count } else { 1.0 };
            let means: Vec<f32> = sums.iter().map(mean).collect();
            if let Some(at) = means.iter().position(|mean| !mean.is_finite() || *mean < 0.0) {
                return Err(wrong(format!("`{name}{SUMS}` has {} at column {at}: expected a sum of squares", sums[at])));
            }
            columns.insert(name.to_owned(), means);
        }
        if columns.is_empty() {
            return Err(wrong(format!("is not an importance matrix: no tensor ends with `{SUMS}`")));
        }
        let datasets = file.metadata().texts(DATASETS).unwrap_or_default();
        Ok(Self {
            path: path.to_owned(),
            columns,
            datasets: datasets.into_iter().map(str::to_owned).collect(),
            chunks: file.metadata().number(CHUNKS).unwrap_or(0),
        })
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of matrices that it has the importance of.
    pub fn matrices(&self) -> usize {
        self.columns.len()
    }

    /// The importance of the columns of a tensor; `None` if it has none.
    ///
    /// # Errors
    /// [`ExportError::Unsupported`] if it has the importance of another number of columns: it is that of another model.
    pub(super) fn of(&self, tensor: &str, columns: usize) -> Result<Option<&[f32]>> {
        match self.columns.get(tensor) {
            // llama.cpp measures no inputs of an embedding, and old files have those of an output layer under its name.
            Some(found) if found.len() != columns && tensor == "token_embd.weight" => Ok(None),
            Some(found) if found.len() != columns => Err(ExportError::unsupported(format!(
                "{}: `{tensor}` has the importance of {} columns, expected {columns}: it belongs to another model",
                self.path.display(),
                found.len()
            ))),
            found => Ok(found.map(Vec::as_slice)),
        }
    }

    /// Whether it has the importance of a tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.columns.contains_key(tensor)
    }

    /// The keys that llama-quantize adds to the metadata.
    pub(super) fn keys(&self) -> Vec<(&'static str, burnish_models::gguf::Value)> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut keys = vec![("quantize.imatrix.file", name.into())];
        if let Some(dataset) = self.datasets.first() {
            keys.push(("quantize.imatrix.dataset", dataset.clone().into()));
        }
        keys.push(("quantize.imatrix.entries_count", self.columns.len().into()));
        keys.push(("quantize.imatrix.chunks_count", self.chunks.into()));
        keys
    }
}
