//! The demo's answers to messages.
//!
//! Knows: `initialize`, `ping`, `logging/setLevel`, `tools/list` and `tools/call` of MCP, with four tools.
//! Does not know: sockets, sessions or a runtime. [`answer`] makes the answer to one message, and
//! `mcp_sse_demo::serve` sends the answers in a session of an adapter.

mod tools;

use mcp_sse_core::Frame;
use mcp_sse_core::jsonrpc::{Kind, Message, code};
use serde::Deserialize;
use serde_json::{Value, json};

pub use tools::Burst;

/// The protocol revisions that the demo supports. It answers an `initialize` with another revision with the last of
/// these.
pub const PROTOCOL_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// The demo's answer to a message.
#[derive(Debug)]
pub enum DemoReply {
    /// No answer: the message was a notification or a response.
    None,
    /// One frame.
    Frame(Frame),
    /// Many frames, which should be sent one after the other.
    Burst(Burst),
    /// A notification for every session, and then an answer with the number of sessions.
    Broadcast {
        /// The notification for every session.
        notice: Frame,
        /// Makes the answer to the request.
        then: RequestId,
    },
}

/// The raw id of a request, from which its answer is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The answer to a [`DemoReply::Broadcast`] that has reached this many sessions.
    #[must_use]
    pub fn reached(&self, sessions: u32) -> Frame {
        self.result(&tools::text(&format!("reached {sessions} sessions")))
    }

    /// The error response for a broadcast that has failed, for the reason `why`.
    #[must_use]
    pub fn failed(&self, why: &str) -> Frame {
        self.error(&RpcError { code: code::INTERNAL_ERROR, message: why.into() })
    }

    fn result(&self, result: &Value) -> Frame {
        Frame::result(&self.0, result).expect("the id is a request's")
    }

    fn error(&self, error: &RpcError) -> Frame {
        Frame::error(&self.0, error.code, &error.message).expect("the id is a request's")
    }
}

/// The code and the message of an error response.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RpcError {
    code: i32,
    message: String,
}

impl RpcError {
    fn invalid_params(message: impl Into<String>) -> Self {
        Self { code: code::INVALID_PARAMS, message: message.into() }
    }
}

/// Makes the answer to a message.
///
/// ```
/// use mcp_sse_core::jsonrpc::Message;
/// use mcp_sse_demo::protocol::{DemoReply, answer};
///
/// let ping = Message::read(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.to_vec(), None).unwrap();
/// assert!(matches!(answer(&ping), DemoReply::Frame(frame) if frame.answered_id() == Some("1")));
/// ```
#[must_use]
pub fn answer(message: &Message) -> DemoReply {
    let (Kind::Request, Some(id), Some(method)) = (message.kind(), message.id(), message.method())
    else {
        return DemoReply::None;
    };
    let id = RequestId(id.into());
    match call(&id, method, message) {
        Ok(reply) => reply,
        Err(failure) => DemoReply::Frame(id.error(&failure)),
    }
}

fn call(id: &RequestId, method: &str, message: &Message) -> Result<DemoReply, RpcError> {
    let result = |value: Value| Ok(DemoReply::Frame(id.result(&value)));
    match method {
        "initialize" => result(initialize(&params(message)?)),
        "ping" => result(json!({})),
        "logging/setLevel" => {
            let SetLevel { level: _ } = params(message)?;
            result(json!({}))
        }
        "tools/list" => result(tools::list()),
        "tools/call" => tools::call(id, params(message)?),
        _ => Err(RpcError {
            code: code::METHOD_NOT_FOUND,
            message: format!("unknown method {method:?}"),
        }),
    }
}

fn params<'m, P: Deserialize<'m>>(message: &'m Message) -> Result<P, RpcError> {
    message.params().map_err(|error| RpcError::invalid_params(error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Initialize {
    protocol_version: String,
}

#[derive(Deserialize)]
struct SetLevel {
    #[expect(dead_code, reason = "read so that an invalid level is refused; the tools ignore it")]
    level: Level,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

fn initialize(asked: &Initialize) -> Value {
    let [.., newest] = PROTOCOL_VERSIONS;
    let known = PROTOCOL_VERSIONS.into_iter().find(|version| *version == asked.protocol_version);
    json!({
        "protocolVersion": known.unwrap_or(newest),
        "capabilities": {"tools": {}, "logging": {}},
        "serverInfo": {"name": "mcp-sse-demo", "version": env!("CARGO_PKG_VERSION")},
        "instructions": "A server to try clients with. It has no memory and no side effects.",
    })
}

#[cfg(test)]
mod tests;
