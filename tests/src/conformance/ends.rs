//! Clients that end a connection, in order or by a reset, at any point.
//!
//! Deadlines that would close the connection too are off, so a test fails if the adapter does not
//! notice the end.

use core::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use mcp_sse_core::{CloseReason, Config, Fault, Frame, SendError};
use mcp_sse_driver::Session;

use crate::adapter::{Adapter, Fixture, HandlerThread, RunningServer};
use crate::client::{Client, Stream, call, post_request};
use crate::{PATIENCE, finish, handlers, wait_until};

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerEnd {
    /// It shuts down its side, and reads to the end.
    InOrder,
    /// It resets the connection, which discards what was in transit.
    Reset,
}

impl PeerEnd {
    const BOTH: [Self; 2] = [Self::InOrder, Self::Reset];

    /// Ends the connection, and expects nothing but its end.
    #[track_caller]
    fn close_quietly(self, mut client: Client) {
        match self {
            Self::InOrder => {
                client.end();
                client.expect_end();
            }
            Self::Reset => client.reset(),
        }
    }
}

const READY: &[u8] = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server without deadlines that gives messages to the test, and a session on it.
struct EndsFixture {
    server: RunningServer,
    stream: Stream,
}

impl EndsFixture {
    fn messages(on: &Adapter) -> (Self, mpsc::Receiver<String>) {
        let (sender, messages) = mpsc::channel();
        let server = RunningServer::start(on, without_deadlines(), handlers::record(sender));
        let stream = Stream::open(server.address());
        (Self { server, stream }, messages)
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Opens a connection, sends `bytes`, and waits until the server has read them.
    #[track_caller]
    fn send(&self, bytes: &[u8]) -> Client {
        let before = self.server.metrics();
        let mut client = Client::connect(self.address());
        client.send(bytes);
        wait_until("it is read", || {
            let metrics = self.server.metrics();
            metrics.connections_accepted > before.connections_accepted
                && metrics.bytes_received == before.bytes_received + bytes.len() as u64
        });
        client
    }

    /// Waits until the session's connection is the only one.
    #[track_caller]
    fn wait_until_alone(&self, case: &str) {
        wait_until(case, || self.server.metrics().connections_open() == 1);
    }
}

/// A configuration without input and stall deadlines.
fn without_deadlines() -> Config {
    crate::timeouts(|t| {
        (t.head, t.body, t.idle, t.linger, t.stall, t.hold) = (None, None, None, None, None, None);
    })
    .build()
    .expect("good")
}

/// Connections without a request in progress.
pub fn end_between_requests_closes_the_connection(on: &Adapter) {
    let (fixture, _messages) = EndsFixture::messages(on);
    for end in PeerEnd::BOTH {
        end.close_quietly(fixture.send(b""));
        fixture.wait_until_alone("nothing was said");
        // Empty lines before a request are no request.
        end.close_quietly(fixture.send(b"\r\n"));
        fixture.wait_until_alone("next to nothing was said");
        let mut client = fixture.send(READY);
        assert_eq!(client.response().status, 200);
        end.close_quietly(client);
        fixture.wait_until_alone("everything was answered");
    }
    assert_eq!(fixture.server.metrics().fault(Fault::Truncated), 0);
}

/// A request that is cut short is neither executed nor answered.
pub fn request_cut_short_is_not_executed(on: &Adapter) {
    const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[]}"#;
    let (fixture, messages) = EndsFixture::messages(on);
    let post = fixture.stream.post_request(BODY);
    let chunked = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{BODY}\r\n0\r\n",
        fixture.stream.endpoint,
        BODY.len()
    );
    // Cuts in the head, after it, and in the body.
    let head = post.len() - BODY.len();
    let cuts: Vec<_> = (1..post.len()).step_by(7).chain([head, post.len() - 1]).collect();
    for end in PeerEnd::BOTH {
        let before = fixture.server.metrics().fault(Fault::Truncated);
        for &cut in &cuts {
            end.close_quietly(fixture.send(&post[..cut]));
        }
        end.close_quietly(fixture.send(chunked.as_bytes()));
        fixture.wait_until_alone("requests are cut short");
        let truncated = fixture.server.metrics().fault(Fault::Truncated) - before;
        assert_eq!(truncated, if end == PeerEnd::InOrder { cuts.len() as u64 + 1 } else { 0 });
    }
    // Nothing was executed: the first message is this one.
    let last = call(2, "{}");
    assert_eq!(
        Client::connect(fixture.address()).ask(fixture.stream.post_request(&last)).status,
        202
    );
    assert_eq!(messages.recv_timeout(PATIENCE), Ok(last));
}

