//! Finds what clang accepts but Apple's compiler refuses, and what compiles but does the wrong thing.

use std::fmt;

use crate::msl::{Signature, threadgroup_array};

/// A problem, with its line of the MSL, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The line.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// The kinds of findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A barrier that orders no memory.
    UnorderedBarrier,
    /// A pointer without an address space.
    MissingAddressSpace,
    /// A name of another language.
    ForeignName(&'static str),
    /// More buffers than a kernel may have.
    TooManyBuffers(usize),
    /// More threadgroup memory than a GPU has.
    TooMuchThreadgroupMemory(usize),
    /// A scalar in braces.
    BracedScalar,
    /// A bound of exactly one SIMD-group, at which Apple's compiler emits wrong code.
    SingleSimdgroupBound,
    /// cubecl's own mark for what it can't express in Metal.
    Error(String),
}

/// Buffers of a kernel: Metal has 31, and wgpu keeps one.
const MAX_BUFFERS: usize = 30;
const THREADGROUP_BYTES: usize = 32 * 1024;

/// Names of CUDA and HIP, and of functions that Metal does not have.
const FOREIGN: [&str; 13] = [
    "threadIdx",
    "blockIdx",
    "blockDim",
    "warpSize",
    "__activemask",
    "__shfl",
    "__syncthreads",
    "__syncwarp",
    "__threadfence",
    "__half2",
    "threadgroup_thread_fence",
    "os_log_default",
    "atomic_fetch_add_explicit((device atomic_ulong",
];

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.problem {
            Problem::UnorderedBarrier => f.write_str("a barrier with mem_none orders no memory"),
            Problem::MissingAddressSpace => f.write_str("a pointer without an address space"),
            Problem::ForeignName(name) => write!(f, "`{name}` does not exist in Metal"),
            Problem::TooManyBuffers(count) => write!(f, "{count} buffers, at most {MAX_BUFFERS} are allowed"),
            Problem::TooMuchThreadgroupMemory(bytes) => {
                write!(f, "{bytes} bytes of threadgroup memory, a GPU has {THREADGROUP_BYTES}")
            }
            Problem::BracedScalar => f.write_str("a scalar is initialised by braces, which Apple's compiler refuses"),
            Problem::SingleSimdgroupBound => {
                f.write_str("max_total_threads_per_threadgroup(32) is miscompiled by Apple (tracel-ai/cubecl#1636)")
            }
            Problem::Error(text) => write!(f, "cubecl could not express it in Metal: {text}"),
        }
    }
}

/// Checks a kernel's text.
pub fn lint(source: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let mut found = |problem| findings.push(Finding { line: index + 1, problem });
        if code.contains("_barrier(mem_flags::mem_none)") {
            found(Problem::UnorderedBarrier);
        }
        if lacks_address_space(code) {
            found(Problem::MissingAddressSpace);
        }
        if let Some(name) = FOREIGN.into_iter().find(|name| code.contains(name)) {
            found(Problem::ForeignName(name));
        }
        if let Some(bytes) = threadgroup_array(line).filter(|bytes| *bytes > THREADGROUP_BYTES) {
            found(Problem::TooMuchThreadgroupMemory(bytes));
        }
        if is_braced_scalar(code) {
            found(Problem::BracedScalar);
        }
        if code.contains("max_total_threads_per_threadgroup(32)") {
            found(Problem::SingleSimdgroupBound);
        }
        if let Some((_, text)) = code.split_once("#error ") {
            found(Problem::Error(text.trim().to_owned()));
        }
    }
    if let Some(signature) = Signature::of(source) {
        let count = signature.buffers().count();
        if count > MAX_BUFFERS {
            findings.push(Finding { line: 1, problem: Problem::TooManyBuffers(count) });
        }
    }
    findings
}

/// `float* x = …` or `reinterpret_cast<float*>`: a pointer in Metal must name its address space.
fn lacks_address_space(code: &str) -> bool {
    const SPACES: [&str; 4] = ["device", "threadgroup", "constant", "thread"];
    let names_space = |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| SPACES.contains(&word));
    if let Some((_, rest)) = code.split_once("reinterpret_cast<")
        && let Some((target, _)) = rest.split_once(">(")
        && target.trim_end().ends_with('*')
        && !names_space(target)
    {
        return true;
    }
    let Some((left, _)) = code.split_once(" = ") else { return false };
    let Some((kind, name)) = left.rsplit_once('*') else { return false };
    let is_name = name.trim().chars().all(|c| c.is_alphanumeric() || c == '_');
    let is_type = kind.trim_end().chars().all(|c| c.is_alphanumeric() || c == '_' || c == ' ') && !kind.trim().is_empty();
    is_name && is_type && !names_space(kind)
}

fn is_braced_scalar(code: &str) -> bool {
    ["float", "half", "bfloat", "bool", "int", "uint"].iter().any(|kind| code.contains(&format!(" = {kind} {{")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(source: &str) -> Vec<Problem> {
        lint(source).into_iter().map(|finding| finding.problem).collect()
    }

    #[test]
    fn each_kind_is_found_with_its_line() {
        assert_eq!(
            lint("\nsimdgroup_barrier(mem_flags::mem_none);")[0],
            Finding { line: 2, problem: Problem::UnorderedBarrier }
        );
        assert_eq!(problems("atomic_uint* l_0 = l_5;"), [Problem::MissingAddressSpace]);
        assert_eq!(problems("x = reinterpret_cast<const float_4*>(buffer_0);"), [Problem::MissingAddressSpace]);
        assert_eq!(problems("unsigned mask = __activemask();"), [Problem::ForeignName("__activemask")]);
        assert_eq!(problems("threadgroup uchar dynamic_shared_mem[40000];"), [Problem::TooMuchThreadgroupMemory(40000)]);
        assert_eq!(problems("const float l_1 = float {simd_sum(l_0)"), [Problem::BracedScalar]);
        assert_eq!(problems("[[kernel, max_total_threads_per_threadgroup(32)]]"), [Problem::SingleSimdgroupBound]);
        assert_eq!(problems("x = #error type double not supported!"), [Problem::Error("type double not supported!".into())]);
        let many: Vec<String> = (0..31).map(|i| format!("    device float * buffer_{i} [[buffer({i})]]")).collect();
        let source = format!("[[kernel]]\nvoid f(\n{}\n) {{\n}}\n", many.join(",\n"));
        assert_eq!(problems(&source), [Problem::TooManyBuffers(31)]);
    }

    #[test]
    fn sound_code_and_comments_pass() {
        for sound in [
            "const float l_1 = l_2 * l_3;",
            "device atomic_uint* l_0 = &buffer_0[l_4];",
            "threadgroup half* s = reinterpret_cast<threadgroup half*>(&dynamic_shared_mem[0]);",
            "// os_log_default.log(\"x\");",
            "const float_4 l_6 = float_4{l_1.i_0 * l_2.i_0,};",
            "l_mut_3 = l_mut_3 * l_9;",
        ] {
            assert_eq!(lint(sound), [], "{sound}");
        }
    }
}
