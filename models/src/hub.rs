//! Fetches models and data sets from the Hugging Face hub into its cache.
//!
//! The environment variables of `huggingface_hub` are respected: see [`HubEnvironment`].

mod download;
mod environment;
mod problem;

use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use download::{Online, RETRIES};
use problem::{Asked, is_unreachable};

pub use environment::HubEnvironment;

use crate::chat_template::TEMPLATE_FOLDERS;
use crate::checkpoint::index::{shard_paths, tensor_names};
use crate::checkpoint::names;
use crate::error::{ModelError, Result};
use crate::json_file;
use crate::recognise;

/// Every file besides the weights that is read from a folder, so that a model fetched by its id equals its folder.
const SMALL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    // Read if there is no `tokenizer.json`.
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    // This is not read, but an error says what it is.
    "adapter_config.json",
];

/// The address of the hub, unless `HF_ENDPOINT` has another one.
const HUB: &str = "https://huggingface.co";

/// A model or a data set of the hub.
pub struct HubRepository {
    id: String,
    files: Vec<String>,
    origin: Origin,
}

enum Origin {
    /// The folder of the cache with its files.
    Cached(PathBuf),
    Online(Box<Online>),
}

impl HubRepository {
    /// Lists the files of a model, given as `owner/name` or `owner/name@revision`. Offline, these are the files in the cache.
    ///
    /// # Errors
    /// [`ModelError::Hub`] if the id is malformed, or the model is neither on the hub nor, offline, in the cache.
    pub fn model(id: &str) -> Result<Self> {
        Self::model_in(&HubEnvironment::from_env(), id)
    }

    /// As [`HubRepository::model`], with an environment other than that of the process.
    ///
    /// # Errors
    /// As [`HubRepository::model`].
    pub fn model_in(environment: &HubEnvironment, id: &str) -> Result<Self> {
        let no_id = "expected a folder, a .gguf file or a hub id like `owner/name`";
        Self::open(environment, id, RepoType::Model, no_id)
    }

    /// As [`HubRepository::model`], for a data set. Its id can also be just `name`.
    ///
    /// # Errors
    /// As [`HubRepository::model`].
    pub fn dataset(id: &str) -> Result<Self> {
        let no_id = "expected a file, a folder or a hub id like `owner/name`";
        Self::open(&HubEnvironment::from_env(), id, RepoType::Dataset, no_id)
    }

    fn open(environment: &HubEnvironment, id: &str, kind: RepoType, no_id: &str) -> Result<Self> {
        let refuse = |reason: String| ModelError::Hub { id: id.to_owned(), reason, way: None };
        let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
        let valid = |part: &str| is_plain(part) && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let parts = name.split('/').count();
        let fits = parts == 2 || (parts == 1 && matches!(kind, RepoType::Dataset));
        if !fits || !name.split('/').all(valid) || !revision.split('/').all(valid) {
            return Err(refuse(no_id.into()));
        }
        let repo = Repo::with_revision(name.to_owned(), kind, revision.to_owned());
        if environment.offline {
            let folder = cached_snapshot(&environment.cache, &repo).ok_or_else(|| {
                refuse(format!("not in the cache ({}), and HF_HUB_OFFLINE is set", environment.cache.display()))
            })?;
            return Self::cached(id, folder);
        }
        let endpoint = environment.endpoint.clone().unwrap_or_else(|| HUB.to_owned());
        let pages = if matches!(kind, RepoType::Dataset) { "/datasets" } else { "" };
        let page = format!("{endpoint}{pages}/{name}");
        let asked = Asked { id: id.to_owned(), page, has_token: environment.token.is_some(), endpoint };
        let cache = Cache::new(environment.cache.clone());
        let builder = ApiBuilder::from_cache(cache.clone()).with_token(environment.token.clone()).with_retries(RETRIES);
        let api = builder.with_endpoint(asked.endpoint.clone()).build().map_err(|error| refuse(error.to_string()))?;
        let requests = api.repo(repo.clone());
        let info = match requests.info() {
            Ok(info) => info,
            Err(error) => match cached_snapshot(&environment.cache, &repo).filter(|_| is_unreachable(&error)) {
                Some(folder) => {
                    tracing::warn!("{id}: can't reach {}, so it is taken from the cache as it is there", asked.endpoint);
                    return Self::cached(id, folder);
                }
                None => return Err(asked.refused(&error, None)),
            },
        };
        // The hub is not trusted: no file may be written outside the folder.
        let files =
            info.siblings.into_iter().map(|file| file.rfilename).filter(|file| file.split('/').all(is_plain)).collect();
        let origin = Origin::Online(Box::new(Online { api, requests, repo, cache, asked }));
        Ok(Self { id: id.to_owned(), files, origin })
    }

