//! Writes files and folders atomically: the target is always complete, or absent.
//!
//! The new version is written to `.name.new` beside the target, which is locked while its writer runs, then synced and renamed,
//! and the parent folder is synced. A folder that is being replaced is renamed to `.name.old` for that time. The next write to
//! the same target cleans up after a crash: it restores `.name.old` if the target is missing, and deletes the rest.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Errors of writing files and folders.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file can't be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The target exists and is a file instead of a folder, or a folder instead of a file.
    #[error("{}: {reason}", path.display())]
    Occupied {
        /// The target.
        path: PathBuf,
        /// What the target is.
        reason: String,
    },
    /// Another process is writing the target.
    #[error("{} is being written by another process", path.display())]
    Busy {
        /// The target.
        path: PathBuf,
    },
}

impl WriteError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

type Result<T> = std::result::Result<T, WriteError>;

/// Writes a folder. `fill` puts the files into a new folder, which then replaces `target`.
///
/// # Errors
/// If `fill` fails, the target is a file, or the folder can't be written. The target is then unchanged.
pub fn write_folder<E: From<WriteError>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let paths = Paths::new(target)?;
    if paths.target.is_file() {
        return Err(paths.occupied("expected a folder, got a file").into());
    }
    let mut beside = Beside::create(&paths, Kind::Folder)?;
    fill(&beside.paths.new)?;
    sync_tree(&beside.paths.new)?;
    if paths.target.exists() {
        let swapping = unfinished();
        rename(&paths.target, &paths.old)?;
        if let Err(error) = rename(&paths.new, &paths.target) {
            fs::rename(&paths.old, &paths.target).ok();
            return Err(error.into());
        }
        drop(swapping);
        beside.kept = true;
        sync(&paths.parent)?;
        // If the old folder can't be deleted now, the next write deletes it.
        remove(&paths.old).ok();
    } else {
        // What is renamed is not being deleted by `abandon`.
        let renaming = unfinished();
        rename(&paths.new, &paths.target)?;
        drop(renaming);
        beside.kept = true;
    }
    Ok(sync(&paths.parent)?)
}

/// Writes a file. `fill` writes the bytes to a new file, which then replaces `target`. Returns the result of `fill`.
///
/// # Errors
/// If `fill` fails, the target is a folder, or the file can't be written. The target is then unchanged.
pub fn write_file<T, E: From<WriteError>>(
    target: &Path,
    fill: impl FnOnce(&mut File) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let paths = Paths::new(target)?;
    if paths.target.is_dir() {
        return Err(paths.occupied("expected a file, got a folder").into());
    }
    let mut beside = Beside::create(&paths, Kind::File)?;
    let Some(file) = &mut beside.handle else {
        return Err(WriteError::io(&paths.new, io::ErrorKind::NotFound.into()).into());
    };
    let filled = fill(file)?;
    file.sync_all().map_err(|error| WriteError::io(target, error))?;
    rename(&paths.new, &paths.target)?;
    beside.kept = true;
    sync(&paths.parent)?;
    Ok(filled)
}

/// Writes several files that belong together. `fill` writes the bytes of each, by its index, to a new file; when all are complete, they
/// replace the targets. The first target is the one that the others are found by: an old one is deleted before any other is replaced, and
/// the new one comes last, so that no crash leaves files of two versions beside each other that look like one.
///
/// # Errors
/// If `fill` fails, a target is a folder, or a file can't be written. The targets are then unchanged, unless a rename failed.
pub fn write_files<E: From<WriteError>>(
    targets: &[PathBuf],
    mut fill: impl FnMut(usize, &mut File) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut all: Vec<Beside> = Vec::with_capacity(targets.len());
    let paths = targets.iter().map(|target| Paths::new(target)).collect::<Result<Vec<_>>>()?;
    if let Some(folder) = paths.iter().find(|paths| paths.target.is_dir()) {
        return Err(folder.occupied("expected a file, got a folder").into());
    }
    for (index, paths) in paths.iter().enumerate() {
        let mut beside = Beside::create(paths, Kind::File)?;
        let Some(file) = &mut beside.handle else {
            return Err(WriteError::io(&beside.paths.new, io::ErrorKind::NotFound.into()).into());
        };
        fill(index, file)?;
        file.sync_all().map_err(|error| WriteError::io(&beside.paths.named, error))?;
        // The lock of the first covers all: a process can't have many files open at once.
        if index > 0 {
            beside.handle = None;
        }
        all.push(beside);
    }
    let Some(first) = all.first() else { return Ok(()) };
    let renaming = unfinished();
    if first.paths.target.symlink_metadata().is_ok() {
        remove(&first.paths.target)?;
        sync(&first.paths.parent)?;
    }
    for beside in all.iter_mut().rev() {
        rename(&beside.paths.new, &beside.paths.target)?;
        beside.kept = true;
    }
    drop(renaming);
    Ok(sync(&all[0].paths.parent)?)
}

/// Writes these bytes to a file, as [`write_file`] does.
///
/// # Errors
/// As [`write_file`].
pub fn write_bytes(target: &Path, bytes: &[u8]) -> Result<()> {
    write_file(target, |file| file.write_all(bytes).map_err(|error| WriteError::io(target, error)))
}

/// Deletes a folder. After a crash in the middle of it, the folder does not exist.
///
/// # Errors
/// If another process is writing the folder, or it can't be deleted.
pub fn remove_folder(target: &Path) -> Result<()> {
    recover(target)?;
    let paths = Paths::new(target)?;
    // After a crash, the next write to the target deletes what is left under this name.
    rename(&paths.target, &paths.new)?;
    sync(&paths.parent)?;
    remove(&paths.new)
}

