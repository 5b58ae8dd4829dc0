//! Strict HTTP/1.1, section 5 of the wire contract, and the input deadlines of section 6.

use core::time::Duration;

use mcp_sse_core::Config;
use mcp_sse_tests::adapter::Adapter;
use mcp_sse_tests::client::{Client, Stream, answer, call, post_request};
use mcp_sse_tests::{for_each_adapter, wait_until};

use crate::{Fixture, timeouts};

for_each_adapter!(
    request_lines_are_parsed_strictly,
    targets_are_parsed_strictly,
    fields_are_parsed_strictly,
    host_syntax_is_checked,
    heads_over_the_limits_are_431_or_414,
    content_lengths_are_parsed_strictly,
    transfer_encodings_other_than_chunked_are_refused,
    chunked_bodies_are_parsed_strictly,
    first_malformed_octet_is_refused_at_once,
    expect_100_continue_is_answered,
    keep_alive_follows_version_and_connection_field,
    pipelined_requests_are_answered_in_order,
    input_deadlines_are_408_or_a_close,
);

/// What happens to the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterResponse {
    /// The next request on it is answered.
    Keeps,
    /// It closes, and the next request, which was sent already, is not handled.
    Closes,
}
use AfterResponse::{Closes, Keeps};

struct HttpFixture {
    fixture: Fixture,
    endpoint: String,
    /// The stream on which accepted posts are echoed.
    stream: Stream,
}

impl HttpFixture {
    fn new(on: &Adapter) -> Self {
        let fixture = Fixture::new(on, Config::default());
        let stream = Stream::open(fixture.server.address());
        Self { fixture, endpoint: stream.endpoint.clone(), stream }
    }

    /// Sends a request with another one behind it, in one piece and byte by byte, and checks both
    /// responses.
    #[track_caller]
    fn check(&mut self, request: impl AsRef<[u8]>, status: u16, after: AfterResponse) {
        const NEXT: &[u8] = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let request = request.as_ref();
        let case = request.escape_ascii().to_string();
        let case = case.get(..case.len().min(400)).unwrap_or_default();
        let bytes = [request, NEXT].concat();
        let pieces: &[usize] = if bytes.len() < 1_500 { &[usize::MAX, 1] } else { &[usize::MAX] };
        for &size in pieces {
            let mut client = Client::connect(self.fixture.server.address());
            for piece in bytes.chunks(size.min(bytes.len())) {
                // The response and the close may come before everything was sent.
                if client.try_send(piece).is_err() {
                    break;
                }
            }
            let case = format!("in pieces of {size}: {case}");
            let Some(response) = client.try_response() else { panic!("no answer, {case}") };
            assert_eq!(response.status, status, "{case}: {response:?}");
            assert!(response.field("Date").is_some(), "{case}");
            if status == 202 {
                assert_eq!(self.stream.message(), answer(1, "[]"), "{case}");
            }
            if after == Keeps {
                let next = client.response();
                assert_eq!(next.status, 200, "behind it, {case}: {next:?}");
                client.end();
            } else {
                assert_eq!(response.field("Connection"), Some("close"), "{case}");
            }
            client.expect_end();
            self.fixture.other_session.check_alive(&case);
        }
        self.stream.check_alive(case);
    }

    /// Checks a post with these framing fields and this body.
    #[track_caller]
    fn check_post(&mut self, framing: &str, body: &str, status: u16, after: AfterResponse) {
        let head = format!("POST {} HTTP/1.1\r\nHost: localhost", self.endpoint);
        let json = "Content-Type: application/json";
        self.check(format!("{head}\r\n{json}\r\n{framing}\r\n\r\n{body}"), status, after);
    }
}

const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[]}"#;