    /// What the cache has of a repository.
    fn cached(id: &str, folder: PathBuf) -> Result<Self> {
        let mut files = Vec::new();
        list(&folder, "", 0, &mut files).map_err(|error| ModelError::io(&folder, error))?;
        Ok(Self { id: id.to_owned(), files, origin: Origin::Cached(folder) })
    }

    /// The names of the files, with their folders.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Fetches a file, unless it is in the cache, and returns its path there.
    ///
    /// # Errors
    /// [`ModelError::Hub`] if it isn't one of [`HubRepository::files`], or it can't be fetched.
    pub fn fetch(&self, file: &str) -> Result<PathBuf> {
        if !self.has(file) {
            return Err(self.refuse(format!("{file}: no such file")));
        }
        match &self.origin {
            Origin::Cached(folder) => Ok(folder.join(file)),
            Origin::Online(online) => online.fetch(file),
        }
    }

    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|known| known == file)
    }

    fn refuse(&self, reason: String) -> ModelError {
        ModelError::Hub { id: self.id.clone(), reason, way: None }
    }
}

/// Fetches a model, unless it is in the cache, and returns its folder there. The weights are `model.safetensors` or the shards
/// that its index names, or else those of `pytorch_model.bin`; other weights of the repository are not fetched.
///
/// # Errors
/// [`ModelError::Hub`] if the id is malformed, or a file can't be fetched or, offline, is not in the cache. The errors of
/// [`recognise`], before any weights are fetched, if the repository holds something other than a supported model.
pub fn fetch_model(id: &str) -> Result<PathBuf> {
    fetch_model_in(&HubEnvironment::from_env(), id)
}

/// As [`fetch_model`], with an environment other than that of the process.
///
/// # Errors
/// As [`fetch_model`].
pub fn fetch_model_in(environment: &HubEnvironment, id: &str) -> Result<PathBuf> {
    let repository = HubRepository::model_in(environment, id)?;
    let is_small = |file: &str| {
        SMALL_FILES.contains(&file)
            || (has_extension(file, "jinja")
                && file.split('/').next().is_some_and(|folder| TEMPLATE_FOLDERS.contains(&folder)))
    };
    let mut folder = None;
    for file in repository.files.iter().filter(|file| is_small(file)) {
        let path = repository.fetch(file)?;
        // The model's folder is as many levels up as the name has parts.
        folder = path.ancestors().nth(file.split('/').count()).map(Path::to_owned).or(folder);
    }
    if let Some(folder) = &folder {
        recognise::check_folder(folder, Path::new(id))?;
    }
    let ggufs: Vec<&str> = repository.files.iter().map(String::as_str).filter(|file| has_extension(file, "gguf")).collect();
    if !repository.has("config.json") && !ggufs.is_empty() {
        let reason = format!("has GGUF files; download one of them and choose it as the model: {}", ggufs.join(", "));
        return Err(ModelError::Unsupported { path: id.into(), reason });
    }
    repository.fetch("config.json")?;
    let folder = folder.ok_or_else(|| repository.refuse("the cache is malformed".into()))?;
    let Some(weights) = names::ALL.iter().find(|names| repository.has(names.single) || repository.has(names.index)) else {
        return Err(repository.refuse(names::none_found()));
    };
    if repository.has(weights.single) {
        repository.fetch(weights.single)?;
    } else {
        let index = repository.fetch(weights.index)?;
        recognise::check_quantised(Path::new(id), &json_file::read(&folder.join("config.json"))?, &tensor_names(&index)?)?;
        for shard in shard_paths(&folder, &index)? {
            repository.fetch(&shard.file_name().unwrap_or_default().to_string_lossy())?;
        }
    }
    Ok(folder)
}

fn has_extension(file: &str, extension: &str) -> bool {
    Path::new(file).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Whether a part of a path is an ordinary name.
fn is_plain(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0'])
}

fn cached_snapshot(cache: &Path, repo: &Repo) -> Option<PathBuf> {
    let folder = cache.join(repo.folder_name());
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

#[cfg(test)]
mod tests;
