//! The marks that the runtime replaces by tensor operations. They are prints, the one statement of cubecl that names variables as it
//! emits them; `repair/units.rs` of `burnish-metal` reads them. A mark that stays is a kernel that does not compile.

use cubecl::ir::ManagedVariable;
use cubecl::prelude::*;

use super::plan::UnitPlan;

/// The part of an operand that an operation reads: elements from `first` on, rows `stride` apart, so many lines of terms.
#[derive(CubeType, Clone, Copy)]
#[allow(dead_code, reason = "marks read what the macro makes of it")]
pub(super) struct Part {
    pub first: u32,
    pub stride: u32,
    pub lines: u32,
}

/// Declares the sums of a tile, all 0, for operands of such types.
#[cube]
#[allow(unused_variables)]
pub(super) fn begin<A: CubePrimitive, B: CubePrimitive>(a: &Array<A>, b: &Array<B>, #[comptime] plan: UnitPlan) {
    intrinsic!(|scope| {
        let [a, b]: [ManagedVariable; 2] = [a.into(), b.into()];
        printf_expand(scope, plan.begin(), vec![*a, *b]);
    })
}

/// The same, where `B` is in shared memory.
#[cube]
#[allow(unused_variables)]
pub(super) fn begin_shared<A: CubePrimitive, B: CubePrimitive>(
    a: &Array<A>,
    b: &SharedMemory<B>,
    #[comptime] plan: UnitPlan,
) {
    intrinsic!(|scope| {
        let [a, b]: [ManagedVariable; 2] = [a.into(), b.into()];
        printf_expand(scope, plan.begin(), vec![*a, *b]);
    })
}

/// Adds the product of parts of both operands to the sums, over `depth` terms. All threads of the cube must come here.
#[cube]
#[allow(unused_variables)]
pub(super) fn multiply<A: CubePrimitive, B: CubePrimitive>(
    a: &Array<A>,
    b: &Array<B>,
    left: Part,
    right: Part,
    depth: u32,
    #[comptime] plan: UnitPlan,
) {
    intrinsic!(|scope| {
        let [a, b]: [ManagedVariable; 2] = [a.into(), b.into()];
        let numbers = [left.first, left.stride, left.lines, right.first, right.stride, right.lines, depth];
        let numbers = numbers.map(ManagedVariable::from);
        printf_expand(scope, plan.multiply(), [a, b].iter().chain(&numbers).map(|variable| **variable).collect());
    })
}

/// The same, where `B` is in shared memory.
#[cube]
#[allow(unused_variables)]
pub(super) fn multiply_shared<A: CubePrimitive, B: CubePrimitive>(
    a: &Array<A>,
    b: &SharedMemory<B>,
    left: Part,
    right: Part,
    depth: u32,
    #[comptime] plan: UnitPlan,
) {
    intrinsic!(|scope| {
        let [a, b]: [ManagedVariable; 2] = [a.into(), b.into()];
        let numbers = [left.first, left.stride, left.lines, right.first, right.stride, right.lines, depth];
        let numbers = numbers.map(ManagedVariable::from);
        printf_expand(scope, plan.multiply(), [a, b].iter().chain(&numbers).map(|variable| **variable).collect());
    })
}

/// Writes `alpha` times the sums to the result, whose part it is: those of its `lines` rows and `columns`.
#[cube]
#[allow(unused_variables)]
pub(super) fn write<O: CubePrimitive>(out: &mut Array<O>, part: Part, columns: u32, alpha: f32) {
    intrinsic!(|scope| {
        let out: ManagedVariable = out.into();
        let numbers = [part.first, part.stride, part.lines, columns].map(ManagedVariable::from);
        let alpha: ManagedVariable = alpha.into();
        let all = [out].into_iter().chain(numbers).chain([alpha]);
        printf_expand(scope, "units write", all.map(|variable| *variable).collect());
    })
}
