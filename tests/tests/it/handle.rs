//! `Session` and `Handle`, with a real client at the other end.

use core::net::SocketAddr;
use std::sync::mpsc;

use mcp_sse_core::{
    Authorization, CloseReason, Config, Frame, HealthExtras, SendError, StaticTokens, Timeouts,
};
use mcp_sse_driver::{ReplaceTokensError, Session};
use mcp_sse_tests::adapter::{Adapter, HandlerThread, Listen, RunningServer};
use mcp_sse_tests::client::{Client, Stream, StreamItem, call};
use mcp_sse_tests::{PATIENCE, finish, for_each_adapter, handlers, wait_until};

use crate::limits;

for_each_adapter!(
    send_waits_for_a_client_that_does_not_read,
    frames_reach_a_reader_among_stalled_clients,
    post_waits_until_the_application_receives,
    dropped_or_closed_session_ends_in_order,
    accepted_messages_are_received_after_the_end,
    broadcast_counts_queued_and_full_sessions,
    session_knows_its_request_and_hides_its_token,
    senders_keep_their_session_open,
    flooded_client_reads_beside_stalled_ones,
    health_extras_are_in_the_responses,
    replaced_tokens_end_sessions_on_every_worker,
    tokens_of_a_server_without_static_tokens_cannot_be_replaced,
);

fn note(n: usize) -> Frame {
    note_with(n, "")
}

