//! Posts: section 2 of the wire contract.

use core::time::Duration;
use std::sync::mpsc;

use mcp_sse_core::{Config, Fault, ShardId};
use mcp_sse_tests::adapter::{Adapter, RunningServer};
use mcp_sse_tests::client::{Client, Response, Stream, answer, call, post_request};
use mcp_sse_tests::{PATIENCE, finish, for_each_adapter, handlers};

use crate::{Fixture, limits};

for_each_adapter!(
    valid_posts_are_202,
    invalid_heads_are_refused,
    invalid_bodies_are_refused_400,
    unusual_json_does_not_harm_the_session,
    bodies_over_the_limit_are_413,
    unknown_sessions_are_404,
    request_ids_are_echoed_exactly,
    accepted_post_survives_its_connection,
    requests_over_in_flight_max_wait_and_are_told_busy,
    posts_over_inbound_messages_max_are_refused,
);

/// A session to post to, on a server with another session beside it.
struct SessionFixture {
    fixture: Fixture,
    stream: Stream,
}

impl SessionFixture {
    fn new(on: &Adapter, config: Config) -> Self {
        let fixture = Fixture::new(on, config);
        let stream = Stream::open(fixture.server.address());
        Self { fixture, stream }
    }

    /// Sends a request on a new connection, with `ENDPOINT` replaced, and returns the response. It
    /// checks that neither session is disturbed: a refused message is not delivered, or its echo
    /// would come first.
    #[track_caller]
    fn ask(&mut self, case: &str, request: &[u8]) -> Response {
        let mut client = Client::connect(self.fixture.server.address());
        let request = self.fill_in(request);
        // A refusal may come before everything was sent.
        let _ = client.try_send(&request);
        let response = client.response();
        if response.status != 202 {
            self.stream.check_alive(case);
        }
        self.fixture.other_session.check_alive(case);
        response
    }

    fn fill_in(&self, request: &[u8]) -> Vec<u8> {
        const MARK: &[u8] = b"ENDPOINT";
        let Some(at) = request.windows(MARK.len()).position(|window| window == MARK) else {
            return request.to_vec();
        };
        let (before, after) = (&request[..at], &request[at + MARK.len()..]);
        [before, self.stream.endpoint.as_bytes(), after].concat()
    }
}

const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}"#;

fn valid_posts_are_202(on: &Adapter) {
    let mut session = SessionFixture::new(on, Config::default());
    let mut check = |head: &str, body: &str| {
        let response = session.ask(head, format!("{head}\r\n\r\n{body}").as_bytes());
        assert_eq!(response.status_line, "HTTP/1.1 202 Accepted", "{head}");
        assert_eq!(response.text(), "Accepted\n", "{head}");
        let content_type = response.field("Content-Type").expect("a type");
        assert!(content_type.starts_with("text/plain"), "{head}: {content_type}");
        assert!(response.field("Date").is_some(), "{head}");
        assert_eq!(session.stream.message(), answer(1, "[1]"), "{head}");
    };
    let n = BODY.len();
    let post = "POST ENDPOINT HTTP/1.1\r\nHost: localhost";
    let json = "Content-Type: application/json";
    check(&format!("{post}\r\n{json}\r\nContent-Length: {n}"), BODY);
    check(&format!("{post}\r\n{json}; charset=utf-8\r\nContent-Length: {n}"), BODY);
    check(&format!("{post}\r\n{json};charset=\"UTF-8\"\r\nContent-Length: {n}"), BODY);
    for parameters in ["; utf-8", "; charset=utf8", ";;charset=utf-8;"] {
        check(&format!("{post}\r\n{json}{parameters}\r\nContent-Length: {n}"), BODY);
    }
    check(&format!("{post}\r\n{json}; profile=a; b=c\r\nContent-Length: {n}"), BODY);
    check(&format!("{post}\r\ncontent-type: APPLICATION/Json\r\nCONTENT-LENGTH:{n}"), BODY);
    check(&format!("{post}\r\n{json}\r\nContent-Encoding: identity\r\nContent-Length: {n}"), BODY);
    let chunked = format!("{n:x}\r\n{BODY}\r\n0\r\n\r\n");
    check(&format!("{post}\r\n{json}\r\nTransfer-Encoding: chunked"), &chunked);
    check(
        &format!("POST ENDPOINT HTTP/1.0\r\nHost: localhost\r\n{json}\r\nContent-Length: {n}"),
        BODY,
    );
    let padded = format!(" \t\r\n{BODY}\n ");
    check(&format!("{post}\r\n{json}\r\nContent-Length: {}", padded.len()), &padded);
    // A trailing slash, another query parameter, and an `Origin`.
    let slash = session.stream.endpoint.replace("/messages?", "/messages/?a=b&");
    let mut check = |head: &str| {
        let mut client = Client::connect(session.fixture.server.address());
        let response = client.ask(format!("{head}\r\n{json}\r\nContent-Length: {n}\r\n\r\n{BODY}"));
        assert_eq!(response.status, 202, "{head}");
        assert_eq!(session.stream.message(), answer(1, "[1]"), "{head}");
    };
    check(&format!("POST {slash} HTTP/1.1\r\nHost: localhost"));
    check(&format!("POST {slash}&c HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:1"));
    check(&format!("POST http://localhost{slash} HTTP/1.1\r\nHost: localhost"));
}

