//! Session handlers of servers under test.

use std::collections::BTreeMap;
use std::sync::mpsc;

use mcp_sse_core::Frame;
use mcp_sse_core::jsonrpc::{Kind, Message};
use mcp_sse_driver::Session;
use serde_json::value::RawValue;

use crate::adapter::{Handler, handler};

/// The response to a request, with the JSON text `result`.
///
/// # Panics
///
/// If `result` is not JSON.
#[must_use]
pub fn response(id: &str, result: &str) -> Frame {
    let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    Frame::message(text.as_bytes()).expect("a response is JSON")
}

/// The response that echoes the text of a request's `params`; `None` for other messages.
///
/// # Panics
///
/// If the message is not a JSON object, which the server rules out.
#[must_use]
pub fn echoed(message: &Message) -> Option<Frame> {
    let (Kind::Request, Some(id)) = (message.kind(), message.id()) else { return None };
    let members: BTreeMap<&str, &RawValue> =
        serde_json::from_str(message.text()).expect("a message is an object");
    let params = members.get("params").map_or("null", |params| params.get());
    Some(response(id, params))
}

/// Answers each request with its params.
#[must_use]
pub fn echo() -> Handler {
    handler(|mut session: Session| async move {
        while let Some(message) = session.recv().await {
            if let Some(frame) = echoed(&message) {
                let _gone = session.send(frame).await;
            }
        }
    })
}

/// Receives every message and answers none.
#[must_use]
pub fn silent() -> Handler {
    handler(|mut session: Session| async move { while session.recv().await.is_some() {} })
}

/// Sends notifications with `bytes` bytes of text as fast as the client reads, until the session
/// ends.
#[must_use]
pub fn flood(bytes: usize) -> Handler {
    let text = "f".repeat(bytes);
    let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":"{text}"}}"#);
    let frame = Frame::message(text.as_bytes()).expect("a notification is JSON");
    handler(move |session: Session| {
        let frame = frame.clone();
        async move { while session.send(frame.clone()).await.is_ok() {} }
    })
}

/// Sends the text of each message to the test, and answers none.
#[must_use]
pub fn record(messages: mpsc::Sender<String>) -> Handler {
    handler(move |mut session: Session| {
        let messages = messages.clone();
        async move {
            while let Some(message) = session.recv().await {
                // The send fails if the test receives no more.
                let _ = messages.send(message.text().to_owned());
            }
        }
    })
}

/// Gives each session to the test.
#[must_use]
pub fn give(sessions: mpsc::Sender<Session>) -> Handler {
    handler(move |session: Session| {
        let _ = sessions.send(session);
        async {}
    })
}
