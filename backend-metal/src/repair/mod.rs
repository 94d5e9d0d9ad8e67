//! Fixes what cubecl's Metal dialect emits.
//!
//! cubecl 0.10 emits text that Apple's compiler refuses, or that compiles and does the wrong thing. Most of it is fixed in cubecl
//! 0.11, which burn 0.21 can't use. Every kernel of [`MetalRuntime`](crate) and of the emulator is repaired here before it is
//! compiled, including those of burn and cubek. A rule is a function from text to text that changes nothing where its fault is
//! absent; line numbers stay as they are.

mod barriers;
mod bfloat;
mod matrices;
mod met;
mod order;
mod pointers;
mod scalars;
mod units;

pub use met::{SKIP, asked_to_skip, met, note};

/// One known fault, and its fix.
pub struct Rule {
    /// Its name in reports.
    pub name: &'static str,
    /// What is wrong.
    pub fault: &'static str,
    /// Where it comes from, and where it was reported or fixed.
    pub upstream: &'static str,
    /// The fixed text, where the fault is present.
    apply: fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule").field("name", &self.name).field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// Every rule, in the order in which they are applied.
pub const RULES: &[Rule] = &[
    Rule {
        name: "scalar_braces",
        fault: "a SIMD-group reduction of a scalar is initialised by braces, which Apple's compiler refuses",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs `warp_op_vectorized`; tracel-ai/cubecl#1428; fixed in 0.11",
        apply: scalars::braces,
    },
    Rule {
        name: "vector_negation",
        fault: "a vector is a struct, and a struct has no unary minus",
        upstream: "cubecl-cpp 0.10 shared/instruction.rs `Instruction::Neg`",
        apply: scalars::negation,
    },
    Rule {
        name: "plane_elect",
        fault: "the elected lane is found by CUDA's names",
        upstream: "cubecl-cpp 0.10 shared/warp.rs `WarpInstruction::ElectFallback`",
        apply: scalars::elect,
    },
    Rule {
        name: "tensor_operations",
        fault: "Metal 4's tensor operations can't be expressed: kernels have marks instead",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs has `simdgroup_matrix` only",
        apply: units::marks,
    },
    Rule {
        name: "printf",
        fault: "os_log needs a header and a compiler option that callers do not pass: the print is removed",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs `compile_instruction_printf`",
        apply: scalars::print,
    },
    Rule {
        name: "atomic_pointer",
        fault: "a copy of a pointer to an atomic loses its address space, or the buffer is declared const",
        upstream: "cubecl-cpp 0.10 shared/binary.rs `Index`; tracel-ai/cubecl#1428; fixed in 0.11",
        apply: pointers::atomics,
    },
    Rule {
        name: "slice_cast",
        fault: "the cast of a slice to vectors of another size loses its address space",
        upstream: "cubecl-cpp 0.10 shared/binary.rs `Index` and `IndexAssign` with a vector size",
        apply: pointers::slices,
    },
    Rule {
        name: "fragment_cast",
        fault: "a cast of a fragment loops over 8 elements of a lane, which has 2",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs `WmmaInstruction::Cast`; perhaps tracel-ai/burn#5351",
        apply: matrices::cast,
    },
    Rule {
        name: "fragment_store",
        fault: "a fragment that is stored as vectors to a buffer is cast to threadgroup memory, and bfloat is cast to half",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs `WmmaInstruction::Store`",
        apply: matrices::store,
    },
    Rule {
        name: "sync_plane",
        fault: "the barrier of a SIMD-group orders no memory",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs `compile_instruction_sync_warp`",
        apply: barriers::plane,
    },
    Rule {
        name: "sync_storage",
        fault: "the fence of device memory is a function that Metal does not have",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs `compile_instruction_thread_fence`",
        apply: barriers::storage,
    },
    Rule {
        name: "sync_cube",
        fault: "the barrier of a threadgroup does not order device memory, in a kernel that reads what it has written",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs `compile_instruction_sync_threads`",
        apply: barriers::cube,
    },
    Rule {
        name: "bfloat_math",
        fault: "bfloat has no mathematical or SIMD-group functions: they are computed in float",
        upstream: "Metal Shading Language Specification 3.2, 2.1 and 6.5",
        apply: bfloat::functions,
    },
    Rule {
        name: "struct_order",
        fault: "vector types are declared in an order that changes from run to run, so that a cache misses the text",
        upstream: "cubecl-cpp 0.10 metal/dialect.rs `compile_type_definitions` iterates over a HashSet",
        apply: order::structs,
    },
    Rule {
        name: "local_order",
        fault: "local variables are declared in an order that changes from run to run, so that a cache misses the text",
        upstream: "cubecl-ir 0.10 allocator.rs `take_variables` drains a HashMap",
        apply: order::locals,
    },
];

/// A repaired text, with the names of the rules that changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    source: String,
    applied: Vec<&'static str>,
}

