//! Errors of uploads.

use std::path::PathBuf;

/// Errors of uploading to the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The id is not one of a model.
    #[error("`{id}`: expected the id of a repository, OWNER/NAME")]
    Id {
        /// The id.
        id: String,
    },
    /// There is no token.
    #[error("{id}: the hub takes files only with an access token, and there is none")]
    NoToken {
        /// The repository.
        id: String,
    },
    /// The environment forbids the use of the hub.
    #[error("{id}: can't upload while HF_HUB_OFFLINE is set")]
    Offline {
        /// The repository.
        id: String,
    },
    /// The hub refused a request.
    #[error("{id}: can't {what}: {} ({status}): {reason}", meaning(*status))]
    Status {
        /// The repository.
        id: String,
        /// What the request was for.
        what: String,
        /// The status of HTTP.
        status: u16,
        /// What the hub says.
        reason: String,
    },
    /// The connection failed.
    #[error("{id}: can't {what}: {reason}")]
    Network {
        /// The repository.
        id: String,
        /// What the request was for.
        what: String,
        /// The error of the connection.
        reason: String,
    },
    /// The answer is not one of the protocol.
    #[error("{id}: can't {what}: the hub's answer is not what was expected: {reason}")]
    Answer {
        /// The repository.
        id: String,
        /// What the request was for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file can't be uploaded.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// What a status means here.
fn meaning(status: u16) -> &'static str {
    match status {
        401 => "the hub does not accept the token",
        403 => "the token has no right to do that",
        404 => "there is no such repository, or the token does not see it",
        409 | 412 => "the repository was changed meanwhile",
        413 => "it is too large for the hub",
        429 => "the hub takes no more requests for now",
        500.. => "the hub has a fault",
        _ => "the hub refuses it",
    }
}
