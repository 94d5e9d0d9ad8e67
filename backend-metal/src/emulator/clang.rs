//! Finding clang, and compiling with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::error::EmulatorError;

/// The shim's files, embedded in the program.
const SHIM: [(&str, &str); 10] = [
    ("metal_stdlib", include_str!("../../shim/metal_stdlib")),
    ("metal_bfloat", include_str!("../../shim/metal_bfloat")),
    ("metal_math", include_str!("../../shim/metal_math")),
    ("metal_simdgroup", include_str!("../../shim/metal_simdgroup")),
    ("metal_atomic", include_str!("../../shim/metal_atomic")),
    ("metal_simdgroup_layout", include_str!("../../shim/metal_simdgroup_layout")),
    ("metal_simdgroup_matrix", include_str!("../../shim/metal_simdgroup_matrix")),
    ("metal_tensor", include_str!("../../shim/metal_tensor")),
    (
        "MetalPerformancePrimitives/MetalPerformancePrimitives.h",
        include_str!("../../shim/MetalPerformancePrimitives/MetalPerformancePrimitives.h"),
    ),
    ("MetalPerformancePrimitives/wrong.h", include_str!("../../shim/MetalPerformancePrimitives/wrong.h")),
];
/// The harness's files; the last is the one that is compiled.
const HARNESS: [(&str, &str); 6] = [
    ("abi.h", include_str!("../../harness/abi.h")),
    ("pages.h", include_str!("../../harness/pages.h")),
    ("shadow.h", include_str!("../../harness/shadow.h")),
    ("fiber.h", include_str!("../../harness/fiber.h")),
    ("tensor.h", include_str!("../../harness/tensor.h")),
    ("harness.cpp", include_str!("../../harness/harness.cpp")),
];

/// The oldest clang with `_Float16` on x86-64.
const OLDEST: u32 = 16;

/// Reads MSL as C++ for OpenCL: address spaces are checked.
const STRICT: [&str; 5] = ["-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-fsyntax-only"];
/// Reads MSL as C++20, with a callback before every access to memory.
const EXECUTED: [&str; 13] = [
    "-x",
    "c++",
    "-std=c++20",
    "-fno-exceptions",
    "-fno-rtti",
    "-fPIC",
    "-O1",
    "-gline-tables-only",
    "-fsanitize=thread",
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-mllvm",
    "-tsan-instrument-read-before-write=1",
];
const BOTH: [&str; 4] =
    ["-Wno-unknown-attributes", "-Wno-duplicate-decl-specifier", "-Wno-unused-value", "-Werror=return-type"];
/// Half precision is rounded after every operation, and products are not fused into sums.
const EXACT: [&str; 3] = ["-ffp-contract=off", "-Xclang", "-ffloat16-excess-precision=none"];

/// A clang, and the folder of its results.
#[derive(Debug, Clone)]
pub(super) struct Clang {
    program: PathBuf,
    folder: PathBuf,
    /// A hash of everything that affects the result beside the kernel.
    key: String,
    /// The harness, compiled.
    pub harness: PathBuf,
}

