//! Parses the text that cubecl-cpp emits, as far as repair, lint and emulator need it.

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameter {
    /// `KIND buffer_0 [[buffer(0)]]`.
    Buffer {
        /// The number of the binding.
        index: usize,
        /// Type with address space, without the name.
        kind: String,
    },
    /// A built-in input such as `thread_position_in_grid`.
    Builtin {
        /// Its attribute.
        attribute: String,
    },
}

/// The entry point of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The function's name.
    pub name: String,
    /// Its parameters, in order.
    pub parameters: Vec<Parameter>,
}

impl Signature {
    /// Finds the function that is marked `[[kernel]]`; `None` when there is none, or it can't be parsed.
    pub fn of(source: &str) -> Option<Self> {
        let after = &source[source.find("[[kernel]]")? + "[[kernel]]".len()..];
        let (head, rest) = after.split_once('(')?;
        let name = head.split_whitespace().last()?.to_owned();
        let (parameters, _) = rest.split_once("\n)")?;
        let parameters = parameters.split(",\n").map(parameter).collect::<Option<Vec<_>>>()?;
        Some(Self { name, parameters })
    }

    /// The numbers of its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = usize> + '_ {
        self.parameters.iter().filter_map(|parameter| match parameter {
            Parameter::Buffer { index, .. } => Some(*index),
            Parameter::Builtin { .. } => None,
        })
    }
}

fn parameter(text: &str) -> Option<Parameter> {
    let (declaration, attribute) = text.trim().split_once("[[")?;
    let attribute = attribute.split_once("]]")?.0;
    let declaration = declaration.trim();
    let Some(index) = attribute.strip_prefix("buffer(").and_then(|rest| rest.strip_suffix(')')) else {
        return Some(Parameter::Builtin { attribute: attribute.to_owned() });
    };
    let name = declaration.rfind(|c: char| !(c.is_alphanumeric() || c == '_'))? + 1;
    Some(Parameter::Buffer { index: index.parse().ok()?, kind: declaration[..name].trim().to_owned() })
}

/// The bytes of threadgroup memory that a line allocates.
pub fn threadgroup_array(line: &str) -> Option<usize> {
    line.trim().strip_prefix("threadgroup uchar dynamic_shared_mem[")?.strip_suffix("];")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_read_with_spaces_and_builtins() {
        let source = "\nstruct info_st {\n};\n\n[[kernel]]\nvoid add_f32(\n    const device float * buffer_0 [[buffer(0)]],\n    \
                      constant info_st& info [[buffer(1)]],\n    uint3 pos [[thread_position_in_grid]]\n) {\n}\n";
        let signature = Signature::of(source).unwrap();
        assert_eq!(signature.name, "add_f32");
        assert_eq!(
            signature.parameters,
            [
                Parameter::Buffer { index: 0, kind: "const device float *".into() },
                Parameter::Buffer { index: 1, kind: "constant info_st&".into() },
                Parameter::Builtin { attribute: "thread_position_in_grid".into() },
            ]
        );
        assert_eq!(signature.buffers().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(Signature::of("no kernel"), None);
        assert_eq!(threadgroup_array("threadgroup uchar dynamic_shared_mem[128];"), Some(128));
    }
}
