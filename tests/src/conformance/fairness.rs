//! A thread that always has something to run: what comes for others is taken in all the same.
//!
//! A handler on the thread of the sockets yields as often as it can and is never done. Each time it is
//! polled it counts, and sleeps for a moment, so that on a machine with one processor the others have
//! theirs. Nothing is bound in seconds: what is counted is how often such a handler had its turn between
//! the time at which a client began to send something and the time at which a handler had it.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::fs;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use futures_lite::future;
use mcp_sse_core::Config;
use mcp_sse_driver::Session;

use crate::adapter::{Adapter, Handler, HandlerThread, Listen, RunningServer, handler};
use crate::client::{Client, ServerAddress, Stream, answer, call};
use crate::{PATIENCE, handlers, wait_until};

/// Handlers that are always ready.
const BUSY: usize = 2;
/// What one of them does in each of its turns.
const TURN: Duration = Duration::from_micros(200);
/// So often may they have their turns, together, before another's post is with its handler. An executor
/// looks for input once in a few hundred tasks; the rest is for a machine that is busy with other things.
const TURNS_MAX: u64 = 1_000;
/// How many posts are looked at, each fourth of them on a new connection.
const POSTS: usize = 100;
/// A path of streams whose sessions have a handler that is always ready.
const BUSY_PATH: &str = "/sse/";

/// Counts the turns of handlers that are always ready, on a server that it makes the handler of.
#[derive(Debug)]
pub struct BusyHandlers {
    turns: Arc<AtomicU64>,
    /// How many turns there were when a post had come to its handler.
    received: mpsc::Receiver<u64>,
}

impl BusyHandlers {
    /// Counts nothing yet. The handler is that of the server on which to look at posts.
    #[must_use]
    pub fn new() -> (Self, Handler) {
        let turns = Arc::new(AtomicU64::new(0));
        let (sender, received) = mpsc::channel();
        let counter = turns.clone();
        let handler = handler(move |mut session: Session| {
            let (turns, sender) = (counter.clone(), sender.clone());
            async move {
                if session.head().path() == BUSY_PATH {
                    while session.closed().is_none() {
                        turns.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(TURN);
                        future::yield_now().await;
                    }
                    return;
                }
                while let Some(message) = session.recv().await {
                    let _ = sender.send(turns.load(Ordering::Relaxed));
                    if let Some(frame) = handlers::echoed(&message) {
                        let _gone = session.send(frame).await;
                    }
                }
            }
        });
        (Self { turns, received }, handler)
    }

    /// Has handlers run that are always ready, and posts beside them.
    ///
    /// # Panics
    ///
    /// If a post waits while they have more turns than they should.
    #[track_caller]
    pub fn check_posts(&self, address: impl Into<ServerAddress>) {
        let address = address.into();
        let mut stream = Stream::open(&address);
        let get = format!("GET {BUSY_PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let _busy: Vec<_> = (0..BUSY).map(|_| Stream::open_with(&address, &get)).collect();
        let mut poster = None;
        for n in 0..POSTS {
            let before = self.turns.load(Ordering::Relaxed);
            wait_until("the handlers are busy", || self.turns.load(Ordering::Relaxed) > before);
            if n % 4 == 0 {
                poster = None;
            }
            // A connection that is made for a post counts from its first byte: in TLS the server has to
            // read more than once before the post is sent.
            let begun = self.turns.load(Ordering::Relaxed);
            let poster = poster.get_or_insert_with(|| Client::connect(&address));
            poster.send(stream.post_request(&call(n, "[]")));
            let received = self.received.recv_timeout(PATIENCE).expect("the post is read");
            let turns = received.saturating_sub(begun);
            assert!(turns <= TURNS_MAX, "post {n} waited while others had {turns} turns");
            assert_eq!(poster.response().status, 202, "{n}");
            assert_eq!(stream.message(), answer(n, "[]"));
        }
    }
}

/// Posts on connections old and new are read while handlers on the same thread are always ready,
/// whoever else in the process waits for input meanwhile.
pub fn posts_are_read_while_handlers_are_always_ready(on: &Adapter) {
    let (busy, handler) = BusyHandlers::new();
    let server = RunningServer::start(on, Config::default(), handler);
    // Its thread has nothing to do but wait. Where a runtime has one reactor for all threads, it is this
    // one that waits for the other's sockets.
    let idle = RunningServer::start(on, Config::default(), handlers::echo());
    let mut idle_stream = Stream::open(idle.address());
    busy.check_posts(server.address());
    idle_stream.check_alive("beside a busy thread");
}

/// How many connections wait, of the 128 for which there is room.
const WAITING: usize = 120;

/// Whoever connects as fast as a server accepts does not have its thread alone: connections that wait are
/// accepted a few at a time. So a post that is there when they are has reached its handler before the last
/// of them has been accepted. Where the system does not say how many wait, nothing is tried.
pub fn post_is_received_before_all_waiting_connections_are_accepted(on: &Adapter) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = socket.local_addr().expect("its address").port();
    if waiting(port).is_none() {
        return println!("not tried: the system does not say how many connections wait");
    }
    let (block_sender, blocked) = mpsc::channel();
    let (resume, resumed) = mpsc::channel();
    let (sender, counted) = mpsc::channel();
    let resumed = Arc::new(Mutex::new(resumed));
    let handler = handler(move |mut session: Session| {
        let (block_sender, resumed, sender) =
            (block_sender.clone(), resumed.clone(), sender.clone());
        async move {
            while let Some(message) = session.recv().await {
                if message.method() == Some("hold up") {
                    block_sender.send(()).expect("the test waits");
                    let _ = resumed.lock().expect("no panic").recv_timeout(PATIENCE);
                } else {
                    let _ = sender.send(waiting(port).expect("it was there before"));
                }
            }
        }
    });
    let (listen, config) = (Listen::Tcp(socket), Config::default());
    let server = RunningServer::try_start(on, listen, HandlerThread::Local, config, handler)
        .expect("a server");
    let stream = Stream::open(server.address());
    let mut posters = [(); 2].map(|()| Client::connect(server.address()));
    for poster in &mut posters {
        assert_eq!(poster.ask("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
    }
    let [mut blocker, mut poster] = posters;
    blocker.send(stream.post_request(r#"{"jsonrpc":"2.0","method":"hold up"}"#));
    blocked.recv_timeout(PATIENCE).expect("the thread is held up");
    // It comes first, so whoever tells of input does not tell of it later than of the others.
    poster.send(stream.post_request(&call(1, "[]")));
    let _clients: Vec<_> = (0..WAITING).map(|_| Client::connect(server.address())).collect();
    wait_until("they wait", || waiting(port) == Some(WAITING));
    resume.send(()).expect("the thread waits");
    let still_waiting = counted.recv_timeout(PATIENCE).expect("the post is received");
    assert!(still_waiting > 0, "all were accepted before");
    wait_until("the others are accepted", || waiting(port) == Some(0));
}

/// How many connections wait at a listening socket, where the system says it.
fn waiting(port: u16) -> Option<usize> {
    // The fields: a number, the local address, the remote one, the state (0A: it listens), and what is
    // sent and received; for a listening socket the latter is the count.
    let local = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_local = fields.next()?.ends_with(&local);
        let listens = fields.nth(1)? == "0A";
        let (_, received) = fields.next()?.split_once(':')?;
        usize::from_str_radix(received, 16).ok().filter(|_| is_local && listens)
    })
}
