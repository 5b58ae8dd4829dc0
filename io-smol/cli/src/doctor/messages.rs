//! The JSON-RPC messages that the doctor sends and reads.
//!
//! Knows: initialize, notifications/initialized and ping, which change nothing in a server. Does not know: how they
//! travel.

use serde_json::{Value, json};

/// The protocol version of the HTTP+SSE transport, which the doctor asks for.
pub(crate) const PROTOCOL_VERSION: &str = "2024-11-05";

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Initialize,
    Ping,
}

impl Method {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Ping => "ping",
        }
    }

    pub(crate) fn request(self, id: &Value) -> String {
        let mut request = json!({"jsonrpc": "2.0", "id": id, "method": self.name()});
        if self == Self::Initialize {
            request["params"] = json!({
                "protocolVersion": PROTOCOL_VERSION,
                "capabilities": {},
                "clientInfo": {"name": "mcp-sse-doctor", "version": env!("CARGO_PKG_VERSION")},
            });
        }
        request.to_string()
    }
}

/// The notification after initialize.
pub(crate) fn initialized() -> String {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()
}

/// What the text of an event is to a client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    /// A response with this id.
    Response { id: Value, message: Value },
    /// A request or notification of the server.
    Other,
    /// No JSON-RPC message, for this reason.
    Malformed(&'static str),
}

/// Reads the text of an event.
pub(crate) fn read(text: &str) -> Incoming {
    let Ok(message) = serde_json::from_str::<Value>(text) else {
        return Incoming::Malformed("it is not JSON");
    };
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Incoming::Malformed("it is not an object with \"jsonrpc\":\"2.0\"");
    }
    if message.get("method").is_some() {
        return Incoming::Other;
    }
    match (message.get("result"), message.get("error")) {
        (None, None) | (Some(_), Some(_)) => {
            Incoming::Malformed("it has no method, and not one of result and error")
        }
        _ => Incoming::Response { id: message.get("id").cloned().unwrap_or_default(), message },
    }
}

/// The members of a result of initialize that clients need and that this one lacks.
pub(crate) fn missing_members(result: &Value) -> Vec<&'static str> {
    let is_there = |name: &str| match name {
        "protocolVersion" => result.get(name).is_some_and(Value::is_string),
        _ => result.get(name).is_some_and(Value::is_object),
    };
    let needed = ["protocolVersion", "capabilities", "serverInfo"];
    needed.into_iter().filter(|name| !is_there(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        assert!(matches!(read(response), Incoming::Response { id, .. } if id == 1));
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), Incoming::Other);
        for malformed in
            ["", "hello", "[]", r#"{"id":1,"result":{}}"#, r#"{"jsonrpc":"2.0","id":1}"#]
        {
            assert!(matches!(read(malformed), Incoming::Malformed(_)), "{malformed}");
        }
    }

    #[test]
    fn missing_members_of_a_result_are_named() {
        let result = json!({"protocolVersion": "x", "capabilities": {}, "serverInfo": []});
        assert_eq!(missing_members(&result), ["serverInfo"]);
        assert_eq!(missing_members(&Value::Null).len(), 3);
    }
}
