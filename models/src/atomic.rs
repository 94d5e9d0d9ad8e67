//! Files and folders that appear under their name only when they are whole.
//!
//! What is written stands beside its target as `.name.new`, locked while its writer lives. It is synced, renamed, and the
//! folder it lies in is synced. A folder that is replaced waits as `.name.old` meanwhile. What a crash leaves of either, the
//! next write of the same target finds: `.name.old` is put back where the target is gone, the rest is deleted.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Errors of writing files and folders.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was written.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// Something else has the name.
    #[error("{}: {reason}", path.display())]
    Occupied {
        /// The target.
        path: PathBuf,
        /// What is there.
        reason: String,
    },
    /// Another process is at it.
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

/// Writes a folder that `fill` puts files into; one that has the name already is replaced.
///
/// # Errors
/// When `fill` fails, a file has the name, or the disk refuses. What was there before stays then, and nothing new is left.
pub fn write_folder<E: From<WriteError>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let place = Place::of(target)?;
    if place.target.is_file() {
        return Err(place.occupied("is a file, and a folder is to be written").into());
    }
    let mut beside = Beside::create(&place, Kind::Folder)?;
    fill(&beside.place.new)?;
    sync_tree(&beside.place.new)?;
    if place.target.exists() {
        let swapping = unfinished();
        rename(&place.target, &place.old)?;
        if let Err(error) = rename(&place.new, &place.target) {
            fs::rename(&place.old, &place.target).ok();
            return Err(error.into());
        }
        drop(swapping);
        beside.kept = true;
        sync(&place.parent)?;
        // The new folder is in place; the next write deletes what can't be deleted now.
        remove(&place.old).ok();
    } else {
        rename(&place.new, &place.target)?;
        beside.kept = true;
    }
    Ok(sync(&place.parent)?)
}

/// Writes a file that `fill` puts bytes into; one that has the name already is replaced. Returns what `fill` returns.
///
/// # Errors
/// As [`write_folder`], with file and folder the other way round.
pub fn write_file<T, E: From<WriteError>>(
    target: &Path,
    fill: impl FnOnce(&mut File) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let place = Place::of(target)?;
    if place.target.is_dir() {
        return Err(place.occupied("is a folder, and a file is to be written").into());
    }
    let mut beside = Beside::create(&place, Kind::File)?;
    let Some(file) = &mut beside.handle else {
        return Err(WriteError::io(&place.new, io::ErrorKind::NotFound.into()).into());
    };
    let filled = fill(file)?;
    file.sync_all().map_err(|error| WriteError::io(target, error))?;
    rename(&place.new, &place.target)?;
    beside.kept = true;
    sync(&place.parent)?;
    Ok(filled)
}

/// Writes a file of these bytes, as [`write_file`].
///
/// # Errors
/// As [`write_file`].
pub fn write_bytes(target: &Path, bytes: &[u8]) -> Result<()> {
    write_file(target, |file| file.write_all(bytes).map_err(|error| WriteError::io(target, error)))
}

/// Deletes a folder so that a crash half way leaves nothing under its name.
///
/// # Errors
/// When another process is writing it, or the disk refuses.
pub fn remove_folder(target: &Path) -> Result<()> {
    recover(target)?;
    let place = Place::of(target)?;
    // Under this name, the next write of the target finds what is left.
    rename(&place.target, &place.new)?;
    sync(&place.parent)?;
    remove(&place.new)
}

/// Deletes what an interrupted write of a target left beside it, and puts the target back where only its replaced folder
/// is left.
///
/// # Errors
/// When another process is writing the target, or the disk refuses.
pub fn recover(target: &Path) -> Result<()> {
    if target.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        return Ok(());
    }
    let place = Place::of(target)?;
    if place.new.symlink_metadata().is_ok() {
        clear(&place)?;
    }
    place.restore()
}

/// Deletes what is being written, whichever thread writes it, for a process that ends right after: nothing can be written from here on.
pub fn abandon() {
    std::mem::forget(abandon_where(|_| true));
}

fn abandon_where(is_meant: impl Fn(&Path) -> bool) -> MutexGuard<'static, Vec<Place>> {
    let places = unfinished();
    for place in places.iter().filter(|place| is_meant(&place.target)) {
        // Its writer may add files meanwhile.
        for _ in 0..10 {
            if remove(&place.new).is_ok() || place.new.symlink_metadata().is_err() {
                break;
            }
        }
        place.restore().ok();
    }
    places
}

/// What is being written. No folder is half replaced while this is held.
fn unfinished() -> MutexGuard<'static, Vec<Place>> {
    static UNFINISHED: Mutex<Vec<Place>> = Mutex::new(Vec::new());
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A target, and the names beside it.
#[derive(Clone, PartialEq)]
struct Place {
    /// As the caller named it, for messages.
    named: PathBuf,
    /// With links resolved: what a link leads to is replaced, not the link.
    target: PathBuf,
    parent: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

impl Place {
    fn of(named: &Path) -> Result<Self> {
        let failed = |error: io::Error| WriteError::io(named, error);
        let target = if named.exists() {
            fs::canonicalize(named).map_err(failed)?
        } else {
            let name = named.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
            let parent = named.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::create_dir_all(parent).and_then(|()| fs::canonicalize(parent)).map_err(failed)?.join(name)
        };
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
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

    /// A crash between the two renames leaves the older folder under its other name alone.
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

/// What is being written; deleted unless it is kept.
struct Beside {
    place: Place,
    /// Holds the lock; on some systems folders can't be opened, and have none.
    handle: Option<File>,
    kept: bool,
}

impl Beside {
    fn create(place: &Place, kind: Kind) -> Result<Self> {
        let create = || match kind {
            Kind::Folder => fs::create_dir(&place.new).map(|()| File::open(&place.new).ok()),
            Kind::File => OpenOptions::new().read(true).write(true).create_new(true).open(&place.new).map(Some),
        };
        let handle = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                clear(place)?;
                create()
            }
            other => other,
        };
        let handle = handle.map_err(|error| WriteError::io(&place.named, error))?;
        if let Some(handle) = &handle {
            lock(handle, place)?;
        }
        let beside = Self { place: place.clone(), handle, kept: false };
        unfinished().push(place.clone());
        place.restore()?;
        Ok(beside)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.place.new).ok();
        }
        unfinished().retain(|place| *place != self.place);
    }
}

/// Deletes what a dead writer left.
fn clear(place: &Place) -> Result<()> {
    if let Ok(handle) = File::open(&place.new) {
        lock(&handle, place)?;
    }
    remove(&place.new)
}

/// The lock goes with the process. File systems without locks have none.
fn lock(handle: &File, place: &Place) -> Result<()> {
    match handle.try_lock() {
        Err(TryLockError::WouldBlock) => Err(WriteError::Busy { path: place.named.clone() }),
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

/// Brings a folder, the files in it and its folders to the disk.
fn sync_tree(folder: &Path) -> Result<()> {
    let failed = |error: io::Error| WriteError::io(folder, error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (kind, path) = (entry.file_type().map_err(failed)?, entry.path());
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            // Windows flushes only what is open for writing.
            let file = OpenOptions::new().read(true).write(cfg!(windows)).open(&path);
            file.and_then(|file| file.sync_all()).map_err(|error| WriteError::io(&path, error))?;
        }
    }
    sync(folder)
}

/// Brings the entries of a folder to the disk, where folders can be opened.
fn sync(folder: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| WriteError::io(folder, error))
}

#[cfg(test)]
mod tests;
