//! Barriers that order too little memory.

use super::by_line;
use super::units::is_write;
use crate::msl::{Parameter, Signature};

/// The memory that a barrier must order in this kernel: that of the threadgroup, and that of the device where the kernel reads what
/// it writes.
fn flags(source: &str) -> &'static str {
    if reads_what_it_writes(source) {
        "mem_flags::mem_device | mem_flags::mem_threadgroup"
    } else {
        "mem_flags::mem_threadgroup"
    }
}

/// Whether some buffer is both read and written.
fn reads_what_it_writes(source: &str) -> bool {
    let Some(signature) = Signature::of(source) else { return false };
    let Some((_, body)) = source.split_once("\n) {") else { return false };
    signature.parameters.iter().any(|parameter| match parameter {
        Parameter::Buffer { index, kind } if !kind.contains("const") => {
            let name = format!("buffer_{index}");
            let uses = body.match_indices(&name).filter(|(at, _)| {
                let after = body[at + name.len()..].chars().next();
                !after.is_some_and(|c| c.is_ascii_digit())
            });
            // `buffer_2[l_50] = l_53;` begins its line; any other use reads, or takes an address to read from.
            uses.into_iter().any(|(at, _)| !begins_assignment(body, at))
        }
        _ => false,
    })
}

fn begins_assignment(body: &str, at: usize) -> bool {
    let start = body[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = body[start..].lines().next().unwrap_or_default();
    let assigns = body[start..at].trim().is_empty() && line.contains("] = ");
    (assigns || is_write(line)) && line.matches("buffer_").count() == 1
}

/// The barrier of a SIMD-group.
pub(super) fn plane(source: &str) -> Option<String> {
    let flags = flags(source);
    by_line(source, |line| {
        let none = "simdgroup_barrier(mem_flags::mem_none);";
        line.contains(none).then(|| line.replace(none, &format!("simdgroup_barrier({flags});")))
    })
}

/// The barrier of device memory.
pub(super) fn storage(source: &str) -> Option<String> {
    by_line(source, |line| {
        let fence = "threadgroup_thread_fence(mem_flags::mem_device);";
        line.contains(fence).then(|| line.replace(fence, "threadgroup_barrier(mem_flags::mem_device);"))
    })
}

/// The barrier of a threadgroup.
pub(super) fn cube(source: &str) -> Option<String> {
    let plain = "threadgroup_barrier(mem_flags::mem_threadgroup);";
    if !source.contains(plain) || !reads_what_it_writes(source) {
        return None;
    }
    Some(source.replace(plain, &format!("threadgroup_barrier({});", flags(source))))
}

#[cfg(test)]
mod tests {
    use super::super::units::marks;
    use super::*;

    fn kernel(kind: &str, body: &str) -> String {
        format!(
            "[[kernel]]\nvoid f(\n    {kind} float * buffer_0 [[buffer(0)]],\n    device float * buffer_1 [[buffer(1)]]\n) {{\n{body}\n}}\n"
        )
    }

    #[test]
    fn device_memory_is_ordered_where_a_kernel_reads_what_it_writes() {
        let body =
            "buffer_1[l_0] = l_1;\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nconst float l_2 = buffer_1[l_3];";
        let fixed = cube(&kernel("const device", body)).unwrap();
        assert!(fixed.contains("threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);"), "{fixed}");
        // It only writes the one and only reads the other.
        let body =
            "const float l_2 = buffer_0[l_3];\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nbuffer_1[l_0] = l_2;";
        assert_eq!(cube(&kernel("const device", body)), None);
        // Declared writable, but only read.
        assert!(cube(&kernel("device", body)).is_some());
    }

    #[test]
    fn results_of_tensor_operations_are_only_written() {
        let body = "threadgroup_barrier(mem_flags::mem_threadgroup);\n\
                    os_log_default.log(\"units write\", buffer_1,l_1,l_2,l_3,l_4,l_5);";
        let source = format!("\n#include <metal_stdlib>\nusing namespace metal;\n{}", kernel("const device", body));
        assert!(cube(&source).is_some());
        let text = marks(&source).unwrap();
        assert_eq!(cube(&text), None, "{text}");
    }

    #[test]
    fn a_plane_is_ordered() {
        let fixed = plane("simdgroup_barrier(mem_flags::mem_none);");
        assert_eq!(fixed.as_deref(), Some("simdgroup_barrier(mem_flags::mem_threadgroup);"));
    }

    #[test]
    fn storage_is_a_barrier() {
        let fixed = storage("threadgroup_thread_fence(mem_flags::mem_device);");
        assert_eq!(fixed.as_deref(), Some("threadgroup_barrier(mem_flags::mem_device);"));
    }
}
