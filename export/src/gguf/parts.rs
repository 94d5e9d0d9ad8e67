//! Writes a GGUF file, or the parts of one that would be too large.
//!
//! Source: `tools/gguf-split` and `src/llama-model-loader.cpp` of llama.cpp.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

use burnish_models::gguf::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, shard_path};

use super::kind::GgufOptions;
use super::writer::{ALIGNMENT, Entry, PlannedTensor, write_header};
use crate::counted_file::CountedFile;
use crate::error::{ExportError, Result};
use crate::report::ExportReport;
use crate::target;

/// What llama.cpp counts parts in, and the magic of each.
type Count = u16;
const MAGIC: &[u8] = b"GGUF";

/// Writes the file of the report, or parts of it of at most the bytes that the options say; `put` writes the bytes of a tensor, by its
/// index. The report gets the number of bytes, and the path of the first part.
///
/// # Errors
/// As [`check_file`](target::check_file), if `put` fails, or there would be too many parts. The target is then unchanged.
pub(super) fn write(
    report: &mut ExportReport,
    inputs: &[PathBuf],
    options: &GgufOptions<'_>,
    entries: &[Entry<'_>],
    tensors: &[PlannedTensor],
    mut put: impl FnMut(usize, &mut CountedFile) -> Result<()>,
) -> Result<()> {
    let parts = divide(tensors, options.shard_bytes.unwrap_or(u64::MAX));
    let mut write = |file: &mut CountedFile, entries: &[Entry<'_>], part: &Range<usize>| {
        write_header(file, entries, &tensors[part.clone()])?;
        for at in part.clone() {
            put(at, file)?;
            file.align(ALIGNMENT)?;
        }
        Ok(())
    };
    if let [whole] = &parts[..] {
        report.bytes =
            target::write_file(&report.path, options.overwrite, inputs, MAGIC, |file| write(file, entries, whole))?;
        return Ok(());
    }
    let count = Count::try_from(parts.len())
        .map_err(|_| ExportError::unsupported(format!("{} parts are more than llama.cpp reads", parts.len())))?;
    let paths: Vec<PathBuf> = (0..parts.len()).map(|part| shard_path(&report.path, part, parts.len())).collect();
    report.bytes = target::write_files(&paths, options.overwrite, inputs, MAGIC, |at, file| {
        let own = [
            (SPLIT_NO, number(2, &(at as Count).to_le_bytes())),
            (SPLIT_COUNT, number(2, &count.to_le_bytes())),
            (SPLIT_TENSORS, number(5, &(tensors.len() as i32).to_le_bytes())),
        ];
        // Only the first has the metadata of the model.
        let of_model = if at == 0 { entries } else { &[] };
        write(file, &[of_model, &own].concat(), &parts[at])
    })?;
    report.path.clone_from(&paths[0]);
    report.notes.push(format!("in {count} parts: open the first, and keep the others beside it"));
    Ok(())
}

/// A value of a number of that type of GGUF.
fn number(kind: u32, bytes: &[u8]) -> Cow<'static, [u8]> {
    [&kind.to_le_bytes(), bytes].concat().into()
}

/// The tensors of each part. A single tensor may be larger than a part should be.
fn divide(tensors: &[PlannedTensor], most: u64) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (at, tensor) in tensors.iter().enumerate() {
        let size = tensor.bytes().next_multiple_of(ALIGNMENT);
        if at > start && bytes.saturating_add(size) > most {
            parts.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes = bytes.saturating_add(size);
    }
    parts.push(start..tensors.len());
    parts
}

#[cfg(test)]
mod tests {
    use burnish_models::gguf::GgmlType;

    use super::*;

    #[test]
    fn a_part_has_at_least_one_tensor_and_at_most_its_bytes() {
        let tensor = |elements: usize| PlannedTensor { name: String::new(), shape: vec![elements], kind: GgmlType::F32 };
        let tensors = [8, 8, 100, 8, 8, 8].map(tensor);
        assert_eq!(divide(&tensors, u64::MAX), [0..6]);
        assert_eq!(divide(&tensors, 64), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(divide(&tensors, 0), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6]);
        assert_eq!(divide(&[], 0), [0..0]);
    }
}
