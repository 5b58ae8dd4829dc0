//! Shutdown within the grace, abort, and a dropped serve future.

use core::time::Duration;
use std::sync::mpsc;
use std::time::Instant;

use mcp_sse_core::{CloseReason, Config, Frame, Limits, Timeouts};
use mcp_sse_driver::{Session, Stopped};

use crate::adapter::{Adapter, HandlerThread, RunningServer, handler};
use crate::client::{Client, Stream, answer, call};
use crate::{PATIENCE, finish, handlers, timeouts, wait_until};

fn with_grace(grace: Option<Duration>) -> Config {
    timeouts(|t| t.shutdown_grace = grace).build().expect("good")
}

const LONG: Option<Duration> = Some(Duration::from_secs(3_600));

/// Connections and sessions without a request in progress end at once.
pub fn shutdown_ends_idle_streams_at_once(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let config = with_grace(LONG);
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handlers::echo());
        let mut streams: Vec<_> = (0..50).map(|_| Stream::open(server.address())).collect();
        let mut keep_alive = Client::connect(server.address());
        let ready = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(keep_alive.ask(ready).status, 200);
        let mut silent = Client::connect(server.address());
        wait_until("all are there", || server.metrics().connections_open() == 52);
        server.shutdown();
        for stream in &mut streams {
            stream.expect_end();
        }
        keep_alive.expect_end();
        silent.expect_end();
        server.wait_for_end();
        // The listening socket is closed.
        assert!(std::net::TcpStream::connect_timeout(&server.address(), PATIENCE).is_err());
        assert_eq!(finish("an answer", server.handle().metrics()), Err(Stopped));
        let note = Frame::message(b"{}").expect("JSON");
        assert_eq!(finish("an answer", server.handle().broadcast(note)), Err(Stopped));
    }
}

/// Frames for a client that does not read are lost at the end of the grace, and not earlier.
pub fn stalled_reader_is_cut_after_shutdown_grace(on: &Adapter) {
    let grace = Duration::from_millis(300);
    for handler_thread in HandlerThread::ALL {
        let (sender, sessions) = mpsc::channel();
        let config = with_grace(Some(grace));
        let handler = handlers::give(sender);
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handler);
        let mut stream = Stream::open(server.address());
        let session = sessions.recv_timeout(PATIENCE).expect("a session");
        let mut idle = Stream::open(server.address());
        let idle_session = sessions.recv_timeout(PATIENCE).expect("a session");
        // One frame that is larger than the socket's buffers.
        let text = format!("[\"{}\"]", "x".repeat(30 << 20));
        let large = handlers::response("1", &text);
        finish("room", session.send(large)).expect("a stream");
        wait_until("it is on its way", || server.metrics().frames_queued == 1);
        let start = Instant::now();
        server.shutdown();
        idle.expect_end();
        server.wait_for_end();
        assert!(start.elapsed() >= grace, "{:?}", start.elapsed());
        let closed = session.closed().expect("closed");
        assert_eq!((closed.reason, closed.frames_undelivered), (CloseReason::Shutdown, 1));
        let closed = idle_session.closed().expect("closed");
        assert_eq!((closed.reason, closed.frames_undelivered), (CloseReason::Shutdown, 0));
        stream.client.wait_for_end();
    }
}

/// A hundred streams whose clients do not read, each with one frame larger than the socket's
/// buffers. No timeout but the grace can end them.
struct StalledReaders {
    streams: Vec<Stream>,
    sessions: Vec<Session>,
}

impl StalledReaders {
    const COUNT: usize = 100;

    fn config(grace: Option<Duration>) -> Config {
        let limits = Limits { queues_bytes_max: None, ..Limits::default() };
        let timeouts = Timeouts {
            heartbeat: None,
            stall: None,
            stall_when_full: None,
            shutdown_grace: grace,
            ..Timeouts::default()
        };
        Config::builder().limits(limits).timeouts(timeouts).build().expect("good")
    }

