//! Work for a counter of instructions: so many POSTs with their events, or so many GETs with their
//! sessions, on a bare server. `tests/instructions` runs it under callgrind twice, with different
//! numbers, and divides the difference; so what starting costs is not in the result.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use core::fmt::Write as _;
use std::env;

use mcp_sse_core::{
    Config, ConnId, Entropy, EntropyUnavailable, Event, Frame, Peer, Server, SessionId, Time,
};

struct Counter(u64);

impl Entropy for Counter {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        self.0 += 1;
        dest.fill(0);
        dest.iter_mut().zip(self.0.to_le_bytes()).for_each(|(to, from)| *to = from);
        Ok(())
    }
}

fn main() {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(what), Some(count)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: instructions post|get COUNT (see tests/instructions)");
        return;
    };
    let count: u64 = count.parse().expect("a number of requests");
    match what.as_str() {
        "post" => posts(count),
        "get" => gets(count),
        other => panic!("{other}: post or get"),
    }
}

fn server() -> Server {
    let mut server = Server::new(Config::default(), Box::new(Counter(0)), Time::ZERO);
    server.handle_wall_clock(784_111_777);
    server
}

/// Takes all bytes that wait for a connection, as a driver that writes them at once.
fn write_all(server: &mut Server, conn: ConnId) -> Vec<u8> {
    let bytes = server.transmit(conn).chunks().collect::<Vec<_>>().concat();
    server.handle_written(conn, bytes.len(), Time::ZERO);
    while server.poll_wake().is_some() {}
    bytes
}

fn written(server: &mut Server, conn: ConnId) -> usize {
    let len = server.transmit(conn).len();
    server.handle_written(conn, len, Time::ZERO);
    while server.poll_wake().is_some() {}
    len
}

fn open(server: &mut Server) -> (ConnId, SessionId, String) {
    let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
    server.handle_input(conn, GET, Time::ZERO);
    let head = String::from_utf8(write_all(server, conn)).unwrap();
    let (_, token) = head.split_once("session_id=").unwrap();
    let token = token[..32].to_owned();
    let Some(Event::Opened { session, .. }) = server.poll_event() else { panic!("no session") };
    (conn, session, token)
}

const GET: &[u8] = b"GET /sse HTTP/1.1\r\nHost: localhost:8000\r\nAccept: text/event-stream\r\n\
    Cache-Control: no-store\r\nUser-Agent: python-httpx/0.28.1\r\nAccept-Encoding: gzip, deflate\r\n\
    Connection: keep-alive\r\n\r\n";

/// A POST of 160 bytes of JSON, its 202, its event, and the answer on the stream.
fn posts(count: u64) {
    let mut server = server();
    let (stream, session, token) = open(&mut server);
    let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"search","arguments":{"query":"a word","limit":3},"_meta":{"progressToken":"p-7"}}}"#;
    let mut request = String::new();
    write!(
        request,
        "POST /messages?session_id={token} HTTP/1.1\r\nHost: localhost:8000\r\nAccept: */*\r\n\
         User-Agent: python-httpx/0.28.1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: keep-alive\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let answer = Frame::message(br#"{"jsonrpc":"2.0","id":7,"result":{}}"#).unwrap();
    for _ in 0..count {
        server.handle_input(conn, request.as_bytes(), Time::ZERO);
        assert!(written(&mut server, conn) > 0, "no 202");
        let Some(Event::Message { .. }) = server.poll_event() else { panic!("no message") };
        server.send(session, &answer, Time::ZERO).unwrap();
        assert!(written(&mut server, stream) > 0, "no event");
    }
}

/// A GET on a connection of its own, its session, and the end of both.
fn gets(count: u64) {
    let mut server = server();
    for _ in 0..count {
        let (conn, _, _) = open(&mut server);
        server.handle_disconnect(conn, Time::ZERO);
        while server.poll_event().is_some() {}
        while server.poll_wake().is_some() {}
    }
}