/// The body of a refusal.
#[derive(Clone, Copy, Debug)]
enum RefusalBody<'a> {
    /// Plain text that contains this.
    Text(&'a str),
    /// A JSON-RPC error with this code.
    Error(i64),
}

#[track_caller]
fn check_refusal(case: &str, response: &Response, status: u16, expected: RefusalBody<'_>) {
    assert_eq!(response.status, status, "{case}: {response:?}");
    assert!(response.field("Date").is_some(), "{case}");
    let content_type = response.field("Content-Type").unwrap_or_default();
    match expected {
        RefusalBody::Text(part) => {
            assert!(content_type.starts_with("text/plain"), "{case}: {content_type}");
            assert!(response.text().contains(part), "{case}: {:?}", response.text());
        }
        RefusalBody::Error(code) => {
            assert_eq!(content_type, "application/json", "{case}");
            let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
            let member = |path| body.pointer(path).cloned();
            assert_eq!(member("/jsonrpc"), Some("2.0".into()), "{case}: {body}");
            assert_eq!(member("/id"), Some(serde_json::Value::Null), "{case}: {body}");
            assert_eq!(member("/error/code"), Some(code.into()), "{case}: {body}");
            let reason = member("/error/message").and_then(|m| m.as_str().map(str::len));
            assert!(reason > Some(0), "{case}: {body}");
        }
    }
}

fn invalid_heads_are_refused(on: &Adapter) {
    let mut session = SessionFixture::new(on, Config::default());
    let mut check = |line: &str, fields: &str, status: u16, part: &str| {
        let case = format!("{line}, {fields}");
        let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{BODY}");
        let response = session.ask(&case, request.as_bytes());
        check_refusal(&case, &response, status, RefusalBody::Text(part));
        response
    };
    let n = BODY.len();
    let post = "POST ENDPOINT";
    let length = format!("Content-Length: {n}");
    let json = format!("Content-Type: application/json\r\n{length}");
    check("POST /messages", &json, 400, "session_id");
    check("POST /messages?", &json, 400, "session_id");
    check("POST /messages?sessionId=x", &json, 400, "session_id");
    check("POST /messages?SESSION_ID=x", &json, 400, "session_id");
    check("POST ENDPOINT&session_id=x", &json, 400, "session_id");
    check("POST /messages?session_id=", &json, 404, "");
    check("POST /messages?session_id", &json, 404, "");
    check("POST /messages?session_id=x", &json, 404, "");

    check(post, &length, 415, "");
    for content_type in [
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/json-rpc",
        "application/json; charset=latin1",
        "application/json; charset=utf-16",
        "application/json; charset=iso-8859-1",
        "application/json\r\nContent-Type: application/json",
        "application/json\r\nContent-Encoding: gzip",
        "application/json\r\nContent-Encoding: br",
        "",
    ] {
        check(post, &format!("Content-Type: {content_type}\r\n{length}"), 415, "");
    }
    check(post, "Content-Type: application/json", 411, "Content-Length");
    let expect = format!("{json}\r\nExpect: 200-maybe");
    check(post, &expect, 417, "100-continue");
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/messages", "/messages/", "ENDPOINT"] {
            let line = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            if method == "HEAD" {
                continue;
            }
            let response = session.ask(&line, line.as_bytes());
            assert_eq!(response.status, 405, "{line}");
            assert_eq!(response.field("Allow"), Some("POST"), "{line}");
        }
    }
    let mut client = Client::connect(session.fixture.server.address());
    client.send("HEAD /messages HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.field("Allow")), (405, Some("POST")));
}

