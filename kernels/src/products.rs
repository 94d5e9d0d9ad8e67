//! Products that a device can compute in more than one way, to be tried there.

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
