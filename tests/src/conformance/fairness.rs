//! Fairness: input is read although the thread always has a task to run.
//!
//! A handler on the thread of the sockets yields as often as it can and never ends. In each turn it
//! counts and sleeps for a moment, so that other processes run on a machine with one processor. The
//! tests measure no time: they count the turns of such handlers between the start of a client's
//! send and the delivery to a handler.

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

/// The number of handlers that are always ready.
const BUSY: usize = 2;
/// How long one of them runs in each turn.
const TURN: Duration = Duration::from_micros(200);
/// The largest number of their turns until another session's post is delivered. An executor polls
/// for input once in a few hundred tasks; the rest allows for a busy machine.
const TURNS_MAX: u64 = 1_000;
/// The number of posts; every fourth uses a new connection.
const POSTS: usize = 100;
/// Sessions of streams at this path have a handler that is always ready.
const BUSY_PATH: &str = "/sse/";

/// Counts the turns of handlers that are always ready. It makes the handler of the server under
/// test.
#[derive(Debug)]
pub struct BusyHandlers {
    turns: Arc<AtomicU64>,
    /// The count at the delivery of each post.
    received: mpsc::Receiver<u64>,
}

impl BusyHandlers {
    /// Makes the counter, and the handler of the server under test.
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

    /// Runs handlers that are always ready, and posts to another session.
    ///
    /// # Panics
    ///
    /// If a post waits for more than `TURNS_MAX` turns.
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
            // For a new connection the count begins before connecting: with TLS the server must
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

/// Posts on old and new connections are read while handlers on the same thread are always ready,
/// even if another thread of the process waits for input.
pub fn posts_are_read_while_handlers_are_always_ready(on: &Adapter) {
    let (busy, handler) = BusyHandlers::new();
    let server = RunningServer::start(on, Config::default(), handler);
    // The second server's thread only waits. If a runtime has one reactor for all threads, this
    // thread then polls for the other's sockets.
    let idle = RunningServer::start(on, Config::default(), handlers::echo());
    let mut idle_stream = Stream::open(idle.address());
    busy.check_posts(server.address());
    idle_stream.check_alive("beside a busy thread");
}

/// How many connections wait in the backlog, of 128 that fit.
const WAITING: usize = 120;

/// Clients that connect as fast as the server accepts do not occupy its thread: waiting connections
/// are accepted a few at a time. So a post that arrives with them is delivered before the last of
/// them is accepted. The test is skipped if the system does not report the backlog.
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
    // The post is sent first, so its readiness is not reported after that of the connections.
    poster.send(stream.post_request(&call(1, "[]")));
    let _clients: Vec<_> = (0..WAITING).map(|_| Client::connect(server.address())).collect();
    wait_until("they wait", || waiting(port) == Some(WAITING));
    resume.send(()).expect("the thread waits");
    let still_waiting = counted.recv_timeout(PATIENCE).expect("the post is received");
    assert!(still_waiting > 0, "all were accepted before");
    wait_until("the others are accepted", || waiting(port) == Some(0));
}

/// How many connections wait in the backlog; `None` if the system does not report it.
fn waiting(port: u16) -> Option<usize> {
    // The fields: a number, the local address, the remote address, the state (0A is listening), and
    // the transmit and receive queues; the receive queue of a listening socket is its backlog.
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
