//! Timers that fire late because the thread was blocked.
//!
//! A handler blocks the thread of the sockets until deadlines have passed, while clients do their
//! part. These tests measure no time. One more test compares the timers of an idle thread with a
//! thread that sleeps.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use mcp_sse_core::{Fault, Timeouts};
use mcp_sse_driver::Session;

use crate::adapter::{Adapter, Handler, HandlerThread, RunningServer, handler};
use crate::client::{Client, Stream, answer, call};
use crate::{PATIENCE, handlers, timeouts, wait_until};

/// The deadlines: long enough for a test to begin before, and short enough to wait for.
const DEADLINE: Duration = Duration::from_secs(3);

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server whose thread a session can block.
struct BlockableServer {
    server: RunningServer,
    /// The session that blocks the thread.
    stream: Stream,
    blocked: mpsc::Receiver<()>,
    resume: mpsc::Sender<()>,
}

impl BlockableServer {
    fn new(on: &Adapter, change: impl FnOnce(&mut Timeouts)) -> Self {
        let (block_sender, blocked) = mpsc::channel();
        let (resume, resumed) = mpsc::channel();
        let config = timeouts(change).build().expect("good");
        let server = RunningServer::start(
            on,
            config,
            blocking_handler(block_sender, Arc::new(Mutex::new(resumed))),
        );
        let stream = Stream::open(server.address());
        Self { server, stream, blocked, resume }
    }

    /// Blocks the thread while `meanwhile` runs, and until every armed deadline has passed.
    #[track_caller]
    fn block_while(&mut self, meanwhile: impl FnOnce()) {
        let mut poster = Client::connect(self.server.address());
        let body = r#"{"jsonrpc":"2.0","method":"hold up"}"#;
        poster.send(self.stream.post_request(body));
        self.blocked.recv_timeout(PATIENCE).expect("the message arrives");
        let since = Instant::now();
        meanwhile();
        thread::sleep((DEADLINE + DEADLINE / 4).saturating_sub(since.elapsed()));
        self.resume.send(()).expect("the thread waits");
        assert_eq!(self.stream.message(), answer(0, "[]"));
    }
}

/// Echoes; blocks its thread on request; and sends many large responses on request.
fn blocking_handler(
    block_sender: mpsc::Sender<()>,
    resumed: Arc<Mutex<mpsc::Receiver<()>>>,
) -> Handler {
    handler(move |mut session: Session| {
        let (block_sender, resumed) = (block_sender.clone(), resumed.clone());
        async move {
            while let Some(message) = session.recv().await {
                match message.method() {
                    Some("hold up") => {
                        block_sender.send(()).expect("the test waits");
                        // The end of the test closes the channel, which is as good.
                        let _ = resumed.lock().expect("no panic").recv_timeout(PATIENCE);
                        // The frame requests a turn, which comes before any other input is read.
                        let _gone = session.send(handlers::response("0", "[]")).await;
                    }
                    Some("flood") => {
                        let text = format!("\"{}\"", "x".repeat(64 << 10));
                        for n in 0..FLOOD {
                            let frame = handlers::response(&n.to_string(), &text);
                            let _gone = session.send(frame).await;
                        }
                    }
                    _ => {
                        if let Some(frame) = handlers::echoed(&message) {
                            let _gone = session.send(frame).await;
                        }
                    }
                }
            }
        }
    })
}

const FLOOD: usize = 200;

