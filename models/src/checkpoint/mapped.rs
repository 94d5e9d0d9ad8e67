//! Memory-mapped files.

use memmap2::Mmap;

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
