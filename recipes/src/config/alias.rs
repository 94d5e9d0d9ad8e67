//! What the keys of other programs mean here.

use std::sync::LazyLock;

use super::peers::PEERS;

/// What becomes of another program's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It is a key of ours under another name.
    Same(&'static str),
    /// It is a key of ours where nothing else in the file sets that key.
    Yields(&'static str),
    /// Its value is turned into keys of ours: `foreign.rs` says how.
    Translated,
    /// It changes nothing here, and this is why.
    Harmless(&'static str),
    /// These values ask for what is done anyway; any other is refused, and this is what to do.
    Only(&'static [&'static str], &'static str),
    /// It would change the run and has no counterpart, and this is what to do; off, it is accepted.
    Refused(&'static str),
}

/// Keys of mlx-lm, Unsloth, TRL, transformers, axolotl and LLaMA-Factory, in snake case; as a flag in kebab case too.
pub static FOREIGN: LazyLock<Vec<(&'static str, Meaning)>> =
    LazyLock::new(|| PEERS.iter().flat_map(|peer| peer.keys).copied().collect());

/// What a key of another program means, when it is one.
pub(super) fn meaning(name: &str) -> Option<Meaning> {
    FOREIGN.iter().find(|(foreign, _)| *foreign == name).map(|(_, meaning)| *meaning)
}

/// Other programs' names for a key of ours.
pub(super) fn other_names(key: &'static str) -> impl Iterator<Item = &'static str> {
    FOREIGN
        .iter()
        .filter(move |(_, meaning)| [Meaning::Same(key), Meaning::Yields(key)].contains(meaning))
        .map(|(name, _)| *name)
}
