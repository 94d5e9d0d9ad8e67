//! What can be wrong with a matrix that is to be packed, or that claims to be.

/// Errors of packed matrices; each names the tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PackError {
    /// A group or block does not divide a row.
    #[error("`{tensor}` has rows of {columns}, which groups of {group} do not divide")]
    Group {
        /// The tensor.
        tensor: String,
        /// Elements of a row.
        columns: usize,
        /// Elements of a group or block.
        group: usize,
    },
    /// A part has more or fewer elements than the shape asks for.
    #[error("`{tensor}`: expected {expected} elements of {part}, got {found}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Which of its parts.
        part: &'static str,
        /// What the shape asks for.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// An infinity or NaN.
    #[error("`{tensor}` has {value} at element {index}: only finite weights can be quantised")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Position in row-major order.
        index: usize,
        /// The element.
        value: f32,
    },
    /// The importance of a column, which is not a mean square: negative or not finite.
    #[error("`{tensor}` has the importance {value} at column {index}: expected a finite number, 0 or more")]
    Importance {
        /// The tensor.
        tensor: String,
        /// The column.
        index: usize,
        /// Its importance.
        value: f32,
    },
    /// A scale that the format's dtype does not hold.
    #[error("`{tensor}` has weights too large for {format}, whose scales are f16")]
    Range {
        /// The tensor.
        tensor: String,
        /// The format.
        format: &'static str,
    },
    /// Bits, group or block size that the format does not have.
    #[error("`{tensor}`: {what} {value} is none of {known}")]
    Setting {
        /// The tensor.
        tensor: String,
        /// Which setting.
        what: &'static str,
        /// What was asked for.
        value: usize,
        /// What the format has.
        known: &'static str,
    },
    /// A scale or offset in a file that is not finite.
    #[error("`{tensor}`: {value} in {part} is not finite")]
    Scale {
        /// The tensor.
        tensor: String,
        /// Which of its parts.
        part: &'static str,
        /// The value.
        value: f32,
    },
    /// A format that devices do not hold as it is.
    #[error("`{tensor}` is {format}, which no kernel reads: quantise it another way, or load it dense")]
    Planes {
        /// The tensor.
        tensor: String,
        /// The format.
        format: &'static str,
    },
    /// A format that is read, not written.
    #[error("`{tensor}`: {format} can be read but not written")]
    Unwritable {
        /// The tensor.
        tensor: String,
        /// The format.
        format: &'static str,
    },
}
