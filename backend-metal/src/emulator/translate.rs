//! Translates MSL to what clang compiles. Only the entry point's attributes and the array of threadgroup memory are changed. Code
//! that counts arithmetic is added at ends of lines, so that line numbers stay those of the MSL.

use std::collections::HashSet;
use std::fmt::Write;

use crate::msl::{Parameter, Signature, threadgroup_array};

/// A kernel that clang can compile.
#[derive(Debug)]
pub(super) struct Translation {
    /// C++ in terms of the shim.
    pub text: String,
    /// Buffers that it needs.
    pub buffers: usize,
}

/// Translates the kernel of `signature`.
pub(super) fn translate(source: &str, signature: &Signature) -> Translation {
    let mut text = String::new();
    let mut counter = ArithmeticCounter::default();
    for line in source.lines() {
        match threadgroup_array(line) {
            Some(bytes) => {
                let _ = write!(
                    text,
                    "threadgroup uchar* dynamic_shared_mem = (threadgroup uchar*)(ulong)msl_threadgroup({bytes});"
                );
            }
            None => text.push_str(&line.replace("[[kernel]]", "")),
        }
        text.push_str(&counter.after(line));
        text.push('\n');
    }
    let mut buffers = 0;
    let arguments: Vec<String> = signature
        .parameters
        .iter()
        .map(|parameter| match parameter {
            Parameter::Buffer { index, kind } => {
                buffers = buffers.max(index + 1);
                match kind.strip_suffix('&') {
                    Some(referred) => format!("*({referred}*)(ulong)buffers[{index}]"),
                    None => format!("({kind})(ulong)buffers[{index}]"),
                }
            }
            Parameter::Builtin { attribute } => format!("inputs->{attribute}"),
        })
        .collect();
    let _ = write!(
        text,
        "\nextern \"C\" MSL_UNCHECKED void msl_entry(const msl_inputs* inputs, void* const* buffers) {{\n    {}({});\n}}\n",
        signature.name,
        arguments.join(", ")
    );
    Translation { text, buffers }
}

/// Functions that count as one operation; `fma` is two.
const FUNCTIONS: [&str; 28] = [
    "sin(", "cos(", "tan(", "tanh(", "exp(", "exp2(", "log(", "log2(", "log10(", "sqrt(", "rsqrt(", "pow(", "max(", "min(",
    "abs(", "floor(", "ceil(", "trunc(", "round(", "rint(", "clamp(", "erf(", "asin(", "acos(", "atan(", "atan2(", "fma(",
    "fma(",
];

/// Counts arithmetic on floats by the types in statements: cubecl emits one operation for each line or component of a vector.
#[derive(Default)]
struct ArithmeticCounter {
    floats: HashSet<String>,
    is_float: bool,
    /// Whether the statement continues in the next line.
    open: bool,
    count: usize,
    in_body: bool,
}

impl ArithmeticCounter {
    /// The code to add after a line.
    fn after(&mut self, line: &str) -> String {
        let trimmed = line.trim();
        if !self.in_body {
            self.in_body = trimmed == ") {";
            return String::new();
        }
        if !self.open {
            self.is_float = self.computes_floats(trimmed);
        }
        if self.is_float {
            self.count += operations(trimmed);
        }
        self.open = !trimmed.ends_with([';', '{', '}']) || (trimmed.ends_with('{') && trimmed.contains(" = "));
        if trimmed.ends_with(';') && !trimmed.starts_with("for") {
            let count = std::mem::take(&mut self.count);
            if count > 0 {
                return format!(" MSL_OPS({count})");
            }
        }
        String::new()
    }

    fn computes_floats(&mut self, statement: &str) -> bool {
        let words = statement.strip_prefix("const ").unwrap_or(statement);
        let Some((first, rest)) = words.split_once(' ') else { return false };
        let kind = first.split('_').next().unwrap_or_default();
        if matches!(kind.trim_end_matches(|c: char| c.is_ascii_digit()), "float" | "half" | "bfloat") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            self.floats.insert(name);
            return true;
        }
        let target: String = first.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        rest.starts_with('=') && self.floats.contains(&target)
    }
}

/// Operators between spaces, and calls of mathematical functions.
fn operations(text: &str) -> usize {
    let operators: usize = [" + ", " - ", " * ", " / "].iter().map(|operator| text.matches(operator).count()).sum();
    let calls: usize = FUNCTIONS
        .iter()
        .map(|name| {
            text.match_indices(name)
                .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
                .count()
        })
        .sum();
    operators + calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_of_floats_is_counted_at_the_end_of_its_statement() {
        let mut counter = ArithmeticCounter { in_body: true, ..ArithmeticCounter::default() };
        let mut after = |line: &str| counter.after(line);
        assert_eq!(after("const float l_9 = l_8 * l_8;"), " MSL_OPS(1)");
        assert_eq!(after("const uint l_7 = l_1 + l_mut_4;"), "");
        assert_eq!(after("float l_mut_3;"), "");
        assert_eq!(after("l_mut_3 = l_mut_3 + exp(l_9);"), " MSL_OPS(2)");
        assert_eq!(after("l_mut_4 = l_mut_4 + total;"), "");
        assert_eq!(after("const half l_5 = fma(l_1, l_2, l_3);"), " MSL_OPS(2)");
        assert_eq!(after("const float_4 l_6 = float_4{"), "");
        assert_eq!(after("l_1.i_0 * l_2.i_0, l_1.i_1 * l_2.i_1,"), "");
        assert_eq!(after("l_1.i_2 * l_2.i_2, l_1.i_3 * l_2.i_3};"), " MSL_OPS(4)");
    }
}
