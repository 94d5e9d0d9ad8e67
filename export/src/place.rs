//! Writing beside the target, then renaming.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{ExportError, Result};

/// The folder that a target lies in.
fn parent(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check(target: &Path, overwrite: bool) -> Result<()> {
    if target.exists() && !overwrite {
        return Err(ExportError::Exists { path: target.to_owned() });
    }
    fs::create_dir_all(parent(target)).map_err(|error| ExportError::io(parent(target), error))
}

/// A file that appears under its name only when it is whole.
pub(crate) fn file(target: &Path, overwrite: bool, fill: impl FnOnce(&mut CountedFile) -> Result<()>) -> Result<u64> {
    check(target, overwrite)?;
    let beside = tempfile::Builder::new()
        .prefix(".burnish-")
        .tempfile_in(parent(target))
        .map_err(|error| ExportError::io(parent(target), error))?;
    let handle = beside.reopen().map_err(|error| ExportError::io(target, error))?;
    let mut file = CountedFile { writer: BufWriter::with_capacity(1 << 20, handle), path: target.to_owned(), written: 0 };
    fill(&mut file)?;
    let written = file.finish()?;
    beside.persist(target).map_err(|error| ExportError::io(target, error.error))?;
    readable(target);
    Ok(written)
}

/// A folder that appears under its name only when it is whole.
pub(crate) fn folder(target: &Path, overwrite: bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    check(target, overwrite)?;
    let beside = tempfile::Builder::new()
        .prefix(".burnish-")
        .tempdir_in(parent(target))
        .map_err(|error| ExportError::io(parent(target), error))?;
    fill(beside.path())?;
    let old = target.exists().then(|| set_aside(target)).transpose()?;
    if let Err(error) = fs::rename(beside.path(), target) {
        if let Some(old) = &old {
            fs::rename(old.path().join(OLD), target).ok();
        }
        return Err(ExportError::io(target, error));
    }
    // It has another name now, and nothing is to be deleted under the old one.
    let _ = beside.keep();
    readable(target);
    Ok(())
}

/// The name of what is to be replaced, in the folder where it waits.
const OLD: &str = "old";

/// Moves what is to be replaced into a folder that deletes itself.
fn set_aside(target: &Path) -> Result<tempfile::TempDir> {
    let old = tempfile::Builder::new()
        .prefix(".burnish-")
        .tempdir_in(parent(target))
        .map_err(|error| ExportError::io(parent(target), error))?;
    fs::rename(target, old.path().join(OLD)).map_err(|error| ExportError::io(target, error))?;
    Ok(old)
}

/// Temporary files are for their owner alone; what was exported is for everyone who may see its folder.
fn readable(target: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = if target.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(target, fs::Permissions::from_mode(mode)).ok();
    }
    #[cfg(not(unix))]
    let _ = target;
}

/// A file that knows how much was written to it.
pub(crate) struct CountedFile {
    writer: BufWriter<File>,
    path: PathBuf,
    pub(crate) written: u64,
}

impl CountedFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| ExportError::io(path, error))?;
        Ok(Self { writer: BufWriter::with_capacity(1 << 20, file), path: path.to_owned(), written: 0 })
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| ExportError::io(&self.path, error))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Zeros up to a multiple of `alignment`.
    pub(crate) fn align(&mut self, alignment: u64) -> Result<()> {
        let gap = self.written.next_multiple_of(alignment) - self.written;
        self.put(&vec![0; gap as usize])
    }

    pub(crate) fn finish(mut self) -> Result<u64> {
        self.writer.flush().map_err(|error| ExportError::io(&self.path, error))?;
        self.writer.get_ref().sync_all().map_err(|error| ExportError::io(&self.path, error))?;
        Ok(self.written)
    }
}

/// Writes a small file.
pub(crate) fn small(path: &Path, text: &str) -> Result<u64> {
    let mut file = CountedFile::create(path)?;
    file.put(text.as_bytes())?;
    file.finish()
}
