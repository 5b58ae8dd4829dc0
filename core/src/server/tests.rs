//! What a server does, seen from where its users stand: peers with sockets, and an application.
//!
//! [`Bench`] is the smallest driver there is, with a virtual clock. It obeys `interest` and looks at a
//! connection only when it has touched it or `poll_wake` has named it, and then holds what it
//! remembers against the present truth: a forgotten wake-up fails every test here. `Server::check`
//! runs after every method.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test wants one outcome and fails at the rest"
)]

mod admission;
mod authorize;
mod backpressure;
mod bodies;
mod cors;
mod deadlines;
mod exchange;
mod forwarding;
mod guard;
mod http;
mod identity;
mod instances;
mod limits;
mod lookup;
mod metrics;
mod metrics_page;
mod oracle;
mod output_budget;
mod post;
mod proxies;
mod rates;
mod records;
mod refuse;
mod restart;
mod secrecy;
mod segmentation;
mod services;
mod shutdown;
mod stream;
mod tokens;
mod walk;
mod work;

use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use core::time::Duration;

use super::Server;
use crate::config::{Config, ConfigBuilder};
use crate::event::{CloseReason, ConnId, Event, Interest, SessionId};
use crate::jsonrpc::Message;
use crate::limits::{Limits, Timeouts};
use crate::peer::Peer;
use crate::sse::{self, Frame};
use crate::testing::Random;
use crate::time::Time;

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// With other limits, and queues that have nothing of their own, so that their sums are plain.
pub(super) fn limited(change: impl FnOnce(&mut Limits)) -> ConfigBuilder {
    let mut limits = Limits { queue_reserve_bytes: 0, ..Limits::default() };
    change(&mut limits);
    // One body fits in any case, or there would be no such configuration.
    if let (Some(body), Some(bodies)) = (limits.body_bytes_max, limits.bodies_bytes_max) {
        limits.body_bytes_max = Some(body.min(bodies));
    }
    Config::builder().limits(limits)
}

pub(super) fn timed(change: impl FnOnce(&mut Timeouts)) -> ConfigBuilder {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    Config::builder().timeouts(timeouts)
}

pub(super) const GET: &str = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A post of `body` with these extra lines in its head.
pub(super) fn post_with(token: &str, fields: &str, body: &str) -> String {
    format!(
        "POST /messages?session_id={token} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(super) fn post(token: &str, body: &str) -> String {
    post_with(token, "", body)
}

pub(super) fn call(id: u32) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"n":[{id}]}}}}"#)
}

pub(super) fn reply(id: u32) -> Frame {
    Frame::message(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).as_bytes()).unwrap()
}

