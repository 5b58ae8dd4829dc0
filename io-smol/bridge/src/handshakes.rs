//! The params of the `initialize` request that the bridge sends when a client omits the handshake.
//!
//! Knows: the params that each client has sent last, and how a client is recognized when it opens a new session.
//! Does not know: sessions, processes, or when a handshake is missing.
//!
//! Decision: a client that reconnects continues with the capabilities and the protocol revision that it had. It is
//! recognized by its address, `User-Agent` and `Authorization`. Clients that share all of these share the last handshake; if a server then sends
//! a request that one of them does not support, that client answers with an error. For an unknown client no
//! capabilities are offered. The alternative, an error that asks the client for a new handshake, does not work: the
//! clients that omit the handshake ignore such an error.

use core::hash::{BuildHasher, Hash, Hasher};
use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp_sse_core::RequestHead;
use mcp_sse_core::jsonrpc::{Kind, Message};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The protocol revision that the bridge offers for an unknown client: the newest one.
pub(super) const PROTOCOL_VERSION: &str = "2025-11-25";
/// How long a process may take to answer the bridge's own `initialize`: 60 s, the request timeout of the clients in
/// both official SDKs.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// The most handshakes that are stored. The oldest is dropped first.
const CLIENTS_MAX: usize = 256;
/// The largest params that are stored, in bytes of JSON.
const PARAMS_BYTES_MAX: usize = 16 << 10;

/// The params of each client's last handshake. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<HandshakesShared>);

#[derive(Debug, Default)]
struct HandshakesShared {
    hasher: RandomState,
    clients: Mutex<VecDeque<(ClientFingerprint, Arc<str>)>>,
}

/// Identifies a client. The header fields are stored as a hash under a random key, because they may contain secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientFingerprint {
    address: Option<IpAddr>,
    fields: u64,
}

/// The params of the handshake for an unknown client: the newest revision, and no capabilities.
pub(super) fn unknown_client() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{{"protocolVersion":"{PROTOCOL_VERSION}","capabilities":{{}},"clientInfo":{{"name":"mcp-sse-bridge","version":"{version}"}}}}"#
    )
}

#[derive(Deserialize)]
struct InitializeRequest<'a> {
    #[serde(borrow)]
    params: InitializeParams<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeParams<'a> {
    #[serde(borrow)]
    protocol_version: &'a RawValue,
    #[serde(borrow)]
    capabilities: &'a RawValue,
    #[serde(borrow)]
    client_info: &'a RawValue,
}

impl Handshakes {
    fn clients(&self) -> MutexGuard<'_, VecDeque<(ClientFingerprint, Arc<str>)>> {
        // No code panics while it has this lock.
        self.0.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fingerprint of the client that opened a session with the request `head`.
    pub(super) fn client(&self, head: &RequestHead) -> ClientFingerprint {
        let mut hasher = self.0.hasher.build_hasher();
        for name in ["user-agent", "authorization"] {
            head.field(name).hash(&mut hasher);
        }
        ClientFingerprint { address: head.client(), fields: hasher.finish() }
    }

    /// Stores the params of `message`, if it is an `initialize` request.
    pub(super) fn note(&self, client: ClientFingerprint, message: &Message) {
        if message.kind() != Kind::Request || message.method() != Some("initialize") {
            return;
        }
        let Ok(InitializeRequest { params }) = serde_json::from_str(message.text()) else { return };
        let text = format!(
            r#"{{"protocolVersion":{},"capabilities":{},"clientInfo":{}}}"#,
            params.protocol_version.get(),
            params.capabilities.get(),
            params.client_info.get()
        );
        if text.len() > PARAMS_BYTES_MAX {
            return;
        }
        let mut clients = self.clients();
        clients.retain(|(known, _)| *known != client);
        if clients.len() == CLIENTS_MAX {
            clients.pop_front();
        }
        clients.push_back((client, text.into()));
    }

    /// The params of the `initialize` that the bridge sends for this client.
    pub(super) fn params(&self, client: ClientFingerprint) -> String {
        let clients = self.clients();
        let known = clients.iter().find(|(known, _)| *known == client);
        known.map_or_else(unknown_client, |(_, params)| params.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> ClientFingerprint {
        ClientFingerprint { address: Some([127, 0, 0, last].into()), fields: 7 }
    }

    fn hello(version: &str) -> Message {
        let params = format!(
            r#"{{"_meta":{{"progressToken":1}},"clientInfo":{{"name":"c"}},"protocolVersion":"{version}","capabilities":{{"roots":{{}}}}}}"#
        );
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#);
        Message::read(text.into(), None).unwrap()
    }

    #[test]
    fn reconnecting_client_gets_its_last_handshake() {
        let handshakes = Handshakes::default();
        assert!(unknown_client().contains(r#""protocolVersion":"2025-11-25","capabilities":{}"#));
        handshakes.note(client(1), &hello("2025-03-26"));
        handshakes.note(client(1), &hello("2025-06-18"));
        let offered = r#"{"protocolVersion":"2025-06-18","capabilities":{"roots":{}},"clientInfo":{"name":"c"}}"#;
        assert_eq!(handshakes.params(client(1)), offered);
        assert_eq!(handshakes.params(client(2)), unknown_client());
        let other = ClientFingerprint { fields: 8, ..client(1) };
        assert_eq!(handshakes.params(other), unknown_client());
        assert_eq!(handshakes.clients().len(), 1);
    }

    #[test]
    fn stored_handshakes_are_bounded() {
        let handshakes = Handshakes::default();
        let many = (0..=CLIENTS_MAX as u64).map(|fields| ClientFingerprint { fields, ..client(1) });
        many.for_each(|client| handshakes.note(client, &hello("2025-06-18")));
        assert_eq!(handshakes.clients().len(), CLIENTS_MAX);
        assert_eq!(
            handshakes.params(ClientFingerprint { fields: 0, ..client(1) }),
            unknown_client()
        );
        handshakes.note(client(2), &hello(&"x".repeat(PARAMS_BYTES_MAX)));
        assert_eq!(handshakes.params(client(2)), unknown_client());
        let other = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        handshakes.note(client(2), &Message::read(other.into(), None).unwrap());
        assert_eq!(handshakes.params(client(2)), unknown_client());
    }
}
