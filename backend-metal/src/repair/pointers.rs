//! Address spaces that cubecl loses.

use std::collections::HashMap;

use super::by_line;

/// Gives pointers to atomics the address space of their target, and removes `const` from atomics.
pub(super) fn atomics(source: &str) -> Option<String> {
    if !source.contains("atomic_") {
        return None;
    }
    let mut spaces: HashMap<String, &'static str> = HashMap::new();
    by_line(source, |line| {
        let mut line_out = line.to_owned();
        if line_out.trim_start().starts_with("const device atomic_") {
            line_out = line_out.replacen("const device atomic_", "device atomic_", 1);
        }
        for space in ["device", "threadgroup"] {
            // `device atomic_uint* l_7 = &buffer_0[l_6];`
            if let Some(rest) = line_out.trim_start().strip_prefix(space).map(str::trim_start)
                && rest.starts_with("atomic_")
                && let Some((name, _)) = rest.split_once("* ").and_then(|(_, rest)| rest.split_once(" = "))
            {
                spaces.insert(name.to_owned(), if space == "device" { "device" } else { "threadgroup" });
            }
        }
        // `atomic_uint* l_1 = l_7;`
        if line_out.trim_start().starts_with("atomic_")
            && let Some((left, right)) = line_out.split_once(" = ")
            && let Some((_, name)) = left.split_once("* ")
            && let Some(space) = spaces.get(right.trim_end_matches(';')).copied()
        {
            spaces.insert(name.to_owned(), space);
            line_out = format!("{space} {line_out}");
        }
        (line_out != line).then_some(line_out)
    })
}

/// Casts `device float_4 *tmp = reinterpret_cast<float_4*>(buffer_0);` to a pointer in the same address space.
pub(super) fn slices(source: &str) -> Option<String> {
    by_line(source, |line| {
        let (left, right) = line.split_once(" = reinterpret_cast<")?;
        let (target, rest) = right.split_once(">(")?;
        if !target.ends_with('*') {
            return None;
        }
        let words: Vec<&str> = left.split_whitespace().collect();
        let space = ["device", "threadgroup"].into_iter().find(|space| words.contains(space))?;
        let declares_pointer = words.last()?.starts_with('*') || left.contains("* ");
        if !declares_pointer || target.split_whitespace().any(|word| word == "device" || word == "threadgroup") {
            return None;
        }
        let target = target.trim();
        let target = match target.strip_prefix("const ") {
            Some(rest) => format!("const {space} {}", rest.trim_start()),
            None => format!("{space} {target}"),
        };
        Some(format!("{left} = reinterpret_cast<{target}>({rest}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_pointers_to_atomics_keep_their_space() {
        let emitted = "    const device atomic_uint * buffer_0 [[buffer(0)]],\nconst device atomic_uint* l_5 = &buffer_0[l_4];\n\
                       atomic_uint* l_0 = l_5;\natomic_uint* l_8 = l_0;\natomic_store_explicit(l_0, 0, memory_order_relaxed);";
        let fixed = "    device atomic_uint * buffer_0 [[buffer(0)]],\ndevice atomic_uint* l_5 = &buffer_0[l_4];\n\
                      device atomic_uint* l_0 = l_5;\ndevice atomic_uint* l_8 = l_0;\natomic_store_explicit(l_0, 0, \
                      memory_order_relaxed);";
        assert_eq!(atomics(emitted).as_deref(), Some(fixed));
        assert_eq!(atomics("device float* l_1 = &buffer_0[0];"), None);
    }

    #[test]
    fn slices_are_cast_within_their_space() {
        let emitted = "const const device float_4 *tmp_1 = reinterpret_cast<const float_4*>(buffer_0);";
        let fixed = "const const device float_4 *tmp_1 = reinterpret_cast<const device float_4*>(buffer_0);";
        assert_eq!(slices(emitted).as_deref(), Some(fixed));
        let emitted = " threadgroup half_2 *tmp_3 = reinterpret_cast< half_2*>(shared_memory_1);";
        let fixed = " threadgroup half_2 *tmp_3 = reinterpret_cast<threadgroup half_2*>(shared_memory_1);";
        assert_eq!(slices(emitted).as_deref(), Some(fixed));
        assert_eq!(slices("threadgroup half* s = reinterpret_cast<threadgroup half*>(&dynamic_shared_mem[0]);"), None);
    }
}
