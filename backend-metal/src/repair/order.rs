//! The order of declarations.

const START: &str = "\nstruct alignas(";
const END: &str = "\n};\n";

/// Sorts the declarations of vector types, which are adjacent.
pub(super) fn structs(source: &str) -> Option<String> {
    let first = source.find(START)?;
    let mut rest = &source[first..];
    let mut found = Vec::new();
    while rest.starts_with(START) {
        let end = rest.find(END)? + END.len();
        found.push(&rest[..end]);
        rest = &rest[end..];
    }
    let mut sorted = found.clone();
    sorted.sort_unstable();
    (sorted != found).then(|| format!("{}{}{rest}", &source[..first], sorted.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_sorted_and_the_rest_stays() {
        let half = "\nstruct alignas(4) half_2 {\n    half i_0;\n    half i_1;\n};\n";
        let float = "\nstruct alignas(8) float_2 {\n    float i_0;\n    float i_1;\n};\n";
        let text = |a: &str, b: &str| format!("using namespace metal;\n{a}{b}\nstruct info_st {{\n    uint m[2];\n}};\n");
        assert_eq!(structs(&text(float, half)), Some(text(half, float)));
        assert_eq!(structs(&text(half, float)), None);
    }
}