    /// Opens the streams on a server whose handler gives its sessions to `sessions`.
    fn open(server: &RunningServer, sessions: &mpsc::Receiver<Session>) -> Self {
        let open = |_| {
            let client = Client::connect_with_receive_buffer(server.address(), 4 << 10);
            let request = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
            Stream::open_on(client, server.address(), request)
        };
        let streams: Vec<_> = (0..Self::COUNT).map(open).collect();
        let take = |_| sessions.recv_timeout(PATIENCE).expect("a session");
        let sessions: Vec<_> = (0..Self::COUNT).map(take).collect();
        let large = handlers::response("1", &format!("[\"{}\"]", "x".repeat(16 << 20)));
        for session in &sessions {
            finish("room", session.send(large.clone())).expect("a stream");
        }
        let all = Self::COUNT as u64;
        wait_until("all are on their way", || server.metrics().frames_queued == all);
        Self { streams, sessions }
    }

    /// Checks that every session was ended by the shutdown with its frame undelivered.
    fn check_cut(self) {
        for session in &self.sessions {
            let closed = session.closed().expect("closed");
            assert_eq!((closed.reason, closed.frames_undelivered), (CloseReason::Shutdown, 1));
        }
        // What the system still holds for these clients takes long to pass their small buffers, so
        // it is not read.
        drop(self.streams);
    }
}

/// A hundred clients that do not read hold a shutdown up for its grace, and no longer.
pub fn hundred_stalled_readers_end_with_the_shutdown_grace(on: &Adapter) {
    // More than it takes to close all of them.
    let grace = Duration::from_secs(2);
    for handler_thread in HandlerThread::ALL {
        let (sender, sessions) = mpsc::channel();
        let config = StalledReaders::config(Some(grace));
        let handler = handlers::give(sender);
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handler);
        let stalled = StalledReaders::open(&server, &sessions);
        let start = Instant::now();
        server.shutdown();
        server.wait_for_end();
        assert!(start.elapsed() >= grace, "{:?}", start.elapsed());
        stalled.check_cut();
    }
}

/// A result that a handler produces during the grace reaches its client, however many others stall.
pub fn result_during_the_shutdown_grace_passes_stalled_readers(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let (sender, sessions) = mpsc::channel();
        let config = StalledReaders::config(LONG);
        let handler = handlers::give(sender);
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handler);
        let stalled = StalledReaders::open(&server, &sessions);
        let mut reading = Stream::open(server.address());
        let session = sessions.recv_timeout(PATIENCE).expect("a session");
        assert_eq!(reading.post(&call(7, "[]")).status, 202);
        let mut idle = Stream::open(server.address());
        server.shutdown();
        // The shutdown has begun before the result is there.
        idle.expect_end();
        finish("room", session.send(handlers::response("7", "\"done\""))).expect("a stream");
        assert_eq!(reading.message(), answer(7, "\"done\""));
        reading.expect_end();
        assert!(!server.has_ended(), "the others are waited for");
        server.abort();
        server.wait_for_end();
        stalled.check_cut();
    }
}

/// Many stalled clients, with full queues and handlers that wait for room: an abort ends all at
/// once, and every handler learns the reason.
pub fn abort_cuts_stalled_readers(on: &Adapter) {
    const READERS: usize = 20;
    for handler_thread in HandlerThread::ALL {
        let (sender, ends) = mpsc::channel();
        let text = format!("[\"{}\"]", "x".repeat(256 << 10));
        let large = handlers::response("1", &text);
        let floods = handler(move |session: Session| {
            let (sender, large) = (sender.clone(), large.clone());
            async move {
                while session.send(large.clone()).await.is_ok() {}
                let _ = sender.send(session.closed().map(|closed| closed.reason));
            }
        });
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, with_grace(LONG), floods);
        let open = |_| {
            let client = Client::connect_with_receive_buffer(server.address(), 4 << 10);
            let request = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
            Stream::open_on(client, server.address(), request)
        };
        let mut streams: Vec<_> = (0..READERS).map(open).collect();
        wait_until("all queues are full", || {
            let metrics = server.metrics();
            metrics.frames_queued - metrics.frames_sent >= 2 * READERS as u64
        });
        server.shutdown();
        // The shutdown has begun before the abort.
        let refused = || std::net::TcpStream::connect_timeout(&server.address(), PATIENCE).is_err();
        wait_until("it takes no more", refused);
        assert!(!server.has_ended(), "readers are waited for, and there is no end to the grace");
        server.abort();
        server.wait_for_end();
        for _ in 0..READERS {
            let told = ends.recv_timeout(PATIENCE);
            // A handler on the server's thread is dropped when the thread ends.
            assert!(
                told == Ok(Some(CloseReason::Shutdown)) || handler_thread == HandlerThread::Local,
                "{told:?}"
            );
            if told.is_err() {
                break;
            }
        }
        for stream in &mut streams {
            stream.client.wait_for_end();
        }
    }
}

