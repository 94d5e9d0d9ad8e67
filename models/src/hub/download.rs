//! Downloads a file: with a bar, and from where an earlier download stopped.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};
use indicatif::ProgressBar;

use super::problem::{Asked, status};
use crate::error::{ModelError, Result};

/// How often a connection that broke is opened again.
pub(super) const RETRIES: usize = 5;

/// A repository that files are downloaded from.
pub(super) struct Online {
    pub api: Api,
    pub requests: ApiRepo,
    pub repo: Repo,
    pub cache: Cache,
    pub asked: Asked,
}

/// A bar that remembers the size of the file, and how often a download of it began.
struct Bar<'a> {
    bar: ProgressBar,
    size: &'a Cell<u64>,
    begun: &'a Cell<usize>,
}

impl Progress for Bar<'_> {
    fn init(&mut self, size: usize, file: &str) {
        self.size.set(size as u64);
        self.begun.set(self.begun.get() + 1);
        self.bar.init(size, file);
        // A connection that was opened again counts what is there from the start.
        self.bar.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
    }

    fn finish(&mut self) {
        self.bar.finish();
    }
}

impl Online {
    /// Downloads a file into the cache, unless it is there, and returns its path.
    ///
    /// # Errors
    /// [`ModelError::Hub`] if the hub refuses it, or the connection breaks too often.
    pub fn fetch(&self, file: &str) -> Result<PathBuf> {
        if let Some(path) = self.cache.repo(self.repo.clone()).get(file) {
            return Ok(path);
        }
        match self.attempt(file) {
            Ok(Some(path)) => Ok(path),
            // What an earlier download left is of no use.
            Ok(None) => self.again(file),
            Err(error) if matches!(error, ApiError::InvalidResume) || status(&error) == Some(416) => self.again(file),
            Err(error) => Err(self.asked.refused(&error, Some(file))),
        }
    }

    /// Whether earlier downloads left parts of files.
    fn has_parts(&self) -> bool {
        let blob = self.cache.repo(self.repo.clone()).blob_path("blob");
        let entries = blob.parent().and_then(|folder| fs::read_dir(folder).ok());
        entries.into_iter().flatten().flatten().any(|entry| entry.path().extension().is_some_and(|ending| ending == "part"))
    }

    /// One download; `None` if the result has the wrong size, and was deleted.
    fn attempt(&self, file: &str) -> std::result::Result<Option<PathBuf>, ApiError> {
        let (size, begun, is_continued) = (Cell::new(0), Cell::new(0), self.has_parts());
        let bar = Bar { bar: ProgressBar::new(0), size: &size, begun: &begun };
        let path = self.requests.download_with_progress(file, bar)?;
        let length = fs::metadata(&path)?.len();
        // A file in one piece may be longer: where the server compresses it on the way, the size can be that of the compressed one. hf-hub
        // begins once before the first connection, and once with each.
        let is_whole = !is_continued && begun.get() <= 2 && length > size.get();
        if length == size.get() || is_whole {
            return Ok(Some(path));
        }
        // A server that does not know ranges sends the whole file again, which was appended.
        let blob = fs::canonicalize(&path)?;
        fs::remove_file(&path)?;
        if blob != path {
            fs::remove_file(blob)?;
        }
        Ok(None)
    }

    /// Downloads a file from its beginning.
    fn again(&self, file: &str) -> Result<PathBuf> {
        let refused = |error: ApiError| self.asked.refused(&error, Some(file));
        let metadata = self.api.metadata(&self.requests.url(file)).map_err(refused)?;
        let part = self.cache.repo(self.repo.clone()).blob_path(metadata.etag()).with_extension("part");
        // Without such a file there is nothing to delete.
        fs::remove_file(part).ok();
        let reason = format!("{file}: expected {} bytes, got others twice", metadata.size());
        let broken = || ModelError::Hub { id: self.asked.id.clone(), reason, way: None };
        self.attempt(file).map_err(refused)?.ok_or_else(broken)
    }
}
