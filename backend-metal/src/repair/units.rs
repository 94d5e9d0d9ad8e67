//! Tensor operations in the place of the marks of `matrix/units/marks.rs` of `burnish-kernels`: cubecl 0.10 has no words for them.
//!
//! A mark is a print, `os_log_default.log("units …", arguments);`, and becomes one line. What the lines call is Metal 4's `matmul2d` on
//! tensors over plain pointers, with a cooperative tensor of sums, whose elements are written one by one: so nothing depends on which thread
//! has which, nor on how a tensor is stored beyond its extents.
//!
//! Source: the comments of Apple's `MPPTensorOpsMatMul2d.h`.

use std::fmt::Write;

const HEADER: &str = "\n#include <metal_stdlib>\nusing namespace metal;\n";
/// The empty first line goes, so that line numbers stay.
const HEADER_WITH_TENSORS: &str = "#include <metal_stdlib>\n#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>\n\
                                   using namespace metal;\n";
const MARK: &str = "os_log_default.log(\"units ";

/// Whether a line is a mark, which must not be removed as a print.
pub(super) fn is_mark(line: &str) -> bool {
    line.trim_start().starts_with(MARK)
}

/// Whether a line writes the sums of a tensor operation: it reads no buffer.
pub(super) fn is_write(line: &str) -> bool {
    line.contains(EACH) && line.contains("units_at[1]")
}

/// Replaces all marks; those that can't be read stay, and the lint refuses them.
pub(super) fn marks(source: &str) -> Option<String> {
    if !source.contains(MARK) || !source.starts_with(HEADER) {
        return None;
    }
    let lines = source
        .split('\n')
        .map(|line| if is_mark(line) { operation(line, source) } else { None }.unwrap_or_else(|| line.to_owned()));
    let text: Vec<String> = lines.collect();
    Some(text.join("\n").replacen(HEADER, HEADER_WITH_TENSORS, 1))
}

/// What a mark stands for.
fn operation(line: &str, source: &str) -> Option<String> {
    let (words, arguments) = line.trim().strip_prefix(MARK)?.strip_suffix(");")?.split_once("\", ")?;
    let words: Vec<&str> = words.split(' ').collect();
    let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
    match (words.as_slice(), arguments.as_slice()) {
        (["begin", m, n, groups, form], [a, b]) => {
            let types = [("left", a), ("right", b)].map(|(side, name)| {
                let Memory { space, element } = Memory::of(name, source)?;
                Some(format!(
                    "typedef metal::tensor<{space} {element}, metal::dextents<int32_t, 2>, metal::tensor_inline> units_{side}_t; "
                ))
            });
            let [Some(left), Some(right)] = types else { return None };
            let [transposed_a, transposed_b] = transposed(form)?;
            let mut text = format!("{left}{right}constexpr auto units_shape = mpp::tensor_ops::matmul2d_descriptor(");
            let _ = write!(
                text,
                "{m}, {n}, static_cast<int>(metal::dynamic_extent), {transposed_a}, {transposed_b}, false, \
                 mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate); \
                 mpp::tensor_ops::matmul2d<units_shape, metal::execution_simdgroups<{groups}>> units; \
                 auto units_sums = units.get_destination_cooperative_tensor<units_left_t, units_right_t, float>(); \
                 {EACH} {{ units_sums[e] = 0.0f; }}"
            );
            Some(text)
        }
        (["multiply", form], [a, b, first_a, stride_a, rows, first_b, stride_b, columns, depth]) => {
            let [transposed_a, transposed_b] = transposed(form)?;
            // The inner extent is that along which elements lie side by side.
            let left = if transposed_a { [*rows, *depth] } else { [*depth, *rows] };
            let right = if transposed_b { [*depth, *columns] } else { [*columns, *depth] };
            let left = tensor(&Memory::of(a, source)?, a, first_a, stride_a, left);
            let right = tensor(&Memory::of(b, source)?, b, first_b, stride_b, right);
            Some(format!(
                "{{ auto units_left = {left}; auto units_right = {right}; units.run(units_left, units_right, units_sums); }}"
            ))
        }
        (["write"], [out, first, stride, rows, columns, alpha]) => {
            let Memory { space, element } = Memory::of(out, source)?;
            Some(format!(
                "{{ const float units_alpha = {alpha}; {EACH} {{ if (units_sums.is_valid_element(e)) {{ const auto units_at = units_sums.get_multidimensional_index(e); \
                 if (uint(units_at[1]) < {rows} && uint(units_at[0]) < {columns}) {{ (({space} {element}*){out})[{first} + \
                 uint(units_at[1]) * {stride} + uint(units_at[0])] = {element}(units_sums[e] * units_alpha); }} }} }} }}"
            ))
        }
        _ => None,
    }
}

/// Over the elements of a thread. Without the pragma they would not stay in registers.
const EACH: &str = "_Pragma(\"clang loop unroll(full)\") for (ushort e = 0; e < units_sums.get_capacity(); e++)";

/// `nt`: which of both operands are stored transposed.
fn transposed(form: &str) -> Option<[bool; 2]> {
    match form {
        "nn" => Some([false, false]),
        "nt" => Some([false, true]),
        "tn" => Some([true, false]),
        _ => None,
    }
}

