//! The order of messages, and clients that omit the handshake.

use std::fs;

use mcp_sse_tests::client::{answer, call};
use mcp_sse_tests::scratch::Scratch;

use crate::support::{Bridge, INITIALIZE, LONG, StreamExt, within};

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A bridge whose servers write their input to a file.
fn recording(flags: &[&str]) -> (Bridge, impl Fn() -> Vec<String>) {
    let scratch = Scratch::new();
    let file = scratch.path("record");
    let record = format!("RECORD={}", file.display());
    let bridge = Bridge::start(&[&["--env", &record], flags].concat());
    let heard = move || {
        let _kept = &scratch;
        let text = fs::read_to_string(&file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    (bridge, heard)
}

#[test]
fn initialize_is_sent_first_in_any_order() {
    let (bridge, heard) = recording(&[]);
    let mut stream = bridge.open("record");
    let list = call(1, "[]");
    for message in [INITIALIZED, &list, INITIALIZE] {
        stream.say(message);
    }
    within(LONG, "all of it", || heard().len() == 3);
    assert_eq!(heard(), [INITIALIZE, INITIALIZED, &list]);
}

#[test]
fn missing_initialize_is_sent_by_the_bridge() {
    let bridge = Bridge::start(&[]);
    let mut stream = bridge.open("");
    stream.say(&call(7, "[\"lost\"]"));
    // The server's answer to the bridge's own `initialize` is not passed on.
    assert_eq!(stream.message(), answer(7, "[\"lost\"]"));
    stream.check_alive("later");
}

#[test]
fn process_of_a_client_without_handshake_gets_one() {
    let (bridge, heard) = recording(&[]);
    let mut stream = bridge.open("record");
    let list = call(1, "[]");
    stream.say(&list);
    within(LONG, "an introduction", || !heard().is_empty());
    let hello = heard().join("\n");
    assert!(hello.contains(r#""method":"initialize""#), "{hello}");
    assert!(hello.contains(r#""id":2147483647,"#), "{hello}");
    assert!(hello.contains(r#""protocolVersion":"2025-11-25""#), "{hello}");
    assert!(hello.contains(r#""name":"mcp-sse-bridge""#), "{hello}");
    // This server does not answer `initialize`, so no other message is passed on.
    assert_eq!(heard().len(), 1);
    let (bridge, heard) = recording(&["--no-auto-initialize"]);
    let mut stream = bridge.open("record");
    stream.say(&list);
    within(LONG, "the request itself", || !heard().is_empty());
    assert_eq!(heard(), [list]);
}

#[test]
fn requests_in_flight_are_cancelled_when_the_client_leaves() {
    let (bridge, heard) = recording(&[]);
    let mut stream = bridge.open("record");
    stream.say(INITIALIZE);
    stream.say(&call("\"work\"", "[]"));
    within(LONG, "the request", || heard().len() == 2);
    drop(stream);
    within(LONG, "that it is taken back", || heard().len() == 4);
    let heard = heard();
    assert!(
        heard[2].contains(r#""notifications/cancelled","params":{"requestId":0,"#),
        "{heard:?}"
    );
    assert!(heard[3].contains(r#""requestId":"work","#), "{heard:?}");
    bridge.wait_for_no_descendants(LONG);
}

#[test]
fn reconnecting_client_gets_its_last_handshake() {
    let (bridge, heard) = recording(&[]);
    let params = r#"{"protocolVersion":"2025-06-18","capabilities":{"roots":{}},"clientInfo":{"name":"c","version":"1"}}"#;
    let hello = call(0, params).replace("echo", "initialize");
    let mut stream = bridge.open("record");
    stream.say(&hello);
    within(LONG, "its handshake", || heard().len() == 1);
    drop(stream);
    bridge.wait_for_no_descendants(LONG);
    let mut again = bridge.open("record");
    again.say(&call(9, "[]"));
    let own =
        format!(r#"{{"jsonrpc":"2.0","id":2147483647,"method":"initialize","params":{params}}}"#);
    within(LONG, "an introduction", || heard().last() == Some(&own));
}

#[test]
fn line_separators_reach_the_process_escaped() {
    let (bridge, heard) = recording(&[]);
    let mut stream = bridge.open("record");
    stream.say(INITIALIZE);
    stream.say(&call(1, "[\"a\u{2028}b\u{2029}c\u{85}d\"]"));
    within(LONG, "both", || heard().len() == 2);
    assert_eq!(heard()[1], call(1, r#"["a\u2028b\u2029c\u0085d"]"#));
}
