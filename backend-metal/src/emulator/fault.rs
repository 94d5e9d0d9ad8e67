//! Faults of kernels, with their line of the MSL.

use std::fmt;

/// The kinds of faults; numbers as in `harness/abi.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// A read or write of `bytes` at `offset`, beyond a buffer or threadgroup memory.
    OutOfBounds {
        /// Whether it was a write.
        is_write: bool,
        /// The nearest buffer; `None` is threadgroup memory.
        buffer: Option<u32>,
        /// Bytes from its start.
        offset: i64,
        /// Bytes of the access.
        bytes: u32,
    },
    /// Unordered accesses of two threads to the same memory, at least one of them a write.
    Race {
        /// The buffer; `None` is threadgroup memory.
        buffer: Option<u32>,
        /// Bytes from its start.
        offset: i64,
        /// Whether this access is a write.
        is_write: bool,
        /// Whether the other access is a write.
        other_is_write: bool,
        /// The other thread of the threadgroup.
        other_thread: u32,
        /// Whether the other thread is in another threadgroup.
        across_threadgroups: bool,
        /// The other's line.
        other_line: Option<u32>,
    },
    /// Some threads wait at a barrier, but others have returned without reaching it.
    BarrierNotReached {
        /// How many have returned.
        returned: u32,
    },
    /// Threads of one threadgroup wait at different barriers.
    DifferentBarriers {
        /// The other barrier's line.
        other_line: Option<u32>,
    },
    /// A SIMD-group function reads a lane that is missing or inactive.
    InactiveLane {
        /// The lane.
        lane: u32,
    },
    /// A matrix operation without all 32 lanes.
    PartialSimdgroup {
        /// Lanes that take part.
        lanes: u32,
    },
    /// An index beyond the two elements of `thread_elements()`.
    FragmentIndex {
        /// The index.
        index: u32,
    },
    /// More than 32 KiB of threadgroup memory.
    ThreadgroupMemory {
        /// Bytes that the kernel uses.
        bytes: u32,
    },
    /// A tensor operation for another number of threads than the threadgroup has, or of operands of different depths.
    TensorOperation {
        /// Threads that the operation is for, or the depth of its right operand.
        detail: u32,
    },
}

/// A fault of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The kernel's entry point.
    pub kernel: String,
    /// The line of the MSL, from 1.
    pub line: Option<u32>,
    /// That line.
    pub text: String,
    /// The thread in its threadgroup.
    pub thread: u32,
    /// The threadgroup.
    pub threadgroup: [u32; 3],
}

fn memory(buffer: Option<u32>) -> String {
    buffer.map_or_else(|| "threadgroup memory".to_owned(), |index| format!("buffer {index}"))
}

fn verb(is_write: bool) -> &'static str {
    if is_write { "write" } else { "read" }
}

fn at_line(line: Option<u32>) -> String {
    line.map_or_else(String::new, |line| format!(" at line {line}"))
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBounds { is_write, buffer, offset, bytes } => {
                write!(f, "out-of-bounds {} of {bytes} bytes at offset {offset} of {}", verb(*is_write), memory(*buffer))
            }
            Self::Race { buffer, offset, is_write, other_is_write, other_thread, across_threadgroups, other_line } => {
                write!(
                    f,
                    "data race: a {} at offset {offset} of {} and a {} by thread {other_thread}{}{}, with no barrier between",
                    verb(*is_write),
                    memory(*buffer),
                    verb(*other_is_write),
                    if *across_threadgroups { " of another threadgroup" } else { "" },
                    at_line(*other_line)
                )
            }
            Self::BarrierNotReached { returned } => {
                write!(f, "divergent barrier: {returned} threads of the threadgroup returned without reaching it")
            }
            Self::DifferentBarriers { other_line } => {
                write!(f, "divergent barrier: other threads of the threadgroup wait at another one{}", at_line(*other_line))
            }
            Self::InactiveLane { lane } => write!(f, "a read of lane {lane}, which is inactive or missing"),
            Self::PartialSimdgroup { lanes } => write!(f, "a matrix operation with {lanes} of 32 lanes"),
            Self::FragmentIndex { index } => write!(f, "element {index} of thread_elements(), which has 2"),
            Self::ThreadgroupMemory { bytes } => write!(f, "{bytes} bytes of threadgroup memory, a GPU has 32768"),
            Self::TensorOperation { detail } => {
                write!(f, "a tensor operation whose threads, or the depths of whose operands, do not agree ({detail})")
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.threadgroup;
        write!(f, "{}: {} (thread {} of threadgroup {x},{y},{z}", self.kernel, self.kind, self.thread)?;
        match self.line {
            Some(line) => write!(f, "; line {line}: `{}`)", self.text),
            None => write!(f, ")"),
        }
    }
}
