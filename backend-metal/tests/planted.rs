//! Planted faults are found, and reported with the kernel and the line of the MSL.
#![allow(clippy::unwrap_used)]

use burnish_metal::emulator::{EmulatorDevice, EmulatorError, Fault, FaultKind, KernelCounters, execute};

/// A kernel over `float * x` and `float * y` with `threadgroup float* s` of 64 elements; the body begins at line 15.
fn kernel(body: &str) -> String {
    kernel_with(256, body)
}

fn kernel_with(bytes: usize, body: &str) -> String {
    format!(
        "#include <metal_stdlib>
using namespace metal;

[[kernel]]
void planted(
    const device float * x [[buffer(0)]],
    device float * y [[buffer(1)]],
    uint t [[thread_index_in_threadgroup]],
    uint3 g [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]
) {{
threadgroup uchar dynamic_shared_mem[{bytes}];
threadgroup float* s = reinterpret_cast<threadgroup float*>(&dynamic_shared_mem[0]);
// body
{body}
}}
"
    )
}

const DEVICES: [EmulatorDevice; 3] = [EmulatorDevice::Checked, EmulatorDevice::Reversed, EmulatorDevice::Shuffled];

fn run_on(device: EmulatorDevice, source: &str, groups: u32) -> Result<(Vec<f32>, KernelCounters), EmulatorError> {
    let mut x: Vec<u8> = (0..64).flat_map(|i| (i as f32).to_ne_bytes()).collect();
    let mut y = vec![0u8; 64 * 4];
    let counters = execute(source, [64, 1, 1], [groups, 1, 1], &mut [&mut x, &mut y], device)?;
    Ok((y.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect(), counters))
}

/// The fault, which must be of the same kind on every device.
fn fault(source: &str) -> Fault {
    let found = |device| match run_on(device, source, 1) {
        Err(EmulatorError::Fault(fault)) => *fault,
        other => panic!("expected a fault, got {other:?}"),
    };
    let faults = DEVICES.map(found);
    for other in &faults[1..] {
        assert_eq!(std::mem::discriminant(&other.kind), std::mem::discriminant(&faults[0].kind));
    }
    assert_eq!(faults[0].kernel, "planted");
    let text = faults[0].to_string();
    assert!(text.starts_with("planted: ") && text.contains("line "), "{text}");
    faults[0].clone()
}

#[test]
fn a_correct_kernel_gives_the_same_results_and_counts_on_every_device() {
    let source = kernel(
        "s[t] = x[t];\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nconst uint l_0 = 63 - t;\nconst float l_1 = s[l_0] * x[t];\ny[t] = l_1;",
    );
    for device in DEVICES {
        let (y, counters) = run_on(device, &source, 1).unwrap();
        assert!(y.iter().enumerate().all(|(i, y)| (*y - ((63 - i) * i) as f32).abs() < 1e-3), "{y:?}");
        assert_eq!((counters.bytes_read, counters.unique_bytes_read), (2 * 256, 256));
        assert_eq!((counters.bytes_written, counters.unique_bytes_written), (256, 256));
        assert_eq!((counters.threadgroup_bytes_read, counters.threadgroup_bytes_written), (256, 256));
        assert_eq!((counters.arithmetic, counters.barriers), (64, 1));
    }
}

#[test]
fn a_missing_barrier() {
    let found = fault(&kernel("s[t] = x[t];\ny[t] = s[63 - t];"));
    assert!(matches!(found.kind, FaultKind::Race { buffer: None, other_line: Some(15 | 16), .. }), "{found}");
    assert!(matches!(found.line, Some(15 | 16)), "{found}");
}

#[test]
fn a_barrier_that_orders_other_memory() {
    let found = fault(&kernel("s[t] = x[t];\nthreadgroup_barrier(mem_flags::mem_device);\ny[t] = s[63 - t];"));
    assert!(matches!(found.kind, FaultKind::Race { buffer: None, .. }), "{found}");
    let device = "y[t] = x[t];\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nconst float l_0 = y[63 - t];\ns[t] = l_0;";
    assert!(matches!(fault(&kernel(device)).kind, FaultKind::Race { buffer: Some(1), .. }));
}

