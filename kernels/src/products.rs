//! Products that a device can compute in more than one way, to be tried there.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Known products in progress.
static TRIED: AtomicUsize = AtomicUsize::new(0);

/// Whether a known product is being tried, on any thread: a panic then says only that the device can't compute it, and a panic hook should
/// not print it.
pub fn is_tried() -> bool {
    TRIED.load(Ordering::SeqCst) > 0
}

/// Runs known products whose panics are caught.
#[cfg(feature = "cube")]
pub(crate) fn tried<T>(work: impl FnOnce() -> T) -> T {
    struct Tried;
    impl Drop for Tried {
        fn drop(&mut self) {
            TRIED.fetch_sub(1, Ordering::SeqCst);
        }
    }
    TRIED.fetch_add(1, Ordering::SeqCst);
    let _tried = Tried;
    work()
}

/// The candidate that stands for the plan of this crate, and is the first of every class.
pub const DEFAULT_CANDIDATE: &str = "default";

/// A class of products that was computed on a device, ready to be computed again by each candidate: a kernel with its tiles, or a library.
///
/// Products of one class have the same operands' forms and dtypes, and the same extents, except that of tokens, which is rounded up to a
/// power of two.
pub trait ProductTrial: Send {
    /// The class: form, extents (tokens in brackets), columns of a second pair of operands, dtypes, and how `B` is stored.
    fn class(&self) -> &str;

    /// The rows, columns and terms of the largest product of the class that was computed.
    fn extents(&self) -> [usize; 3];

    /// How often the class was computed.
    fn runs(&self) -> usize;

    /// The candidates of this device, the default first.
    fn candidates(&self) -> &[String];

    /// Computes a known product by a candidate, also with fewer tokens, and compares every element.
    ///
    /// # Errors
    /// What is wrong, or why the device failed.
    ///
    /// # Panics
    /// When there is no candidate of that number.
    fn check(&mut self, candidate: usize) -> Result<(), String>;

    /// The seconds of one product by a candidate, the mean of so many that are queued together.
    ///
    /// # Errors
    /// Why the device failed.
    ///
    /// # Panics
    /// When there is no candidate of that number.
    fn seconds(&mut self, candidate: usize, launches: usize) -> Result<f64, String>;
}