fn request_lines_are_parsed_strictly(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let mut check = |line: &[u8], status, after| {
        http.check([line, b"Host: localhost\r\n\r\n"].concat(), status, after);
    };
    check(b"GET /x HTTP/1.1\r\n", 404, Keeps);
    check(b"\r\nGET /x HTTP/1.1\r\n", 404, Keeps);
    check(b"\r\n\r\n\r\n\r\nGET /x HTTP/1.1\r\n", 404, Keeps);
    check(b"\r\n\r\n\r\n\r\n\r\nGET /x HTTP/1.1\r\n", 400, Closes);
    check(b"\nGET /x HTTP/1.1\r\n", 400, Closes);
    check(b"GET /x HTTP/1.1\n", 400, Closes);
    check(b"GET /x HTTP/1.1\r", 400, Closes);
    check(b"GET /x HTTP/1.1\r\r\n", 400, Closes);
    check(b"GET  /x HTTP/1.1\r\n", 400, Closes);
    check(b"GET /x  HTTP/1.1\r\n", 400, Closes);
    check(b" GET /x HTTP/1.1\r\n", 400, Closes);
    check(b"GET /x HTTP/1.1 \r\n", 400, Closes);
    check(b"GET\t/x HTTP/1.1\r\n", 400, Closes);
    check(b"GET\x0b/x HTTP/1.1\r\n", 400, Closes);
    check(b"GET /x\x0cHTTP/1.1\r\n", 400, Closes);
    check(b"GET /x\r\n", 400, Closes);
    check(b"GET\r\n", 400, Closes);
    check(b"GET /x HTTP/1.1 x\r\n", 400, Closes);
    check(b"GET /x HTTP/1.2\r\n", 404, Keeps);
    check(b"GET /x HTTP/1.9\r\n", 404, Keeps);
    check(b"GET /x HTTP/2.0\r\n", 505, Closes);
    check(b"GET /x HTTP/0.9\r\n", 505, Closes);
    check(b"GET /x HTTP/3.1\r\n", 505, Closes);
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, Closes);
    check(b"GET /x HTTP/1\r\n", 400, Closes);
    check(b"GET /x HTTP/1.10\r\n", 400, Closes);
    check(b"GET /x HTTP/11.1\r\n", 400, Closes);
    check(b"GET /x HTTP/1,1\r\n", 400, Closes);
    check(b"GET /x http/1.1\r\n", 400, Closes);
    check(b"GET /x HTTPS/1.1\r\n", 400, Closes);
    check(b"GET /x HTTP/ 1.1\r\n", 400, Closes);
    check(b"G\0T /x HTTP/1.1\r\n", 400, Closes);
    check(b"G(T /x HTTP/1.1\r\n", 400, Closes);
    check(b"G\xc3\xa9T /x HTTP/1.1\r\n", 400, Closes);
    check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, Closes);
    check(b"BREW /x HTTP/1.1\r\n", 501, Closes);
}