#[test]
fn a_barrier_of_the_simdgroup_orders_the_simdgroup_only() {
    let within = "s[t] = x[t];\nsimdgroup_barrier(mem_flags::mem_threadgroup);\ny[t] = s[t ^ 1];";
    assert!(run_on(EmulatorDevice::Shuffled, &kernel(within), 1).is_ok());
    let across = "s[t] = x[t];\nsimdgroup_barrier(mem_flags::mem_threadgroup);\ny[t] = s[63 - t];";
    assert!(matches!(fault(&kernel(across)).kind, FaultKind::Race { buffer: None, .. }));
}

/// Lanes read each other's elements; after a barrier of their group each reads and writes its own.
#[test]
fn reads_that_a_simdgroup_has_ordered_do_not_race_with_its_writes() {
    let source = "s[t] = x[t];\nsimdgroup_barrier(mem_flags::mem_threadgroup);\nconst float l_0 = s[t ^ 1];\nsimdgroup_barrier(mem_flags::mem_threadgroup);\ns[t] = s[t] * 2.0f;\ny[t] = s[t] + l_0;";
    for device in DEVICES {
        run_on(device, &kernel(source), 1).unwrap();
    }
    // Without the second barrier the neighbour may not have read yet.
    let torn = "s[t] = x[t];\nsimdgroup_barrier(mem_flags::mem_threadgroup);\nconst float l_0 = s[t ^ 1];\ns[t] = s[t] * 2.0f;\ny[t] = s[t] + l_0;";
    assert!(matches!(fault(&kernel(torn)).kind, FaultKind::Race { buffer: None, .. }));
}

#[test]
fn a_race_between_threadgroups() {
    let source = kernel("y[t] = x[t] + float(g.x);");
    match run_on(EmulatorDevice::Checked, &source, 2) {
        Err(EmulatorError::Fault(found)) => {
            assert!(
                matches!(found.kind, FaultKind::Race { buffer: Some(1), across_threadgroups: true, is_write: true, .. }),
                "{found}"
            );
            assert_eq!((found.line, found.text.as_str()), (Some(15), "y[t] = x[t] + float(g.x);"));
        }
        other => panic!("{other:?}"),
    }
    // Two writes of the same value are no race, nor are writes of different elements.
    assert!(run_on(EmulatorDevice::Checked, &kernel("y[t] = x[t];"), 2).is_ok());
}

#[test]
fn a_race_of_two_threads() {
    let found = fault(&kernel("y[t / 2] = x[t];"));
    assert!(matches!(found.kind, FaultKind::Race { buffer: Some(1), is_write: true, other_is_write: true, .. }), "{found}");
    assert_eq!(found.line, Some(15));
}

#[test]
fn atomics_do_not_race() {
    let source = kernel(
        "device atomic_float* sum = (device atomic_float*)(&y[0]);\natomic_fetch_add_explicit(sum, x[t], memory_order_relaxed);",
    );
    let (y, _) = run_on(EmulatorDevice::Shuffled, &source, 1).unwrap();
    assert!((y[0] - (0..64).sum::<i32>() as f32).abs() < 1e-3);
    let mixed = kernel(
        "device atomic_float* sum = (device atomic_float*)(&y[0]);\natomic_fetch_add_explicit(sum, x[t], memory_order_relaxed);\ny[0] = 1.0f;",
    );
    assert!(matches!(fault(&mixed).kind, FaultKind::Race { buffer: Some(1), .. }));
}

#[test]
fn a_divergent_barrier() {
    let found = fault(&kernel("if (t < 32) {\nthreadgroup_barrier(mem_flags::mem_threadgroup);\n}\ny[t] = x[t];"));
    assert_eq!((found.kind, found.line), (FaultKind::BarrierNotReached { returned: 32 }, Some(16)));
    let two = "if (t < 32) {\nthreadgroup_barrier(mem_flags::mem_threadgroup);\n} else {\nthreadgroup_barrier(mem_flags::mem_device);\n}\ny[t] = x[t];";
    let found = fault(&kernel(two));
    assert!(matches!(found.kind, FaultKind::DifferentBarriers { other_line: Some(16 | 18) }), "{found}");
}

