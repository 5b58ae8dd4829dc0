//! The values that a server prints: messages, and answers and requests that cannot be passed on.
//!
//! Knows: what the peer that waits for such an answer or request gets instead.
//! Does not know: how text is classified (see `lenient`), or which client sent a request.

use std::borrow::Cow;

use mcp_sse_core::jsonrpc::{Message, code, error_body};

/// One thing that a server has printed and that concerns a client or the server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Printed {
    /// A message.
    Message(Message),
    /// An answer that cannot be passed on. A client waits for it.
    LostAnswer(LostAnswer),
    /// A request that cannot be passed on. The server waits for its answer.
    UnreadableRequest(UnreadableRequest),
}

/// An answer of a server that cannot be passed on. A client waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostAnswer {
    /// The answer's id as raw JSON, if it could be read.
    pub(crate) id: Option<Box<str>>,
    /// Why the answer cannot be passed on.
    pub(crate) why: Cow<'static, str>,
    /// The value of `error` as raw JSON, if the answer is a valid error response except for its missing id.
    pub(crate) error: Option<Box<str>>,
}

/// A request of a server that cannot be passed on. The server waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnreadableRequest {
    /// The request's id as raw JSON, at most 4 KiB.
    pub(crate) id: Box<str>,
    /// The JSON-RPC error code for the server.
    pub(crate) code: i32,
    /// Why the request cannot be passed on.
    pub(crate) why: Cow<'static, str>,
}

impl UnreadableRequest {
    /// The error response for the server.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let why = format!("the request cannot be passed on: {}", self.why);
        error_body(Some(&self.id), self.code, &why)
    }
}

/// The classification of one value that a server has printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Classified {
    Message(Message),
    LostAnswer(LostAnswer),
    UnreadableRequest(UnreadableRequest),
    /// Not a message: no peer waits for it.
    NotAMessage {
        why: Cow<'static, str>,
        /// Whether the value is a JSON object.
        object: bool,
    },
}

impl Classified {
    /// The value for the peers, if it concerns one.
    pub(super) fn into_printed(self) -> Option<Printed> {
        match self {
            Self::Message(message) => Some(Printed::Message(message)),
            Self::LostAnswer(lost) => Some(Printed::LostAnswer(lost)),
            Self::UnreadableRequest(unread) => Some(Printed::UnreadableRequest(unread)),
            Self::NotAMessage { .. } => None,
        }
    }
}

/// The error response to the request `id` that replaces an answer that cannot be passed on.
pub(super) fn lost_answer_body(id: &str, why: &str, error: Option<&str>) -> Vec<u8> {
    match error {
        Some(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into_bytes(),
        None => {
            let why = format!("the server's answer cannot be passed on: {why}");
            error_body(Some(id), code::INTERNAL_ERROR, &why)
        }
    }
}
