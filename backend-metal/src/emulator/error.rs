//! What can go wrong in the emulator.

use std::path::{Path, PathBuf};

use cubecl_runtime::compiler::CompilationError;

use super::fault::Fault;

/// An error of the emulator.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EmulatorError {
    /// There is no clang, or only an old one.
    #[error(
        "the emulator needs clang 16 or later{}: `apt-get install clang-19` on Debian and Ubuntu, `xcode-select --install` on macOS; \
         BURNISH_CLANG names another",
        too_old.map_or_else(String::new, |version| format!(", found only {version}"))
    )]
    NoClang {
        /// The version that was found instead.
        too_old: Option<u32>,
    },
    /// A file of the emulator's cache can't be written or read.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// cubecl could not emit MSL.
    #[error("{kernel}: {reason}")]
    Emit {
        /// The kernel.
        kernel: String,
        /// cubecl's message.
        reason: String,
    },
    /// The text has no function marked `[[kernel]]`.
    #[error("the MSL has no kernel")]
    NoEntryPoint,
    /// clang refuses the text.
    #[error("{kernel}: the MSL does not compile:\n{message}")]
    Compile {
        /// The kernel.
        kernel: String,
        /// clang's message.
        message: String,
    },
    /// The lint found something that clang accepts but Apple's compiler does not.
    #[error("{kernel}: {}", findings.join("; "))]
    Lint {
        /// The kernel.
        kernel: String,
        /// One sentence for each finding.
        findings: Vec<String>,
    },
    /// A launch with too few or too many buffers.
    #[error("{kernel}: expected {expected} buffers, got {given}")]
    Buffers {
        /// The kernel.
        kernel: String,
        /// The buffers of its signature.
        expected: usize,
        /// The buffers of the launch.
        given: usize,
    },
    /// The kernel did something that is not allowed.
    #[error("{0}")]
    Fault(Box<Fault>),
}

impl EmulatorError {
    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), reason: error.to_string() }
    }

    pub(super) fn load(path: &Path, error: &libloading::Error) -> Self {
        Self::Io { path: path.to_owned(), reason: error.to_string() }
    }

    pub(super) fn emit(kernel: &str, error: &CompilationError) -> Self {
        Self::Emit { kernel: kernel.to_owned(), reason: error.to_string() }
    }
}