/// A session with a request in flight goes on until it was answered.
pub fn shutdown_waits_for_requests_in_flight(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let (sender, sessions) = mpsc::channel();
        let config = with_grace(LONG);
        let handler = handlers::give(sender);
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handler);
        let mut stream = Stream::open(server.address());
        let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
        let mut idle = Stream::open(server.address());
        assert_eq!(stream.post(&call("\"a\"", "[]")).status, 202);
        assert_eq!(stream.post(&call("\"b\"", "[]")).status, 202);
        server.shutdown();
        idle.expect_end();
        assert!(!server.has_ended());
        let mut receive =
            || finish("a message", session.recv()).expect("a message").text().to_owned();
        assert_eq!(receive(), call("\"a\"", "[]"));
        assert_eq!(receive(), call("\"b\"", "[]"));
        finish("room", session.send(handlers::response("\"b\"", "2"))).expect("a stream");
        assert_eq!(stream.message(), answer("\"b\"", "2"));
        assert!(!server.has_ended() && session.closed().is_none());
        finish("room", session.send(handlers::response("\"a\"", "1"))).expect("a stream");
        assert_eq!(stream.message(), answer("\"a\"", "1"));
        stream.expect_end();
        server.wait_for_end();
        assert_eq!(session.closed().expect("closed").reason, CloseReason::Shutdown);
    }
}

/// Requests that complete after the shutdown are refused with `Retry-After`.
pub fn post_completed_during_shutdown_is_503(on: &Adapter) {
    let mut server = RunningServer::start(on, with_grace(LONG), handlers::silent());
    let mut stream = Stream::open(server.address());
    assert_eq!(stream.post(&call(1, "[]")).status, 202);
    // The heads have begun before the shutdown.
    let before = server.metrics().bytes_received;
    let begin = |request: &[u8]| {
        let mut client = Client::connect(server.address());
        client.send(&request[..20]);
        client
    };
    let post = stream.post_request(&call(2, "[]"));
    let mut poster = begin(&post);
    let ready = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut asker = begin(ready);
    let get = b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut opener = begin(get);
    wait_until("they have begun", || server.metrics().bytes_received == before + 3 * 20);
    let mut idle = Stream::open(server.address());
    server.shutdown();
    idle.expect_end();
    for (client, request) in [(&mut poster, &post[..]), (&mut asker, ready), (&mut opener, get)] {
        let case = request[..9].escape_ascii();
        client.send(&request[20..]);
        let response = client.response();
        assert_eq!(response.status, 503, "{case}: {response:?}");
        assert!(response.field("Retry-After").is_some(), "{case}: {response:?}");
        assert_eq!(response.field("Connection"), Some("close"), "{case}: {response:?}");
        client.expect_end();
    }
    // The session with a request in flight went on meanwhile.
    server.abort();
    stream.client.wait_for_end();
    server.wait_for_end();
}

