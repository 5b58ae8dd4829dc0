//! The log on stderr, in both formats: a sentence, keys and values for each event, and no secret.

use mcp_sse_tests::client::{Client, Stream};
use serde_json::{Map, Value, json};

use super::support::{Program, command};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TOKEN: &str = "hunter2-hunter2-hunter2";
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"hunter2"}"#;

/// What a client does: a session with a message, and requests that are refused. Returns the session's token.
#[track_caller]
fn use_server(program: &Program) -> String {
    let address = program.address();
    let fields = format!("Authorization: Bearer {TOKEN}\r\ntraceparent: {PARENT}\r\n");
    let get = format!("GET /sse?hunter2 HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let stream = Stream::open_with(address, &get);
    let request = String::from_utf8(stream.post_request(NOTE)).expect("text");
    let mut poster = Client::connect(address);
    assert_eq!(poster.ask(request.replacen("\r\n", &format!("\r\n{fields}"), 1)).status, 202);
    let unknown = "GET /hunter2%1b%0a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(poster.ask(unknown).status, 404);
    }
    let wrong = request.replacen("\r\n", "\r\nAuthorization: Bearer hunter2-wrong\r\n", 1);
    assert_eq!(poster.ask(wrong).status, 401);
    let token = stream.token().to_owned();
    drop(stream);
    program.wait_for_log("session_ended");
    token
}

#[track_caller]
fn start(format: &str) -> Program {
    let flags =
        ["--log-level=debug", "--port=0", "--auth-token-env=TOKENS", "--log-format", format];
    Program::launch(command(&flags).env("TOKENS", format!("al ice:{TOKEN}")))
}

#[track_caller]
fn check_secrecy(log: &str, token: &str) {
    for secret in ["hunter2", &token[8..]] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[test]
fn json_log_has_an_object_with_event_and_keys_for_each_record() {
    let program = start("json");
    let token = use_server(&program);
    let log = program.log();
    check_secrecy(&log, &token);
    let records: Vec<Map<String, Value>> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let of = |event: &str| -> Vec<Map<String, Value>> {
        let found = records.iter().filter(|record| record.get("event") == Some(&json!(event)));
        found.cloned().collect()
    };
    for record in &records {
        for member in ["time", "level", "target", "message", "event"] {
            assert!(record[member].is_string(), "{member} of {record:?}");
        }
    }
    let without = |record: &Map<String, Value>, members: &[&str]| {
        let mut record = record.clone();
        members.iter().for_each(|member| drop(record.remove(*member).expect("it is there")));
        Value::Object(record)
    };
    let numbers = ["time", "connection", "peer", "duration_ms", "bytes_out", "message", "target"];
    let requests: Vec<_> = of("request").iter().map(|record| without(record, &numbers)).collect();
    let session = of("session_ended")[0]["session"].clone();
    let request = |status: u16, method: &str, route: &str, bytes: usize| json!({"event": "request", "level": "debug", "status": status, "method": method, "route": route, "bytes": bytes});
    let of_session = |mut request: Value| {
        request["session"] = session.clone();
        request["principal"] = json!("al ice");
        request["traceparent"] = json!(PARENT);
        request
    };
    assert_eq!(
        requests,
        [
            of_session(request(200, "GET", "stream", 0)),
            of_session(request(202, "POST", "message", NOTE.len())),
            request(404, "GET", "unknown", 0),
            request(404, "GET", "unknown", 0),
            request(401, "POST", "message", 0),
        ]
    );
    let refused = of("refused");
    let peer = refused[0]["peer"].as_str().expect("text").to_owned();
    assert_eq!(
        without(&refused[0], &["time", "connection"]),
        json!({
            "event": "refused", "level": "info", "target": "mcp_sse_core::server::refuse",
            "message": format!("refused GET of an unknown path from {peer}: not found (404)"),
            "reason": "not_found", "status": 404, "method": "GET", "route": "unknown", "peer": peer,
        })
    );
    let reasons: Vec<_> = refused.iter().map(|record| record["reason"].clone()).collect();
    assert_eq!(reasons, ["not_found", "unauthorized"], "one line a second for each");
    let [ended] = &of("session_ended")[..] else { panic!("one end: {log}") };
    assert_eq!(ended["reason"], "peer");
    assert_eq!((&ended["messages_in"], &ended["bytes_in"]), (&json!(1), &json!(NOTE.len())));
    assert_eq!(ended["principal"], "al ice");
    assert!(ended["duration_ms"].is_u64(), "{ended:?}");
}

#[test]
fn text_log_has_a_sentence_and_its_keys_in_each_line() {
    let program = start("text");
    let token = use_server(&program);
    let log = program.log();
    check_secrecy(&log, &token);
    let line = |event: &str| {
        let key = format!(" event={event} ");
        log.lines().find(|line| line.contains(&key)).unwrap_or_else(|| panic!("no {event}:\n{log}"))
    };
    let refused = line("refused");
    let (head, rest) = refused.split_once("] ").expect("a head");
    assert!(head.ends_with(" INFO  mcp_sse_core::server::refuse"), "{head}");
    let (sentence, keys) = rest.split_once(" event=").expect("keys");
    let peer = sentence
        .strip_prefix("refused GET of an unknown path from ")
        .and_then(|rest| rest.strip_suffix(": not found (404)"))
        .unwrap_or_else(|| panic!("{sentence}"));
    let (before, after) = keys.split_once(" connection=").expect("a connection");
    assert_eq!(before, "refused reason=not_found status=404 method=GET route=unknown");
    assert!(after.ends_with(&format!(" peer={peer}")), "{after}");
    let ended = line("session_ended");
    assert!(ended.contains(" principal=\"al ice\" "), "{ended}");
    assert!(ended.ends_with(&format!(" traceparent={PARENT}")), "{ended}");
    for line in log.lines() {
        assert!(line.contains(" event="), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
