//! Keeps prepared rows for the next run, in the user's cache folder.
//!
//! A file is named by a digest of all that its rows follow from ([`key`]), so it never has to be replaced. It is written under another
//! name and renamed when it is complete and on the disk, so that neither a crash nor two processes leave a damaged one.

mod key;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

pub(super) use key::{Inputs, Version};

use super::row_file::{Kept, RowFile};

/// The extension of files of prepared rows.
const EXTENSION: &str = "rows";
/// The beginning of the names of files that are being written.
const UNFINISHED: &str = ".new-";

/// A folder with prepared rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowCache {
    folder: PathBuf,
    /// Files are deleted, those first that were not used for longest, until the others have no more bytes than this.
    pub limit: u64,
    /// Smaller files are not worth keeping: they are prepared again.
    pub smallest: u64,
}

impl RowCache {
    /// A cache in a folder, which is created when it is needed. It keeps 20 GiB, of files of 1 MiB and more.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, limit: 20 << 30, smallest: 1 << 20 }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key).with_extension(EXTENSION)
    }

    /// The prepared rows of a key. A damaged file is deleted.
    pub(super) fn find(&self, key: &str) -> Option<Kept> {
        let path = self.path(key);
        // Writing is needed to set the time of the last use.
        let file = File::options().read(true).write(true).open(&path).or_else(|_| File::open(&path)).ok()?;
        file.set_modified(SystemTime::now()).ok();
        let kept = RowFile::open(file);
        if kept.is_err() {
            fs::remove_file(&path).ok();
        }
        kept.ok()
    }

    /// A new file for prepared rows.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub(super) fn begin(&self) -> io::Result<Unfinished> {
        fs::create_dir_all(&self.folder)?;
        self.remove_abandoned();
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
        // Other processes delete files that are not locked. Some network file systems have no locks, and there they leave them.
        file.as_file().try_lock().ok();
        Ok(Unfinished { file })
    }

    /// Deletes what crashed processes were writing.
    fn remove_abandoned(&self) {
        for path in self.files(|name| name.starts_with(UNFINISHED)) {
            if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                fs::remove_file(&path).ok();
            }
        }
    }

    fn files(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(&is_wanted)).map(|entry| entry.path()).collect()
    }

    /// Every file of prepared rows, with its bytes and the time of its last use.
    fn kept(&self) -> Vec<(PathBuf, u64, SystemTime)> {
        let files = self.files(|name| name.ends_with(&format!(".{EXTENSION}")));
        let described = files.into_iter().filter_map(|path| {
            let metadata = path.metadata().ok()?;
            Some((path, metadata.len(), metadata.modified().ok()?))
        });
        described.collect()
    }

    /// Deletes files until those that are left have no more bytes than the limit. The file of `key` stays.
    fn trim(&self, key: &str) {
        let mut files = self.kept();
        files.sort_by_key(|(_, _, used)| *used);
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        let own = self.path(key);
        for (path, size, _) in files.into_iter().filter(|(path, ..)| *path != own) {
            if bytes <= self.limit {
                return;
            }
            if fs::remove_file(&path).is_ok() {
                bytes -= size;
            }
        }
    }

    /// Deletes all prepared rows; returns the number of files and of their bytes. Runs that use them are not affected.
    ///
    /// # Errors
    /// When a file can't be deleted.
    pub fn clear(&self) -> io::Result<(usize, u64)> {
        self.remove_abandoned();
        let files = self.kept();
        for (path, ..) in &files {
            fs::remove_file(path)?;
        }
        Ok((files.len(), files.iter().map(|(_, bytes, _)| bytes).sum()))
    }
}

/// A file of prepared rows that is being written. If it is not kept, it is deleted.
pub(super) struct Unfinished {
    file: NamedTempFile,
}

impl Unfinished {
    /// A handle to write with.
    ///
    /// # Errors
    /// When there are too many open files.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.file.reopen()
    }

    /// Keeps the file, which must be on the disk, for later runs with this key. Where another process has kept the same rows, this file
    /// is deleted; open handles stay valid.
    pub(super) fn keep(self, cache: &RowCache, key: &str) {
        if self.file.persist_noclobber(cache.path(key)).is_ok() {
            // So that the name is on the disk too.
            File::open(&cache.folder).and_then(|folder| folder.sync_all()).ok();
            cache.trim(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::DataReport;
    use crate::row_file::{RowWriter, UsedRow};
    use crate::tokenize::Example;

    fn cache() -> (tempfile::TempDir, RowCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = RowCache::new(folder.path().join("rows"));
        (folder, cache)
    }

    fn example(tokens: u32) -> Example {
        Example { input_ids: (0..tokens).collect(), labels: (0..tokens).map(i64::from).collect(), desirable: true }
    }

    fn keep(cache: &RowCache, key: &str, tokens: u32) {
        let unfinished = cache.begin().unwrap();
        let mut writer = RowWriter::new(unfinished.handle().unwrap()).unwrap();
        writer.push(&example(tokens)).unwrap();
        let rows = writer.finish(&DataReport::default(), &[UsedRow { line: 1, examples: 1 }]).unwrap();
        unfinished.keep(cache, key);
        assert_eq!(rows.get(0), example(tokens));
    }

    fn tokens(cache: &RowCache, key: &str) -> Option<usize> {
        cache.find(key).map(|kept| kept.rows.get(0).input_ids.len())
    }

    #[test]
    fn rows_are_found_by_their_key_and_damaged_files_are_not_used() {
        let (_folder, cache) = cache();
        assert_eq!(tokens(&cache, "a"), None);
        keep(&cache, "a", 5);
        assert_eq!((tokens(&cache, "a"), tokens(&cache, "b")), (Some(5), None));
        // The second of two processes that prepare the same rows.
        keep(&cache, "a", 5);
        assert_eq!((tokens(&cache, "a"), cache.kept().len()), (Some(5), 1));
        let mut bytes = fs::read(cache.path("a")).unwrap();
        bytes[12] ^= 1;
        fs::write(cache.path("a"), bytes).unwrap();
        assert_eq!((tokens(&cache, "a"), cache.kept().len()), (None, 0));
    }

    #[test]
    fn files_that_were_not_used_for_longest_are_deleted() {
        let (_folder, mut cache) = cache();
        let old = |key: &str, hours: u64| {
            let file = File::options().write(true).open(cache.path(key)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3600 * hours)).unwrap();
        };
        for (key, hours) in [("a", 3), ("b", 2), ("c", 1)] {
            keep(&cache, key, 1000);
            old(key, hours);
        }
        // Finding a file is a use of it.
        assert!(cache.find("a").is_some());
        cache.limit = cache.kept().iter().map(|(_, bytes, _)| bytes).sum();
        keep(&cache, "d", 1000);
        assert_eq!(["a", "b", "c", "d"].map(|key| tokens(&cache, key).is_some()), [true, false, true, true]);
        cache.limit = 0;
        keep(&cache, "e", 10);
        assert_eq!(cache.kept().len(), 1);
        let (files, bytes) = cache.clear().unwrap();
        assert!(files == 1 && bytes > 40 && cache.kept().is_empty());
    }

    #[test]
    fn what_a_crashed_process_was_writing_is_deleted() {
        let (_folder, cache) = cache();
        let running = cache.begin().unwrap();
        let abandoned = cache.folder.join(format!("{UNFINISHED}dead"));
        fs::write(&abandoned, "half").unwrap();
        drop(cache.begin().unwrap());
        assert!(!abandoned.exists() && running.file.path().exists());
        let path = running.file.path().to_owned();
        drop(running);
        assert!(!path.exists());
    }
}
