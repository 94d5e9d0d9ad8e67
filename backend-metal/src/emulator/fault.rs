//! What a kernel did wrong, with the line of the MSL where it did it.

use std::fmt;

/// The kinds of faults; numbers as in `harness/abi.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// A read or write of `bytes` at `offset` of a buffer, or of threadgroup memory, that does not have them.
    OutOfBounds {
        /// It was a write.
        is_write: bool,
        /// The nearest buffer; `None` is threadgroup memory.
        buffer: Option<u32>,
        /// Bytes from its start.
        offset: i64,
        /// Bytes of the access.
        bytes: u32,
    },
    /// Two threads at the same memory, one of them writing, and nothing orders them.
    Race {
        /// The buffer; `None` is threadgroup memory.
        buffer: Option<u32>,
        /// Bytes from its start.
        offset: i64,
        /// This access wrote.
        is_write: bool,
        /// The other one did.
        other_is_write: bool,
        /// The other thread of the threadgroup.
        other_thread: u32,
        /// It belongs to another threadgroup.
        across_threadgroups: bool,
        /// The other's line.
        other_line: Option<u32>,
    },
    /// Some threads wait at a barrier that others have returned without reaching.
    BarrierNotReached {
        /// How many have returned.
        returned: u32,
    },
    /// Threads of one threadgroup wait at different barriers.
    DifferentBarriers {
        /// The other barrier's line.
        other_line: Option<u32>,
    },
    /// A SIMD-group function reads a lane that is not there or not active.
    InactiveLane {
        /// The lane.
        lane: u32,
    },
    /// A matrix operation that not all 32 lanes take part in.
    PartialSimdgroup {
        /// How many do.
        lanes: u32,
    },
    /// `thread_elements()` has two elements.
    FragmentIndex {
        /// The index.
        index: u32,
    },
    /// More than 32 KiB of threadgroup memory.
    ThreadgroupMemory {
        /// What the kernel wants.
        bytes: u32,
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
            Self::InactiveLane { lane } => write!(f, "the value of lane {lane} is read, which is inactive or not there"),
            Self::PartialSimdgroup { lanes } => write!(f, "a matrix operation with {lanes} of 32 lanes"),
            Self::FragmentIndex { index } => write!(f, "element {index} of thread_elements(), which has 2"),
            Self::ThreadgroupMemory { bytes } => write!(f, "{bytes} bytes of threadgroup memory, and a GPU has 32768"),
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