fn targets_are_parsed_strictly(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let mut check = |target: &[u8], status, after| {
        http.check(
            [b"GET ", target, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat(),
            status,
            after,
        );
    };
    check(b"/x?a=b&c=%20[]|", 400, Closes);
    check(b"/x?a=b&c=%20;,/:@!$'()*+?", 404, Keeps);
    check(b"http://localhost/x", 404, Keeps);
    check(b"HTTP://localhost:80/x", 404, Keeps);
    check(b"http://localhost", 404, Keeps);
    check(b"https://localhost/x", 421, Closes);
    check(b"http://user@localhost/x", 400, Closes);
    check(b"http://user:pass@localhost/x", 400, Closes);
    check(b"http:///x", 400, Closes);
    check(b"http://local host/x", 400, Closes);
    check(b"http://localhost:x/x", 400, Closes);
    check(b"ftp://localhost/x", 400, Closes);
    check(b"localhost:80", 400, Closes);
    check(b"*", 400, Closes);
    check(b"x", 400, Closes);
    check(b"/x#y", 400, Closes);
    for octet in b"\"<>\\^`{|}\x01\x7f\x80\xff" {
        check(&[b'/', *octet, b'x'], 400, Closes);
    }
    check("/é".as_bytes(), 400, Closes);
    check(b"/x%", 404, Keeps);
    http.check("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, Keeps);
    http.check("OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, Keeps);
}

fn fields_are_parsed_strictly(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let mut check = |field: &[u8], status, after| {
        let request = [b"GET /x HTTP/1.1\r\nHost: localhost\r\n", field, b"\r\n\r\n"].concat();
        http.check(request, status, after);
    };
    check(b"X:", 404, Keeps);
    check(b"X: \t a b \t ", 404, Keeps);
    check(b"!#$%&'*+-.^_`|~09aZ: x", 404, Keeps);
    check(b"X: \xe9\xff", 404, Keeps);
    check(b"Upgrade: websocket\r\nConnection: Upgrade", 404, Keeps);
    check(
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA",
        404,
        Keeps,
    );
    check(b"X : y", 400, Closes);
    check(b"X\t: y", 400, Closes);
    check(b": y", 400, Closes);
    check(b"X", 400, Closes);
    check(b" X: y", 400, Closes);
    check(b"X: y\r\n z", 400, Closes);
    check(b"X: y\r\n\tz", 400, Closes);
    check(b"X: a\0b", 400, Closes);
    check(b"X: a\x01b", 400, Closes);
    check(b"X: a\x7fb", 400, Closes);
    check(b"X: a\nY: b", 400, Closes);
    check(b"X: a\rY: b", 400, Closes);
    check(b"X: a\r\r\nY: b", 400, Closes);
    check(b"X y: z", 400, Closes);
    check(b"X(: z", 400, Closes);
    check(b"X\0: z", 400, Closes);
    check("\u{e9}: z".as_bytes(), 400, Closes);
    check(b"X: y\n", 400, Closes);
    // In the first field line, where white space at the start continues the request line for some
    // parsers.
    http.check("GET /x HTTP/1.1\r\n Host: localhost\r\n\r\n", 400, Closes);
    http.check("GET /x HTTP/1.1\r\nHost: localhost\r\n\n", 400, Closes);
}

fn host_syntax_is_checked(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let mut check = |host: &[u8], status, after| {
        // `/ready` has no guard, so only the syntax counts.
        let request = [b"GET /ready HTTP/1.1\r\n", host, b"\r\n\r\n"].concat();
        http.check(request, status, after);
    };
    for host in ["a", "a:80", "a.b-c_d.", "127.0.0.1:65535", "[::1]", "[fe80::1]:1", "a%20b"] {
        check(format!("Host: {host}").as_bytes(), 200, Keeps);
    }
    for host in [
        "a b",
        "a:",
        "a:b",
        "a:80:80",
        "a/b",
        "a?b",
        "a#b",
        "user@a",
        "a,b",
        "[::1",
        "::1",
        "[g]",
        "[]",
        "a:65536",
        "a:000000000080x",
        "a\\b",
        "<a>",
        "\u{e9}",
        "a|b",
        "a\"",
        "a%2",
        "a%zz",
    ] {
        check(format!("Host: {host}").as_bytes(), 400, Closes);
    }
    check(b"X: y", 400, Closes);
    check(b"Host: a\r\nHost: a", 400, Closes);
    check(b"Host: a\r\nhost: b", 400, Closes);
    check(b"Host: a\0", 400, Closes);
    http.check("GET http://a/ready HTTP/1.1\r\nX: y\r\n\r\n", 400, Closes);
    http.check("GET /ready HTTP/1.0\r\n\r\n", 200, Closes);
    http.check("GET /ready HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, Closes);
}

fn heads_over_the_limits_are_431_or_414(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let line = "GET /x HTTP/1.1\r\nHost: localhost\r\n";
    let filled = |total: usize| {
        let rest = total - line.len() - "X: \r\n\r\n".len();
        format!("{line}X: {}\r\n\r\n", "x".repeat(rest))
    };
    http.check(filled(16 << 10), 404, Keeps);
    http.check(filled((16 << 10) + 1), 431, Closes);
    http.check(filled(200 << 10), 431, Closes);
    let many = |fields: usize| {
        let fields: String = (1..fields).map(|n| format!("X{n}: y\r\n")).collect();
        format!("{line}{fields}\r\n")
    };
    http.check(many(100), 404, Keeps);
    http.check(many(101), 431, Closes);
    let target =
        |len: usize| format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(len - 1));
    http.check(target(8 << 10), 404, Keeps);
    http.check(target((8 << 10) + 1), 414, Closes);
    http.check(target(100 << 10), 414, Closes);
    http.check(format!("{} /x HTTP/1.1\r\n\r\n", "X".repeat(20_000)), 501, Closes);
}

fn content_lengths_are_parsed_strictly(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let n = BODY.len();
    http.check_post(&format!("Content-Length: {n}"), BODY, 202, Keeps);
    http.check_post(&format!("Content-Length:\t{n} \t"), BODY, 202, Keeps);
    http.check_post(&format!("Content-Length: {n}\r\nConnection: close"), BODY, 202, Closes);
    http.check_post("Content-Length: 0", "", 400, Keeps);
    for length in [
        format!("+{n}"),
        format!("-{n}"),
        "-0".into(),
        format!("0x{n:x}"),
        format!("{n},{n}"),
        format!("{n}, {n}"),
        format!("{n} {n}"),
        String::new(),
        format!("{n}."),
        format!("{n}e0"),
        format!("0{n}"),
        format!("{n:019}"),
        format!("{n:020}"),
        "00".into(),
        "99999999999999999999".into(),
        "18446744073709551665".into(),
        format!("{n}\r\nContent-Length: {n}"),
        format!("{n}\r\nContent-Length: 0"),
        format!("{n}\r\nTransfer-Encoding: chunked"),
        format!("{n}\r\nTransfer-Encoding: identity"),
    ] {
        http.check_post(&format!("Content-Length: {length}"), BODY, 400, Closes);
    }
    // Framing does not depend on the method.
    let tail = "Host: localhost\r\n";
    http.check(format!("GET /ready HTTP/1.1\r\n{tail}Content-Length: 5\r\n\r\nhello"), 200, Keeps);
    http.check(format!("GET /ready HTTP/1.1\r\n{tail}Content-Length: 5,5\r\n\r\n"), 400, Closes);
    http.check(
        format!(
            "GET /ready HTTP/1.1\r\n{tail}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        ),
        400,
        Closes,
    );
}

fn transfer_encodings_other_than_chunked_are_refused(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let chunked = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    http.check_post("Transfer-Encoding: chunked", &chunked, 202, Keeps);
    http.check_post("Transfer-Encoding: \tCHUNKED ", &chunked, 202, Keeps);
    http.check_post("Transfer-Encoding: chunked\r\nConnection: close", &chunked, 202, Closes);
    for coding in ["gzip", "identity", "xchunked", "chunke"] {
        http.check_post(&format!("Transfer-Encoding: {coding}"), &chunked, 501, Closes);
    }
    for coding in [
        "",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "chunked,",
        ", chunked",
        "chunked;q=1",
        "\"chunked\"",
        "chunked chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "gzip\r\nTransfer-Encoding: chunked",
        "chunked\x0b",
    ] {
        http.check_post(&format!("Transfer-Encoding: {coding}"), &chunked, 400, Closes);
    }
    let old = format!(
        "POST {} HTTP/1.0\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}",
        http.endpoint
    );
    http.check(old, 400, Closes);
}

fn chunked_bodies_are_parsed_strictly(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let n = BODY.len();
    let (a, b) = BODY.split_at(7);
    let m = n - 7;
    let mut check = |body: &str, status, after| {
        http.check_post("Transfer-Encoding: chunked", body, status, after);
    };
    check(&format!("7\r\n{a}\r\n{m:x}\r\n{b}\r\n0\r\n\r\n"), 202, Keeps);
    check(&format!("0007\r\n{a}\r\n{m:X}\r\n{b}\r\n000\r\n\r\n"), 202, Keeps);
    check(&format!("{n:016x}\r\n{BODY}\r\n0\r\n\r\n"), 202, Keeps);
    check(&format!("{n:x};a;b=c;d=\"e;\\\"f\"\r\n{BODY}\r\n0;x=y\r\n\r\n"), 202, Keeps);
    check(&format!("{n:x}\r\n{BODY}\r\n0\r\nX: y\r\nZ: \r\n\r\n"), 202, Keeps);
    let each: String = BODY.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    check(&format!("{each}0\r\n\r\n"), 202, Keeps);
    check("0\r\n\r\n", 400, Keeps);
    let whole = format!("{BODY}\r\n0\r\n\r\n");
    for size in [
        String::new(),
        "x".into(),
        format!("0x{n:x}"),
        format!("+{n:x}"),
        format!("-{n:x}"),
        format!(" {n:x}"),
        format!("{n:x} "),
        format!("{n:x}_"),
        format!("{n:017x}"),
        "ffffffffffffffff0".into(),
        format!("{n:x};"),
        format!("{n:x};=b"),
        // The "bad white space" of RFC 9112 section 7.1.1.
        format!("{n:x} ;a=b"),
        format!("{n:x}; a=b"),
        format!("{n:x};a =b"),
        format!("{n:x};a=\tb"),
        format!("{n:x};a=b ;c"),
        format!("{n:x};a=\"b"),
        format!("{n:x};a\0"),
        format!("{n:x};a\nb"),
    ] {
        check(&format!("{size}\r\n{whole}"), 400, Closes);
    }
    check(&format!("{n:x}\n{whole}"), 400, Closes);
    check(&format!("{n:x}\r{whole}"), 400, Closes);
    check(&format!("{n:x}\r\r\n{whole}"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}\n0\r\n\r\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}0\r\n\r\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}xx\r\n0\r\n\r\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}\r\n0\r\n\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}\r\n0\n\r\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}\r\n0\r\nX : y\r\n\r\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}\r\n0\r\n X: y\r\n\r\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}\r\n0\r\nX: y\r\n z\r\n\r\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}\r\n0\r\nX: y\n\r\n"), 400, Closes);
    check(&format!("{n:x}\r\n{BODY}\r\n0\r\nX: \0\r\n\r\n"), 400, Closes);
    let long = "x".repeat(17 << 10);
    check(&format!("{n:x};{long}\r\n{whole}"), 413, Closes);
    check(&format!("{n:x}\r\n{BODY}\r\n0\r\nX: {long}\r\n\r\n"), 431, Closes);
    let many: String = BODY.chars().map(|c| format!("1;{}\r\n{c}\r\n", "e".repeat(400))).collect();
    check(&format!("{many}0\r\n\r\n"), 413, Closes);
}

