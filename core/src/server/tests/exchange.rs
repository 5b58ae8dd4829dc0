//! Requests whose HTTP is spoken elsewhere: the same rules, without framing.

use std::boxed::Box;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::{NOTE, limited, note};
use crate::config::Config;
use crate::error::AcceptError;
use crate::event::{CloseReason, ConnId, Event, Interest, SessionId};
use crate::exchange::Exchange;
use crate::http1::{Error, FieldStorage, Head, HeadLimits, HeadScanner};
use crate::peer::Peer;
use crate::server::Server;
use crate::testing::Random;
use crate::time::Time;

const NOW: Time = Time::ZERO;
const JSON: (&str, &[u8]) = ("content-type", b"application/json");
const HOST: (&str, &[u8]) = ("host", b"localhost");

fn server() -> Server {
    Server::new(Config::default(), Box::new(Random::seeded(3)), NOW)
}

fn ask(server: &mut Server, method: &str, target: &str, fields: &[(&str, &[u8])]) -> ConnId {
    let exchange = Exchange { method, target, fields, mount: "" };
    server.exchange(exchange, Peer::local(), NOW).unwrap()
}

/// Takes the bytes of the answer's body that are there.
fn body(server: &mut Server, conn: ConnId) -> String {
    let bytes: Vec<u8> = server.transmit(conn).chunks().flatten().copied().collect();
    server.handle_written(conn, bytes.len(), NOW);
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
fn status(server: &Server, conn: ConnId) -> u16 {
    server.response(conn).expect("an answer").status()
}

fn open(server: &mut Server, mount: &str) -> (ConnId, SessionId, String) {
    let exchange = Exchange { method: "GET", target: "/sse", fields: &[HOST], mount };
    let conn = server.exchange(exchange, Peer::local(), NOW).unwrap();
    let Some(Event::Opened { session, .. }) = server.poll_event() else { panic!("a session") };
    let greeting = body(server, conn);
    let data = greeting.strip_prefix("event: endpoint\ndata: ").unwrap().strip_suffix("\n\n");
    (conn, session, data.unwrap().into())
}

#[test]
fn exchange_stream_is_bare_events_with_its_head_apart() {
    let mut server = server();
    let (conn, session, endpoint) = open(&mut server, "/api/v1");
    assert!(endpoint.starts_with("/api/v1/messages?session_id="), "{endpoint}");
    let head: Vec<_> = server.response(conn).unwrap().fields().collect();
    let expected = [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    ];
    assert_eq!((status(&server, conn), &head[..]), (200, &expected[..]));

    server.send(session, &note("hello"), NOW).unwrap();
    assert_eq!(body(&mut server, conn), core::str::from_utf8(note("hello").bare()).unwrap());
    // The end of the request's body is no end of the client.
    server.handle_eof(conn, NOW);
    assert_eq!(server.interest(conn), Interest::Io { read: false, write: false });
    server.handle_timeout(Time::from_micros(15_000_000));
    assert_eq!(body(&mut server, conn), ":\n");
    server.close(session, NOW);
    assert_eq!((body(&mut server, conn).as_str(), server.interest(conn)), ("", Interest::Close));
}

#[test]
fn exchange_disconnect_ends_its_session() {
    let mut server = server();
    let (conn, session, _) = open(&mut server, "");
    server.handle_disconnect(conn, NOW);
    let Some(Event::Closed { session: closed, reason, .. }) = server.poll_event() else {
        panic!("an end")
    };
    assert_eq!((closed, reason), (session, CloseReason::Peer));
}

#[test]
fn exchange_post_ends_with_its_length_or_its_input() {
    let mut server = server();
    let (_, session, endpoint) = open(&mut server, "");
    let length = NOTE.len().to_string();
    for fields in [&[HOST, JSON][..], &[HOST, JSON, ("content-length", length.as_bytes())]] {
        let conn = ask(&mut server, "POST", &endpoint, fields);
        for piece in NOTE.as_bytes().chunks(7) {
            assert_eq!(server.response(conn), None);
            server.handle_input(conn, piece, NOW);
        }
        server.handle_eof(conn, NOW);
        assert_eq!((status(&server, conn), body(&mut server, conn).as_str()), (202, "Accepted\n"));
        assert_eq!(server.interest(conn), Interest::Close);
        server.handle_disconnect(conn, NOW);
        let Some(Event::Message { session: to, message, .. }) = server.poll_event() else {
            panic!("a message")
        };
        assert_eq!((to, message.text()), (session, NOTE));
    }
}

#[test]
fn exchange_closes_behind_its_answer_without_the_end_of_its_input() {
    let mut server = server();
    let (_, _, endpoint) = open(&mut server, "");
    let length = NOTE.len().to_string();
    let fields = [HOST, JSON, ("content-length", length.as_bytes())];
    let posted = ask(&mut server, "POST", &endpoint, &fields);
    server.handle_input(posted, NOTE.as_bytes(), NOW);
    let health = ask(&mut server, "GET", "/health", &[HOST]);
    let refused = ask(&mut server, "GET", "/other", &[HOST]);
    for (conn, expected) in [(posted, 202), (health, 200), (refused, 404)] {
        assert_eq!(status(&server, conn), expected);
        assert!(!body(&mut server, conn).is_empty());
        assert_eq!(server.interest(conn), Interest::Close, "{expected}");
    }
}

#[test]
fn exchange_and_connection_that_closes_have_each_their_own_202() {
    let mut server = server();
    let (_, _, endpoint) = open(&mut server, "");
    let wire = format!(
        "POST {endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{NOTE}",
        NOTE.len()
    );
    for _ in 0..2 {
        let conn = server.accept(Peer::local(), NOW).unwrap();
        server.handle_input(conn, wire.as_bytes(), NOW);
        let answer = body(&mut server, conn);
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        assert!(answer.ends_with("Connection: close\r\n\r\nAccepted\n"), "{answer}");
        let conn = ask(&mut server, "POST", &endpoint, &[HOST, JSON]);
        server.handle_input(conn, NOTE.as_bytes(), NOW);
        server.handle_eof(conn, NOW);
        assert_eq!((status(&server, conn), body(&mut server, conn).as_str()), (202, "Accepted\n"));
    }
}

#[track_caller]
fn check(method: &str, target: &str, fields: &[(&str, &[u8])], expected: u16) {
    let mut server = server();
    let conn = ask(&mut server, method, target, fields);
    server.handle_eof(conn, NOW);
    assert_eq!(status(&server, conn), expected, "{method} {target}");
    body(&mut server, conn);
    assert_eq!(server.interest(conn), Interest::Close, "{method} {target}");
    assert_eq!(server.sessions_open(), 0);
}

#[test]
fn exchange_is_refused_with_the_same_status_as_a_connection() {
    check("GET", "/health", &[], 400);
    check("GET", "/health", &[HOST], 200);
    check("HEAD", "/sse", &[HOST], 200);
    check("GET", "/sse", &[("host", b"evil.example")], 403);
    check("GET", "/sse", &[HOST, ("origin", b"null")], 403);
    check("GET", "/sse", &[HOST, ("accept", b"text/html")], 406);
    check("POST", "/sse", &[HOST], 405);
    check("BREW", "/sse", &[HOST], 501);
    check("GET", "/other", &[HOST], 404);
    check("POST", "/messages", &[HOST, JSON], 400);
    check("POST", "/messages?session_id=x", &[HOST, JSON], 404);
    check("POST", "/messages?session_id=x", &[HOST], 415);
    check("POST", "/messages?session_id=x", &[HOST, JSON, ("content-length", b"99999999")], 413);
    // The connection is somebody else's affair.
    check("GET", "/health", &[HOST, ("connection", b"upgrade"), ("upgrade", b"h2c")], 200);
    check("GET", "/health", &[HOST, ("transfer-encoding", b"gzip"), ("expect", b"x")], 200);
    // What would break out of its place does not.
    check("GET", "/health HTTP/1.1\r\nhost: localhost\r\n\r\n", &[], 400);
    check("GET", "/health", &[HOST, ("a", b"b\r\nc: d")], 400);
    check("GET\r\n", "/health", &[HOST], 400);
    check("GET", "/health x", &[HOST], 400);
}

/// What the same request is told on a connection of its own.
fn fault_on_the_wire(request: &Exchange<'_>, limits: &HeadLimits) -> Option<Error> {
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.target).into_bytes();
    for (name, value) in request.fields {
        text.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    let scan = HeadScanner::new().scan(&text, limits);
    scan.and_then(|_| Head::parse(&text, &mut FieldStorage::new()).map(drop)).err()
}

#[test]
fn exchange_with_a_mistake_has_the_fault_that_it_has_on_the_wire() {
    let limits = HeadLimits { head_bytes_max: 120, fields_max: 3, target_bytes_max: 20 };
    let check = |method, target, fields: &[(&str, &[u8])], expected| {
        let request = Exchange { method, target, fields, mount: "" };
        let fault = request.head(&limits, &mut FieldStorage::new()).err();
        assert_eq!(fault, expected, "{request:?}");
        assert_eq!(fault, fault_on_the_wire(&request, &limits), "{request:?}");
    };
    check("GET", "/sse", &[HOST], None);
    check("", "/", &[HOST], Some(Error::MalformedRequestLine));
    check("G T", "/", &[HOST], Some(Error::MalformedRequestLine));
    check("BREW", "/", &[HOST], Some(Error::UnknownMethod));
    check("AMETHODOF17OCTETS", "/", &[HOST], Some(Error::UnknownMethod));
    check("GET", "", &[HOST], Some(Error::MalformedRequestLine));
    check("GET", "/ x", &[HOST], Some(Error::MalformedRequestLine));
    check("GET", "/\"", &[HOST], Some(Error::MalformedTarget));
    check("GET", "sse", &[HOST], Some(Error::MalformedTarget));
    check("GET", "/0123456789012345678", &[HOST], None);
    check("GET", "/01234567890123456789", &[HOST], Some(Error::TargetTooLong));
    check("GET", "/", &[], Some(Error::MissingHost));
    check("GET", "/", &[HOST, HOST], Some(Error::DuplicateHost));
    check("GET", "/", &[("host", b"a b")], Some(Error::InvalidHost));
    check("GET", "/", &[HOST, ("", b"x")], Some(Error::MalformedField));
    check("GET", "/", &[HOST, ("a b", b"x")], Some(Error::MalformedField));
    check("GET", "/", &[HOST, ("a", b"\x7f")], Some(Error::MalformedField));
    let length = ("content-length", &b"x"[..]);
    check("GET", "/", &[HOST, length], Some(Error::InvalidContentLength));
    let field = ("a", &b""[..]);
    check("GET", "/", &[HOST, field, field], None);
    check("GET", "/", &[HOST, field, field, field], Some(Error::TooManyFields));
    let long = |bytes| std::vec![b'x'; bytes];
    let fixed = "GET / HTTP/1.1\r\nhost: localhost\r\na: \r\n\r\n".len();
    check("GET", "/", &[HOST, ("a", &long(120 - fixed))], None);
    check("GET", "/", &[HOST, ("a", &long(121 - fixed))], Some(Error::HeadTooLarge));

    // On the wire these would be more fields, or more than one head; here each is one part.
    let refused = |target, field, expected| {
        let fields = [HOST, field];
        let request = Exchange { method: "GET", target, fields: &fields, mount: "" };
        let fault = request.head(&HeadLimits::default(), &mut FieldStorage::new()).err();
        assert_eq!(fault, Some(expected), "{target:?} {field:?}");
    };
    refused("/", ("a: b\r\nc", b"d"), Error::MalformedField);
    refused("/", ("a:", b"b"), Error::MalformedField);
    for value in ["b\r\nc: d", "b\r\n", "b\r\n\r\n", "b\r", "b\n", "b\0"] {
        refused("/", ("a", value.as_bytes()), Error::MalformedField);
    }
    for target in ["/ HTTP/1.1\r\na: b", "/ HTTP/1.1\r\n\r\nGET /", "/\r\n", "/\r", "/\n", "/\0"] {
        refused(target, ("a", b"b"), Error::MalformedTarget);
    }
}

#[test]
fn exchange_with_an_unclean_mount_is_400() {
    for mount in ["api", "/", "/a//b", "/a/../b", "/a?b"] {
        let mut server = server();
        let exchange = Exchange { method: "GET", target: "/sse", fields: &[HOST], mount };
        let conn = server.exchange(exchange, Peer::local(), NOW).unwrap();
        assert_eq!(status(&server, conn), 400, "{mount}");
    }
}

#[test]
fn exchange_body_cut_short_has_no_answer_and_one_too_long_is_413() {
    let mut server = Server::new(
        limited(|l| l.body_bytes_max = Some(64)).build().unwrap(),
        Box::new(Random::seeded(3)),
        NOW,
    );
    let (_, _, endpoint) = open(&mut server, "");
    let short = ask(&mut server, "POST", &endpoint, &[HOST, JSON, ("content-length", b"50")]);
    server.handle_input(short, b"{", NOW);
    server.handle_eof(short, NOW);
    assert_eq!((server.response(short), server.interest(short)), (None, Interest::Close));

    let long = ask(&mut server, "POST", &endpoint, &[HOST, JSON]);
    server.handle_input(long, &[b' '; 65], NOW);
    assert_eq!(status(&server, long), 413);
    assert_eq!(server.poll_event().map(drop), None, "nothing reached the application");
}

#[test]
fn exchange_that_is_over_releases_the_places_of_its_address() {
    let limits = limited(|limits| {
        limits.connections_per_address_max = Some(2);
        limits.sessions_per_address_max = Some(1);
    });
    let mut server = Server::new(limits.build().unwrap(), Box::new(Random::seeded(3)), NOW);
    let peer = |port| {
        let remote = core::net::SocketAddr::from(([198, 51, 100, 1], port));
        Peer::tcp(remote, core::net::SocketAddr::from(([127, 0, 0, 1], 80)))
    };
    let ask = |server: &mut Server, method, target, fields, port| {
        let exchange = Exchange { method, target, fields, mount: "" };
        server.exchange(exchange, peer(port), NOW)
    };
    // Whatever becomes of a request: a stream, an answer, a refusal, a head that is none.
    let requests: [(&str, &str, &[_], Option<u16>); 6] = [
        ("GET", "/sse", &[HOST], None),
        ("GET", "/health", &[HOST], Some(200)),
        ("GET", "/other", &[HOST], Some(404)),
        ("POST", "/messages?session_id=x", &[HOST, JSON], Some(404)),
        ("GET", "/health x", &[HOST], Some(400)),
        ("GET", "/sse", &[("host", b"evil.example")], Some(403)),
    ];
    for round in 0..4 {
        for (method, target, fields, expected) in requests {
            let conn = ask(&mut server, method, target, fields, 1).expect(target);
            let stream = ask(&mut server, "GET", "/sse", &[HOST], 2).expect(target);
            // The second stream of an address is one too many, and so is its third connection.
            let told = if expected.is_none() { 503 } else { 200 };
            if let Some(expected) = expected {
                assert_eq!(status(&server, conn), expected, "{target}, round {round}");
            }
            assert_eq!(status(&server, stream), told, "{target}, round {round}");
            let third = ask(&mut server, "GET", "/health", &[HOST], 3);
            assert_eq!(third, Err(AcceptError::AddressAtCapacity), "{target}, round {round}");
            server.handle_disconnect(conn, NOW);
            server.handle_disconnect(stream, NOW);
            while server.poll_event().is_some() {}
        }
    }
    assert_eq!((server.connections_open(), server.sessions_open()), (0, 0));
}
