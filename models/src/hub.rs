//! Models and data sets of the Hugging Face hub, through its cache.
//!
//! `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean to `huggingface_hub`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::checkpoint::safetensors::{INDEX, SINGLE, shard_paths};
use crate::error::{ModelError, Result};

/// Files that a model may have beside its weights.
const SMALL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// A model or a data set, whose files can be listed and fetched one at a time.
pub struct HubRepository {
    id: String,
    files: Vec<String>,
    origin: Origin,
}

enum Origin {
    /// A folder of the cache that has the files.
    Cached(PathBuf),
    Online(Box<ApiRepo>),
}

impl HubRepository {
    /// Lists the files of a model `owner/name`, with or without `@revision`; with `HF_HUB_OFFLINE`, those in the cache.
    ///
    /// # Errors
    /// [`ModelError::Hub`] when the id is malformed, or the model is neither to be had nor cached.
    pub fn model(id: &str) -> Result<Self> {
        Self::open(id, RepoType::Model, "is neither a folder, a .gguf file, nor a hub id like `owner/name`")
    }

    /// As [`HubRepository::model`], of a data set, whose id may also be a `name` alone.
    ///
    /// # Errors
    /// As [`HubRepository::model`].
    pub fn dataset(id: &str) -> Result<Self> {
        Self::open(id, RepoType::Dataset, "is neither a file, a folder, nor a hub id like `owner/name`")
    }

    fn open(id: &str, kind: RepoType, no_id: &str) -> Result<Self> {
        let refuse = |reason: String| ModelError::Hub { id: id.to_owned(), reason };
        let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
        let valid = |part: &str| is_plain(part) && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let parts = name.split('/').count();
        let fits = parts == 2 || (parts == 1 && matches!(kind, RepoType::Dataset));
        if !fits || !name.split('/').all(valid) || !revision.split('/').all(valid) {
            return Err(refuse(no_id.into()));
        }
        let repo = Repo::with_revision(name.to_owned(), kind, revision.to_owned());
        if is_offline() {
            let folder =
                cached_snapshot(&repo).ok_or_else(|| refuse("is not in the cache, and HF_HUB_OFFLINE is set".into()))?;
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
    /// [`ModelError::Hub`] when it isn't among [`HubRepository::files`], or the hub or the network fails.
    pub fn fetch(&self, file: &str) -> Result<PathBuf> {
        if !self.has(file) {
            return Err(self.refuse(format!("{file}: no such file")));
        }
        match &self.origin {
            Origin::Cached(folder) => Ok(folder.join(file)),
            Origin::Online(repo) => repo.get(file).map_err(|error| self.refuse(format!("{file}: {error}"))),
        }
    }

    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|known| known == file)
    }

    fn refuse(&self, reason: String) -> ModelError {
        ModelError::Hub { id: self.id.clone(), reason }
    }
}

/// Whether the hub must not be asked.
fn is_offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false" | "no"))
}

/// Fetches a model, or finds it in the cache, and returns its folder there. Of the weights it takes `model.safetensors`, or
/// else the shards that its index names, and no other.
///
/// # Errors
/// [`ModelError::Hub`] when the id is malformed, a file can't be had, or the hub is offline and the cache lacks one.
pub fn fetch_model(id: &str) -> Result<PathBuf> {
    let repository = HubRepository::model(id)?;
    let config = repository.fetch("config.json")?;
    let folder = config.parent().map(Path::to_owned).ok_or_else(|| repository.refuse("the cache is malformed".into()))?;
    for file in SMALL_FILES.iter().filter(|file| repository.has(file)) {
        repository.fetch(file)?;
    }
    if repository.has(SINGLE) {
        repository.fetch(SINGLE)?;
    } else if repository.has(INDEX) {
        for shard in shard_paths(&folder, &repository.fetch(INDEX)?)? {
            repository.fetch(&shard.file_name().unwrap_or_default().to_string_lossy())?;
        }
    } else {
        return Err(repository.refuse(format!("has neither {SINGLE} nor {INDEX}")));
    }
    Ok(folder)
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
