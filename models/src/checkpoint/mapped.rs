//! Memory-mapped files.

use std::fs::{File, metadata};
use std::path::Path;

use memmap2::Mmap;

use crate::error::{ModelError, Result};

/// Opens a file to map it. Folders can be opened but not mapped, and opening a pipe would wait for its writer.
///
/// # Errors
/// If it is no file, or can't be opened.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let found = metadata(path).map_err(|error| ModelError::io(path, error))?;
    if !found.is_file() {
        return Err(ModelError::format(path, if found.is_dir() { "expected a file, got a folder" } else { "not a file" }));
    }
    let file = File::open(path).map_err(|error| ModelError::io(path, error))?;
    Ok((file, found.len()))
}

/// Releases the pages of a range that has been read: otherwise a model occupies memory twice, on the device and as its file.
pub(crate) fn release(map: &Mmap, start: usize, length: usize) {
    // SAFETY: the map is read-only and backed by a file, so a page that is touched again is read again.
    #[cfg(unix)]
    unsafe {
        map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, length).ok();
    }
    #[cfg(not(unix))]
    let _ = (map, start, length);
}
