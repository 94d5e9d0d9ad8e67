//! A compiled kernel, and its launches.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::clang::Clang;
use super::counters::{self, KernelCounters};
use super::device::ThreadOrder;
use super::error::EmulatorError;
use super::fault::{Fault, FaultKind};
use super::translate::translate;
use crate::lint::lint;
use crate::msl::Signature;

/// Lints a text.
///
/// # Errors
/// [`EmulatorError::Lint`] with what the lint found.
pub(super) fn check(source: &str) -> Result<(), EmulatorError> {
    let findings = lint(source);
    if findings.is_empty() {
        return Ok(());
    }
    let kernel = Signature::of(source).map_or_else(|| "a kernel".to_owned(), |signature| signature.name);
    Err(EmulatorError::Lint { kernel, findings: findings.iter().map(ToString::to_string).collect() })
}

#[repr(C)]
struct Buffer {
    start: *mut u8,
    bytes: u64,
}

/// As in `harness/abi.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawFault {
    code: u32,
    space: u32,
    buffer: u32,
    size: u32,
    offset: i64,
    site: u64,
    other_site: u64,
    thread: u32,
    other_thread: u32,
    group: [u32; 3],
    other_is_write: u32,
    is_write: u32,
    detail: u32,
}

type Entry = unsafe extern "C" fn(*const core::ffi::c_void, *const *mut core::ffi::c_void);

/// As in `harness/abi.h`.
#[repr(C)]
struct Launch {
    entry: Entry,
    dim: [u32; 3],
    count: [u32; 3],
    order: u32,
    find_races: u32,
    buffers: *const Buffer,
    buffer_count: u64,
    fault: RawFault,
    counters: KernelCounters,
}

type Run = unsafe extern "C" fn(*mut Launch);

/// The harness is loaded once; kernels find its services by name.
struct Harness {
    run: Run,
    _library: Library,
}

fn harness(clang: &Clang) -> Result<&'static Mutex<Harness>, EmulatorError> {
    static LOADED: OnceLock<Result<Mutex<Harness>, EmulatorError>> = OnceLock::new();
    let load = || {
        let failed = |error: libloading::Error| EmulatorError::load(&clang.harness, &error);
        // SAFETY: the library is ours; loading it runs no code beyond its static constructors, which only set fields.
        let library = unsafe { Library::open(Some(&clang.harness), RTLD_NOW | RTLD_GLOBAL) }.map_err(failed)?;
        // SAFETY: `msl_run` has this signature in `harness.cpp`.
        let run = *unsafe { library.get::<Run>(b"msl_run\0") }.map_err(failed)?;
        Ok(Mutex::new(Harness { run, _library: library }))
    };
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// A kernel that can be launched.
pub(super) struct CompiledKernel {
    name: String,
    source: String,
    entry: Entry,
    dim: [u32; 3],
    buffers: usize,
    repairs: Vec<&'static str>,
    path: PathBuf,
    harness: &'static Mutex<Harness>,
    _library: Library,
}

impl CompiledKernel {
    /// Compiles repaired MSL for threadgroups of `dim` threads.
    ///
    /// # Errors
    /// When clang is missing or refuses the text.
    pub fn new(source: String, dim: [u32; 3], repairs: Vec<&'static str>) -> Result<Self, EmulatorError> {
        let signature = Signature::of(&source).ok_or(EmulatorError::NoEntryPoint)?;
        let clang = Clang::find()?;
        let harness = harness(clang)?;
        let translation = translate(&source, &signature);
        let path = clang.compile(&signature.name, &source, &translation.text)?;
        let failed = |error: libloading::Error| EmulatorError::load(&path, &error);
        // SAFETY: the library was compiled from the kernel's text by the call above; its constructor calls `__tsan_init`
        // of the harness, which does nothing.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW) }.map_err(failed)?;
        // SAFETY: `translate` adds an entry of this signature to every kernel.
        let entry = *unsafe { library.get::<Entry>(b"msl_entry\0") }.map_err(failed)?;
        Ok(Self {
            name: signature.name,
            source,
            entry,
            dim,
            buffers: translation.buffers,
            repairs,
            path: path.clone(),
            harness,
            _library: library,
        })
    }