/// Cleans up after an interrupted write to a target: restores the target if it was renamed to be replaced, and deletes the rest.
///
/// # Errors
/// If another process is writing the target, or a file can't be renamed or deleted.
pub fn recover(target: &Path) -> Result<()> {
    if target.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        return Ok(());
    }
    let paths = Paths::new(target)?;
    if paths.new.symlink_metadata().is_ok() {
        clear(&paths)?;
    }
    paths.restore()
}

/// Deletes the unfinished files and folders of all threads. The process must end right after this: any further write blocks.
pub fn abandon() {
    std::mem::forget(abandon_where(|_| true));
}

fn abandon_where(matches: impl Fn(&Path) -> bool) -> MutexGuard<'static, Vec<Paths>> {
    let all = unfinished();
    for paths in all.iter().filter(|paths| matches(&paths.target)) {
        // Another thread may still be adding files.
        for _ in 0..10 {
            if remove(&paths.new).is_ok() || paths.new.symlink_metadata().is_err() {
                break;
            }
        }
        paths.restore().ok();
    }
    all
}

/// The files and folders that are being written. While this lock is held, no folder is being replaced.
fn unfinished() -> MutexGuard<'static, Vec<Paths>> {
    static UNFINISHED: Mutex<Vec<Paths>> = Mutex::new(Vec::new());
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The paths of a target and of its versions beside it.
#[derive(Clone, PartialEq)]
struct Paths {
    /// The path that the caller gave, for error messages.
    named: PathBuf,
    /// The path with links resolved, so that a link is kept and what it leads to is replaced.
    target: PathBuf,
    parent: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

impl Paths {
    fn new(named: &Path) -> Result<Self> {
        let failed = |error: io::Error| WriteError::io(named, error);
        let target = if named.exists() {
            fs::canonicalize(named).map_err(failed)?
        } else {
            let name = named.file_name().ok_or_else(|| failed(io::Error::other("expected a name of a file or folder")))?;
            let parent = named.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::create_dir_all(parent).and_then(|()| fs::canonicalize(parent)).map_err(failed)?.join(name)
        };
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(failed(io::Error::other("the root of a file system can't be replaced")));
        };
        let beside = |kind: &str| {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(kind);
            parent.join(hidden)
        };
        let (new, old) = (beside(".new"), beside(".old"));
        Ok(Self { named: named.to_owned(), parent: parent.to_owned(), target, new, old })
    }

    fn occupied(&self, reason: &str) -> WriteError {
        WriteError::Occupied { path: self.named.clone(), reason: reason.to_owned() }
    }

    /// Restores the target from `.name.old` after a crash between the two renames.
    fn restore(&self) -> Result<()> {
        if self.old.symlink_metadata().is_err() {
            return Ok(());
        }
        if self.target.exists() { remove(&self.old) } else { rename(&self.old, &self.target) }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    File,
    Folder,
}

/// The new version beside the target. It is deleted on drop unless it is kept.
struct Beside {
    paths: Paths,
    /// Holds the lock. Folders can't be opened on some systems, and have no lock there.
    handle: Option<File>,
    kept: bool,
}

impl Beside {
    fn create(paths: &Paths, kind: Kind) -> Result<Self> {
        let create = || match kind {
            Kind::Folder => fs::create_dir(&paths.new).map(|()| File::open(&paths.new).ok()),
            Kind::File => OpenOptions::new().read(true).write(true).create_new(true).open(&paths.new).map(Some),
        };
        // A new version is in the list from its first moment on, so that `abandon` deletes it.
        let mut all = unfinished();
        let handle = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                clear(paths)?;
                create()
            }
            other => other,
        };
        let handle = handle.map_err(|error| WriteError::io(&paths.named, error))?;
        if let Some(handle) = &handle {
            lock(handle, paths)?;
        }
        let beside = Self { paths: paths.clone(), handle, kept: false };
        all.push(paths.clone());
        drop(all);
        paths.restore()?;
        Ok(beside)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.paths.new).ok();
        }
        unfinished().retain(|paths| *paths != self.paths);
    }
}

/// Deletes what a writer that no longer runs left behind.
fn clear(paths: &Paths) -> Result<()> {
    if let Ok(handle) = File::open(&paths.new) {
        lock(&handle, paths)?;
    }
    remove(&paths.new)
}

/// Locks the new version. The lock ends with the process; some file systems have no locks.
fn lock(handle: &File, paths: &Paths) -> Result<()> {
    match handle.try_lock() {
        Err(TryLockError::WouldBlock) => Err(WriteError::Busy { path: paths.named.clone() }),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| WriteError::io(to, error))
}

fn remove(path: &Path) -> Result<()> {
    let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|error| WriteError::io(path, error))
}

/// Syncs a folder and everything in it to the disk.
fn sync_tree(folder: &Path) -> Result<()> {
    let failed = |error: io::Error| WriteError::io(folder, error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (kind, path) = (entry.file_type().map_err(failed)?, entry.path());
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            // Windows can sync only files that are open for writing.
            let file = OpenOptions::new().read(true).write(cfg!(windows)).open(&path);
            file.and_then(|file| file.sync_all()).map_err(|error| WriteError::io(&path, error))?;
        }
    }
    sync(folder)
}

/// Syncs the entries of a folder to the disk, on systems where folders can be opened.
fn sync(folder: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| WriteError::io(folder, error))
}

#[cfg(test)]
mod tests;