/// A client that ends its side after a request is answered; after a reset the connection ends.
pub fn end_after_complete_requests_is_answered(on: &Adapter) {
    let (fixture, messages) = EndsFixture::messages(on);
    let post = |n: u32| fixture.stream.post_request(&call(n, "{}"));
    // The end arrives together with the requests, or after them.
    let requests = [post(1), READY.to_vec(), post(2)].concat();
    let mut client = Client::connect(fixture.address());
    client.send(&requests);
    client.end();
    for status in [202, 200, 202] {
        assert_eq!(client.response().status, status);
    }
    client.expect_end();
    for n in [1, 2] {
        assert_eq!(messages.recv_timeout(PATIENCE), Ok(call(n, "{}")));
    }
    // The client resets before it has read the responses.
    fixture.send(&requests).reset();
    fixture.wait_until_alone("a peer that asks and is gone");

    // While a post is queued, its connection is not read.
    for end in PeerEnd::BOTH {
        let (sender, sessions) = mpsc::channel();
        let mut config = without_deadlines();
        config = crate::limits(|l| l.inbound_messages_max = Some(1))
            .timeouts(config.timeouts().clone())
            .build()
            .expect("good");
        let server = RunningServer::start(on, config, handlers::give(sender));
        let stream = Stream::open(server.address());
        let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
        let fixture = EndsFixture { server, stream };
        assert_eq!(
            fixture.send(&fixture.stream.post_request(&call(1, "{}"))).response().status,
            202
        );
        let mut held = fixture.send(&fixture.stream.post_request(&call(2, "{}")));
        wait_until("a post is held", || fixture.server.metrics().posts_held == 1);
        let held = match end {
            PeerEnd::InOrder => {
                held.end();
                Some(held)
            }
            PeerEnd::Reset => {
                held.reset();
                None
            }
        };
        let mut receive =
            || finish("a message", session.recv()).expect("a message").text().to_owned();
        assert_eq!(receive(), call(1, "{}"));
        if let Some(mut held) = held {
            assert_eq!(held.response().status, 202);
            held.expect_end();
            assert_eq!(receive(), call(2, "{}"));
        }
        fixture.wait_until_alone("its post was held");
        let mut last = fixture.send(&fixture.stream.post_request(&call(3, "{}")));
        // Its connection was not read, so the reset may be noticed before or after the post was
        // delivered.
        let next = receive();
        assert!(next == call(3, "{}") || (end == PeerEnd::Reset && receive() == call(3, "{}")));
        assert_eq!(last.response().status, 202);
    }
}

/// Connections that are read only so that the client can read the refusal.
pub fn end_after_a_refusal_closes_the_connection(on: &Adapter) {
    let (fixture, _messages) = EndsFixture::messages(on);
    for end in PeerEnd::BOTH {
        // A body that is small enough to be discarded, so that the connection stays open.
        let passed = "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhello";
        let mut client = fixture.send(passed.as_bytes());
        assert_eq!(client.response().status, 404);
        end.close_quietly(client);
        fixture.wait_until_alone("passing over a body");
        // The server has shut down its side and lingers, here without a deadline.
        let mut client = fixture.send(b"\x16\x03\x01");
        assert_eq!(client.response().status, 400);
        client.expect_end();
        let open = fixture.server.metrics().connections_open();
        assert_eq!(open, 2, "it lingers");
        end.close_quietly(client);
        fixture.wait_until_alone("lingering");
    }
}

/// The client writes everything before it reads; a reset must not overtake the response.
pub fn large_post_reads_its_413_before_the_close(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let stream = Stream::open(fixture.server.address());
    let body = "x".repeat(5 << 20);
    for _ in 0..3 {
        let mut client = Client::connect(fixture.server.address());
        client.send(post_request(&stream.endpoint, &body));
        let response = client.response();
        assert_eq!(response.status, 413, "{response:?}");
        assert_eq!(response.field("Connection"), Some("close"));
        client.expect_end();
        fixture.other_session.check_alive("a post of 5 MiB");
    }
    // The same on paths that accept no body.
    for (path, status) in [("/sse", 405), ("/x", 404)] {
        let mut client = Client::connect(fixture.server.address());
        client.send(post_request(path, &body));
        assert_eq!(client.response().status, status, "{path}");
        client.expect_end();
    }
    fixture.other_session.check_alive("posts of 5 MiB");
}