/// A tensor over a part of an operand. Its elements must not be const.
fn tensor(memory: &Memory, name: &str, first: &str, stride: &str, [inner, outer]: [&str; 2]) -> String {
    let Memory { space, element } = memory;
    format!(
        "metal::tensor(({space} {element}*){name} + {first}, metal::dextents<int32_t, 2>(int({inner}), int({outer})), \
         metal::array<int, 2>({{1, int({stride})}}))"
    )
}

/// What an operand is declared as.
struct Memory {
    space: &'static str,
    /// Without the width of a vector.
    element: String,
}

impl Memory {
    /// Of `const device half_4 * buffer_0 [[buffer(0)]]` or `threadgroup half_4* shared_memory_1 = …`.
    fn of(name: &str, source: &str) -> Option<Self> {
        source.lines().find_map(|line| {
            let (kind, rest) = line.split_once(&format!(" {name}"))?;
            if !rest.starts_with(" [[") && !rest.starts_with("[[") && !rest.starts_with(" =") {
                return None;
            }
            let words: Vec<&str> =
                kind.split(|c: char| c.is_whitespace() || c == '*').filter(|word| !word.is_empty()).collect();
            let space = ["device", "threadgroup"].into_iter().find(|space| words.contains(space))?;
            let element = words.last()?.split('_').next()?.to_owned();
            matches!(element.as_str(), "half" | "float" | "bfloat").then_some(Self { space, element })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(mark: &str) -> String {
        format!(
            "{HEADER}\n[[kernel]]\nvoid f(\n    const device half * buffer_0 [[buffer(0)]],\n    device half_4 * buffer_1 [[buffer(1)]],\n    \
             device float * buffer_2 [[buffer(2)]]\n) {{\nthreadgroup half_4* shared_memory_3 = reinterpret_cast<threadgroup half_4*>(&s[0]);\n\
             {mark}\n}}\n"
        )
    }

    #[test]
    fn marks_become_operations_on_their_own_lines() {
        let source = kernel("os_log_default.log(\"units begin 128 64 4 nt\", buffer_0,shared_memory_3);");
        let text = marks(&source).unwrap();
        assert_eq!(text.lines().count(), source.lines().count());
        assert!(text.contains("#include <MetalPerformancePrimitives/") && !text.contains("os_log"), "{text}");
        let line = text.lines().find(|line| line.contains("matmul2d_descriptor(")).unwrap();
        assert!(line.contains("tensor<device half, ") && line.contains("tensor<threadgroup half, "), "{line}");
        assert!(line.contains("(128, 64, static_cast<int>(metal::dynamic_extent), false, true, false, "), "{line}");
        assert!(line.contains("execution_simdgroups<4>"), "{line}");
    }

    #[test]
    fn extents_follow_how_operands_are_stored() {
        let line = |form: &str| {
            let mark = format!(
                "os_log_default.log(\"units multiply {form}\", buffer_0,buffer_1,l_1,l_2,l_3,l_4,l_5,l_6,uint32_t(7));"
            );
            marks(&kernel(&mark)).unwrap().lines().find(|line| line.contains("units.run")).unwrap().to_owned()
        };
        let forward = line("nt");
        assert!(
            forward.contains("(device half*)buffer_0 + l_1, metal::dextents<int32_t, 2>(int(uint32_t(7)), int(l_3))"),
            "{forward}"
        );
        assert!(
            forward.contains("(device half*)buffer_1 + l_4, metal::dextents<int32_t, 2>(int(uint32_t(7)), int(l_6))"),
            "{forward}"
        );
        let backward = line("nn");
        assert!(backward.contains("buffer_1 + l_4, metal::dextents<int32_t, 2>(int(l_6), int(uint32_t(7)))"), "{backward}");
        assert!(line("tn").contains("buffer_0 + l_1, metal::dextents<int32_t, 2>(int(l_3), int(uint32_t(7)))"));
    }

    #[test]
    fn results_are_written_within_their_extents() {
        let mark = "os_log_default.log(\"units write\", buffer_2,l_1,l_2,l_3,l_4,info.scalars_float[0]);";
        let text = marks(&kernel(mark)).unwrap();
        assert!(text.lines().any(is_write), "{text}");
        assert!(
            text.contains("< l_3 && uint(units_at[0]) < l_4")
                && text.contains("units_alpha = info.scalars_float[0];")
                && text.contains("= float(units_sums[e] * units_alpha)")
        );
    }

    #[test]
    fn what_is_no_mark_stays_and_a_damaged_one_is_refused() {
        assert_eq!(marks(&kernel("os_log_default.log(\"x %f\", l_1);")), None);
        for damaged in [
            "units begin 128 64\", buffer_0,buffer_1",
            "units write\", buffer_9,l_1,l_2,l_3,l_4,l_5",
            "units multiply tt\", a",
        ] {
            let text = marks(&kernel(&format!("os_log_default.log(\"{damaged});"))).unwrap();
            assert!(!crate::lint::lint(&text).is_empty(), "{text}");
        }
    }
}
