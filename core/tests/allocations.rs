//! The number of allocations of a post and of an event after the server has warmed up.
//!
//! This is a test binary of its own, because it counts with the global allocator.
#![expect(clippy::unwrap_used, reason = "tests")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use std::alloc::System;

use mcp_sse_core::{
    Authorization, Config, ConnId, Entropy, EntropyUnavailable, Event, Frame, Limits, Peer, Server,
    SessionId, StaticTokens, Time,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // The allocator is called after thread-local storage was destroyed.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: all calls are passed on unchanged to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's guarantees are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's guarantees are the same.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's guarantees are the same.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_in<T>(run: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.get();
    let value = run();
    (ALLOCATIONS.get() - before, value)
}

struct Counter(u8);

impl Entropy for Counter {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        self.0 += 1;
        dest.fill(self.0);
        Ok(())
    }
}

/// Takes all output, as a driver does after writing it.
fn flush(server: &mut Server, conn: ConnId) -> usize {
    let len = server.transmit(conn).len();
    server.handle_written(conn, len, Time::ZERO);
    while server.poll_wake().is_some() {}
    len
}

fn open(config: Config) -> (Server, ConnId, SessionId, String) {
    let mut server = Server::new(config, Box::new(Counter(0)), Time::ZERO);
    server.handle_wall_clock(784_111_777);
    let stream = server.accept(Peer::local(), Time::ZERO).unwrap();
    server.handle_input(stream, GET.as_bytes(), Time::ZERO);
    let head_and_endpoint = server.transmit(stream).chunks().collect::<Vec<_>>().concat();
    let head_and_endpoint = String::from_utf8(head_and_endpoint).unwrap();
    let (_, token) = head_and_endpoint.split_once("session_id=").unwrap();
    let token = token[..token.find('\n').unwrap()].to_owned();
    flush(&mut server, stream);
    let Some(Event::Opened { session, .. }) = server.poll_event() else { panic!("no session") };
    (server, stream, session, token)
}

const GET: &str = "GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alpha\r\n\
    Forwarded: proto=https\r\n\r\n";
const FIELDS: &str = "Origin: https://app.example\r\nForwarded: for=192.0.2.1;proto=https\r\n";

#[test]
fn post_allocates_its_body_and_event_allocates_nothing() {
    check_posts(Config::default(), "");
}

#[test]
fn post_to_a_session_with_an_instance_id_allocates_only_its_body() {
    check_posts(Config::builder().instance_id("eu-west-1").build().unwrap(), "");
}

#[test]
fn post_with_authorization_rates_and_cors_allocates_only_its_body() {
    let tokens = StaticTokens::builder().token("bob", "beta").token("alice", "alpha");
    let rate = "1000/second".parse().ok();
    let limits = Limits {
        posts_rate_per_principal: rate,
        posts_rate_per_session: rate,
        ..Limits::default()
    };
    let config = Config::builder()
        .authorization(Authorization::Static(tokens.build().unwrap()))
        .trust_local_peers(true)
        .require_https(true)
        .cors_origin("https://app.example")
        .limits(limits);
    check_posts(config.build().unwrap(), FIELDS);
}

fn check_posts(config: Config, fields: &str) {
    let (mut server, stream, session, token) = open(config);
    let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"search",
        "arguments":{"query":"a \"quoted\" word","limit":[1,2,{"deep":[[[]],null,true]}],
        "nested":{"a":{"b":{"c":1.5e3}}}},"_meta":{"progressToken":"p-7"}}}"#;
    let request = format!(
        "POST /messages?session_id={token} HTTP/1.1\r\nHost: localhost:8000\r\n\
         User-Agent: test\r\nAccept: */*\r\nContent-Type: application/json\r\n\
         Authorization: Bearer alpha\r\n{fields}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = Frame::message(br#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#).unwrap();
    let note = Frame::message(br#"{"jsonrpc":"2.0","method":"notifications/n"}"#).unwrap();
    for round in 0..50 {
        let (post, message) = allocations_in(|| {
            server.handle_input(conn, request.as_bytes(), Time::ZERO);
            let event = server.poll_event();
            flush(&mut server, conn);
            event
        });
        let Some(Event::Message { message, .. }) = message else { panic!("no message") };
        assert_eq!(message.text(), body);
        let (events, ()) = allocations_in(|| {
            server.send(session, &note, Time::ZERO).unwrap();
            server.send(session, &answer, Time::ZERO).unwrap();
            assert!(flush(&mut server, stream) > 0);
        });
        if round >= 10 {
            assert_eq!((post, events), (1, 0), "round {round}");
        }
    }
}

/// `core/src/server/tests/oracle.rs` compares the steps of the same requests; this test compares
/// their allocations.
#[test]
fn posts_answered_404_allocate_equally_for_every_reason() {
    let tokens = StaticTokens::builder().token("bob", "beta").token("alice", "alpha");
    let tokens = Authorization::Static(tokens.build().unwrap());
    let config = Config::builder().authorization(tokens).build().unwrap();
    let (mut server, _, _, others) = open(config);
    // Another session of alice, which has ended, so its slot is empty.
    let stream = server.accept(Peer::local(), Time::ZERO).unwrap();
    server.handle_input(stream, GET.as_bytes(), Time::ZERO);
    let head_and_endpoint = server.transmit(stream).chunks().collect::<Vec<_>>().concat();
    let head_and_endpoint = String::from_utf8(head_and_endpoint).unwrap();
    let ended = head_and_endpoint.split_once("session_id=").unwrap().1[..32].to_owned();
    server.handle_disconnect(stream, Time::ZERO);
    while server.poll_event().is_some() {}
    let unknown = format!("{}AAAA", &others[..28]);
    let malformed = format!("{}$", &others[..31]);
    let misrouted = format!("a2.{others}");
    // bob posts on one connection, whose buffers are warm after some rounds.
    let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
    for round in 0..20 {
        let mut counts = Vec::with_capacity(5);
        for target in [&others, &ended, &unknown, &malformed, &misrouted] {
            let request = format!(
                "POST /messages?session_id={target} HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\nAuthorization: Bearer beta\r\n\
                 Content-Length: 2\r\n\r\n{{}}"
            );
            let (count, ()) =
                allocations_in(|| server.handle_input(conn, request.as_bytes(), Time::ZERO));
            assert!(server.transmit(conn).chunks().next().unwrap().starts_with(b"HTTP/1.1 404 "));
            flush(&mut server, conn);
            counts.push(count);
        }
        // One allocation each for the answer, its body, and the name of the principal.
        assert!(round < 10 || counts == [3; 5], "{counts:?} in round {round}");
    }
}

#[test]
fn heartbeat_allocates_nothing() {
    let (mut server, stream, ..) = open(Config::default());
    for beat in 1..50_u64 {
        let now = Time::from_micros(beat * 15_000_000);
        let (allocations, len) = allocations_in(|| {
            server.handle_timeout(now);
            let len = server.transmit(stream).len();
            server.handle_written(stream, len, now);
            while server.poll_wake().is_some() {}
            len
        });
        assert_eq!(len, 7);
        if beat >= 10 {
            assert_eq!(allocations, 0, "beat {beat}");
        }
    }
}