/// A stream without queued frames.
pub fn end_of_idle_stream_closes_its_session(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let (sender, sessions) = mpsc::channel();
        let handler = handlers::give(sender);
        let server = RunningServer::start_at(
            on,
            "127.0.0.1:0",
            handler_thread,
            without_deadlines(),
            handler,
        );
        let mut keep = Stream::open(server.address());
        let keep_session = sessions.recv_timeout(PATIENCE).expect("a session");
        let check = |case: &str, end: fn(Stream, &Session)| {
            let before = server.metrics();
            let stream = Stream::open(server.address());
            let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
            assert_eq!(server.metrics().sessions_open(), 2, "{case}");
            end(stream, &session);
            wait_until(case, || server.metrics().connections_open() == 1);
            assert_eq!(server.metrics().sessions_closed, before.sessions_closed + 1, "{case}");
            assert_eq!(closed(&session), 0, "{case}");
            assert!(finish("the end", session.recv()).is_none(), "{case}");
            assert_eq!(session.try_send(note()), Err(SendError::Gone), "{case}");
        };
        check("closed", |stream, _| drop(stream));
        check("write side shut", |mut stream, _| {
            stream.client.end();
            stream.client.wait_for_end();
        });
        check("reset", |stream, _| stream.client.reset());
        check("reset, with a frame unread", |mut stream, session| {
            session.try_send(note()).expect("room");
            assert_eq!(stream.client.read_once().last(), Some(&b'\n'));
            stream.client.reset();
        });
        // The first session is not affected.
        keep_session.try_send(note()).expect("room");
        assert_eq!(keep.message(), "{}");
    }
}

/// A stream with more queued frames than its socket accepts, and a handler that waits for room. The
/// end comes behind frames that are not read.
pub fn end_of_stream_with_queued_frames_reports_them_lost(on: &Adapter) {
    for (handler_thread, end) in
        HandlerThread::ALL.into_iter().flat_map(|p| PeerEnd::BOTH.map(|end| (p, end)))
    {
        let (sender, sessions) = mpsc::channel();
        let handler = handlers::give(sender);
        let server = RunningServer::start_at(
            on,
            "127.0.0.1:0",
            handler_thread,
            without_deadlines(),
            handler,
        );
        let mut keep = Stream::open(server.address());
        let keep_session = sessions.recv_timeout(PATIENCE).expect("a session");
        // A small receive window, which is full soon.
        let request = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let client = Client::connect_with_receive_buffer(server.address(), 4 << 10);
        let stream = Stream::open_on(client, server.address(), request);
        let session = sessions.recv_timeout(PATIENCE).expect("a session");
        let text = format!("\"{}\"", "x".repeat(64 << 10));
        let frame = handlers::response("1", &text);
        let flooding = thread::spawn(move || {
            let mut sent = 0;
            while finish("room, or an end", session.send(frame.clone())).is_ok() {
                sent += 1;
            }
            (session, sent)
        });
        let mut still = 0;
        let mut bytes_sent = 0;
        wait_until("it is full", || {
            let metrics = server.metrics();
            let same = core::mem::replace(&mut bytes_sent, metrics.bytes_sent) == bytes_sent;
            still = if same && metrics.frames_queued > 10 { still + 1 } else { 0 };
            still > 50
        });
        let mut client = stream.client;
        let unread = match end {
            PeerEnd::Reset => {
                client.reset();
                None
            }
            PeerEnd::InOrder => {
                client.end();
                Some(client)
            }
        };
        let (session, sent) = flooding.join().expect("it is told");
        let lost = u64::from(closed(&session));
        assert!(lost > 0, "{end:?}");
        let metrics = server.metrics();
        assert_eq!(lost + metrics.frames_sent, sent, "{end:?}: {metrics:?}");
        wait_until("its connection ends", || server.metrics().connections_open() == 1);
        drop(unread);
        keep_session.try_send(note()).expect("room");
        assert_eq!(keep.message(), "{}");
    }
}

fn note() -> Frame {
    Frame::message(b"{}").expect("JSON")
}

/// Waits until the session was ended by its client. Returns how many frames were lost.
#[track_caller]
fn closed(session: &Session) -> u32 {
    wait_until("the session ends", || session.closed().is_some());
    let closed = session.closed().expect("closed");
    assert_eq!(closed.reason, CloseReason::Peer);
    closed.frames_undelivered
}
