//! Which files a commit changes and how each is sent, and the commit.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::{Client, Content};
use super::error::HubError;
use super::files::UploadFile;

/// Files of one request, as in huggingface_hub.
pub(super) const BATCH: usize = 256;
/// The branch.
pub(super) const REVISION: &str = "main";

/// A file of a commit.
pub(super) struct Planned<'a> {
    pub file: &'a UploadFile,
    /// The SHA-256 of a large file, whose bytes go to the storage; `None` of one whose bytes are in the commit.
    pub sha256: Option<String>,
}

/// Asks the hub how it wants each file. Files that it ignores, or that it has in that version, are left out.
pub(super) fn plan<'a>(client: &Client, files: &'a [UploadFile]) -> Result<Vec<Planned<'a>>, HubError> {
    const WHAT: &str = "announce the files";
    let url = client.url(&format!("/api/models/{}/preupload/{REVISION}", client.id()));
    let mut planned = Vec::new();
    for batch in files.chunks(BATCH) {
        let mut entries = Vec::new();
        for file in batch {
            entries.push(json!({ "path": file.name, "sample": STANDARD.encode(file.sample()?), "size": file.size }));
        }
        let answer = client.post(WHAT, &url, &json!({ "files": entries }))?;
        let modes = answer.get("files").and_then(Value::as_array);
        let modes = modes.ok_or_else(|| client.unexpected(WHAT, "it has no `files`"))?;
        for file in batch {
            let mode = modes.iter().find(|mode| mode.get("path").and_then(Value::as_str) == Some(&file.name));
            let mode = mode.ok_or_else(|| client.unexpected(WHAT, format!("it does not have {}", file.name)))?;
            if mode.get("shouldIgnore").and_then(Value::as_bool) == Some(true) {
                continue;
            }
            // The storage takes no empty files.
            let is_large = match mode.get("uploadMode").and_then(Value::as_str) {
                Some("lfs") => file.size > 0,
                Some("regular") => false,
                other => return Err(client.unexpected(WHAT, format!("the mode of {} is {other:?}", file.name))),
            };
            let sha256 = is_large.then(|| file.sha256()).transpose()?;
            let is_there = sha256.is_some() && mode.get("oid").and_then(Value::as_str) == sha256.as_deref();
            if !is_there {
                planned.push(Planned { file, sha256 });
            }
        }
    }
    Ok(planned)
}

/// Makes the commit, whose large files are in the storage already.
pub(super) fn send(client: &Client, planned: &[Planned<'_>], message: &str) -> Result<(), HubError> {
    let mut lines = json!({ "key": "header", "value": { "summary": message, "description": "" } }).to_string();
    for Planned { file, sha256 } in planned {
        let line = if let Some(oid) = sha256 {
            json!({ "key": "lfsFile", "value": { "path": file.name, "algo": "sha256", "oid": oid, "size": file.size } })
        } else {
            let content = STANDARD.encode(file.bytes()?);
            json!({ "key": "file", "value": { "content": content, "path": file.name, "encoding": "base64" } })
        };
        lines.push('\n');
        lines.push_str(&line.to_string());
    }
    lines.push('\n');
    let url = client.url(&format!("/api/models/{}/commit/{REVISION}", client.id()));
    let content = Content { kind: "application/x-ndjson", accept: None, bytes: lines.as_bytes() };
    client.send("make the commit", &url, content).map(drop)
}
