//! Functions of bfloat, computed in float.

/// Of one argument.
const ONE: [&str; 24] = [
    "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "exp", "exp2", "log", "log2", "sqrt", "rsqrt",
    "fabs", "abs", "ceil", "floor", "trunc", "rint", "round", "simd_sum", "simd_max",
];
/// Of one argument, over a SIMD-group.
const GROUP: [&str; 6] = [
    "simd_min",
    "simd_product",
    "simd_prefix_inclusive_sum",
    "simd_prefix_exclusive_sum",
    "simd_prefix_inclusive_product",
    "simd_prefix_exclusive_product",
];
/// Of two arguments.
const TWO: [&str; 5] = ["pow", "max", "min", "fmod", "atan2"];
/// Of a value and a lane.
const LANE: [&str; 5] = ["simd_shuffle", "simd_shuffle_xor", "simd_shuffle_up", "simd_shuffle_down", "simd_broadcast"];

const USING: &str = "using namespace metal;\n";

/// Adds overloads for the functions that the kernel calls, all in the line of `using namespace metal;`.
pub(super) fn functions(source: &str) -> Option<String> {
    if !source.contains("bfloat") || source.contains("inline bfloat ") || !source.contains(USING) {
        return None;
    }
    let called = |name: &str| {
        source
            .match_indices(&format!("{name}("))
            .any(|(at, _)| !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let mut overloads = Vec::new();
    for name in ONE.into_iter().chain(GROUP).filter(|name| called(name)) {
        overloads.push(format!(" inline bfloat {name}(bfloat x) {{ return bfloat({name}(float(x))); }}"));
    }
    for name in TWO.into_iter().filter(|name| called(name)) {
        overloads
            .push(format!(" inline bfloat {name}(bfloat x, bfloat y) {{ return bfloat({name}(float(x), float(y))); }}"));
    }
    for name in LANE.into_iter().filter(|name| called(name)) {
        overloads.push(format!(" inline bfloat {name}(bfloat x, ushort lane) {{ return bfloat({name}(float(x), lane)); }}"));
    }
    if called("fma") {
        let body = "return bfloat(fma(float(x), float(y), float(z)));";
        overloads.push(format!(" inline bfloat fma(bfloat x, bfloat y, bfloat z) {{ {body} }}"));
    }
    for name in ["isnan", "isinf"].into_iter().filter(|name| called(name)) {
        overloads.push(format!(" inline bool {name}(bfloat x) {{ return {name}(float(x)); }}"));
    }
    (!overloads.is_empty()).then(|| source.replacen(USING, &format!("{}{}\n", USING.trim_end(), overloads.concat()), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_functions_that_are_called_get_overloads() {
        let source = "using namespace metal;\nconst bfloat l_1 = exp(l_0);\n";
        let fixed = functions(source).unwrap();
        assert_eq!(
            fixed,
            "using namespace metal; inline bfloat exp(bfloat x) { return bfloat(exp(float(x))); }\nconst bfloat l_1 = exp(l_0);\n"
        );
        assert_eq!(functions(&fixed), None);
        assert_eq!(functions("using namespace metal;\nconst half l_1 = exp(l_0);\n"), None);
    }
}
