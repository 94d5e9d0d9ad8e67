//! Data sets of the Hugging Face hub, through its cache.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{ModelError, Result};
use crate::hub::is_offline;

/// A data set whose files can be listed and fetched one at a time.
pub struct HubDataset {
    id: String,
    files: Vec<String>,
    origin: Origin,
}

enum Origin {
    /// A folder of the cache that has the files.
    Cached(PathBuf),
    Online(Box<hf_hub::api::sync::ApiRepo>),
}

impl HubDataset {
    /// Lists the files of `owner/name`, `name`, or either with `@revision`; with `HF_HUB_OFFLINE`, those in the cache.
    ///
    /// # Errors
    /// [`ModelError::Hub`] when the id is malformed, or the data set is neither to be had nor cached.
    pub fn open(id: &str) -> Result<Self> {
        let refuse = |reason: String| ModelError::Hub { id: id.to_owned(), reason };
        let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
        let valid = |part: &str| is_plain(part) && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if name.split('/').count() > 2 || !name.split('/').all(valid) || !revision.split('/').all(is_plain) {
            return Err(refuse("is neither a file, a folder, nor a hub id like `owner/name`".into()));
        }
        let repo = Repo::with_revision(name.to_owned(), RepoType::Dataset, revision.to_owned());
        if is_offline() {
            let folder = cached_snapshot(&repo)
                .ok_or_else(|| refuse("HF_HUB_OFFLINE is set and the cache has no such data set".into()))?;
            let mut files = Vec::new();
            list(&folder, "", 0, &mut files).map_err(|error| ModelError::io(&folder, error))?;
            return Ok(Self { id: id.to_owned(), files, origin: Origin::Cached(folder) });
        }
        let mut builder = ApiBuilder::from_env().with_progress(true);
        if let Ok(token) = std::env::var("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        let online = builder.build().map_err(|error| refuse(error.to_string()))?.repo(repo);
        let info = online.info().map_err(|error| refuse(error.to_string()))?;
        // A hub is not trusted with where files go in the cache.
        let files = info.siblings.into_iter().map(|file| file.rfilename).filter(|file| file.split('/').all(is_plain));
        Ok(Self { id: id.to_owned(), files: files.collect(), origin: Origin::Online(Box::new(online)) })
    }

    /// Names of the files, folders included.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Fetches a file, or finds it in the cache.
    ///
    /// # Errors
    /// [`ModelError::Hub`] when it isn't among [`HubDataset::files`], or the hub or the network fails.
    pub fn fetch(&self, file: &str) -> Result<PathBuf> {
        let refuse = |reason: String| ModelError::Hub { id: self.id.clone(), reason: format!("{file}: {reason}") };
        if !self.files.iter().any(|known| known == file) {
            return Err(refuse("no such file".into()));
        }
        match &self.origin {
            Origin::Cached(folder) => Ok(folder.join(file)),
            Origin::Online(repo) => repo.get(file).map_err(|error| refuse(error.to_string())),
        }
    }
}

/// A part of a path that leads nowhere else.
fn is_plain(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0'])
}

fn cached_snapshot(repo: &Repo) -> Option<PathBuf> {
    let folder = Cache::from_env().path().join(repo.folder_name());
    let commit =
        std::fs::read_to_string(folder.join("refs").join(repo.revision())).unwrap_or_else(|_| repo.revision().to_owned());
    let snapshot = folder.join("snapshots").join(commit.trim());
    snapshot.is_dir().then_some(snapshot)
}

fn list(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) -> std::io::Result<()> {
    const DEPTH: usize = 8;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            if depth < DEPTH {
                list(&entry.path(), &format!("{name}/"), depth + 1, files)?;
            }
        } else {
            files.push(name);
        }
    }
    files.sort();
    Ok(())
}