pub(super) fn note(text: &str) -> Frame {
    let json = format!(r#"{{"jsonrpc":"2.0","method":"note","params":"{text}"}}"#);
    Frame::message(json.as_bytes()).unwrap()
}

pub(super) const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/note"}"#;
pub(super) const RESULT: &str = r#"{"jsonrpc":"2.0","id":"s1","result":{}}"#;

/// A driver, its peers, and the clock on the wall of their room.
pub(super) struct Bench {
    pub(super) server: Server,
    pub(super) now: Time,
    wires: BTreeMap<ConnId, Wire>,
    look: VecDeque<ConnId>,
}

/// A socket and the peer behind it.
struct Wire {
    /// Slices that the peer has sent and the server has not read.
    sent: VecDeque<Vec<u8>>,
    fin: Fin,
    /// What each write brought to the peer.
    writes: Vec<Vec<u8>>,
    reading: bool,
    open: bool,
    /// What the driver believes.
    interest: Interest,
    /// Whether all queues together were full when it looked.
    queues_full: bool,
}

#[derive(PartialEq)]
enum Fin {
    No,
    Sent,
    Read,
}

/// A session as its client sees it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) conn: ConnId,
    pub(super) session: SessionId,
    pub(super) token: String,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Config::builder())
    }

    pub(super) fn with(config: ConfigBuilder) -> Self {
        Self::of(config.build().unwrap())
    }

    pub(super) fn of(config: Config) -> Self {
        let server = Server::new(config, Box::new(Random::seeded(7)), Time::ZERO);
        Self { server, now: Time::ZERO, wires: BTreeMap::new(), look: VecDeque::new() }
    }

    pub(super) fn connect(&mut self) -> ConnId {
        self.connect_from(Peer::local())
    }

    pub(super) fn connect_from(&mut self, peer: Peer) -> ConnId {
        let conn = self.server.accept(peer, self.now).unwrap();
        let interest = self.server.interest(conn);
        let wire = Wire {
            sent: VecDeque::new(),
            fin: Fin::No,
            writes: Vec::new(),
            reading: true,
            open: true,
            interest,
            queues_full: self.server.queues_full(),
        };
        self.wires.insert(conn, wire);
        conn
    }

    fn wire(&mut self, conn: ConnId) -> &mut Wire {
        self.wires.get_mut(&conn).unwrap()
    }

    // ── Peers. ──────────────────────────────────────────────────────────────────────────────────

    #[track_caller]
    pub(super) fn says(&mut self, conn: ConnId, bytes: impl AsRef<[u8]>) {
        self.says_in_pieces(conn, &[bytes.as_ref()]);
    }

    #[track_caller]
    pub(super) fn says_in_pieces(&mut self, conn: ConnId, pieces: &[&[u8]]) {
        let filled = pieces.iter().filter(|piece| !piece.is_empty());
        self.wire(conn).sent.extend(filled.map(|piece| piece.to_vec()));
        self.look.push_back(conn);
        self.pump();
    }

    /// The peer shuts its side down.
    #[track_caller]
    pub(super) fn fin(&mut self, conn: ConnId) {
        self.wire(conn).fin = Fin::Sent;
        self.look.push_back(conn);
        self.pump();
    }

    /// The connection breaks.
    #[track_caller]
    pub(super) fn reset(&mut self, conn: ConnId) {
        self.wire(conn).open = false;
        self.server.handle_disconnect(conn, self.now);
        self.pump();
    }

    /// Whether the peer takes what is written to it.
    #[track_caller]
    pub(super) fn set_reading(&mut self, conn: ConnId, reading: bool) {
        self.wire(conn).reading = reading;
        self.look.push_back(conn);
        self.pump();
    }

    /// The peer, which is not reading, takes `count` bytes nevertheless.
    #[track_caller]
    pub(super) fn takes(&mut self, conn: ConnId, count: usize) {
        let mut bytes: Vec<u8> = self.server.transmit(conn).chunks().flatten().copied().collect();
        bytes.truncate(count);
        self.server.handle_written(conn, bytes.len(), self.now);
        self.wire(conn).writes.push(bytes);
        self.look.push_back(conn);
        self.pump();
    }

    pub(super) fn is_open(&self, conn: ConnId) -> bool {
        self.wires[&conn].open
    }

    /// How many slices the server has not read yet.
    pub(super) fn unread(&self, conn: ConnId) -> usize {
        self.wires[&conn].sent.len()
    }

    /// Everything that was written to the peer.
    pub(super) fn heard(&self, conn: ConnId) -> Vec<u8> {
        self.wires[&conn].writes.concat()
    }

    pub(super) fn writes(&self, conn: ConnId) -> &[Vec<u8>] {
        &self.wires[&conn].writes
    }

    #[track_caller]
    pub(super) fn text(&self, conn: ConnId) -> String {
        String::from_utf8(self.heard(conn)).unwrap()
    }

    /// The answers that the peer got, none of them a stream.
    #[track_caller]
    pub(super) fn answers(&self, conn: ConnId) -> Vec<Answer> {
        read_answers(&self.heard(conn))
    }

    #[track_caller]
    pub(super) fn statuses(&self, conn: ConnId) -> Vec<u16> {
        self.answers(conn).iter().map(|answer| answer.status).collect()
    }

    /// Says something on a new connection, and reads the one answer.
    #[track_caller]
    pub(super) fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        let conn = self.connect();
        self.says(conn, request);
        let mut answers = self.answers(conn);
        assert_eq!(answers.len(), 1, "one answer: {answers:?}");
        answers.remove(0)
    }

    #[track_caller]
    pub(super) fn stream(&self, conn: ConnId) -> Stream {
        read_stream(&self.heard(conn))
    }

    /// The data of the message events that the peer got.
    #[track_caller]
    pub(super) fn messages(&self, conn: ConnId) -> Vec<String> {
        let events = self.stream(conn).events;
        assert_eq!(events[0].name, "endpoint");
        assert!(events[1..].iter().all(|event| event.name == "message"), "{events:?}");
        events[1..].iter().map(|event| event.data.clone()).collect()
    }

    /// Opens a session, and takes its event.
    #[track_caller]
    pub(super) fn open(&mut self) -> Client {
        let conn = self.connect();
        self.open_on(conn)
    }

    #[track_caller]
    pub(super) fn open_on(&mut self, conn: ConnId) -> Client {
        self.says(conn, GET);
        match self.events().as_slice() {
            &[Event::Opened { session, .. }] => {
                Client { conn, session, token: self.stream(conn).token() }
            }
            other => panic!("expected a new session: {other:?}"),
        }
    }

    // ── The application. ────────────────────────────────────────────────────────────────────────

    /// Polls one event, and serves the sockets.
    #[track_caller]
    pub(super) fn event(&mut self) -> Option<Event> {
        let event = self.server.poll_event();
        self.pump();
        event
    }

    /// Polls until there are no events.
    #[track_caller]
    pub(super) fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.event()).collect()
    }

    /// Polls until there are no events; all have to be messages.
    #[track_caller]
    pub(super) fn inbox(&mut self) -> Vec<Message> {
        let message = |event| match event {
            Event::Message { message, .. } => message,
            other => panic!("expected a message: {other:?}"),
        };
        self.events().into_iter().map(message).collect()
    }

    #[track_caller]
    pub(super) fn send(&mut self, session: SessionId, frame: &Frame) {
        self.server.send(session, frame, self.now).unwrap();
        self.pump();
    }

    /// What the events say about how sessions ended.
    #[track_caller]
    pub(super) fn closed(&mut self) -> Vec<(SessionId, CloseReason, u32)> {
        let closed = |event| match event {
            Event::Closed { session, reason, frames_undelivered } => {
                (session, reason, frames_undelivered)
            }
            other => panic!("expected an end: {other:?}"),
        };
        self.events().into_iter().map(closed).collect()
    }

    #[track_caller]
    pub(super) fn shutdown(&mut self) {
        self.server.shutdown(self.now);
        self.pump();
    }

    #[track_caller]
    pub(super) fn abort(&mut self) {
        self.server.abort(self.now);
        self.pump();
    }

    // ── The clock. ──────────────────────────────────────────────────────────────────────────────

    /// Lets time pass, from deadline to deadline. What is due at one time may take some calls, and not
    /// as many as this.
    #[track_caller]
    pub(super) fn wait(&mut self, interval: Duration) {
        const CALLS_MAX: u32 = 10_000;
        let end = self.now.saturating_add(interval);
        let mut calls = 0;
        while let Some(deadline) = self.server.poll_timeout().filter(|next| next.at <= end) {
            calls = if deadline.at > self.now { 0 } else { calls + 1 };
            assert!(calls < CALLS_MAX, "{deadline:?} stays due, whatever is done");
            self.now = self.now.max(deadline.at);
            self.server.handle_timeout(self.now);
            self.pump();
        }
        self.now = end;
    }

    // ── The driver. ─────────────────────────────────────────────────────────────────────────────

    #[track_caller]
    pub(super) fn pump(&mut self) {
        self.take_wakes();
        while let Some(conn) = self.look.pop_front() {
            if self.wires.get(&conn).is_some_and(|wire| wire.open) && self.step(conn) {
                self.look.push_back(conn);
            }
            self.take_wakes();
        }
        for (&conn, wire) in self.wires.iter().filter(|(_, wire)| wire.open) {
            let (believed, true_now) = (wire.interest, self.server.interest(conn));
            // Reading behind queued output depends on all queues together: see `poll_wake`.
            let writes = |interest| matches!(interest, Interest::Io { write: true, .. });
            let changed = wire.queues_full != self.server.queues_full();
            let same = believed == true_now || (changed && writes(believed) && writes(true_now));
            assert!(same, "{conn} was not woken: {believed:?}, {true_now:?}");
        }
    }

    fn take_wakes(&mut self) {
        while let Some(conn) = self.server.poll_wake() {
            self.look.push_back(conn);
        }
    }

    /// Does one thing for a connection, if there is one to do.
    fn step(&mut self, conn: ConnId) -> bool {
        let interest = self.server.interest(conn);
        let wire = self.wires.get_mut(&conn).unwrap();
        wire.interest = interest;
        wire.queues_full = self.server.queues_full();
        let (read, write) = match interest {
            Interest::Io { read, write } => (read, write),
            Interest::Linger => (true, false),
            Interest::Close => {
                wire.open = false;
                self.server.handle_disconnect(conn, self.now);
                return true;
            }
        };
        if write && wire.reading {
            let bytes = self.server.transmit(conn).chunks().flatten().copied().collect::<Vec<_>>();
            assert!(!bytes.is_empty(), "a write was wanted");
            let count = bytes.len();
            wire.writes.push(bytes);
            self.server.handle_written(conn, count, self.now);
        } else if let Some(slice) = wire.sent.front().filter(|_| read).cloned() {
            wire.sent.pop_front();
            self.server.handle_input(conn, &slice, self.now);
        } else if read && wire.fin == Fin::Sent {
            wire.fin = Fin::Read;
            self.server.handle_eof(conn, self.now);
        } else {
            return false;
        }
        true
    }
}

