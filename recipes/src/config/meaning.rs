//! The ways in which a key of another program can be understood.

/// What a key of another program means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// One of our keys under another name.
    Same(&'static str),
    /// One of our keys, unless something else in the file sets that key.
    Yields(&'static str),
    /// The value is translated into keys of ours, by `foreign.rs`.
    Translated,
    /// It changes nothing here, for this reason.
    Harmless(&'static str),
    /// These values have no effect here; any other is refused, with this advice.
    Only(&'static [&'static str], &'static str),
    /// It would change the run but has no counterpart here, so it is refused with this advice unless it is off.
    Refused(&'static str),
}