/// Clang could duplicate the second barrier, since it knows there which branch was taken before.
#[test]
fn barriers_between_two_branches_of_one_condition() {
    let source = kernel(
        "s[t] = x[t];
threadgroup_barrier(mem_flags::mem_threadgroup);
const bool first = t < 2u;
if (first) y[t] = s[t + 62];
threadgroup_barrier(mem_flags::mem_threadgroup);
s[t] = 2.0f * x[t];
threadgroup_barrier(mem_flags::mem_threadgroup);
const bool second = t < 2u;
if (second) y[t + 2] = s[t + 62];
threadgroup_barrier(mem_flags::mem_threadgroup);",
    );
    for device in DEVICES {
        let (y, counters) = run_on(device, &source, 1).unwrap();
        assert_eq!((y[..4].to_vec(), counters.barriers), (vec![62.0, 63.0, 124.0, 126.0], 4));
    }
}

#[test]
fn out_of_bounds() {
    let found = fault(&kernel("y[t] = x[t + 1];"));
    assert_eq!(found.kind, FaultKind::OutOfBounds { is_write: false, buffer: Some(0), offset: 256, bytes: 4 });
    assert_eq!(found.line, Some(15));
    let found = fault(&kernel("y[int(t) - 1] = x[t];"));
    assert_eq!(found.kind, FaultKind::OutOfBounds { is_write: true, buffer: Some(1), offset: -4, bytes: 4 });
    let found = fault(&kernel("s[t + 16] = x[t];\ny[t] = 0.0f;"));
    assert!(matches!(found.kind, FaultKind::OutOfBounds { is_write: true, buffer: None, offset: 256, .. }), "{found}");
    let found = fault(&kernel("device float* far = y + 100000000000ul;\nfar[t] = x[t];"));
    assert!(matches!(found.kind, FaultKind::OutOfBounds { is_write: true, .. }), "{found}");
}

fn refused(source: &str) -> String {
    match run_on(EmulatorDevice::Checked, source, 1) {
        Err(error @ (EmulatorError::Compile { .. } | EmulatorError::Lint { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_address_space() {
    // C++ alone would accept it: it erases address spaces.
    let text = refused(&kernel("threadgroup float* p = (threadgroup float*)0;\np = y;\ny[t] = p[0];"));
    assert!(text.contains("planted") && text.contains(".metal:16:"), "{text}");
    let text = refused(&kernel("float* p = y;\ny[t] = p[0];"));
    assert!(text.contains("planted: line 15: a pointer without an address space"), "{text}");
}

#[test]
fn too_much_threadgroup_memory() {
    let text = refused(&kernel_with(40_000, "y[t] = x[t];"));
    assert!(text.contains("line 12: 40000 bytes of threadgroup memory"), "{text}");
}

#[test]
fn a_shuffle_from_an_inactive_lane() {
    let found = fault(&kernel("if (lane < 16) {\ny[t] = simd_shuffle(x[t], ushort(20));\n}"));
    assert_eq!((found.kind, found.line), (FaultKind::InactiveLane { lane: 20 }, Some(16)));
}

#[test]
fn matrices_need_every_lane_and_have_two_elements() {
    let found = fault(&kernel(
        "simdgroup_float8x8 m;\nif (lane < 16) {\nsimdgroup_load(m, x, 8);\n}\ny[t] = m.thread_elements()[0];",
    ));
    assert_eq!((found.kind, found.line), (FaultKind::PartialSimdgroup { lanes: 16 }, Some(17)));
    let found =
        fault(&kernel("simdgroup_float8x8 m;\nsimdgroup_load(m, x, 8);\ny[t] = m.thread_elements()[int(t / 32) + 1];"));
    assert_eq!((found.kind, found.line), (FaultKind::FragmentIndex { index: 2 }, Some(17)));
}

#[test]
fn a_text_that_does_not_compile_is_an_error_with_its_line() {
    let text = refused(&kernel("y[t] = not_there(x[t]);"));
    assert!(text.contains("planted") && text.contains(".metal:15:") && text.contains("not_there"), "{text}");
}