/// A response, as a naive reader has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            (field == name).then_some(value)
        })
    }

    pub(super) fn closes(&self) -> bool {
        self.field("Connection") == Some("close")
    }
}

/// Splits `bytes` at their first blank line.
fn split_head(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
    (String::from_utf8(bytes[..end].to_vec()).unwrap(), &bytes[end..])
}

#[track_caller]
fn read_answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = split_head(bytes);
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let len: usize = match answer.field("Content-Length") {
            Some(len) => len.parse().unwrap(),
            None => 0,
        };
        // The answer to a HEAD announces a body that does not come; in these tests it comes last.
        let len = if rest.is_empty() { 0 } else { len };
        answer.body = String::from_utf8(rest[..len].to_vec()).unwrap();
        answers.push(answer);
        bytes = &rest[len..];
    }
    answers
}

/// A response that is an event stream, as far as it has come.
pub(super) struct Stream {
    pub(super) head: String,
    pub(super) events: Vec<sse::DecodedEvent>,
    pub(super) comments: u64,
    /// The body without its chunks.
    pub(super) body: Vec<u8>,
    /// The terminating chunk has come.
    pub(super) ended: bool,
}

impl Stream {
    #[track_caller]
    pub(super) fn token(&self) -> String {
        self.events[0].data.split_once('=').unwrap().1.to_string()
    }
}

#[track_caller]
fn read_stream(bytes: &[u8]) -> Stream {
    let (head, rest) = split_head(bytes);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (body, ended) = if head.contains("Transfer-Encoding: chunked\r\n") {
        read_chunks(rest)
    } else {
        (rest.to_vec(), false)
    };
    let (mut decoder, mut events) = (sse::Decoder::new(1 << 24), Vec::new());
    decoder.feed(&body, &mut |event| events.push(event)).unwrap();
    Stream { head, events, comments: decoder.comments(), body, ended }
}

#[track_caller]
fn read_chunks(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = core::str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some(chunk) = bytes.get(end + 2..end + 2 + size) else { break };
        body.extend_from_slice(chunk);
        let Some(line_end) = bytes.get(end + 2 + size..end + 4 + size) else { break };
        assert_eq!(line_end, b"\r\n");
        bytes = &bytes[end + 4 + size..];
        if size == 0 {
            assert!(bytes.is_empty(), "something follows the terminating chunk");
            return (body, true);
        }
    }
    (body, false)
}
