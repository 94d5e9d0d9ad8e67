//! Errors of a device, kept until the next call that can report them.
//!
//! A launch returns nothing, and a panic on the device's thread does not reach the caller. Errors of both are kept here by stream;
//! the next read, sync or flush of that stream returns them.

use std::any::Any;
use std::collections::HashMap;

use cubecl_common::backtrace::BackTrace;
use cubecl_common::stream_id::StreamId;
use cubecl_core::server::ServerError;

/// Errors by stream.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    waiting: HashMap<StreamId, Vec<ServerError>>,
}

impl Errors {
    /// Keeps an error of a stream.
    pub fn push(&mut self, stream: StreamId, error: ServerError) {
        tracing::error!("{error}");
        self.waiting.entry(stream).or_default().push(error);
    }

    /// Returns the first error of some streams, and forgets all of them.
    pub fn take(&mut self, streams: impl IntoIterator<Item = StreamId>) -> Result<(), ServerError> {
        let mut first = None;
        for stream in streams {
            let errors = self.waiting.remove(&stream).unwrap_or_default();
            first = first.or_else(|| errors.into_iter().next());
        }
        first.map_or(Ok(()), Err)
    }

    /// An error with a message.
    pub fn generic(reason: impl Into<String>) -> ServerError {
        ServerError::Generic { reason: reason.into(), backtrace: BackTrace::capture() }
    }
}

/// The message of a panic.
pub(crate) fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
