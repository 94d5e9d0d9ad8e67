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

/// Sorts adjacent declarations of local variables by their numbers.
pub(super) fn locals(source: &str) -> Option<String> {
    let mut lines: Vec<&str> = source.split('\n').collect();
    let mut changed = false;
    for run in lines.chunk_by_mut(|line, next| local(line).is_some() == local(next).is_some()) {
        if !run.is_sorted_by_key(|line| local(line)) {
            run.sort_by_key(|line| local(line));
            changed = true;
        }
    }
    changed.then(|| lines.join("\n"))
}

/// The number of a local variable that the line declares, and nothing else.
fn local(line: &str) -> Option<u32> {
    let (kind, number) = line.strip_suffix(';')?.split_once(" l_mut_")?;
    let is_name = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    number.parse().ok().filter(|_| is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locals_are_sorted_and_the_rest_stays() {
        let text = |lines: &str| format!("float l_arr_0[3];\n\n{lines}\nl_mut_9 = float(0.0);\nfloat l_mut_2;\n");
        let sorted = text("uint l_mut_3;\nfloat_4 l_mut_9;\nfloat l_mut_20;");
        assert_eq!(locals(&text("float_4 l_mut_9;\nfloat l_mut_20;\nuint l_mut_3;")), Some(sorted.clone()));
        assert_eq!(locals(&sorted), None);
        assert_eq!(locals("x = l_mut_2;\nx = l_mut_1;\nfloat l_1 = l_mut_0;\n"), None);
    }

    #[test]
    fn types_are_sorted_and_the_rest_stays() {
        let half = "\nstruct alignas(4) half_2 {\n    half i_0;\n    half i_1;\n};\n";
        let float = "\nstruct alignas(8) float_2 {\n    float i_0;\n    float i_1;\n};\n";
        let text = |a: &str, b: &str| format!("using namespace metal;\n{a}{b}\nstruct info_st {{\n    uint m[2];\n}};\n");
        assert_eq!(structs(&text(float, half)), Some(text(half, float)));
        assert_eq!(structs(&text(half, float)), None);
    }
}
