//! Streams: section 1 of the wire contract.

use core::time::Duration;
use std::sync::mpsc;

use mcp_sse_core::{Config, Fault, Frame};
use mcp_sse_tests::adapter::{Adapter, RunningServer};
use mcp_sse_tests::client::{
    Client, Response, Stream, StreamItem, answer, call, health, post_request,
};
use mcp_sse_tests::{PATIENCE, for_each_adapter, handlers, wait_until};

use crate::{Fixture, timeouts};

for_each_adapter!(
    stream_requests_get_an_endpoint_or_a_refusal,
    endpoint_follows_the_configuration,
    head_with_endpoint_and_each_event_are_one_write,
    other_methods_on_the_stream_path_are_405,
    events_are_encoded_byte_for_byte,
    heartbeats_follow_the_configuration,
    input_after_a_stream_request_is_limited,
    half_close_keeps_the_stream_if_allowed,
);

const CHUNKED: &[(&str, &str)] = &[
    ("Cache-Control", "no-cache, no-transform"),
    ("Connection", "keep-alive"),
    ("Content-Type", "text/event-stream"),
    ("Transfer-Encoding", "chunked"),
    ("X-Accel-Buffering", "no"),
];

const UNTIL_CLOSE: &[(&str, &str)] = &[
    ("Cache-Control", "no-cache, no-transform"),
    ("Connection", "close"),
    ("Content-Type", "text/event-stream"),
    ("X-Accel-Buffering", "no"),
];

/// Checks that the response is 200 with exactly these fields and a date.
#[track_caller]
fn check_fields(case: &str, head: &Response, expected: &[(&str, &str)]) {
    assert_eq!(head.status_line, "HTTP/1.1 200 OK", "{case}");
    let date = head.field("Date").expect("a date");
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{case}: {date}");
    let mut fields = head.clone().without_date().fields;
    fields.sort();
    let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(fields, expected, "{case}");
}

fn stream_requests_get_an_endpoint_or_a_refusal(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let mut check = |request: &str, expected: Result<&[(&str, &str)], u16>| {
        let request = format!("{request}\r\n\r\n");
        match expected {
            Ok(fields) => {
                let mut stream = Stream::open_with(fixture.server.address(), &request);
                check_fields(&request, &stream.head, fields);
                let token = stream.endpoint.strip_prefix("/messages?session_id=");
                let token = token.unwrap_or_else(|| panic!("{request}: {}", stream.endpoint));
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
                assert!(token.len() >= 24 && token.bytes().all(plain), "{request}: {token}");
                stream.check_alive(&request);
            }
            Err(status) => {
                let mut client = Client::connect(fixture.server.address());
                assert_eq!(client.ask(&request).status, status, "{request}");
            }
        }
        fixture.other_session.check_alive(&request);
    };
    check("GET /sse HTTP/1.1\r\nHost: localhost", Ok(CHUNKED));
    check("GET /sse/ HTTP/1.1\r\nHost: localhost", Ok(CHUNKED));
    check("GET /sse?a=b HTTP/1.1\r\nHost: localhost", Ok(CHUNKED));
    check("GET http://localhost/sse HTTP/1.1\r\nHost: localhost", Ok(CHUNKED));
    check("GET /sse HTTP/1.2\r\nHost: localhost", Ok(CHUNKED));
    check("GET /sse HTTP/1.0\r\nHost: localhost", Ok(UNTIL_CLOSE));
    check("GET /sse HTTP/1.0", Ok(UNTIL_CLOSE));
    check("GET /sse HTTP/1.0\r\nConnection: keep-alive", Ok(UNTIL_CLOSE));
    for accept in [
        "*/*",
        "text/*",
        "text/event-stream",
        "TEXT/Event-Stream;q=0.3",
        "application/json, text/event-stream",
        "application/json\r\nAccept: text/event-stream",
    ] {
        check(&format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}"), Ok(CHUNKED));
    }
    for accept in ["application/json", "text/html", "text/event-stream;q=0", "text/plain, image/*"]
    {
        check(&format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}"), Err(406));
    }
    check("GET /sse// HTTP/1.1\r\nHost: localhost", Err(404));
    check("GET /SSE HTTP/1.1\r\nHost: localhost", Err(404));
}

