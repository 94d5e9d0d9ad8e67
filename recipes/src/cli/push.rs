//! `burnish push`, and the flags with which other commands upload what they wrote.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use burnish_engine::with_hint;
use burnish_export::hub::{Uploaded, files_of};
use burnish_export::{HubError, HubUpload};
use burnish_models::HubEnvironment;
use serde_json::json;

use super::leave::quoted;
use crate::report::{OutputStyle, gib};

/// Arguments of `push`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder or GGUF file to upload: what `export`, `merge`, `quantize` or `train` wrote
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Repository to upload to; if it does not exist, a private one is created
    #[arg(value_name = "OWNER/NAME")]
    repository: String,
    /// Create the repository as a public one; one that exists is not changed
    #[arg(long)]
    public: bool,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        if self.path.join("config.toml").is_file() && self.path.join("metrics.jsonl").exists() {
            return Err(with_hint(
                format!("{} is the folder of a run, with its settings, logs, rows and checkpoints", self.path.display()),
                "push its result: the folder `adapter` or `model` in it",
            ));
        }
        // Before anything is asked of the hub.
        files_of(&self.path).map_err(way_out)?;
        let target = Target { upload: open(&self.repository, style)?, id: self.repository, public: self.public };
        let uploaded = target.send(&self.path, style).map_err(way_out)?;
        style.result(describe(&uploaded), &json!({ "url": uploaded.url, "files": uploaded.files, "bytes": uploaded.bytes }));
        Ok(ExitCode::SUCCESS)
    }
}

/// Flags of commands that write a model. Without them, nothing is sent.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Upload what was written to this repository of the Hugging Face hub; if it does not exist, a private one is created
    #[arg(long, value_name = "OWNER/NAME", help_heading = "Hub")]
    push: Option<String>,
    /// Create the repository as a public one; one that exists is not changed
    #[arg(long, requires = "push", help_heading = "Hub")]
    public: bool,
}

/// A repository that takes the files.
pub(super) struct Target {
    upload: HubUpload,
    id: String,
    public: bool,
}

impl PushArgs {
    /// The repository, if there is to be an upload; asks the hub whether it accepts the token.
    pub(super) fn open(&self, style: OutputStyle) -> Result<Option<Target>> {
        let Some(id) = self.push.clone() else { return Ok(None) };
        Ok(Some(Target { upload: open(&id, style)?, id, public: self.public }))
    }
}

impl Target {
    /// Uploads what was written, and returns a note for the user.
    pub(super) fn after(&self, written: &Path, style: OutputStyle) -> Result<String> {
        let uploaded = self.send(written, style).map_err(|error| {
            let (path, id) = (quoted(&written.display().to_string()), quoted(&self.id));
            let again = format!("{} is complete: burnish push {path} {id} uploads it", written.display());
            let hint = hint(&error).map_or_else(|| again.clone(), |hint| format!("{hint}; {again}"));
            with_hint(error.to_string(), &hint)
        })?;
        Ok(describe(&uploaded))
    }

    fn send(&self, path: &Path, style: OutputStyle) -> Result<Uploaded, HubError> {
        self.upload.push(&files_of(path)?, self.public, "Upload with Burnish", |line| style.say(line))
    }
}

fn open(id: &str, style: OutputStyle) -> Result<HubUpload> {
    let upload = HubUpload::new(&HubEnvironment::from_env(), id).map_err(way_out)?;
    let user = upload.user().map_err(way_out)?;
    style.say(format!("uploading to {id} as {user}"));
    Ok(upload)
}

fn describe(uploaded: &Uploaded) -> String {
    match uploaded.files {
        0 => format!("{} has all files already", uploaded.url),
        files => format!("uploaded {files} files to {} ({} of large files)", uploaded.url, gib(uploaded.bytes)),
    }
}

fn way_out(error: HubError) -> anyhow::Error {
    match hint(&error) {
        Some(hint) => with_hint(error.to_string(), hint),
        None => error.into(),
    }
}

fn hint(error: &HubError) -> Option<&'static str> {
    match error {
        HubError::NoToken { .. } => {
            Some("set HF_TOKEN to a token with the right to write, from https://huggingface.co/settings/tokens")
        }
        HubError::Status { status: 401, .. } => Some("check HF_TOKEN, or the file that `hf auth login` writes"),
        HubError::Status { status: 403 | 404, .. } => {
            Some("the token needs the right to write to repositories of that owner: https://huggingface.co/settings/tokens")
        }
        HubError::Status { status: 409 | 412 | 429 | 500.., .. } => Some("try again"),
        HubError::Network { .. } => Some("check the connection, and HF_ENDPOINT if it is set"),
        _ => None,
    }
}
