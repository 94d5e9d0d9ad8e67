//! Faults in code for 8×8 matrices.

use std::collections::HashMap;

use super::by_line;

const LOOP: &str = "for(int e=0; e<8; e++) {";

/// Loops over the two elements of a fragment that a lane has, and assigns those of bfloat without reinterpreting them as half.
pub(super) fn cast(source: &str) -> Option<String> {
    let mut within = false;
    by_line(source, |line| {
        if line.trim() == LOOP {
            within = true;
            return Some(line.replace("e<8", "e<2"));
        }
        if !within {
            return None;
        }
        if line.trim() == "}" {
            within = false;
        }
        let (left, _) = line.split_once(" = *reinterpret_cast<")?;
        Some(format!("{left} = elem;"))
    })
}

/// Stores a fragment with the address space and the element type of its target.
pub(super) fn store(source: &str) -> Option<String> {
    let fragments = fragments(source);
    by_line(source, |line| {
        let rest = line.trim_start().strip_prefix("simdgroup_store(")?;
        let (fragment, rest) = rest.split_once(", reinterpret_cast<threadgroup ")?;
        let (kind, rest) = rest.split_once(" *>(")?;
        let space = if rest.starts_with("buffer_") { "device" } else { "threadgroup" };
        let kind = if fragments.get(fragment).is_some_and(|kind| *kind == "bfloat") { "bfloat" } else { kind };
        Some(format!("simdgroup_store({fragment}, reinterpret_cast<{space} {kind} *>({rest}"))
    })
}

/// The element type of each declared fragment: `simdgroup_float8x8 frag_acc_7;`.
fn fragments(source: &str) -> HashMap<&str, &str> {
    source
        .lines()
        .filter_map(|line| {
            let (kind, name) = line.trim().strip_suffix(';')?.split_once(' ')?;
            Some((name, kind.strip_prefix("simdgroup_")?.strip_suffix("8x8")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_go_over_two_elements() {
        let emitted = "for(int e=0; e<8; e++) {\n    frag_2.thread_elements()[e] = half(frag_1.thread_elements()[e]);\n}";
        let fixed = "for(int e=0; e<2; e++) {\n    frag_2.thread_elements()[e] = half(frag_1.thread_elements()[e]);\n}";
        assert_eq!(cast(emitted).as_deref(), Some(fixed));
        let emitted = "for(int e=0; e<8; e++) {\n    bfloat elem = bfloat(frag_1.thread_elements()[e]);\n    \
                       frag_2.thread_elements()[e] = *reinterpret_cast<thread half *>(&elem);\n}";
        let fixed = "for(int e=0; e<2; e++) {\n    bfloat elem = bfloat(frag_1.thread_elements()[e]);\n    \
                      frag_2.thread_elements()[e] = elem;\n}";
        assert_eq!(cast(emitted).as_deref(), Some(fixed));
    }

    #[test]
    fn stores_go_where_the_memory_is() {
        let fixed = store("simdgroup_store(frag_1, reinterpret_cast<threadgroup float *>(buffer_2 + l_3), uint(8));");
        assert_eq!(
            fixed.as_deref(),
            Some("simdgroup_store(frag_1, reinterpret_cast<device float *>(buffer_2 + l_3), uint(8));")
        );
        let emitted = "simdgroup_bfloat8x8 frag_1;\nsimdgroup_store(frag_1, reinterpret_cast<threadgroup half *>(shared_memory_2 + l_3), 8);";
        let fixed = "simdgroup_bfloat8x8 frag_1;\nsimdgroup_store(frag_1, reinterpret_cast<threadgroup bfloat *>(shared_memory_2 + l_3), 8);";
        assert_eq!(store(emitted).as_deref(), Some(fixed));
    }
}
