//! The keys of other programs, and what they mean here.

use std::sync::LazyLock;

use super::meaning::Meaning;
use super::peers::{Peer, axolotl, llama_factory, mlx_lm, transformers, trl, unsloth};

/// The programs whose files are understood; if a file could belong to two, the first is assumed.
pub(super) const PEERS: [&Peer; 6] =
    [&mlx_lm::PEER, &unsloth::PEER, &axolotl::PEER, &llama_factory::PEER, &trl::PEER, &transformers::PEER];

/// Keys of mlx-lm, Unsloth, TRL, transformers, axolotl and LLaMA-Factory, in snake case; flags may be in kebab case.
pub static FOREIGN: LazyLock<Vec<(&'static str, Meaning)>> =
    LazyLock::new(|| PEERS.iter().flat_map(|peer| peer.meanings()).collect());

/// The programs whose files are understood, each with its keys. Those of transformers, TRL and PEFT, which the others share, are last.
pub fn programs() -> impl Iterator<Item = (&'static str, &'static [(&'static str, Meaning)])> {
    PEERS.iter().map(|peer| (peer.name, peer.keys))
}

/// The program whose file has these keys, if they tell.
pub(super) fn peer_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<&'static Peer> {
    let signs = |peer: &Peer| names.clone().filter(|name| peer.signs.contains(name)).count();
    let mut found = None;
    for peer in PEERS {
        if signs(peer) > found.map_or(0, signs) {
            found = Some(peer);
        }
    }
    found
}

/// What a key of another program means; `None` if no other program has it.
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
