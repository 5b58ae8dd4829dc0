//! Many connections that send no complete request must not prevent other clients from posting, and
//! must not use more memory than the limits allow.
//!
//! This is a test binary of its own, because it counts with the global allocator.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};
use std::alloc::System;

use mcp_sse_core::{
    AcceptError, Config, ConnId, Entropy, EntropyUnavailable, Event, Fault, Interest, Limits, Peer,
    Server, Time,
};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are passed on unchanged to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's guarantees are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's guarantees are the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counter(u8);

impl Entropy for Counter {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        self.0 += 1;
        dest.fill(self.0);
        Ok(())
    }
}

const GET: &[u8] = b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/note"}"#;

fn post(token: &str) -> String {
    format!(
        "POST /messages?session_id={token} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{NOTE}",
        NOTE.len()
    )
}

/// The most bytes that a connection may take in addition to its head. It takes 653, and 816 after
/// an answer. The limits allow for more, because collections that have just doubled are half empty.
const CONN_BYTES_MAX: usize = 900;
const HALF_HEAD_BYTES: usize = 322;
/// The memory of four sessions, their queues and their events.
const OTHERS_BYTES_MAX: usize = 64 << 10;

/// A minimal driver: it writes all output, and closes connections when the core asks for it.
struct Driver {
    server: Server,
    now: Time,
    closed: usize,
}

impl Driver {
    fn connect(&mut self) -> Result<ConnId, AcceptError> {
        self.now = Time::from_micros(self.now.as_micros() + 1);
        let conn = self.server.accept(Peer::local(), self.now);
        self.serve();
        conn
    }

    fn exchange(&mut self, conn: ConnId, bytes: &[u8]) -> Vec<u8> {
        self.server.handle_input(conn, bytes, self.now);
        let received = self.server.transmit(conn).chunks().collect::<Vec<_>>().concat();
        self.serve();
        received
    }

    fn serve(&mut self) {
        while let Some(conn) = self.server.poll_wake() {
            match self.server.interest(conn) {
                Interest::Close => {
                    self.closed += 1;
                    self.server.handle_disconnect(conn, self.now);
                }
                Interest::Io { write: true, .. } => {
                    let len = self.server.transmit(conn).len();
                    self.server.handle_written(conn, len, self.now);
                }
                Interest::Io { .. } | Interest::Linger => {}
            }
        }
    }

    fn open(&mut self) -> String {
        let conn = self.connect().expect("a place");
        let received = String::from_utf8(self.exchange(conn, GET)).unwrap();
        let (_, token) = received.split_once("session_id=").expect("an endpoint");
        assert!(matches!(self.server.poll_event(), Some(Event::Opened { .. })));
        token[..32].to_owned()
    }

    #[track_caller]
    fn check_post(&mut self, token: &str) {
        let conn = self.connect().expect("a place for a post");
        let received = self.exchange(conn, post(token).as_bytes());
        assert!(received.starts_with(b"HTTP/1.1 202 "), "{}", received.escape_ascii());
        assert!(matches!(self.server.poll_event(), Some(Event::Message { .. })));
    }
}

#[test]
fn connections_without_a_request_neither_block_posts_nor_exceed_the_memory_maximum() {
    // Limits that do not concern silent connections are small, so that the sum shows the
    // connections.
    let limits = Limits {
        sessions_max: Some(8),
        head_bytes_max: Some(512),
        body_bytes_max: Some(1 << 10),
        bodies_bytes_max: Some(64 << 10),
        queues_bytes_max: Some(64 << 10),
        forwarded_max: Some(0),
        events_max: Some(16),
        ..Limits::default()
    };
    let max = limits.connections_max.unwrap() as usize;
    let memory_max = limits.memory_bytes_max();
    let config = Config::builder().limits(limits).build().unwrap();
    let before = HELD.load(Ordering::Relaxed);
    let server = Server::new(config, Box::new(Counter(0)), Time::ZERO);
    let mut driver = Driver { server, now: Time::ZERO, closed: 0 };
    let mut most = 0;
    let measure = |most: &mut usize| {
        *most = (*most).max(HELD.load(Ordering::Relaxed).saturating_sub(before));
    };

    let token = driver.open();
    for flood in 0..3 {
        // A silent connection, one with an incomplete head, and an idle keep-alive connection: the
        // server closes all of them to make room.
        for _ in 0..max {
            let conn = driver.connect().expect("a place");
            match flood {
                0 => {}
                1 => {
                    let half =
                        format!("GET /sse HTTP/1.1\r\nX: {}", "x".repeat(HALF_HEAD_BYTES - 22));
                    assert_eq!(driver.exchange(conn, half.as_bytes()), b"");
                }
                _ => {
                    let probe = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
                    assert!(driver.exchange(conn, probe).starts_with(b"HTTP/1.1 200 "));
                }
            }
        }
        measure(&mut most);
        let each = CONN_BYTES_MAX + if flood == 1 { HALF_HEAD_BYTES } else { 0 };
        let held = HELD.load(Ordering::Relaxed) - before;
        assert!(
            held < max * each + OTHERS_BYTES_MAX,
            "flood {flood}: {held} bytes, {max} x {each}"
        );
        assert!(driver.server.can_accept());
        assert!(driver.server.connections_open() as usize <= max);
        for _ in 0..100 {
            driver.check_post(&token);
        }
        let fresh = driver.open();
        driver.check_post(&fresh);
        measure(&mut most);
    }
    let evicted = driver.server.metrics().fault(Fault::ConnectionEvicted);
    assert_eq!(evicted as usize, driver.closed);
    assert!(driver.closed > 2 * max, "{} of {max} were closed", driver.closed);
    assert_eq!(driver.server.sessions_open(), 4);
    assert!((most as u64) < memory_max, "{most} bytes held, {memory_max} allowed");
    driver.server.check();
}
