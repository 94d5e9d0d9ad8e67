//! The files of an upload.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use burnish_models::Checkpoint;
use burnish_models::gguf::{GgufFile, is_gguf_name};
use sha2::{Digest, Sha256};

use super::error::HubError;

/// Folders within folders that are read.
const DEPTH: usize = 8;

/// A file to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadFile {
    /// Its path in the repository.
    pub name: String,
    /// Its path on this computer.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

impl UploadFile {
    fn new(name: String, path: PathBuf) -> Result<Self, HubError> {
        let size = fs::metadata(&path).map_err(|error| failed(&path, error))?.len();
        Ok(Self { name, path, size })
    }

    pub(super) fn open(&self) -> Result<File, HubError> {
        File::open(&self.path).map_err(|error| failed(&self.path, error))
    }

    /// The first bytes, by which the hub recognises text.
    pub(super) fn sample(&self) -> Result<Vec<u8>, HubError> {
        let mut sample = Vec::new();
        self.open()?.take(512).read_to_end(&mut sample).map_err(|error| failed(&self.path, error))?;
        Ok(sample)
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>, HubError> {
        fs::read(&self.path).map_err(|error| failed(&self.path, error))
    }

    /// The SHA-256 of the file, in hexadecimal.
    pub(super) fn sha256(&self) -> Result<String, HubError> {
        let (mut file, mut hash, mut buffer) = (self.open()?, Sha256::new(), vec![0; 1 << 20]);
        loop {
            let count = file.read(&mut buffer).map_err(|error| failed(&self.path, error))?;
            if count == 0 {
                return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
            }
            hash.update(&buffer[..count]);
        }
    }
}

fn failed(path: &Path, error: impl std::fmt::Display) -> HubError {
    HubError::File { path: path.to_owned(), reason: error.to_string() }
}

/// As [`files_of`](super::files_of).
pub(super) fn of(path: &Path) -> Result<Vec<UploadFile>, HubError> {
    let mut files = Vec::new();
    if path.is_dir() {
        list(path, "", 0, &mut files)?;
    } else {
        let parts = if is_gguf_name(path) {
            GgufFile::open(path)
                .map_err(|error| HubError::File { path: path.to_owned(), reason: error.to_string() })?
                .files()
        } else {
            vec![path.to_owned()]
        };
        for part in parts {
            let name = part.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            files.push(UploadFile::new(name.ok_or_else(|| failed(&part, "its name is not UTF-8"))?, part)?);
        }
    }
    if files.is_empty() { Err(failed(path, "has no files")) } else { Ok(files) }
}

fn list(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<UploadFile>) -> Result<(), HubError> {
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        entries.push(entry.map_err(|error| failed(folder, error))?.path());
    }
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| failed(&path, "its name is not UTF-8"))?.to_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth == DEPTH {
                return Err(failed(&path, "expected fewer folders within each other"));
            }
            list(&path, &format!("{prefix}{name}/"), depth + 1, files)?;
        } else {
            files.push(UploadFile::new(format!("{prefix}{name}"), path)?);
        }
    }
    Ok(())
}