fn note_with(n: usize, text: &str) -> Frame {
    let text = format!(r#"{{"jsonrpc":"2.0","method":"n","params":[{n},"{text}"]}}"#);
    Frame::message(text.as_bytes()).expect("JSON")
}

#[track_caller]
fn number(text: &str) -> usize {
    let message: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let number = message.pointer("/params/0").and_then(serde_json::Value::as_u64);
    usize::try_from(number.expect("a number")).expect("an index")
}

/// A server that gives its sessions to the test.
struct HandleFixture {
    server: RunningServer,
    sessions: mpsc::Receiver<Session>,
}

impl HandleFixture {
    #[track_caller]
    fn everywhere(on: &Adapter, config: &Config, test: impl Fn(&Self)) {
        for handler_thread in HandlerThread::ALL {
            let (sender, sessions) = mpsc::channel();
            let handler = handlers::give(sender);
            let server =
                RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config.clone(), handler);
            test(&Self { server, sessions });
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    #[track_caller]
    fn open(&self) -> (Stream, Session) {
        let stream = Stream::open(self.address());
        (stream, self.sessions.recv_timeout(PATIENCE).expect("a session"))
    }

    /// Sends until the queue is full and no more bytes are written. Returns how many frames were
    /// sent.
    #[track_caller]
    fn fill(&self, session: &Session, text: &str) -> usize {
        let (mut sent, mut still) = (0, 0);
        let mut bytes_sent = 0;
        while still < 50 {
            match session.try_send(note_with(sent, text)) {
                Ok(()) => {
                    sent += 1;
                    still = 0;
                }
                Err(SendError::Full) => {
                    // The server has taken a turn when this is answered.
                    let metrics = self.server.metrics();
                    still = if metrics.bytes_sent == bytes_sent { still + 1 } else { 0 };
                    bytes_sent = metrics.bytes_sent;
                }
                Err(error) => panic!("after {sent}: {error}"),
            }
            assert!(sent < 100_000, "the queue has no end");
        }
        sent
    }
}

#[track_caller]
fn closed(session: &Session, reason: CloseReason) -> u32 {
    wait_until("the session ends", || session.closed().is_some());
    let closed = session.closed().expect("closed");
    assert_eq!(closed.reason, reason);
    closed.frames_undelivered
}

fn send_waits_for_a_client_that_does_not_read(on: &Adapter) {
    let config = limits(|l| l.queue_bytes_max = Some(64 << 10)).build().expect("good");
    HandleFixture::everywhere(on, &config, |fixture| {
        let (mut stream, session) = fixture.open();
        let (mut other, other_session) = fixture.open();
        let text = "x".repeat(16 << 10);
        let sent = fixture.fill(&session, &text);
        assert!(sent > 4, "{sent}");
        assert_eq!(session.try_send(note(0)), Err(SendError::Full));
        // `send` waits,
        let mut waiting = Box::pin(session.send(note_with(sent, &text)));
        let polled = futures_lite::future::block_on(futures_lite::future::poll_once(&mut waiting));
        assert_eq!(polled, None, "there is no room");
        // other sessions do not,
        finish("another's room", other_session.send(note(7))).expect("a stream");
        assert_eq!(number(&other.message()), 7);
        // and it continues when the client reads.
        for n in 0..sent {
            assert_eq!(number(&stream.message()), n);
        }
        finish("room", waiting).expect("a stream");
        assert_eq!(number(&stream.message()), sent);
        session.try_send(note(sent + 1)).expect("room");
        assert_eq!(number(&stream.message()), sent + 1);
        drop(session);
        stream.expect_end();
    });
}

/// The reader gets its frames by its own reserve, and because a stalled session is ended for it.
fn frames_reach_a_reader_among_stalled_clients(on: &Adapter) {
    const IDLE: usize = 6;
    let config = limits(|limits| {
        limits.queue_bytes_max = Some(256 << 10);
        limits.queues_bytes_max = Some(512 << 10);
    });
    let config = config.timeouts(Timeouts { stall: None, ..Timeouts::default() });
    HandleFixture::everywhere(on, &config.build().expect("good"), |fixture| {
        let text = "x".repeat(16 << 10);
        let idle: Vec<_> = (0..IDLE)
            .map(|_| {
                let client = Client::connect_with_receive_buffer(fixture.address(), 4 << 10);
                let request = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
                let stream = Stream::open_on(client, fixture.address(), request);
                (stream, fixture.sessions.recv_timeout(PATIENCE).expect("a session"))
            })
            .collect();
        for (_, session) in &idle {
            // Until no more bytes are written, or until the session is ended, if that takes too
            // long.
            let mut still = 0;
            while still < 50 {
                match session.try_send(note_with(0, &text)) {
                    Ok(()) => still = 0,
                    Err(SendError::Full) => {
                        let _ = fixture.server.metrics();
                        still += 1;
                    }
                    Err(_) => break,
                }
            }
        }
        let (mut stream, session) = fixture.open();
        for (n, text) in [(7, &text[..8 << 10]), (8, &text.repeat(8))] {
            finish("room", session.send(note_with(n, text))).expect("a stream");
            assert_eq!(number(&stream.message()), n);
        }
        let ended = idle.iter().filter_map(|(_, session)| session.closed());
        let reasons: Vec<_> = ended.map(|closed| closed.reason).collect();
        assert!(!reasons.is_empty() && reasons.iter().all(|r| *r == CloseReason::Stalled));
    });
}

fn post_waits_until_the_application_receives(on: &Adapter) {
    let config = limits(|l| l.inbound_messages_max = Some(6)).build().expect("good");
    HandleFixture::everywhere(on, &config, |fixture| {
        let (mut stream, mut session) = fixture.open();
        for n in 0..6 {
            assert_eq!(stream.post(&call(n, "[]")).status, 202, "{n}");
        }
        // One post too many is queued and not refused, and is delivered when one message was
        // received.
        let mut held = Client::connect(fixture.address());
        held.send(stream.post_request(&call(6, "[]")));
        wait_until("a post is held", || fixture.server.metrics().posts_held == 1);
        assert!(!held.has_input());
        let mut receive =
            || finish("a message", session.recv()).expect("a message").text().to_owned();
        assert_eq!(receive(), call(0, "[]"));
        assert_eq!(held.response().status, 202);
        for n in 1..=6 {
            assert_eq!(receive(), call(n, "[]"));
        }
    });
}

fn dropped_or_closed_session_ends_in_order(on: &Adapter) {
    let check = |case: &str, end: fn(Session) -> Option<Session>| {
        HandleFixture::everywhere(on, &Config::default(), |fixture| {
            let (mut stream, session) = fixture.open();
            for n in 0..100 {
                finish("room", session.send(note(n))).expect("a stream");
            }
            let endpoint = stream.endpoint.clone();
            let kept = end(session);
            for n in 0..100 {
                assert_eq!(number(&stream.message()), n, "{case}");
            }
            stream.expect_end();
            // The session's token is unknown now.
            let post = mcp_sse_tests::client::post_request(&endpoint, &call(1, "[]"));
            let mut client = Client::connect(fixture.address());
            assert_eq!(client.ask(post).status, 404, "{case}");
            if let Some(mut session) = kept {
                assert_eq!(closed(&session, CloseReason::Application), 0, "{case}");
                assert_eq!(session.try_send(note(1)), Err(SendError::Gone), "{case}");
                let sent = finish("an answer", session.send(note(1)));
                assert_eq!(sent, Err(SendError::Gone), "{case}");
                assert!(finish("the end", session.recv()).is_none(), "{case}");
            }
            let metrics = fixture.server.metrics();
            assert_eq!((metrics.sessions_closed, metrics.frames_sent), (1, 100), "{case}");
        });
    };
    check("dropped", |session| {
        drop(session);
        None
    });
    check("closed", |session| {
        session.close();
        assert_eq!(session.try_send(note(0)), Err(SendError::Gone));
        Some(session)
    });
}

fn accepted_messages_are_received_after_the_end(on: &Adapter) {
    HandleFixture::everywhere(on, &Config::default(), |fixture| {
        let (mut stream, mut session) = fixture.open();
        for n in 0..30 {
            assert_eq!(stream.post(&call(n, "[]")).status, 202, "{n}");
        }
        drop(stream);
        closed(&session, CloseReason::Peer);
        for n in 0..30 {
            let message = finish("a message", session.recv()).expect("a message");
            assert_eq!(message.text(), call(n, "[]"));
        }
        assert!(finish("the end", session.recv()).is_none());
    });
}

fn broadcast_counts_queued_and_full_sessions(on: &Adapter) {
    let config = limits(|l| l.queue_bytes_max = Some(64 << 10)).build().expect("good");
    HandleFixture::everywhere(on, &config, |fixture| {
        let reach = |frame| {
            let reach =
                finish("a broadcast", fixture.server.handle().broadcast(frame)).expect("runs");
            (reach.queued, reach.full, reach.gone)
        };
        assert_eq!(reach(note(0)), (0, 0, 0));
        let (mut a, _a) = fixture.open();
        let (mut b, _b) = fixture.open();
        let (mut c, _c) = fixture.open();
        assert_eq!(reach(note(1)), (3, 0, 0));
        for stream in [&mut a, &mut b, &mut c] {
            assert_eq!(number(&stream.message()), 1);
        }
        // A client that does not read is skipped, and delays no other.
        let (mut slow, slow_session) = fixture.open();
        let sent = fixture.fill(&slow_session, &"x".repeat(16 << 10));
        let large = note_with(2, &"y".repeat(60 << 10));
        assert_eq!(reach(large), (3, 1, 0));
        for stream in [&mut a, &mut b, &mut c] {
            assert_eq!(number(&stream.message()), 2);
        }
        for n in 0..sent {
            assert_eq!(number(&slow.message()), n);
        }
        drop(slow_session);
        slow.expect_end();
        drop(c);
        wait_until("one leaves", || fixture.server.metrics().sessions_open() == 2);
        assert_eq!(reach(note(3)), (2, 0, 0));
        // An HTTP/1.0 stream among them gets the same frame without a chunk.
        let mut old = Stream::open_with(fixture.address(), "GET /sse HTTP/1.0\r\n\r\n");
        let old_session = fixture.sessions.recv_timeout(PATIENCE).expect("a session");
        assert_eq!(reach(note(4)), (3, 0, 0));
        assert_eq!(number(&old.message()), 4);
        drop(old_session);
        assert_eq!(old.next_item(), StreamItem::End);
    });
}

fn session_knows_its_request_and_hides_its_token(on: &Adapter) {
    HandleFixture::everywhere(on, &Config::default(), |fixture| {
        let request = "GET /sse?q=1 HTTP/1.1\r\nHost: localhost\r\nX-Mine:  a b \r\n\r\n";
        let stream = Stream::open_with(fixture.address(), request);
        let session = fixture.sessions.recv_timeout(PATIENCE).expect("a session");
        assert_eq!(session.head().path(), "/sse");
        assert_eq!(session.head().field("x-mine"), Some(&b"a b"[..]));
        assert_eq!(session.principal(), None);
        assert_eq!(session.closed(), None);
        let (_other, other_session) = fixture.open();
        assert_ne!(session.id(), other_session.id());
        let printed = format!("{session:?} {:?} {:?}", session.sender(), fixture.server.handle());
        assert!(!printed.contains(stream.token()), "a secret: {printed}");
    });
}

fn senders_keep_their_session_open(on: &Adapter) {
    HandleFixture::everywhere(on, &Config::default(), |fixture| {
        let (mut stream, session) = fixture.open();
        let senders: Vec<_> = (0..8).map(|_| session.sender()).collect();
        drop(session);
        std::thread::scope(|scope| {
            for (n, sender) in senders.into_iter().enumerate() {
                scope.spawn(move || {
                    for k in 0..50 {
                        finish("room", sender.send(note(n * 100 + k))).expect("a stream");
                    }
                });
            }
            let mut next = [0; 8];
            for _ in 0..8 * 50 {
                let number = number(&stream.message());
                let (n, k) = (number / 100, number % 100);
                assert_eq!(next[n], k, "sender {n}");
                next[n] += 1;
            }
        });
        // The last sender was dropped with its thread.
        stream.expect_end();
    });
}

fn flooded_client_reads_beside_stalled_ones(on: &Adapter) {
    let server = RunningServer::start(on, Config::default(), handlers::flood(4 << 10));
    // These clients do not read.
    let _unread: Vec<_> = (0..3).map(|_| Stream::open(server.address())).collect();
    let mut stream = Stream::open(server.address());
    for _ in 0..2_000 {
        assert!(stream.message().len() > 4 << 10);
    }
}

fn health_extras_are_in_the_responses(on: &Adapter) {
    HandleFixture::everywhere(on, &Config::default(), |fixture| {
        let (_stream, session) = fixture.open();
        let probe = |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            Client::connect(fixture.address()).ask(request)
        };
        session
            .server()
            .set_health_extras(HealthExtras::new().gauge("children", 3).not_ready("no child"));
        wait_until("it is told", || probe("/ready").status == 503);
        assert!(probe("/health").text().contains(r#""children":3"#));
        session.server().set_health_extras(HealthExtras::new());
        wait_until("it is taken back", || probe("/ready").status == 200);
    });
}

fn tokens(all: &[(&str, &str)]) -> StaticTokens {
    let tokens = all
        .iter()
        .fold(StaticTokens::builder(), |tokens, (principal, token)| tokens.token(principal, token));
    tokens.build().expect("valid tokens")
}

fn get(token: &str) -> String {
    format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
}

fn replaced_tokens_end_sessions_on_every_worker(on: &Adapter) {
    for workers in [1, 3] {
        let (old, kept) = (("alice", "old"), ("alice", "kept"));
        let authorization = Authorization::Static(tokens(&[old, kept]));
        let config = Config::builder().authorization(authorization).build().expect("valid");
        let (sender, sessions) = mpsc::channel();
        let server = RunningServer::try_start_workers(
            on,
            Listen::Bind(SocketAddr::from(([127, 0, 0, 1], 0))),
            workers,
            HandlerThread::Local,
            config,
            handlers::give(sender),
        );
        let server = server.expect("a server");
        let open = |token| Stream::open_with(server.address(), &get(token));
        let mut ending: Vec<Stream> = (0..12).map(|_| open("old")).collect();
        let staying: Vec<Stream> = (0..12).map(|_| open("kept")).collect();
        let sessions: Vec<Session> =
            (0..24).map(|_| sessions.recv_timeout(PATIENCE).expect("a session")).collect();
        let replaced = server.handle().replace_tokens(tokens(&[kept, ("bob", "new")]));
        assert_eq!(finish("new tokens", replaced), Ok(()));
        ending.iter_mut().for_each(Stream::expect_end);
        let ended = |session: &&Session| session.closed().is_some();
        wait_until("their sessions have ended", || sessions.iter().filter(ended).count() == 12);
        for session in sessions.iter().filter(ended) {
            let closed = session.closed().expect("it has ended");
            assert_eq!(closed.reason, CloseReason::TokenRemoved);
        }
        assert_eq!(server.metrics().sessions_open(), staying.len() as u64);
        for (token, status) in [("old", 401), ("kept", 200), ("new", 200)] {
            let mut client = Client::connect(server.address());
            client.send(get(token));
            assert_eq!(client.head().status, status, "{token}");
        }
        server.abort();
    }
}

fn tokens_of_a_server_without_static_tokens_cannot_be_replaced(on: &Adapter) {
    let mut server = RunningServer::start(on, Config::default(), handlers::echo());
    let replace = |server: &RunningServer| {
        finish("a reply", server.handle().replace_tokens(tokens(&[("alice", "one")])))
    };
    assert_eq!(replace(&server), Err(ReplaceTokensError::NoStaticTokens));
    server.shutdown();
    server.wait_for_end();
    assert_eq!(replace(&server), Err(ReplaceTokensError::Stopped));
}
