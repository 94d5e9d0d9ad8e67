//! Models of the Hugging Face hub, through its cache.
//!
//! `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean to `huggingface_hub`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo};

use crate::error::{ModelError, Result};

/// Files that a model may have beside its weights.
const SMALL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// Whether the hub must not be asked.
pub fn is_offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false" | "no"))
}

/// Fetches a model, or finds it in the cache, and returns its folder there.
///
/// # Errors
/// [`ModelError::Hub`] when the id is malformed, the repository or its weights can't be had, or the hub is offline and
/// the cache lacks a file.
pub fn fetch_model(id: &str) -> Result<PathBuf> {
    let refuse = |reason: String| ModelError::Hub { id: id.to_owned(), reason };
    let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
    let valid = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if name.split('/').count() != 2 || !name.split('/').all(valid) {
        return Err(refuse("is neither a folder, a .gguf file, nor a hub id like `owner/name`".into()));
    }
    let repo = Repo::with_revision(name.to_owned(), hf_hub::RepoType::Model, revision.to_owned());
    if is_offline() {
        let cached = Cache::from_env().repo(repo);
        let config = cached
            .get("config.json")
            .ok_or_else(|| refuse("HF_HUB_OFFLINE is set and the cache has no such model".into()))?;
        return config.parent().map(PathBuf::from).ok_or_else(|| refuse("the cache is malformed".into()));
    }
    let mut builder = ApiBuilder::from_env().with_progress(true);
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(|error| refuse(error.to_string()))?;
    let repo = api.repo(repo);
    let info = repo.info().map_err(|error| refuse(error.to_string()))?;
    let present: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let mut folder = None;
    for file in SMALL_FILES.iter().filter(|file| present.contains(*file)) {
        folder = Some(get(&repo, file, id)?);
    }
    let weights: Vec<&&str> = present.iter().filter(|name| name.ends_with(".safetensors") && !name.contains('/')).collect();
    if weights.is_empty() {
        return Err(refuse("has no .safetensors files".into()));
    }
    for file in weights {
        folder = Some(get(&repo, file, id)?);
    }
    folder.and_then(|path| path.parent().map(PathBuf::from)).ok_or_else(|| refuse("is empty".into()))
}

fn get(repo: &ApiRepo, file: &str, id: &str) -> Result<PathBuf> {
    repo.get(file).map_err(|error| ModelError::Hub { id: id.to_owned(), reason: format!("{file}: {error}") })
}

/// Fetches the `.jsonl` and `.json` files at the top of a data set, or finds them in the cache.
///
/// # Errors
/// As [`fetch_model`].
pub fn fetch_data_set(id: &str) -> Result<PathBuf> {
    let refuse = |reason: String| ModelError::Hub { id: id.to_owned(), reason };
    let repo = Repo::new(id.to_owned(), hf_hub::RepoType::Dataset);
    if is_offline() {
        let cached = Cache::from_env().repo(repo);
        let file = cached.get("train.jsonl").or_else(|| cached.get("train.json"));
        let file = file.ok_or_else(|| {
            refuse("no such file or folder, HF_HUB_OFFLINE is set, and the cache has no such data set".into())
        })?;
        return file.parent().map(PathBuf::from).ok_or_else(|| refuse("the cache is malformed".into()));
    }
    let api = ApiBuilder::from_env().with_progress(true).build().map_err(|error| refuse(error.to_string()))?;
    let repo = api.repo(repo);
    let info = repo.info().map_err(|error| refuse(error.to_string()))?;
    let mut folder = None;
    for file in info.siblings.iter().map(|file| file.rfilename.as_str()) {
        let extension = Path::new(file).extension().and_then(|extension| extension.to_str());
        if !file.contains('/') && matches!(extension, Some("json" | "jsonl")) {
            folder = get(&repo, file, id)?.parent().map(PathBuf::from);
        }
    }
    folder.ok_or_else(|| refuse("has no .jsonl files at its top".into()))
}
