//! What becomes of examples that are too long.

use serde::{Deserialize, Serialize};

/// What becomes of an example with more tokens than `max_seq_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthPolicy {
    /// It is truncated.
    #[default]
    Truncate,
    /// It becomes several examples, each of which begins where the one before ends.
    Split,
    /// It is left out.
    Drop,
}

impl LengthPolicy {
    /// Their names in a configuration.
    pub const NAMES: [&str; 3] = ["truncate", "split", "drop"];

    /// How many tokens of a text are needed.
    pub(super) fn needed(self, max_seq_length: usize) -> usize {
        match self {
            Self::Truncate => max_seq_length,
            // One more tells that the text is too long.
            Self::Drop => max_seq_length.saturating_add(1),
            Self::Split => usize::MAX,
        }
    }
}
