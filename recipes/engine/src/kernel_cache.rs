//! Compiled kernels, kept on disk from one process to the next.
//!
//! A runtime reads a file of its own process and appends to it, so that neither a crash nor a second process can damage what others read.
//! The file starts as a copy of the shared one, and is published whole: beside it, synced and renamed, under a name with its checksum.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

/// How long a shared file stays that no process published again.
const KEPT: Duration = Duration::from_hours(24 * 60);

/// The kernels of one program on one kind of device.
#[derive(Debug)]
pub struct KernelCache {
    folder: PathBuf,
    key: String,
    own: TempDir,
    /// Within `own`.
    file: PathBuf,
    /// Bytes of the own file that were published, or came from the shared one.
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
    /// `file` is where the runtime looks for them, below the folder that it is given. The file must be a sequence of entries, of which
    /// later ones replace earlier ones.
    ///
    /// # Errors
    /// When a folder or file can't be created. A shared file that is damaged counts as missing.
    pub fn open(folder: &Path, key: &str, file: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let own = tempfile::Builder::new().prefix("burnish-kernels-").tempdir()?;
        let file = own.path().join(file);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut cache = Self { folder: folder.to_owned(), key: key.to_owned(), own, file, published: 0 };
        if let Some((_, bytes)) = cache.shared() {
            fs::write(&cache.file, &bytes)?;
            cache.published = bytes.len() as u64;
        }
        cache.forget_old();
        Ok(cache)
    }

    /// The folder that the runtime is given.
    pub fn folder(&self) -> &Path {
        self.own.path()
    }

    /// Shares what the runtime compiled since. It must not be compiling now. Returns whether there was anything new.
    ///
    /// # Errors
    /// When the file can't be read or written; the shared one then stays as it was.
    pub fn publish(&mut self) -> io::Result<bool> {
        let own = match fs::read(&self.file) {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(new) = own.get(self.published as usize..).filter(|new| !new.is_empty()) else { return Ok(false) };
        // Another process may have published meanwhile.
        let before = self.shared();
        let mut all = before.as_ref().map_or_else(Vec::new, |(_, bytes)| bytes.clone());
        all.extend(if all.is_empty() { &own } else { new });
        let mut beside = NamedTempFile::new_in(&self.folder)?;
        beside.write_all(&all)?;
        beside.as_file().sync_all()?;
        let path = self.folder.join(format!("{}-{}", self.key, digest([&*all])));
        beside.persist(&path).map_err(|error| error.error)?;
        self.published = own.len() as u64;
        if let Some((old, _)) = before.filter(|(old, _)| *old != path) {
            fs::remove_file(old).ok();
        }
        Ok(true)
    }

    /// The largest shared file whose checksum is right.
    fn shared(&self) -> Option<(PathBuf, Vec<u8>)> {
        let prefix = format!("{}-", self.key);
        let named = files(&self.folder).into_iter().filter_map(|path| {
            let expected = path.file_name()?.to_str()?.strip_prefix(&prefix)?.to_owned();
            let bytes = fs::read(&path).ok()?;
            (digest([&*bytes]) == expected).then_some((path, bytes))
        });
        named.max_by_key(|(_, bytes)| bytes.len())
    }

    fn forget_old(&self) {
        for path in files(&self.folder) {
            let written = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
            if age.is_some_and(|age| age > KEPT) {
                fs::remove_file(path).ok();
            }
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "cuda/chunk";

    fn compile(cache: &KernelCache, kernel: &str) {
        let mut file = fs::File::options().append(true).create(true).open(cache.folder().join(FILE)).unwrap();
        file.write_all(kernel.as_bytes()).unwrap();
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
        // A process that is killed publishes nothing.
        drop(open("a"));
        assert_eq!(kernels(&open("a")), "");
        assert!(first.publish().unwrap() && !first.publish().unwrap());
        compile(&first, "two,");
        assert_eq!(kernels(&open("a")), "one,");
        assert!(first.publish().unwrap());
        assert_eq!((kernels(&open("a")), kernels(&open("b"))), ("one,two,".to_owned(), String::new()));
        assert_eq!(files(&folder.path().join("kernels")).len(), 1);
    }

    #[test]
    fn processes_at_the_same_time_keep_what_the_other_compiled() {
        let folder = tempfile::tempdir().unwrap();
        let open = || KernelCache::open(folder.path(), "a", Path::new(FILE)).unwrap();
        let mut base = open();
        compile(&base, "base,");
        base.publish().unwrap();
        let (mut first, mut second) = (open(), open());
        compile(&first, "first,");
        compile(&second, "second,");
        first.publish().unwrap();
        second.publish().unwrap();
        assert_eq!(kernels(&open()), "base,first,second,");
    }

    #[test]
    fn a_damaged_file_counts_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let open = || KernelCache::open(folder.path(), "a", Path::new(FILE)).unwrap();
        let mut cache = open();
        compile(&cache, "one,");
        cache.publish().unwrap();
        let path = files(folder.path()).remove(0);
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