fn endpoint_follows_the_configuration(on: &Adapter) {
    let check = |config: Config, path: &str, expected: &str| {
        let server = RunningServer::start(on, config, handlers::echo());
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let stream = Stream::open_with(server.address(), &request);
        let (before, token) = stream.endpoint.split_at(expected.len());
        assert_eq!(before, expected);
        assert!(!token.contains(['/', '?', '=', '&']), "{}", stream.endpoint);
    };
    let b = Config::builder;
    let build = |builder: mcp_sse_core::ConfigBuilder| builder.build().expect("good settings");
    check(build(b()), "/sse", "/messages?session_id=");
    check(build(b().session_parameter("sessionId")), "/sse", "/messages?sessionId=");
    check(build(b().public_path_prefix("/mcp/a")), "/sse", "/mcp/a/messages?session_id=");
    check(
        build(b().stream_path("/events").message_path("/in/box")),
        "/events",
        "/in/box?session_id=",
    );
    check(build(b().instance_id("east-1")), "/sse", "/messages?session_id=east-1.");
}

fn head_with_endpoint_and_each_event_are_one_write(on: &Adapter) {
    let server = RunningServer::start(on, Config::default(), handlers::echo());
    let mut client = Client::connect(server.address());
    client.send("GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let greeting = client.read_once();
    let text = String::from_utf8(greeting).expect("text");
    let (head, chunk) = text.split_once("\r\n\r\n").expect("a whole head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let (size, event) = chunk.split_once("\r\n").expect("a chunk");
    let event = event.strip_suffix("\r\n").expect("a whole chunk");
    assert_eq!(usize::from_str_radix(size, 16), Ok(event.len()));
    let endpoint = event.strip_prefix("event: endpoint\ndata: ").expect("first the endpoint");
    let endpoint = endpoint.strip_suffix("\n\n").expect("a blank line").to_owned();

    let mut poster = Client::connect(server.address());
    for n in 0..20 {
        let body = call(n, "{}");
        let posted = poster.ask(post_request(&endpoint, &body));
        assert_eq!(posted.status, 202);
        let event = format!("event: message\ndata: {}\n\n", answer(n, "{}"));
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        assert_eq!(String::from_utf8(client.read_once()), Ok(chunk));
    }
}

fn other_methods_on_the_stream_path_are_405(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let mut check = |request: &str, status: u16, allow: Option<&str>| {
        let mut client = Client::connect(fixture.server.address());
        client.send(request);
        // The announced body is not sent: the response does not wait for it.
        let response = client.response();
        assert_eq!(response.status, status, "{request:?}");
        assert_eq!(response.field("Allow"), allow, "{request:?}");
        assert!(!response.text().contains("jsonrpc"), "{request:?}: {response:?}");
        fixture.other_session.check_alive(request);
        assert_eq!(health(fixture.server.address()).sessions, 1, "{request:?}");
    };
    let allow = Some("GET, HEAD");
    for path in ["/sse", "/sse/", "/sse?x"] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            for body in [
                "Content-Length: 0\r\n\r\n",
                "Content-Type: application/json\r\nContent-Length: 120\r\n\r\n",
                "Content-Length: 99999999\r\n\r\n{",
                "Transfer-Encoding: chunked\r\n\r\n",
                "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
                "\r\n",
            ] {
                let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{body}");
                check(&request, 405, allow);
            }
        }
    }
    // The complete probe of a client of a later revision; the connection stays open.
    let mut client = Client::connect(fixture.server.address());
    let probe = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    assert_eq!(client.ask(post_request("/sse", probe)).status, 405);
    client.send("HEAD /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    check_fields("HEAD", &client.head(), CHUNKED);
    // A `HEAD` gets no body and opens no session: the next response follows.
    let next = client.ask("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(next.status, 404, "after a HEAD");
    client.send("HEAD /sse HTTP/1.0\r\n\r\n");
    check_fields("HEAD of 1.0", &client.head(), UNTIL_CLOSE);
    client.expect_end();
    assert_eq!(health(fixture.server.address()).sessions, 1);
}

fn events_are_encoded_byte_for_byte(on: &Adapter) {
    let (sender, sessions) = mpsc::channel();
    let server = RunningServer::start(on, Config::default(), handlers::give(sender));
    let check = |request: &str, json: &str, expected: &str| {
        let mut stream = Stream::open_with(server.address(), request);
        let session = sessions.recv_timeout(PATIENCE).expect("a session");
        session.try_send(Frame::message(json.as_bytes()).expect("JSON")).expect("room");
        let got = match stream.head.field("Transfer-Encoding") {
            Some(_) => stream.chunk().expect("a chunk"),
            None => stream.client.read_once(),
        };
        let expected = format!("event: message\ndata: {expected}\n\n");
        assert_eq!(String::from_utf8(got), Ok(expected), "{json:?}");
        drop(session);
        stream.expect_end();
    };
    for request in ["GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /sse HTTP/1.0\r\n\r\n"] {
        check(request, r#"{"a":1}"#, r#"{"a":1}"#);
        check(request, "{\r\n  \"a\": [\n1,\r2]\n}", "{  \"a\": [1,2]}");
        check(request, "{\"a\":\"x\u{2028}y\u{2029}z\u{85}\"}", r#"{"a":"x\u2028y\u2029z\u0085"}"#);
        check(
            request,
            "{\"a\":\"\u{a0}\u{2026}\u{1f980}\\n\"}",
            "{\"a\":\"\u{a0}\u{2026}\u{1f980}\\n\"}",
        );
    }
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(3 << 20));
    check("GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", &large, &large);
}

fn heartbeats_follow_the_configuration(on: &Adapter) {
    let config = timeouts(|t| t.heartbeat = Some(Duration::from_millis(20)));
    let server = RunningServer::start(on, config.build().expect("good"), handlers::echo());
    let mut stream = Stream::open(server.address());
    for _ in 0..3 {
        assert_eq!(stream.chunk().as_deref(), Some(&b":\n"[..]));
    }
    stream.check_alive("a stream with heartbeats");
    let mut bare = Stream::open_with(server.address(), "GET /sse HTTP/1.0\r\n\r\n");
    assert!(bare.client.read_once().starts_with(b":\n"));

    let config = timeouts(|t| t.heartbeat = None);
    let server = RunningServer::start(on, config.build().expect("good"), handlers::echo());
    Stream::open(server.address()).check_alive("a stream without");
    assert_eq!(server.metrics().heartbeats, 0);
}

fn input_after_a_stream_request_is_limited(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let mut check = |case: &str, input: &[u8], goes_on: bool| {
        let mut client = Client::connect(fixture.server.address());
        let mut request = b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
        request.extend_from_slice(input);
        // The server may close the connection before everything was sent.
        let _ = client.try_send(&request);
        if goes_on {
            let response = client.head();
            assert_eq!(response.status, 200, "{case}");
            let text = String::from_utf8(client.read_once()).expect("text");
            let (_, endpoint) = text.split_once("data: ").expect("an endpoint");
            let endpoint = endpoint.lines().next().expect("a line").to_owned();
            let body = call(1, "{}");
            let mut poster = Client::connect(fixture.server.address());
            let post = post_request(&endpoint, &body);
            assert_eq!(poster.ask(post).status, 202, "{case}");
            let text = String::from_utf8(client.read_once()).expect("text");
            assert!(text.contains("event: message"), "{case}: {text}");
        } else {
            client.wait_for_end();
        }
        drop(client);
        fixture.other_session.check_alive(case);
        wait_until(case, || health(fixture.server.address()).sessions == 1);
    };
    check("a few bytes", b"hello", true);
    check("another request", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", true);
    check("rubbish", b"\0\xff\r\n\r\n\r\n\r\n\r\n\r\n\r\n", true);
    check("5 KiB", &[b'x'; 5 << 10], false);
    check("1 MiB", &vec![b'\n'; 1 << 20], false);
    assert_eq!(fixture.server.metrics().fault(Fault::StreamInput), 2);
}

fn half_close_keeps_the_stream_if_allowed(on: &Adapter) {
    let config = Config::builder().allow_half_close(true).build().expect("good");
    let server = RunningServer::start(on, config, handlers::echo());
    let mut stream = Stream::open(server.address());
    stream.client.end();
    // Posts use another connection.
    stream.check_alive("after half a close");
    stream.check_alive("and again");
    server.shutdown();
    assert_eq!(stream.next_item(), StreamItem::End);
}