/// Input that arrived in time is read before the deadline fires.
pub fn input_in_time_counts_after_a_blocked_thread(on: &Adapter) {
    let mut blockable = BlockableServer::new(on, |t| {
        t.head = Some(DEADLINE);
        t.body = Some(DEADLINE);
        t.stall = Some(DEADLINE);
    });
    let address = blockable.server.address();
    let mut reader = Stream::open(address);
    let flood = r#"{"jsonrpc":"2.0","method":"flood"}"#;
    assert_eq!(Client::connect(address).ask(reader.post_request(flood)).status, 202);
    let mut sent = 0;
    wait_until("its socket is full", || {
        thread::sleep(Duration::from_millis(20));
        let before = core::mem::replace(&mut sent, blockable.server.metrics().bytes_sent);
        sent == before && sent > 64 << 10
    });
    let received = blockable.server.metrics().bytes_received;
    let (mut head, mut body) = (Client::connect(address), Client::connect(address));
    head.send(&READY[..20]);
    let post = blockable.stream.post_request(&call(1, "[]"));
    body.send(&post[..post.len() - 5]);
    let halves = 20 + post.len() as u64 - 5;
    let metrics = || blockable.server.metrics();
    wait_until("both halves are read", || metrics().bytes_received == received + halves);
    assert_eq!(metrics().timeout_faults(), [0; 4]);
    blockable.block_while(|| {
        head.send(&READY[20..]);
        body.send(&post[post.len() - 5..]);
        reader.client.buffer_input();
    });
    assert_eq!(head.response().status, 200);
    assert_eq!(body.response().status, 202);
    assert_eq!(blockable.stream.message(), answer(1, "[]"));
    for n in 0..FLOOD {
        assert!(reader.message().starts_with(&format!(r#"{{"jsonrpc":"2.0","id":{n},"#)), "{n}");
    }
    assert_eq!(blockable.server.metrics().timeout_faults(), [0; 4]);
    reader.check_alive("the reader, afterwards");
}

trait TimeoutFaults {
    fn timeout_faults(&self) -> [u64; 4];
}

impl TimeoutFaults for mcp_sse_core::Metrics {
    fn timeout_faults(&self) -> [u64; 4] {
        [Fault::HeadTimeout, Fault::BodyTimeout, Fault::Stalled, Fault::ConnectionIdle]
            .map(|fault| self.fault(fault))
    }
}

/// Everything that became due meanwhile happens once, and nothing else.
pub fn due_timers_fire_once_after_a_blocked_thread(on: &Adapter) {
    const EACH: usize = 5;
    let beat = DEADLINE / 10;
    let mut blockable = BlockableServer::new(on, |t| {
        t.head = Some(DEADLINE);
        t.body = Some(DEADLINE);
        t.idle = Some(DEADLINE);
        t.heartbeat = Some(beat);
    });
    let address = blockable.server.address();
    let mut streams: Vec<_> = (0..EACH).map(|_| Stream::open(address)).collect();
    let post = blockable.stream.post_request(&call(1, "[]"));
    let say = |bytes: &[u8], answers: usize| -> Vec<Client> {
        let begin = || {
            let mut client = Client::connect(address);
            client.send(bytes);
            (0..answers).for_each(|_| assert_eq!(client.response().status, 200));
            client
        };
        (0..EACH).map(|_| begin()).collect()
    };
    let silent = say(b"", 0);
    let idle = say(READY.as_bytes(), 1);
    let heads = say(&READY.as_bytes()[..9], 0);
    let bodies = say(&post[..post.len() - 1], 0);
    let expected = (1 + 5 * EACH) as u64;
    wait_until("all are there", || blockable.server.metrics().connections_open() == expected);
    assert_eq!(blockable.server.metrics().timeout_faults(), [0; 4]);
    let (before, start) = (blockable.server.metrics().heartbeats, Instant::now());
    blockable.block_while(|| {});
    let metrics = blockable.server.metrics();
    // Each stream has one heartbeat for the blocked time, and those of the time after it.
    let beats = u128::from(metrics.heartbeats - before);
    let awake = start.elapsed().saturating_sub(DEADLINE).as_millis() / beat.as_millis();
    let most = (1 + EACH as u128) * (2 + awake);
    assert!(beats <= most, "{beats} heartbeats, {most} at most: {metrics:?}");
    for mut client in silent.into_iter().chain(idle) {
        client.expect_end();
    }
    for mut client in heads.into_iter().chain(bodies) {
        assert_eq!(client.response().status, 408);
        client.expect_end();
    }
    let each = EACH as u64;
    let [heads, bodies, stalled, idle] = blockable.server.metrics().timeout_faults();
    assert_eq!((heads, bodies, stalled), (each, each, 0));
    // The connection of the blocking post is idle too, if it was answered.
    assert!((2 * each..=2 * each + 1).contains(&idle), "{idle}");
    for stream in &mut streams {
        stream.check_alive("a stream of that time");
    }
    blockable.stream.check_alive("the stream of who held it up");
}

/// A heartbeat is due one interval after the last one. A busy machine delays a thread that sleeps
/// for the same interval as much as it delays the server, so the test compares the two counts.
pub fn heartbeats_are_as_punctual_as_a_sleeping_thread(on: &Adapter) {
    const BEATS: u32 = 50;
    let beat = Duration::from_millis(20);
    for handler_thread in HandlerThread::ALL {
        let config = timeouts(|t| t.heartbeat = Some(beat)).build().expect("good");
        let server =
            RunningServer::start_at(on, "127.0.0.1:0", handler_thread, config, handlers::echo());
        let mut stream = Stream::open(server.address());
        let (sleeps, done) = (AtomicU32::new(0), AtomicBool::new(false));
        let (before, after) = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    thread::sleep(beat);
                    sleeps.fetch_add(1, Ordering::Relaxed);
                }
            });
            let _end = RunOnDrop(|| done.store(true, Ordering::Relaxed));
            let before = sleeps.load(Ordering::Relaxed);
            for _ in 0..BEATS {
                assert_eq!(stream.chunk().as_deref(), Some(&b":\n"[..]));
            }
            (before, sleeps.load(Ordering::Relaxed))
        });
        let sleeps = after - before;
        assert!(
            sleeps <= 2 * BEATS,
            "{BEATS} heartbeats while a thread slept {sleeps} times as long"
        );
    }
}

/// Ends a scoped thread even if the scope panics.
struct RunOnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for RunOnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}