    /// Runs the kernel on `count` threadgroups, and returns its counts.
    ///
    /// # Errors
    /// [`EmulatorError::Fault`] with its first fault.
    pub fn launch(
        &self,
        count: [u32; 3],
        buffers: &[(*mut u8, usize)],
        order: ThreadOrder,
        find_races: bool,
    ) -> Result<KernelCounters, EmulatorError> {
        if buffers.len() != self.buffers {
            let (expected, given) = (self.buffers, buffers.len());
            return Err(EmulatorError::Buffers { kernel: self.name.clone(), expected, given });
        }
        let buffers: Vec<Buffer> =
            buffers.iter().map(|(start, bytes)| Buffer { start: *start, bytes: *bytes as u64 }).collect();
        let mut launch = Launch {
            entry: self.entry,
            dim: self.dim,
            count,
            order: order.number(),
            find_races: u32::from(find_races),
            buffers: buffers.as_ptr(),
            buffer_count: buffers.len() as u64,
            fault: RawFault::default(),
            counters: KernelCounters::default(),
        };
        let harness = self.harness.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the launch has the layout that the harness expects; the buffers live until it returns, and every access of the
        // kernel is checked against them before it happens. The lock serialises launches.
        unsafe { (harness.run)(&raw mut launch) };
        drop(harness);
        if launch.fault.code == 0 {
            counters::count(&self.name, &self.repairs, &launch.counters);
            return Ok(launch.counters);
        }
        Err(EmulatorError::Fault(Box::new(self.fault(&launch.fault))))
    }

    fn fault(&self, raw: &RawFault) -> Fault {
        const THREADGROUP: u32 = 2;
        let lines = Lines::of(&self.path);
        let buffer = (raw.space != THREADGROUP && raw.buffer != u32::MAX).then_some(raw.buffer);
        let kind = match raw.code {
            1 | 2 => FaultKind::OutOfBounds { is_write: raw.code == 2, buffer, offset: raw.offset, bytes: raw.size },
            3 => FaultKind::Race {
                buffer,
                offset: raw.offset,
                is_write: raw.is_write != 0,
                other_is_write: raw.other_is_write != 0,
                other_thread: raw.other_thread,
                across_threadgroups: raw.detail != 0,
                other_line: lines.line(raw.other_site),
            },
            4 => FaultKind::BarrierNotReached { returned: raw.detail },
            5 => FaultKind::DifferentBarriers { other_line: lines.line(raw.other_site) },
            6 => FaultKind::InactiveLane { lane: raw.detail },
            7 => FaultKind::PartialSimdgroup { lanes: raw.detail },
            8 => FaultKind::FragmentIndex { index: raw.detail },
            10 => FaultKind::TensorOperation { detail: raw.detail },
            _ => FaultKind::ThreadgroupMemory { bytes: raw.size },
        };
        let line = lines.line(raw.site);
        let text = line.and_then(|line| self.source.lines().nth(line as usize - 1)).unwrap_or_default();
        Fault {
            kind,
            kernel: self.name.clone(),
            line,
            text: text.trim().to_owned(),
            thread: raw.thread,
            threadgroup: raw.group,
        }
    }
}

/// Maps addresses of a library to lines of the MSL.
struct Lines(Option<addr2line::Loader>);

impl Lines {
    fn of(library: &Path) -> Self {
        Self(addr2line::Loader::new(library).ok())
    }

    /// The line of the call that returns to `site`; functions of the shim count as the line that calls them.
    fn line(&self, site: u64) -> Option<u32> {
        let mut frames = self.0.as_ref()?.find_frames(site.checked_sub(1)?).ok()?;
        while let Ok(Some(frame)) = frames.next() {
            if let Some(location) = frame.location
                && location
                    .file
                    .is_some_and(|file| Path::new(file).extension().is_some_and(|extension| extension == "metal"))
            {
                return location.line;
            }
        }
        None
    }
}
