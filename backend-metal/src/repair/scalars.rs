//! Faults in single instructions.

use super::by_line;
use super::units::is_mark;

/// The width of a vector type such as `float_4`; `None` for a scalar.
fn width(kind: &str) -> Option<usize> {
    kind.rsplit_once('_')?.1.parse().ok()
}

/// Replaces `float {simd_sum(x)`, and `};` in the next line, by `float (simd_sum(x)` and `);`.
pub(super) fn braces(source: &str) -> Option<String> {
    let mut open = false;
    by_line(source, |line| {
        if std::mem::take(&mut open) && line.trim() == "};" {
            return Some(");".to_owned());
        }
        let (left, right) = line.split_once(" {simd_")?;
        let kind = left.split_whitespace().last()?;
        if width(kind).is_some() || !left.contains('=') {
            return None;
        }
        open = true;
        Some(format!("{left} (simd_{right}"))
    })
}

/// Replaces `const float_4 l_2 = -l_1;` by the negation of each component.
pub(super) fn negation(source: &str) -> Option<String> {
    by_line(source, |line| {
        let (left, right) = line.split_once(" = -")?;
        let operand = right.strip_suffix(';')?;
        let is_name = operand.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && operand.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !is_name {
            return None;
        }
        let words: Vec<&str> = left.trim().trim_start_matches("const ").split_whitespace().collect();
        let kind = match words.as_slice() {
            [kind, _] => (*kind).to_owned(),
            [name] => declared_type(source, name)?,
            _ => return None,
        };
        let parts: Vec<String> = (0..width(&kind)?).map(|part| format!("-{operand}.i_{part}")).collect();
        Some(format!("{left} = {kind}{{{}}};", parts.join(", ")))
    })
}

/// The type in `TYPE name;`.
fn declared_type(source: &str, name: &str) -> Option<String> {
    let ending = format!(" {name};");
    source.lines().find_map(|line| line.trim().strip_suffix(&ending)).map(str::to_owned)
}

/// Lets `plane_elect` choose the first active lane.
pub(super) fn elect(source: &str) -> Option<String> {
    by_line(source, |line| {
        if line.contains("= __activemask();") || line.contains("= __ffs(mask) - 1;") {
            return Some(String::new());
        }
        let (left, right) = line.split_once(" = threadIdx.x % warpSize == leader")?;
        Some(format!("{left} = simd_is_first(){right}"))
    })
}

/// Comments a print out.
pub(super) fn print(source: &str) -> Option<String> {
    by_line(source, |line| {
        let trimmed = line.trim_start();
        let is_print = trimmed.starts_with("os_log_default.log(") && !is_mark(trimmed);
        is_print.then(|| format!("// {trimmed}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_reduced_without_braces_and_vectors_with() {
        let scalar = "const float l_1 = float {simd_sum(l_0)\n};\nconst bool l_2 = bool {simd_and(l_1? 1u : 0u) != 0u\n};";
        let fixed = "const float l_1 = float (simd_sum(l_0)\n);\nconst bool l_2 = bool (simd_and(l_1? 1u : 0u) != 0u\n);";
        assert_eq!(braces(scalar).as_deref(), Some(fixed));
        assert_eq!(braces("const half_4 l_1 = half_4 {simd_sum(l_0.i_0),\nsimd_sum(l_0.i_1)\n};"), None);
    }

    #[test]
    fn each_component_of_a_vector_is_negated() {
        let fixed = negation("const float_2 l_2 = -l_1;");
        assert_eq!(fixed.as_deref(), Some("const float_2 l_2 = float_2{-l_1.i_0, -l_1.i_1};"));
        let fixed = negation("half_2 l_mut_3;\nl_mut_3 = -l_1;");
        assert_eq!(fixed.as_deref(), Some("half_2 l_mut_3;\nl_mut_3 = half_2{-l_1.i_0, -l_1.i_1};"));
        assert_eq!(negation("const float l_2 = -l_1;"), None);
        assert_eq!(negation("const int_2 l_2 = -1;"), None);
    }

    #[test]
    fn the_first_active_lane_is_elected() {
        let emitted = "\nunsigned int mask = __activemask();\nunsigned int leader = __ffs(mask) - 1;\n\
                       const bool l_0 = threadIdx.x % warpSize == leader;\n            ";
        assert_eq!(elect(emitted).as_deref(), Some("\n\n\nconst bool l_0 = simd_is_first();\n            "));
    }

    #[test]
    fn prints_are_commented_out() {
        let fixed = print("os_log_default.log(\"x %f\", l_1);");
        assert_eq!(fixed.as_deref(), Some("// os_log_default.log(\"x %f\", l_1);"));
    }
}
