use std::collections::BTreeSet;

use super::*;
use crate::part::{Role, of_gguf};

#[test]
fn the_names_and_roles_of_parts_are_unique() {
    for family in FAMILIES {
        let unique = |values: BTreeSet<String>| assert_eq!(values.len(), family.parts.len(), "{family:?}");
        unique(family.parts.iter().map(|part| part.name.to_owned()).collect());
        unique(family.parts.iter().map(|part| part.gguf.to_owned()).collect());
        unique(family.parts.iter().map(|part| format!("{:?}", part.role)).collect());
        for role in [Role::Embedding, Role::AttentionOutput, Role::FinalNorm] {
            assert!(family.part(role).is_some(), "{family:?} has no {role:?}");
        }
        assert!(family.part(Role::Down).or(family.part(Role::ExpertDown)).is_some(), "{family:?} has no feed-forward");
        let of_experts = [Role::Router, Role::ExpertGate, Role::ExpertUp, Role::ExpertDown];
        let found = of_experts.into_iter().filter(|role| family.part(*role).is_some()).count();
        assert!([0, of_experts.len()].contains(&found), "{family:?} has only some parts of experts");
        for (before, after) in
            [(Role::InputNorm, Role::PostAttentionNorm), (Role::FeedForwardNorm, Role::PostFeedForwardNorm)]
        {
            assert!(family.part(before).or(family.part(after)).is_some(), "{family:?} has neither {before:?} nor {after:?}");
        }
        assert!(family.part(Role::Query).is_some() != family.part(Role::QueryKeyValue).is_some());
        let dense = [Role::Gate, Role::GateUp].into_iter().filter(|role| family.part(*role).is_some()).count();
        assert_eq!(dense, usize::from(family.part(Role::Down).is_some()), "{family:?}");
    }
}

#[test]
fn gguf_names_are_converted_in_both_directions() {
    for family in FAMILIES {
        for part in family.parts.iter().filter(|part| part.halves.is_none()) {
            let layer = part.role.is_of_block().then_some(7);
            let (name, own) = (part.checkpoint_name(layer), part.gguf_name(layer));
            for kind in ["weight", "bias"] {
                let found = of_gguf(family.parts, &format!("{own}.{kind}")).unwrap();
                assert_eq!(found, (format!("{name}.{kind}"), part));
            }
        }
        assert!(of_gguf(family.parts, "blk.0.token_embd.weight").is_none());
        assert!(of_gguf(family.parts, "rope_freqs.weight").is_none());
    }
}

#[test]
fn the_error_for_an_unknown_architecture_lists_the_known_ones() {
    assert!(by_model_type("mistral").is_ok() && by_architecture("gemma3").is_ok());
    let error = by_architecture("rwkv7").unwrap_err().to_string();
    assert!(error.contains("rwkv7") && error.contains("llama, qwen2, qwen3, gemma3"), "{error}");
}