impl Clang {
    /// The clang of this machine, with the harness compiled by it.
    ///
    /// # Errors
    /// [`EmulatorError::NoClang`] with what to install.
    pub fn find() -> Result<&'static Self, EmulatorError> {
        static FOUND: OnceLock<Result<Clang, EmulatorError>> = OnceLock::new();
        FOUND.get_or_init(Self::set_up).as_ref().map_err(Clone::clone)
    }

    fn set_up() -> Result<Self, EmulatorError> {
        let (program, version) = search()?;
        let mut hash = Sha256::new();
        for (_, text) in SHIM.iter().chain(&HARNESS) {
            hash.update(text);
        }
        for part in STRICT.iter().chain(&EXECUTED).chain(&BOTH).chain(&EXACT) {
            hash.update(part);
        }
        hash.update(&version);
        let key = hex(&hash.finalize()[..8]);
        let cache = std::env::var_os("BURNISH_EMULATOR_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| dirs::cache_dir().map(|cache| cache.join("burnish").join("emulator")));
        let folder = cache.unwrap_or_else(|| std::env::temp_dir().join("burnish-emulator")).join(&key);
        let harness = folder.join(format!("harness{}", std::env::consts::DLL_SUFFIX));
        let clang = Self { program, folder, key, harness };
        clang.build_harness()?;
        Ok(clang)
    }

    fn build_harness(&self) -> Result<(), EmulatorError> {
        let shim = self.folder.join("shim");
        for (folder, files) in [(&shim, &SHIM[..]), (&self.folder.join("harness"), &HARNESS[..])] {
            fs::create_dir_all(folder).map_err(|error| EmulatorError::io(folder, &error))?;
            for (name, text) in files {
                let path = folder.join(name);
                let parent = path.parent().unwrap_or(folder);
                fs::create_dir_all(parent).map_err(|error| EmulatorError::io(parent, &error))?;
                write_once(&path, |path| fs::write(path, text).map_err(|error| EmulatorError::io(path, &error)))?;
            }
        }
        write_once(&self.harness, |path| {
            let mut command = Command::new(&self.program);
            command
                .args(["-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared"])
                .arg(self.folder.join("harness/harness.cpp"));
            run(command.arg("-o").arg(path), "the emulator's harness")
        })
    }

    /// Compiles a kernel into a library, or finds the one that was compiled before.
    ///
    /// # Errors
    /// [`EmulatorError::Compile`] with clang's message, in lines of the MSL.
    pub fn compile(&self, name: &str, source: &str, translated: &str) -> Result<PathBuf, EmulatorError> {
        let key = hex(&Sha256::digest(format!("{}{translated}", self.key))[..12]);
        let short: String = name.chars().take(80).collect();
        let stem = self.folder.join(format!("{short}-{key}"));
        let library = stem.with_extension("so");
        if is_whole(&library) {
            return Ok(library);
        }
        let metal = stem.with_extension("metal");
        write_once(&metal, |path| fs::write(path, source).map_err(|error| EmulatorError::io(path, &error)))?;
        let text = stem.with_extension("cpp");
        // Messages and faults name lines of the MSL.
        let numbered = format!("#line 1 \"{}\"\n{translated}", metal.display());
        write_once(&text, |path| fs::write(path, &numbered).map_err(|error| EmulatorError::io(path, &error)))?;
        self.check_address_spaces(name, &text)?;
        write_once(&library, |path| {
            let object = path.with_extension("o");
            let mut command = Command::new(&self.program);
            command.args(EXECUTED).args(BOTH).args(EXACT).arg("-I").arg(self.folder.join("shim"));
            if cfg!(target_arch = "x86_64") {
                command.arg("-mf16c");
            }
            run(command.arg("-c").arg(&text).arg("-o").arg(&object), name)?;
            let mut command = Command::new(&self.program);
            command.arg("-shared").arg(&object).arg("-o").arg(path);
            // What a kernel calls comes with the harness: reading the libraries would be most of the linker's time.
            if cfg!(target_os = "macos") {
                command.args(["-undefined", "dynamic_lookup"]);
            } else {
                command.arg("-nostdlib");
            }
            let linked = run(&mut command, name);
            fs::remove_file(&object).ok();
            linked
        })?;
        Ok(library)
    }

    /// The first of the two modes: checks that the text does not mix address spaces.
    fn check_address_spaces(&self, name: &str, text: &Path) -> Result<(), EmulatorError> {
        let mut command = Command::new(&self.program);
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        command.args(STRICT).args(["-target", &target]).args(BOTH).arg("-I").arg(self.folder.join("shim"));
        run(command.arg(text), name)
    }
}

/// The newest clang of this machine.
fn search() -> Result<(PathBuf, String), EmulatorError> {
    let named = std::env::var_os("BURNISH_CLANG").map(PathBuf::from);
    let numbered = (OLDEST..=24).rev().map(|version| PathBuf::from(format!("clang++-{version}")));
    let candidates: Vec<PathBuf> = match named {
        Some(named) => vec![named],
        None => numbered.chain([PathBuf::from("clang++")]).collect(),
    };
    let mut too_old = None;
    for program in candidates {
        let Ok(output) = Command::new(&program).arg("--version").output() else { continue };
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        match major(&version) {
            Some(found) if found >= OLDEST => return Ok((program, version)),
            Some(found) => too_old = Some(found),
            None => {}
        }
    }
    Err(EmulatorError::NoClang { too_old })
}

fn major(version: &str) -> Option<u32> {
    let at = version.find("clang version ")? + "clang version ".len();
    version[at..].split('.').next()?.parse().ok()
}

/// Writes a file under a temporary name and renames it: several processes may write the same one.
fn write_once(target: &Path, make: impl FnOnce(&Path) -> Result<(), EmulatorError>) -> Result<(), EmulatorError> {
    if is_whole(target) {
        return Ok(());
    }
    let folder = target.parent().unwrap_or(Path::new("."));
    let beside =
        tempfile::Builder::new().prefix(".new-").tempdir_in(folder).map_err(|error| EmulatorError::io(folder, &error))?;
    let path = beside.path().join(target.file_name().unwrap_or_default());
    make(&path)?;
    fs::rename(&path, target).map_err(|error| EmulatorError::io(target, &error))
}

/// Whether a file of the cache exists. Some cleaners leave empty files.
fn is_whole(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

fn run(command: &mut Command, kernel: &str) -> Result<(), EmulatorError> {
    let output = command.output().map_err(|error| EmulatorError::io(Path::new(command.get_program()), &error))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(EmulatorError::Compile { kernel: kernel.to_owned(), message })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_vendors_are_read() {
        assert_eq!(major("Debian clang version 19.1.7 (3~deb12u1)\nTarget: x86_64"), Some(19));
        assert_eq!(major("Apple clang version 17.0.0 (clang-1700.0.13.3)"), Some(17));
        assert_eq!(major("gcc (Debian 12.2.0)"), None);
    }

    #[test]
    fn a_missing_clang_names_the_package() {
        let text = EmulatorError::NoClang { too_old: Some(14) }.to_string();
        assert!(text.contains("clang-19") && text.contains("14"), "{text}");
    }
}
