//! What a server has printed, as a value.
//!
//! Knows: messages, answers and requests that cannot be passed on, and what is sent instead of them.
//! Does not know: how text is read as such a value (see `lenient`), or who waits for what.

use std::borrow::Cow;

use mcp_sse_core::jsonrpc::{Message, code, error_body};

/// What a server has printed and a peer has to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Printed {
    /// A message.
    Message(Message),
    /// An answer that cannot be passed on; a client waits for it.
    LostAnswer(LostAnswer),
    /// A request that cannot be passed on; the server waits for its answer.
    UnreadableRequest(UnreadableRequest),
}

/// An answer of a server that cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostAnswer {
    /// The raw id that it has, if one can be read.
    pub id: Option<Box<str>>,
    /// Why it cannot be passed on.
    pub why: Cow<'static, str>,
    /// The raw error, if it is one and lacks nothing but the id.
    pub error: Option<Box<str>>,
}

/// A request of a server that cannot be passed on. The server waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRequest {
    /// The raw id, of 4 KiB at most.
    pub id: Box<str>,
    /// The error code of JSON-RPC for what is wrong with it.
    pub code: i32,
    /// Why it cannot be passed on.
    pub why: Cow<'static, str>,
}

impl UnreadableRequest {
    /// The answer to the server.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let why = format!("the request cannot be passed on: {}", self.why);
        error_body(Some(&self.id), self.code, &why)
    }
}

/// What one value is that a server printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Classified {
    Message(Message),
    LostAnswer(LostAnswer),
    UnreadableRequest(UnreadableRequest),
    /// No message, and no peer waits for it. `object` says whether it is a JSON object.
    NotAMessage {
        why: Cow<'static, str>,
        object: bool,
    },
}

impl Classified {
    /// What a peer has to be told of, if there is anything.
    pub(super) fn into_printed(self) -> Option<Printed> {
        match self {
            Self::Message(message) => Some(Printed::Message(message)),
            Self::LostAnswer(lost) => Some(Printed::LostAnswer(lost)),
            Self::UnreadableRequest(unread) => Some(Printed::UnreadableRequest(unread)),
            Self::NotAMessage { .. } => None,
        }
    }
}

/// The answer to the request `id` instead of one that cannot be passed on.
pub(super) fn lost_answer_body(id: &str, why: &str, error: Option<&str>) -> Vec<u8> {
    match error {
        Some(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into_bytes(),
        None => {
            let why = format!("the server's answer cannot be passed on: {why}");
            error_body(Some(id), code::INTERNAL_ERROR, &why)
        }
    }
}