/// Until the delay is over everything is served, except that `/ready` is answered 503. An abort does not
/// wait for the delay.
pub fn delayed_shutdown_serves_on_and_is_not_ready(on: &Adapter) {
    let status = |client: &mut Client, path: &str| {
        client.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    };
    for handler_thread in HandlerThread::ALL {
        let config = timeouts(|t| t.drain_delay = LONG).build().expect("good");
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handlers::echo());
        let mut stream = Stream::open(server.address());
        let mut client = Client::connect(server.address());
        assert_eq!(status(&mut client, "/ready").status, 200);
        server.shutdown();
        wait_until("it is not ready", || status(&mut client, "/ready").status == 503);
        let health = status(&mut client, "/health");
        assert_eq!(health.status, 200);
        assert!(health.text().contains("\"status\":\"draining\""), "{health:?}");
        stream.check_alive("the old stream");
        Stream::open(server.address()).check_alive("a new stream");
        server.shutdown();
        assert!(!server.has_ended(), "a second shutdown does not end the delay");
        server.abort();
        stream.client.wait_for_end();
        server.wait_for_end();
    }
    let delay = Duration::from_millis(300);
    let config = timeouts(|t| t.drain_delay = Some(delay)).build().expect("good");
    let mut server = RunningServer::start(on, config, handlers::echo());
    let mut stream = Stream::open(server.address());
    let start = Instant::now();
    server.shutdown();
    stream.expect_end();
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
    server.wait_for_end();
}

/// Streams without a request in flight end at equal distances.
pub fn drain_spread_ends_idle_streams_one_by_one(on: &Adapter) {
    const STREAMS: u32 = 4;
    let spread = Duration::from_millis(600);
    let config = timeouts(|t| (t.shutdown_grace, t.drain_spread) = (LONG, Some(spread)));
    let config = config.build().expect("good");
    let mut server = RunningServer::start(on, config, handlers::echo());
    let mut streams: Vec<_> = (0..STREAMS).map(|_| Stream::open(server.address())).collect();
    let start = Instant::now();
    server.shutdown();
    for (place, stream) in (0..).zip(&mut streams) {
        stream.expect_end();
        assert!(start.elapsed() >= spread * place / STREAMS, "{place}: {:?}", start.elapsed());
    }
    server.wait_for_end();
}

/// A second shutdown changes nothing, and an abort does not wait.
pub fn second_shutdown_changes_nothing_and_abort_ends_at_once(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let (sender, messages) = mpsc::channel();
        let config = with_grace(None);
        let handler = handlers::record(sender);
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handler);
        let mut stream = Stream::open(server.address());
        let mut idle = Stream::open(server.address());
        assert_eq!(stream.post(&call(1, "[]")).status, 202);
        assert_eq!(messages.recv_timeout(PATIENCE), Ok(call(1, "[]")));
        server.shutdown();
        idle.expect_end();
        server.shutdown();
        // The counters are requested after the second shutdown, so they are later than it.
        assert_eq!(server.metrics().sessions_open(), 1, "a request is in flight");
        assert!(!server.has_ended(), "there is no end to the grace");
        server.abort();
        stream.client.wait_for_end();
        server.wait_for_end();
    }
}

/// Every connection is closed, and no call waits for ever.
pub fn dropped_serve_future_closes_everything(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let (sender, sessions) = mpsc::channel();
        let config = with_grace(Some(Duration::from_millis(200)));
        let handler = handlers::give(sender);
        let mut server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handler);
        let mut streams: Vec<_> = (0..5).map(|_| Stream::open(server.address())).collect();
        let held: Vec<_> =
            (0..5).map(|_| sessions.recv_timeout(PATIENCE).expect("a session")).collect();
        assert_eq!(streams[0].post(&call(1, "[]")).status, 202);
        let mut half = Client::connect(server.address());
        half.send("GET /rea");
        server.drop_future();
        server.wait_for_end();
        for stream in &mut streams {
            stream.client.wait_for_end();
        }
        half.wait_for_end();
        // Calls on the handle and on sessions return an error.
        let stopped = || finish("an answer", server.handle().metrics()).is_err();
        wait_until("it has stopped", stopped);
        for mut session in held {
            let frame = Frame::message(b"{}").expect("JSON");
            assert!(finish("an answer", session.send(frame)).is_err());
            while finish("the end", session.recv()).is_some() {}
        }
    }
}
