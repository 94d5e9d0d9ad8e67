//! Uploads files to the Hugging Face hub, as one commit.
//!
//! Source: `create_repo`, `create_commit` and `lfs.py` of huggingface_hub 2.4, and the Git LFS batch API.

mod client;
mod commit;
mod error;
mod files;
mod lfs;

use std::path::Path;

use burnish_models::HubEnvironment;
use serde_json::{Value, json};

use client::Client;
pub use error::HubError;
pub use files::UploadFile;

/// A repository to which files are uploaded.
pub struct HubUpload {
    client: Client,
    name: String,
    owner: String,
}

/// What was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The address of the repository.
    pub url: String,
    /// The files of the commit; those that the repository has already are not among them.
    pub files: usize,
    /// The bytes that were sent for large files.
    pub bytes: u64,
}

impl HubUpload {
    /// The model `owner/name`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`HubError::Id`] for any other id, [`HubError::NoToken`] without a token, [`HubError::Offline`] if the hub must not be used.
    pub fn new(environment: &HubEnvironment, id: &str) -> Result<Self, HubError> {
        let valid = |part: &str| {
            let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
            !part.is_empty() && part.chars().all(plain) && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
        };
        let parts = id.split_once('/').filter(|(owner, name)| valid(owner) && valid(name) && id.len() <= 96);
        let Some((owner, name)) = parts else { return Err(HubError::Id { id: id.to_owned() }) };
        if environment.offline {
            return Err(HubError::Offline { id: id.to_owned() });
        }
        let token = environment.token.clone().ok_or_else(|| HubError::NoToken { id: id.to_owned() })?;
        let endpoint = environment.endpoint.clone().unwrap_or_else(|| "https://huggingface.co".to_owned());
        Ok(Self { client: Client::new(endpoint, token, id), name: name.to_owned(), owner: owner.to_owned() })
    }

    /// Asks the hub whose token it is, and returns the name: a wrong one is then found before anything is computed.
    ///
    /// # Errors
    /// [`HubError::Status`] if the hub refuses the token, [`HubError::Network`] if it can't be reached.
    pub fn user(&self) -> Result<String, HubError> {
        let json = self.client.get("check the token", &self.client.url("/api/whoami-v2"))?;
        Ok(json.get("name").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Uploads files in one commit, into a repository that is created where there is none: a public one only if `public`. `say` gets a
    /// line for each large file.
    ///
    /// # Errors
    /// [`HubError::Status`] if the hub refuses something, [`HubError::Network`] if the connection fails, [`HubError::Answer`] if the hub's
    /// answer is not what the protocol says, and [`HubError::File`] if a file can't be read. The repository then has no new commit.
    pub fn push(
        &self,
        files: &[UploadFile],
        public: bool,
        message: &str,
        mut say: impl FnMut(&str),
    ) -> Result<Uploaded, HubError> {
        self.create(public)?;
        let planned = commit::plan(&self.client, files)?;
        let bytes = lfs::upload(&self.client, &planned, &mut say)?;
        if !planned.is_empty() {
            commit::send(&self.client, &planned, message)?;
        }
        Ok(Uploaded { url: self.client.url(&format!("/{}", self.client.id())), files: planned.len(), bytes })
    }

    /// Creates the repository, unless it exists.
    fn create(&self, public: bool) -> Result<(), HubError> {
        let visibility = if public { "public" } else { "private" };
        let body = json!({ "name": self.name, "organization": self.owner, "type": "model", "visibility": visibility });
        let created = self.client.post("create the repository", &self.client.url("/api/repos/create"), &body);
        match created {
            Err(HubError::Status { status: 409, .. }) => Ok(()),
            // A token without the right to create repositories may still write to one.
            Err(error @ HubError::Status { status: 401..=403, .. }) => {
                let url = self.client.url(&format!("/api/models/{}", self.client.id()));
                self.client.get("find the repository", &url).map(drop).map_err(|_| error)
            }
            other => other.map(drop),
        }
    }
}

/// The files of an export: those of a folder and of the folders in it, except hidden ones, or a GGUF file with its other parts.
///
/// # Errors
/// [`HubError::File`] if a file can't be read or there is none.
pub fn files_of(path: &Path) -> Result<Vec<UploadFile>, HubError> {
    files::of(path)
}
