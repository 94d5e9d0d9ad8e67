//! Compiled kernels, kept on disk from one process to the next.
//!
//! A runtime reads a file of its own process and appends to it, so that neither a crash nor a second process can damage what others read.
//! The file starts as a copy of the shared one, and is published whole: beside it, synced and renamed, under a name with its checksum.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

/// Shared files that were not used for this long are removed.
const KEPT: Duration = Duration::from_hours(24 * 60);

/// Bytes that must be free on the disk: several times what the kernels of a run take. Without room, cubecl would panic on the device's
/// thread.
const ROOM: u64 = 1 << 30;

/// Names of the folders of processes begin with this.
const OWN: &str = "own-";
/// In each of them, a file that its process keeps locked.
const LOCK: &str = "lock";

/// The kernels of one program on one kind of device.
#[derive(Debug)]
pub struct KernelCache {
    folder: PathBuf,
    key: String,
    /// Removed when the cache is dropped.
    own: TempDir,
    /// Locked as long as the process lives.
    _lock: File,
    /// Within `own`.
    file: PathBuf,
    /// Bytes of `file` that are already shared.
    published: u64,
}

/// A checksum of parts, in hexadecimal digits.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    parts.into_iter().for_each(|part| hasher.update(part));
    hasher.finalize().iter().take(12).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

impl KernelCache {
    /// Opens the cache in a shared folder. `key` names the program and the device, so that another one never reads these kernels;
    /// `file` is where the runtime looks for them, below the folder that it is given. The file must be a sequence of entries.
    ///
    /// # Errors
    /// When a folder or file can't be created. A shared file that is damaged counts as missing.
    pub fn open(folder: &Path, key: &str, file: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        remove_abandoned(folder);
        if free(folder).is_some_and(|free| free < ROOM) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is nearly full"));
        }
        let own = tempfile::Builder::new().prefix(OWN).tempdir_in(folder)?;
        let lock = File::create(own.path().join(LOCK))?;
        lock.try_lock()?;
        let file = own.path().join(file);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut cache = Self { folder: folder.to_owned(), key: key.to_owned(), own, _lock: lock, file, published: 0 };
        if let Some((path, bytes)) = cache.shared() {
            fs::write(&cache.file, &bytes)?;
            cache.published = bytes.len() as u64;
            // So that it does not count as old.
            File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now())).ok();
        }
        remove_old(folder);
        Ok(cache)
    }

    /// The folder that the runtime is given.
    pub fn folder(&self) -> &Path {
        self.own.path()
    }

    /// Shares what the runtime compiled since. It must not be compiling now. Returns whether that was more than is shared already.
    ///
    /// # Errors
    /// When the file can't be read or written; the shared one then stays as it was.
    pub fn publish(&mut self) -> io::Result<bool> {
        let own = match fs::read(&self.file) {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if own.len() as u64 <= self.published {
            return Ok(false);
        }
        self.published = own.len() as u64;
        let before = self.shared();
        if before.as_ref().is_some_and(|(_, bytes)| bytes.len() >= own.len()) {
            return Ok(false); // another process compiled as much
        }
        let mut beside = NamedTempFile::new_in(&self.folder)?;
        beside.write_all(&own)?;
        beside.as_file().sync_all()?;
        let path = self.folder.join(format!("{}-{}", self.key, digest([&*own])));
        beside.persist(&path).map_err(|error| error.error)?;
        if let Some((old, _)) = before.filter(|(old, _)| *old != path) {
            fs::remove_file(old).ok();
        }
        Ok(true)
    }

    /// The largest shared file whose checksum is right.
    fn shared(&self) -> Option<(PathBuf, Vec<u8>)> {
        let prefix = format!("{}-", self.key);
        let named = entries(&self.folder).into_iter().filter_map(|path| {
            let expected = path.file_name()?.to_str()?.strip_prefix(&prefix)?.to_owned();
            let bytes = fs::read(&path).ok()?;
            (digest([&*bytes]) == expected).then_some((path, bytes))
        });
        named.max_by_key(|(_, bytes)| bytes.len())
    }
}