fn invalid_bodies_are_refused_400(on: &Adapter) {
    let mut session = SessionFixture::new(on, Config::default());
    let mut check = |case: &str, body: &[u8], code: i64| {
        let head = format!(
            "POST ENDPOINT HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let response = session.ask(case, &[head.as_bytes(), body].concat());
        check_refusal(case, &response, 400, RefusalBody::Error(code));
        let chunked = format!(
            "POST ENDPOINT HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            body.len()
        );
        if !body.is_empty() {
            let request = [chunked.as_bytes(), body, b"\r\n0\r\n\r\n"].concat();
            let response = session.ask(case, &request);
            check_refusal(case, &response, 400, RefusalBody::Error(code));
        }
    };
    let request = |member: &str| format!(r#"{{"jsonrpc":"2.0","method":"echo",{member}}}"#);
    let parse: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("white space", b" \r\n"),
        ("no JSON", b"hello"),
        ("cut short", br#"{"jsonrpc":"2.0","id":1,"method":"a""#),
        ("two values", br#"{"jsonrpc":"2.0","id":1,"method":"a"}{}"#),
        ("something behind", br#"{"jsonrpc":"2.0","id":1,"method":"a"} x"#),
        ("byte order mark", b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\"}"),
        ("not UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"),
        ("overlong", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xc0\xaf\"}"),
        ("a surrogate's bytes", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xed\xa0\x80\"}"),
        ("single quotes", b"{'jsonrpc':'2.0','id':1,'method':'a'}"),
        ("a trailing comma", br#"{"jsonrpc":"2.0","id":1,"method":"a",}"#),
        ("a control character", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\nb\"}"),
        ("NaN", br#"{"jsonrpc":"2.0","id":NaN,"method":"a"}"#),
        ("a comment", br#"{"jsonrpc":"2.0",/**/"id":1,"method":"a"}"#),
        ("form data", b"jsonrpc=2.0&id=1"),
    ];
    for (case, body) in parse {
        check(case, body, -32700);
    }
    let nested = |depth: usize| {
        // The message itself is the first level of nesting.
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        request(&format!(r#""id":1,"params":{open}{close}"#))
    };
    check("nesting of 129", nested(129).as_bytes(), -32700);
    check("nesting of 100,000", nested(100_000).as_bytes(), -32700);
    let invalid: &[(&str, &str)] = &[
        ("an empty batch", "[]"),
        ("a batch", r#"[{"jsonrpc":"2.0","id":1,"method":"a"}]"#),
        ("a string", r#""a""#),
        ("a number", "1"),
        ("null", "null"),
        ("an empty object", "{}"),
        ("no version", r#"{"id":1,"method":"a"}"#),
        ("version 1.0", r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#),
        ("version as a number", r#"{"jsonrpc":2.0,"id":1,"method":"a"}"#),
        ("no method", r#"{"jsonrpc":"2.0","id":1}"#),
        ("a method in another case", r#"{"jsonrpc":"2.0","id":1,"Method":"a"}"#),
        ("a method that is a number", r#"{"jsonrpc":"2.0","id":1,"method":1}"#),
        ("two versions", r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"a"}"#),
        ("two ids", r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"a"}"#),
        ("two methods", r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"a"}"#),
        ("two methods, one escaped", r#"{"jsonrpc":"2.0","id":1,"method":"a","\u006dethod":"a"}"#),
        ("id null", r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#),
        ("id true", r#"{"jsonrpc":"2.0","id":true,"method":"a"}"#),
        ("id 1.5", r#"{"jsonrpc":"2.0","id":1.5,"method":"a"}"#),
        ("id object", r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#),
        ("id array", r#"{"jsonrpc":"2.0","id":[1],"method":"a"}"#),
        ("result without id", r#"{"jsonrpc":"2.0","result":1}"#),
        ("result and error", r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#),
    ];
    for (case, body) in invalid {
        check(case, body.as_bytes(), -32600);
    }
    let response = session.ask("nesting of 128", &post_request("ENDPOINT", &nested(128)));
    assert_eq!(response.status, 202, "nesting of 128");
}

fn unusual_json_does_not_harm_the_session(on: &Adapter) {
    let mut session = SessionFixture::new(on, Config::default());
    let mut check = |case: &str, body: &str| {
        let response = session.ask(case, &post_request("ENDPOINT", body));
        assert!(response.status < 500, "{case}: {response:?}");
        if response.status == 202 {
            // The echo may be anything; the session must go on after it.
            session.stream.message();
            session.stream.check_alive(case);
        }
    };
    check("a lone surrogate", &call(1, r#""\ud800""#));
    check("a lone surrogate as an id", &call(r#""\ud800""#, "1"));
    check("NUL, escaped", &call(1, r#""\u0000""#));
    check("1e400", &call(1, "1e400"));
    check("a long number", &call(1, &"9".repeat(100_000)));
    let keys: Vec<_> = (0..20_000).map(|n| format!("\"k{n}\":{n}")).collect();
    check("20,000 keys", &call(1, &format!("{{{}}}", keys.join(","))));
    let same: Vec<_> = (0..20_000).map(|_| "\"k\":0").collect();
    check("20,000 times the same key", &call(1, &format!("{{{}}}", same.join(","))));
    check("line separators", &call(1, "\"\u{2028}\u{2029}\u{85}\""));
    check("CR and LF between tokens", &call(1, "[1,\r\n2,\r3]"));
}

fn bodies_over_the_limit_are_413(on: &Adapter) {
    let mut session = SessionFixture::new(on, Config::default());
    let head = "POST ENDPOINT HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut check = |case: &str, rest: &[u8]| {
        let response = session.ask(case, &[head.as_bytes(), rest].concat());
        check_refusal(case, &response, 413, RefusalBody::Text("4194304"));
        assert_eq!(response.field("Connection"), Some("close"), "{case}");
    };
    // The body is not sent.
    check("declared, one too many", b"Content-Length: 4194305\r\n\r\n");
    check("declared, absurdly", b"Content-Length: 9223372036854775807\r\n\r\n");
    check("declared and expected", b"Content-Length: 4194305\r\nExpect: 100-continue\r\n\r\n");
    // The byte that exceeds the limit, and nothing after it.
    let mut chunks = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..64 {
        chunks.extend_from_slice(b"10000\r\n");
        chunks.resize(chunks.len() + 0x10000, b' ');
        chunks.extend_from_slice(b"\r\n");
    }
    let crossing = [&*chunks, b"1\r\n "].concat();
    check("chunked, one too many", &crossing);
    check(
        "one huge chunk",
        &[b"Transfer-Encoding: chunked\r\n\r\n500000\r\n", &*vec![b' '; 0x400001]].concat(),
    );

    // The largest allowed body.
    let fill = "x".repeat((4 << 20) - call(1, "\"\"").len());
    let body = call(1, &format!("\"{fill}\""));
    assert_eq!(body.len(), 4 << 20);
    assert_eq!(session.ask("the largest", &post_request("ENDPOINT", &body)).status, 202);
    assert_eq!(session.stream.message().len(), answer(1, &format!("\"{fill}\"")).len());
}

fn unknown_sessions_are_404(on: &Adapter) {
    let shard = Config::builder().shard(ShardId(7)).build().expect("good");
    let other_shard = RunningServer::start(on, shard, handlers::echo());
    let instance = Config::builder().instance_id("west").build().expect("good");
    let other_instance = RunningServer::start(on, instance, handlers::echo());
    let mut session = SessionFixture::new(on, Config::default());
    let address = session.fixture.server.address();
    let ended = {
        let mut stream = Stream::open(address);
        stream.client.end();
        stream.client.wait_for_end();
        stream.token().to_owned()
    };
    let foreign = Stream::open(other_shard.address());
    let named = Stream::open(other_instance.address());
    let token = session.stream.token().to_owned();
    let (first, last) = (&token[..1], &token[token.len() - 1..]);
    let another = |letter: &str| if letter == "A" { "B" } else { "A" };
    let mut first_answer = None;
    let mut check = |case: &str, token: &str| {
        let endpoint = format!("/messages?session_id={token}");
        let response = session.ask(case, &post_request(&endpoint, BODY)).without_date();
        assert_eq!(response.status, 404, "{case}");
        let expected = first_answer.get_or_insert_with(|| response.clone());
        assert_eq!(&response, expected, "{case}");
    };
    check("malformed", "x");
    check("empty", "");
    check("too long", &format!("{token}{token}"));
    check("one letter more", &format!("{token}A"));
    check("one letter less", &token[1..]);
    check("not base64url", &"~".repeat(token.len()));
    check("percent-encoded", &format!("%{:02X}{}", token.as_bytes()[0], &token[1..]));
    check("zeros", &"A".repeat(token.len()));
    check("another slot or shard", &format!("{}{}", another(first), &token[1..]));
    check("another secret", &format!("{}{}", &token[..token.len() - 1], another(last)));
    check("ended", &ended);
    let unknown = session.fixture.server.metrics().fault(Fault::UnknownSession);
    assert!(unknown >= 8, "{unknown}");
    let before = session.fixture.server.metrics().fault(Fault::Misrouted);
    let mut check = |case: &str, token: &str| {
        let endpoint = format!("/messages?session_id={token}");
        let response = session.ask(case, &post_request(&endpoint, BODY)).without_date();
        assert_eq!(Some(&response), first_answer.as_ref(), "{case}");
    };
    check("another shard", foreign.token());
    check("another instance", named.token());
    let after = session.fixture.server.metrics().fault(Fault::Misrouted);
    assert_eq!(after, before + 2, "both are counted as misrouted");
}

fn request_ids_are_echoed_exactly(on: &Adapter) {
    let mut session = SessionFixture::new(on, Config::default());
    let long = format!("\"{}\"", "i".repeat(4 << 10));
    for id in [
        "0",
        "-1",
        "-0",
        "9007199254740993",
        "-9007199254740993",
        "123456789012345678901234567890",
        r#""""#,
        r#""a""#,
        "\"\u{1f980}\"",
        r#""\u0041\/""#,
        r#""1""#,
        &long,
    ] {
        let response = session.ask(id, &post_request("ENDPOINT", &call(id, "{}")));
        assert_eq!(response.status, 202, "{id}");
        assert_eq!(session.stream.message(), answer(id, "{}"), "{id}");
    }
}

fn accepted_post_survives_its_connection(on: &Adapter) {
    // The 202 does not wait for the handler, and closing the connection does not withdraw the
    // message.
    let (sender, messages) = mpsc::channel();
    let server = RunningServer::start(on, Config::default(), handlers::record(sender));
    let stream = Stream::open(server.address());
    for n in 0..20 {
        let body = call(n, "{}");
        let mut client = Client::connect(server.address());
        assert_eq!(client.ask(stream.post_request(&body)).status, 202);
        drop(client);
        assert_eq!(messages.recv_timeout(PATIENCE), Ok(body));
    }
    // The same for notifications, and responses to requests of the server.
    for body in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":"no"}}"#,
    ] {
        let mut client = Client::connect(server.address());
        assert_eq!(client.ask(stream.post_request(body)).status, 202, "{body}");
        assert_eq!(messages.recv_timeout(PATIENCE).as_deref(), Ok(body));
    }
}

fn requests_over_in_flight_max_wait_and_are_told_busy(on: &Adapter) {
    let mut builder = limits(|l| l.in_flight_max = Some(2));
    let timeouts =
        mcp_sse_core::Timeouts { hold: Some(Duration::from_secs(1)), ..Default::default() };
    builder = builder.timeouts(timeouts);
    let (sender, sessions) = mpsc::channel();
    let server = RunningServer::start(on, builder.build().expect("good"), handlers::give(sender));
    let mut stream = Stream::open(server.address());
    let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
    let sender = session.sender();
    let mut receive = || finish("a message", session.recv()).expect("a message").text().to_owned();
    for n in [1, 2] {
        assert_eq!(stream.post(&call(n, "{}")).status, 202);
        assert_eq!(receive(), call(n, "{}"));
    }
    // The third request is queued, and then answered "busy" on the stream; other messages pass
    // meanwhile.
    let mut held = Client::connect(server.address());
    held.send(stream.post_request(&call(3, "{}")));
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#,
    ] {
        assert_eq!(stream.post(body).status, 202, "{body}");
        assert_eq!(receive(), body);
    }
    assert_eq!(held.response().status, 202);
    let busy: serde_json::Value = serde_json::from_str(&stream.message()).expect("JSON");
    assert_eq!(busy.pointer("/id"), Some(&3.into()), "{busy}");
    assert_eq!(busy.pointer("/error/code"), Some(&(-32000).into()), "{busy}");
    assert_eq!(server.metrics().fault(Fault::Busy), 1);
    // A response makes room, also for a request that waits already.
    let mut waiting = Client::connect(server.address());
    waiting.send(stream.post_request(&call(4, "{}")));
    mcp_sse_tests::wait_until("a post is held", || server.metrics().posts_held == 2);
    finish("room", sender.send(handlers::response("1", "{}"))).expect("a stream");
    assert_eq!(waiting.response().status, 202);
    assert_eq!(receive(), call(4, "{}"));
    assert_eq!(stream.message(), answer(1, "{}"));
}

fn posts_over_inbound_messages_max_are_refused(on: &Adapter) {
    let mut builder = limits(|l| l.inbound_messages_max = Some(8));
    let timeouts =
        mcp_sse_core::Timeouts { hold: Some(Duration::from_millis(100)), ..Default::default() };
    builder = builder.timeouts(timeouts);
    let (sender, sessions) = mpsc::channel();
    let server = RunningServer::start(on, builder.build().expect("good"), handlers::give(sender));
    let mut stream = Stream::open(server.address());
    let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
    let note = |n: u32| format!(r#"{{"jsonrpc":"2.0","method":"n","params":[{n}]}}"#);
    for n in 0..8 {
        assert_eq!(stream.post(&note(n)).status, 202, "{n} of 8");
    }
    let refused = stream.post(&note(100));
    check_refusal("a notification", &refused, 503, RefusalBody::Text(""));
    let seconds = refused.field("Retry-After").expect("when to come again");
    assert!(seconds.parse::<u32>().is_ok(), "{seconds}");
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    assert_eq!(stream.post(response).status, 503, "a response");
    assert_eq!(stream.post(&call(7, "{}")).status, 202, "a request");
    let busy: serde_json::Value = serde_json::from_str(&stream.message()).expect("JSON");
    assert_eq!(busy.pointer("/error/code"), Some(&(-32000).into()), "{busy}");
    assert_eq!(busy.pointer("/id"), Some(&7.into()), "{busy}");
    // Accepted messages are delivered in order, refused ones are not.
    for n in 0..8 {
        let message = finish("a message", session.recv()).expect("a message");
        assert_eq!(message.text(), note(n));
    }
    assert_eq!(stream.post(&note(8)).status, 202, "there is room again");
    assert_eq!(finish("a message", session.recv()).expect("a message").text(), note(8));
}