impl Repaired {
    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names of the rules.
    pub fn applied(&self) -> &[&'static str] {
        &self.applied
    }

    /// Both.
    pub fn into_parts(self) -> (String, Vec<&'static str>) {
        (self.source, self.applied)
    }
}

/// Applies every rule to emitted MSL, except those in the environment variable [`SKIP`].
pub fn repair(source: &str) -> Repaired {
    repair_except(source, asked_to_skip())
}

/// Applies every rule but some.
pub fn repair_except(source: &str, skipped: &[String]) -> Repaired {
    let mut repaired = Repaired { source: source.to_owned(), applied: Vec::new() };
    for rule in RULES.iter().filter(|rule| !skipped.iter().any(|name| name == rule.name)) {
        if let Some(fixed) = (rule.apply)(&repaired.source).filter(|fixed| *fixed != repaired.source) {
            repaired.source = fixed;
            repaired.applied.push(rule.name);
        }
    }
    repaired
}

/// The rules that [`SKIP`] names.
///
/// # Errors
/// The message about the first unknown name.
pub fn skipped() -> Result<Vec<&'static str>, String> {
    let rule = |name: &String| RULES.iter().map(|rule| rule.name).find(|rule| rule == name).ok_or_else(|| unknown(name));
    asked_to_skip().iter().map(rule).collect()
}

fn unknown(name: &str) -> String {
    let rules: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    format!("{SKIP} names `{name}`, but there is no repair of that name; the repairs are {}", rules.join(", "))
}

/// Rewrites lines one by one; `None` if no line changes.
fn by_line(source: &str, mut change: impl FnMut(&str) -> Option<String>) -> Option<String> {
    let mut changed = false;
    let lines: Vec<String> = source
        .split('\n')
        .map(|line| match change(line) {
            Some(new) => {
                changed = true;
                new
            }
            None => line.to_owned(),
        })
        .collect();
    changed.then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correct_text_is_unchanged() {
        let source = "\n#include <metal_stdlib>\nusing namespace metal;\n\n[[kernel]]\nvoid f(\n    device float * buffer_0 \
                      [[buffer(0)]]\n) {\nbuffer_0[0] = -buffer_0[0];\n}\n";
        assert_eq!(repair(source), Repaired { source: source.to_owned(), applied: Vec::new() });
    }

    #[test]
    fn a_second_pass_changes_nothing() {
        let source = "simdgroup_barrier(mem_flags::mem_none);\nconst float l_1 = float {simd_sum(l_0)\n};\n";
        let once = repair(source);
        assert_eq!(once.applied(), ["scalar_braces", "sync_plane"]);
        assert!(repair(once.source()).applied().is_empty(), "{}", once.source());
    }

    #[test]
    fn a_skipped_rule_changes_nothing() {
        let source = "simdgroup_barrier(mem_flags::mem_none);\nconst float l_1 = float {simd_sum(l_0)\n};\n";
        let repaired = repair_except(source, &["scalar_braces".to_owned()]);
        assert_eq!(repaired.applied(), ["sync_plane"]);
        assert!(repaired.source().contains("float {simd_sum(l_0)"), "{}", repaired.source());
        assert!(unknown("sync").starts_with("BURNISH_SKIP_REPAIR names `sync`, but there is no repair of that name"));
    }

    #[test]
    fn names_of_rules_are_unique() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(RULES[..index].iter().all(|earlier| earlier.name != rule.name), "{}", rule.name);
            assert!(rule.upstream.contains("cubecl") || rule.upstream.contains("Metal"), "{}", rule.name);
        }
    }
}