/// Free bytes on the disk of a folder, where the system tells.
#[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
fn free(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    return nix::sys::statvfs::statvfs(folder).ok().map(|disk| disk.blocks_available() as u64 * disk.fragment_size() as u64);
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// Removes the folders of processes that ended without doing so.
fn remove_abandoned(folder: &Path) {
    for path in entries(folder) {
        let is_own = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(OWN));
        let lock = File::open(path.join(LOCK));
        if is_own && lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            fs::remove_dir_all(path).ok();
        }
    }
}

fn remove_old(folder: &Path) {
    for path in entries(folder).into_iter().filter(|path| path.is_file()) {
        let written = fs::metadata(&path).and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
        if age.is_some_and(|age| age > KEPT) {
            fs::remove_file(path).ok();
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "cuda/chunk";

    fn compile(cache: &KernelCache, kernel: &str) {
        let mut file = fs::File::options().append(true).create(true).open(cache.folder().join(FILE)).unwrap();
        file.write_all(kernel.as_bytes()).unwrap();
    }

    fn shared(folder: &Path) -> Vec<PathBuf> {
        entries(folder).into_iter().filter(|path| path.is_file()).collect()
    }

    fn kernels(cache: &KernelCache) -> String {
        fs::read_to_string(cache.folder().join(FILE)).unwrap_or_default()
    }

    #[test]
    fn the_next_process_has_what_was_published() {
        let folder = tempfile::tempdir().unwrap();
        let open = |key| KernelCache::open(&folder.path().join("kernels"), key, Path::new(FILE)).unwrap();
        let mut first = open("a");
        assert!(!first.publish().unwrap());
        compile(&first, "one,");
        assert_eq!(kernels(&open("a")), "");
        assert!(first.publish().unwrap() && !first.publish().unwrap());
        compile(&first, "two,");
        assert_eq!(kernels(&open("a")), "one,");
        assert!(first.publish().unwrap());
        assert_eq!((kernels(&open("a")), kernels(&open("b"))), ("one,two,".to_owned(), String::new()));
        assert_eq!(shared(&folder.path().join("kernels")).len(), 1);
    }

    #[test]
    fn of_processes_at_the_same_time_the_one_with_more_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let open = || KernelCache::open(folder.path(), "a", Path::new(FILE)).unwrap();
        let (mut first, mut second, mut third) = (open(), open(), open());
        compile(&first, "one,");
        compile(&second, "one,two,");
        compile(&third, "two,");
        assert!(first.publish().unwrap() && second.publish().unwrap() && !third.publish().unwrap());
        assert_eq!((kernels(&open()), shared(folder.path()).len()), ("one,two,".to_owned(), 1));
    }

    #[test]
    fn folders_of_processes_that_ended_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let open = || KernelCache::open(folder.path(), "a", Path::new(FILE)).unwrap();
        let alive = open();
        let killed = folder.path().join("own-killed");
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join(LOCK), "").unwrap();
        drop(open());
        assert!(alive.folder().exists() && !killed.exists());
        drop(alive);
        assert!(entries(folder.path()).is_empty());
    }

    #[test]
    fn files_that_nobody_uses_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let open = |key| KernelCache::open(folder.path(), key, Path::new(FILE)).unwrap();
        for key in ["used", "unused"] {
            let mut cache = open(key);
            compile(&cache, key);
            cache.publish().unwrap();
        }
        for path in shared(folder.path()) {
            File::options().append(true).open(path).unwrap().set_modified(SystemTime::now() - 2 * KEPT).unwrap();
        }
        assert_eq!(kernels(&open("used")), "used");
        let left = shared(folder.path());
        assert!(left.len() == 1 && left[0].to_string_lossy().contains("/used-"), "{left:?}");
    }

    #[test]
    fn a_damaged_file_counts_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let open = || KernelCache::open(folder.path(), "a", Path::new(FILE)).unwrap();
        let mut cache = open();
        compile(&cache, "one,");
        cache.publish().unwrap();
        let path = shared(folder.path()).remove(0);
        for damaged in ["", "one", "onE,", "one,more"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(kernels(&open()), "", "{damaged}");
        }
        let mut next = open();
        compile(&next, "two,");
        next.publish().unwrap();
        assert_eq!(kernels(&open()), "two,");
    }
}