/// The refusal does not wait for a line end or the rest of the head.
fn first_malformed_octet_is_refused_at_once(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let mut check = |bytes: &[u8], status: u16| {
        let mut client = Client::connect(fixture.server.address());
        client.send(bytes);
        let case = bytes.escape_ascii().to_string();
        assert_eq!(client.response().status, status, "{case}");
        client.expect_end();
        fixture.other_session.check_alive(&case);
    };
    check(b"\x16", 400);
    check(b"\x80", 400);
    check(b"\n", 400);
    check(b" ", 400);
    check(b"GET \x01", 400);
    check(b"GET /\xff", 400);
    check(b"GET /x H2", 400);
    check(b"GET /x HTTP/2", 505);
    check(b"GET /x HTTP/1.1\n", 400);
    check(b"GET /x HTTP/1.1\r\nHost: a\r\n ", 400);
    check(b"GET /x HTTP/1.1\r\nA B", 400);
    check(&[b'X'; 100], 501);
}

fn expect_100_continue_is_answered(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let address = http.fixture.server.address();
    let head = |endpoint: &str, more: &str| {
        format!(
            "POST {endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {more}\r\n\r\n"
        )
    };
    for value in ["100-continue", "100-Continue", "100-CONTINUE"] {
        let mut client = Client::connect(address);
        client.send(head(
            &http.endpoint,
            &format!("Content-Length: {}\r\nExpect: {value}", BODY.len()),
        ));
        let go_on = client.response();
        assert_eq!(go_on.status_line, "HTTP/1.1 100 Continue", "{value}");
        assert_eq!(client.ask(BODY).status, 202, "{value}");
        assert_eq!(http.stream.message(), answer(1, "[]"), "{value}");
        client.send(head(&http.endpoint, "Transfer-Encoding: chunked\r\nExpect: 100-continue"));
        assert_eq!(client.response().status, 100, "{value}, chunked");
        let chunked = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
        assert_eq!(client.ask(chunked).status, 202, "{value}, chunked");
        assert_eq!(http.stream.message(), answer(1, "[]"), "{value}, chunked");
    }
    // The final status comes at once if the head suffices to refuse.
    let check = |endpoint: &str, more: &str, status: u16| {
        let mut client = Client::connect(address);
        client.send(head(endpoint, &format!("{more}\r\nExpect: 100-continue")));
        assert_eq!(client.response().status, status, "{endpoint}, {more}");
    };
    check(&http.endpoint, "Content-Length: 5000000", 413);
    check("/messages", "Content-Length: 5", 400);
    check("/messages?session_id=x", "Content-Length: 5", 404);
    check("/sse", "Content-Length: 5", 405);
    check("/x", "Content-Length: 5", 404);
    check(&http.endpoint, "Content-Length: 5\r\nContent-Encoding: gzip", 415);
    check(&http.endpoint, "Content-Length: 5\r\nOrigin: http://evil.example", 403);
    let mut client = Client::connect(address);
    let other = head(&http.endpoint, "Content-Length: 5\r\nExpect: 101-switch");
    assert_eq!(client.ask(other).status, 417);
    // HTTP/1.0 clients' expectations are ignored.
    let old =
        head(&http.endpoint, &format!("Content-Length: {}\r\nExpect: 100-continue", BODY.len()));
    let mut client = Client::connect(address);
    client.send(old.replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(client.ask(BODY).status, 202);
    assert_eq!(http.stream.message(), answer(1, "[]"));
    http.fixture.other_session.check_alive("expectations");
}

fn keep_alive_follows_version_and_connection_field(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let line = "GET /x HTTP/1.1\r\nHost: localhost\r\n";
    http.check(format!("{line}\r\n"), 404, Keeps);
    http.check(format!("{line}Connection: keep-alive\r\n\r\n"), 404, Keeps);
    http.check(format!("{line}Connection: close\r\n\r\n"), 404, Closes);
    http.check(format!("{line}Connection: CLOSE\r\n\r\n"), 404, Closes);
    http.check(format!("{line}Connection: keep-alive, close\r\n\r\n"), 404, Closes);
    http.check(format!("{line}Connection: x\r\nConnection: close\r\n\r\n"), 404, Closes);
    http.check("GET /x HTTP/1.0\r\n\r\n", 404, Closes);
    http.check("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 404, Keeps);
    // An HTTP/1.0 client must be told that the connection stays open.
    let mut client = Client::connect(http.fixture.server.address());
    let response = client.ask("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(response.field("Connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive")));
    assert_eq!(response.field("Transfer-Encoding"), None);
    // A small body of a refused request is discarded; a large one closes the connection.
    let small = "x".repeat(1_000);
    let refused = |length: usize, body: &str| {
        format!("POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    http.check(refused(1_000, &small), 404, Keeps);
    http.check(refused(10_000_000, &small), 404, Closes);
}

fn pipelined_requests_are_answered_in_order(on: &Adapter) {
    let mut http = HttpFixture::new(on);
    let n = BODY.len();
    let endpoint = &http.endpoint;
    let requests = [
        ("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 200),
        ("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404),
        (
            format!(
                "POST {endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {n}\r\n\r\n{BODY}"
            ),
            202,
        ),
        (
            "\r\nPOST /sse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            405,
        ),
        (
            format!(
                "POST {endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Transfer-Encoding: chunked\r\n\r\n{n:x}\r\n{BODY}\r\n0\r\nX: y\r\n\r\n"
            ),
            202,
        ),
        (
            "POST /messages?session_id=x HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: 5\r\n\r\nhello"
                .to_owned(),
            404,
        ),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), 200),
        ("GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 0),
    ];
    let all: String = requests.iter().map(|(request, _)| request.as_str()).collect();
    for size in [all.len(), 100, 7, 1] {
        let mut client = Client::connect(http.fixture.server.address());
        for piece in all.as_bytes().chunks(size) {
            let _ = client.try_send(piece);
        }
        for (request, status) in requests.iter().filter(|(_, status)| *status != 0) {
            assert_eq!(client.response().status, *status, "in pieces of {size}: {request}");
        }
        client.expect_end();
        for _ in 0..2 {
            assert_eq!(http.stream.message(), answer(1, "[]"), "in pieces of {size}");
        }
        http.fixture.other_session.check_alive("pipelining");
    }
}

fn input_deadlines_are_408_or_a_close(on: &Adapter) {
    let config = timeouts(|t| {
        t.head = Some(Duration::from_secs(1));
        t.body = Some(Duration::from_secs(1));
        t.idle = Some(Duration::from_secs(1));
        t.linger = Some(Duration::from_secs(1));
    });
    let mut fixture = Fixture::new(on, config.build().expect("good"));
    let address = fixture.server.address();
    let endpoint = fixture.other_session.endpoint.clone();
    let check = |case: &str, bytes: &[u8], statuses: &[u16]| {
        let mut client = Client::connect(address);
        client.send(bytes);
        for status in statuses {
            assert_eq!(client.response().status, *status, "{case}");
        }
        client.expect_end();
    };
    check("nothing at all", b"", &[]);
    check("half a head", b"GET /x HTTP/1.1\r\nHo", &[408]);
    let whole = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    check("idle afterwards", whole, &[404]);
    check("half of a second head", &[whole, &whole[..9]].concat(), &[404, 408]);
    let post = post_request(&endpoint, BODY);
    check("half a body", &post[..post.len() - 1], &[408]);
    check("no body", &post[..post.len() - BODY.len()], &[408]);
    // A client that reads its refusal and never closes does not keep the connection open.
    let mut client = Client::connect(address);
    client.send(b"\x16");
    assert_eq!(client.response().status, 400);
    client.expect_end();
    wait_until("the connection that lingers", || fixture.server.metrics().connections_open() == 1);
    let silent = Stream::open(address);
    fixture = Fixture { server: fixture.server, other_session: silent };
    let body = call(1, "{}");
    let posted = Client::connect(address).ask(fixture.other_session.post_request(&body));
    assert_eq!((posted.status, fixture.other_session.message()), (202, answer(1, "{}")));
}
