//! A thread that always has something to run: what comes for others is taken in all the same.
//!
//! A handler on the thread of the sockets yields as often as it can and is never done. Each time it is
//! polled it counts, and sleeps for a moment, so that on a machine with one processor the others have
//! theirs. Nothing is bound in seconds: what is counted is how often such a handler had its turn between
//! the time at which a client began to send something and the time at which a handler had it.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Arc, mpsc};
use std::thread;

use futures_lite::future;
use mcp_sse_core::Config;
use mcp_sse_core::driver::Session;

use crate::adapter::{Adapter, Handler, Server, handler};
use crate::client::{Client, Stream, Way, answer, call};
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
pub struct Busy {
    turns: Arc<AtomicU64>,
    /// How many turns there were when a post had come to its handler.
    received: mpsc::Receiver<u64>,
}

impl Busy {
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
    pub fn check_posts(&self, way: impl Into<Way>) {
        let way = way.into();
        let mut stream = Stream::open(&way);
        let get = format!("GET {BUSY_PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let _busy: Vec<_> = (0..BUSY).map(|_| Stream::open_with(&way, &get)).collect();
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
            let poster = poster.get_or_insert_with(|| Client::connect(&way));
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
    let (busy, handler) = Busy::new();
    let server = Server::start(on, Config::default(), handler);
    // Its thread has nothing to do but wait. Where a runtime has one reactor for all threads, it is this
    // one that waits for the other's sockets.
    let idle = Server::start(on, Config::default(), handlers::echo());
    let mut idle_stream = Stream::open(idle.address());
    busy.check_posts(server.address());
    idle_stream.check_alive("beside a busy thread");
}
