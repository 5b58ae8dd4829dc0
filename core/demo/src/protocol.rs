//! The demo's answers: four tools, every version of the protocol that has clients.
//!
//! Knows: MCP as far as `initialize`, `ping`, `logging/setLevel`, `tools/list` and `tools/call` go.
//! Does not know: sockets, sessions or a runtime. [`answer`] makes the answer to one message;
//! `mcp_sse_demo::serve` sends them for one session of an adapter.

mod tools;

use mcp_sse_core::Frame;
use mcp_sse_core::jsonrpc::{Kind, Message, code};
use serde::Deserialize;
use serde_json::{Value, json};

pub use tools::Burst;

/// The protocol revisions that the demo agrees to; to any other it answers with the last of these.
pub const PROTOCOL_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// What a message is answered with.
#[derive(Debug)]
pub enum Reply {
    /// Nothing: it was a notification or a response.
    None,
    /// One frame.
    Frame(Frame),
    /// Many frames, made one after the other as the client takes them.
    Burst(Burst),
    /// A frame for every session, and then an answer that says how many were reached.
    Broadcast {
        /// The notification for every session.
        notice: Frame,
        /// Makes the answer to the request.
        then: RequestId,
    },
}

/// The request that an answer is for, by its raw id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The answer to a [`Reply::Broadcast`] that reached this many sessions.
    #[must_use]
    pub fn reached(&self, sessions: u32) -> Frame {
        self.result(&tools::text(&format!("reached {sessions} sessions")))
    }

    /// The answer where the server failed to do what it should have.
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

/// The error that a request is answered with.
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
#[must_use]
pub fn answer(message: &Message) -> Reply {
    let (Kind::Request, Some(id), Some(method)) = (message.kind(), message.id(), message.method())
    else {
        return Reply::None;
    };
    let id = RequestId(id.into());
    match call(&id, method, message) {
        Ok(reply) => reply,
        Err(failure) => Reply::Frame(id.error(&failure)),
    }
}

fn call(id: &RequestId, method: &str, message: &Message) -> Result<Reply, RpcError> {
    let result = |value: Value| Ok(Reply::Frame(id.result(&value)));
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
    #[expect(dead_code, reason = "read so that a wrong one is refused; the tools log regardless")]
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
