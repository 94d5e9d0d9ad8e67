//! What an error of the hub means, and what the user can do about it.

use hf_hub::api::sync::ApiError;

use crate::error::ModelError;

/// Where a request went, and who asked.
pub(super) struct Asked {
    /// The id of the repository.
    pub id: String,
    /// The address of the hub.
    pub endpoint: String,
    /// The page of the repository.
    pub page: String,
    /// Whether a token was sent.
    pub has_token: bool,
}

/// What to do about an answer that can't be read.
const NOT_A_HUB: &str = "what answered is not a hub: check HF_ENDPOINT, if it is set, and whether the network asks for a login in a \
                         browser first; HF_HUB_OFFLINE=1 uses only the cache";

/// The status of an answer that is an error, or `None` if there was no answer.
pub(super) fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

/// What the network says.
fn cause(error: &ApiError) -> String {
    match error {
        ApiError::RequestError(error) => error.to_string(),
        ApiError::TooManyRetries(error) => cause(error),
        other => other.to_string(),
    }
}

/// Whether the hub could not be reached.
pub(super) fn is_unreachable(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => matches!(
            **error,
            ureq::Error::Io(_)
                | ureq::Error::HostNotFound
                | ureq::Error::ConnectionFailed
                | ureq::Error::ConnectProxyFailed(_)
                | ureq::Error::Timeout(_)
        ),
        ApiError::TooManyRetries(error) => is_unreachable(error),
        // Writing the file fails in the same way, but with a code of the system.
        ApiError::IoError(error) => error.raw_os_error().is_none(),
        _ => false,
    }
}

impl Asked {
    /// The error for a request; with `file` it was for a file of a repository that the hub has listed.
    pub fn refused(&self, error: &ApiError, file: Option<&str>) -> ModelError {
        let (reason, way) = self.describe(error, file.is_some());
        let reason = file.map_or_else(|| reason.clone(), |file| format!("{file}: {reason}"));
        ModelError::Hub { id: self.id.clone(), reason, way }
    }

    fn describe(&self, error: &ApiError, is_listed: bool) -> (String, Option<String>) {
        let Self { endpoint, page, has_token, .. } = self;
        let tokens = format!("{endpoint}/settings/tokens");
        let spelling = format!("check the spelling: {page} should be its page");
        if is_unreachable(error) {
            let way = "check the network, and HTTPS_PROXY where there is a proxy; the same command continues where the download \
                       stopped; HF_HUB_OFFLINE=1 uses only the cache";
            return (format!("can't reach {endpoint}: {}", cause(error)), Some(way.to_owned()));
        }
        let Some(status) = status(error) else {
            let is_other = matches!(error, ApiError::RequestError(_)) && !is_listed;
            return (error.to_string(), is_other.then(|| NOT_A_HUB.to_owned()));
        };
        let (reason, way) = match (status, is_listed, has_token) {
            (401 | 403, true, false) => (
                "only for accounts that accepted the terms of this repository".to_owned(),
                format!("accept them on {page}, then set HF_TOKEN to a token of that account from {tokens}"),
            ),
            (403, _, true) => (
                "the account of the token has no access".to_owned(),
                format!(
                    "accept the terms on {page} with that account; a fine-grained token also needs the permission to read gated \
                     repositories: {tokens}"
                ),
            ),
            (401, true, true) => (
                "the token is not accepted".to_owned(),
                format!("HF_TOKEN or the stored token may have expired; make another: {tokens}"),
            ),
            (401 | 403, false, false) => (
                "no such repository, or a private one".to_owned(),
                format!("{spelling}; if it is private, set HF_TOKEN to a token from {tokens}"),
            ),
            (401, false, true) => (
                "no such repository, or the token has no access to it".to_owned(),
                format!("{spelling}; if it is private, use a token of its owner from {tokens}"),
            ),
            (404, true, _) => ("no such file on the hub".to_owned(), format!("{page} lists its files")),
            (404, false, _) => ("no such repository or revision".to_owned(), spelling),
            (429, ..) => {
                ("too many requests".to_owned(), "wait a few minutes; with a token in HF_TOKEN more are allowed".to_owned())
            }
            (500.., ..) => (
                "the hub is out of order".to_owned(),
                "try again later: the same command continues where the download stopped".to_owned(),
            ),
            _ => return (format!("{endpoint} answered with status {status}"), None),
        };
        (format!("{reason} (status {status})"), Some(way))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_no_hub_gives_says_that_the_address_is_not_a_hub() {
        let asked =
            Asked { id: "owner/name".into(), endpoint: "https://h".into(), page: "https://h/p".into(), has_token: false };
        let page = serde_json::from_str::<serde_json::Value>("<html>").unwrap_err();
        let error = ApiError::RequestError(Box::new(ureq::Error::Json(page)));
        let ModelError::Hub { reason, way: Some(way), .. } = asked.refused(&error, None) else { panic!("no way") };
        assert!(reason.starts_with("request error: json: expected value"), "{reason}");
        assert!(way.contains("HF_ENDPOINT"), "{way}");
    }
}
