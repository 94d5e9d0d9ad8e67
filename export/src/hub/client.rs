//! Requests to the hub and to the storage of large files.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

use super::error::HubError;

/// How often a request is sent that fails for a reason which may pass.
const ATTEMPTS: u32 = 5;
/// The pause before the second attempt; it doubles with each.
const PAUSE: Duration = Duration::from_millis(500);
/// The most bytes of an answer.
const ANSWER: u64 = 16 << 20;

/// Sends requests for one repository.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: String,
    id: String,
}

/// The body of a request.
#[derive(Clone, Copy)]
pub(super) struct Content<'a> {
    pub kind: &'a str,
    pub accept: Option<&'a str>,
    pub bytes: &'a [u8],
}

impl<'a> Content<'a> {
    fn json(bytes: &'a [u8]) -> Self {
        Self { kind: "application/json", accept: None, bytes }
    }
}

impl Client {
    pub(super) fn new(endpoint: String, token: String, id: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("burnish/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_mins(5)));
        Self { agent: config.build().new_agent(), endpoint, token, id: id.to_owned() }
    }

    /// The repository.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The address of a path on the hub.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// What to send as authorization: the token goes to the hub and nowhere else.
    fn authorization(&self, url: &str) -> Option<String> {
        let rest = url.strip_prefix(&self.endpoint)?;
        rest.starts_with('/').then(|| format!("Bearer {}", self.token))
    }

    pub(super) fn get(&self, what: &str, url: &str) -> Result<Value, HubError> {
        let answer = self.retried(what, || {
            let request = self.agent.get(url);
            match self.authorization(url) {
                Some(token) => request.header("Authorization", token).call(),
                None => request.call(),
            }
        })?;
        self.json(what, answer)
    }

    pub(super) fn post(&self, what: &str, url: &str, body: &Value) -> Result<Value, HubError> {
        self.send(what, url, Content::json(body.to_string().as_bytes()))
    }

    pub(super) fn send(&self, what: &str, url: &str, content: Content<'_>) -> Result<Value, HubError> {
        let answer = self.retried(what, || {
            let mut request = self.agent.post(url).header("Content-Type", content.kind);
            if let Some(accept) = content.accept {
                request = request.header("Accept", accept);
            }
            if let Some(token) = self.authorization(url) {
                request = request.header("Authorization", token);
            }
            request.send(content.bytes)
        })?;
        self.json(what, answer)
    }

    /// Puts bytes of a file, from `start` on, to the storage, and returns the tag of the answer.
    pub(super) fn put<R: Read + Seek>(
        &self,
        what: &str,
        url: &str,
        headers: &[(String, String)],
        file: &mut R,
        (start, length): (u64, u64),
    ) -> Result<String, HubError> {
        let answer = self.retried(what, || {
            file.seek(SeekFrom::Start(start))?;
            let mut part = file.by_ref().take(length);
            let mut request = self.agent.put(url).header("Content-Length", length.to_string());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request.send(SendBody::from_reader(&mut part))
        })?;
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        Ok(tag)
    }

    /// Sends a request until it is answered, again where the storage or the connection has a fault that may pass. Other refusals are
    /// errors.
    fn retried(
        &self,
        what: &str,
        mut send: impl FnMut() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, HubError> {
        let mut attempt = 1;
        loop {
            let answer = send();
            let may_pass = match &answer {
                Ok(answer) => matches!(answer.status().as_u16(), 429 | 500 | 502..=504),
                Err(error) => matches!(error, ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed),
            };
            if may_pass && attempt < ATTEMPTS {
                std::thread::sleep(PAUSE * 2u32.pow(attempt - 1));
                attempt += 1;
                continue;
            }
            let answer = answer.map_err(|error| HubError::Network {
                id: self.id.clone(),
                what: what.to_owned(),
                reason: format!("{}: {error}", self.endpoint),
            })?;
            return if answer.status().is_success() { Ok(answer) } else { Err(self.refused(what, answer)) };
        }
    }

    fn refused(&self, what: &str, mut answer: Response<Body>) -> HubError {
        let status = answer.status().as_u16();
        let said = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let header = said("x-error-message");
        let text = answer.body_mut().with_config().limit(ANSWER).read_to_string().unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let of = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
        let reason = header.or_else(|| of("error")).or_else(|| of("message"));
        let reason = reason.unwrap_or_else(|| text.lines().next().unwrap_or_default().chars().take(200).collect());
        HubError::Status { id: self.id.clone(), what: what.to_owned(), status, reason }
    }

    fn json(&self, what: &str, mut answer: Response<Body>) -> Result<Value, HubError> {
        let text = answer.body_mut().with_config().limit(ANSWER).read_to_string();
        let text = text.map_err(|error| self.unexpected(what, error.to_string()))?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        // Storage answers to some requests with a plain text.
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The error of an answer that the protocol does not have.
    pub(super) fn unexpected(&self, what: &str, reason: impl Into<String>) -> HubError {
        HubError::Answer { id: self.id.clone(), what: what.to_owned(), reason: reason.into() }
    }
}
