//! A fleet of clients whose server restarts: when each of them comes back.
//!
//! Knows: clients that do nothing but hold a stream and reconnect as the event stream standard says,
//! with the time of a `retry:` field, and a server that is replaced by another one.
//! Does not know: posts, faults, or networks that delay.
//!
//! Each server is the core itself under the virtual clock. A connection that nobody accepts fails at
//! once, and its client tries again after its reconnection time.

use core::cmp::Reverse;
use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::{BTreeMap, BinaryHeap};

use mcp_sse_core::{
    Config, ConnId, Event, Interest, Limits, Peer, Server, ServerPhase, Time, Timeouts, sse,
};

use super::random::SeededEntropy;

/// The reconnection time of clients that were told none: that of the `eventsource` package, which the
/// client of the TypeScript SDK uses, and of Chromium.
pub const DEFAULT_RETRY: Duration = Duration::from_secs(3);

/// A restart, and what is configured against its storm.
#[derive(Clone, Debug)]
pub struct Restart {
    /// How many clients there are.
    pub clients: usize,
    /// The range of times in `retry:` fields.
    pub retry: Option<RangeInclusive<Duration>>,
    /// `Timeouts::drain_spread`. `Timeouts::shutdown_grace` is 5 s or this time if it is longer.
    pub drain_spread: Option<Duration>,
    /// How long after the end of the old server the new one accepts connections. With `None` it
    /// accepts them all the time, as another replica does.
    pub start_up: Option<Duration>,
}

/// What came of a restart.
#[derive(Clone, Debug)]
pub struct Comeback {
    /// When each client had its new session, counted from the shutdown, in order.
    pub times: Vec<Duration>,
    /// The number of connections that nobody accepted.
    pub attempts_failed: usize,
}

impl Comeback {
    /// The most sessions that were opened within one second.
    #[must_use]
    pub fn peak_per_second(&self) -> usize {
        let second = Duration::from_secs(1);
        let (mut first, mut peak) = (0, 0);
        for (last, &time) in self.times.iter().enumerate() {
            while time - self.times[first] >= second {
                first += 1;
            }
            peak = peak.max(last + 1 - first);
        }
        peak
    }

    /// When the last client was back, counted from the shutdown.
    #[must_use]
    pub fn complete_after(&self) -> Duration {
        self.times.last().copied().unwrap_or_default()
    }
}

/// A client that is not connected: when it tries to connect, and its reconnection time.
type Attempt = Reverse<(Time, usize)>;

/// Runs a restart.
///
/// # Panics
///
/// If a client does not get a session, or a stream does not end in order.
#[must_use]
pub fn restart(restart: &Restart) -> Comeback {
    let mut old = Fleet::new(restart, 1);
    let mut retries: Vec<Duration> = Vec::with_capacity(restart.clients);
    for client in 0..restart.clients {
        retries.push(old.connect(client, Time::ZERO).unwrap_or(DEFAULT_RETRY));
    }
    let began = Time::ZERO.saturating_add(Duration::from_secs(1));
    let mut attempts: BinaryHeap<Attempt> = BinaryHeap::new();
    let mut ended = |client: usize, at: Time| {
        attempts.push(Reverse((at.saturating_add(retries[client]), client)));
    };
    old.server.shutdown(began);
    old.look(began, &mut ended);
    while let Some(deadline) = old.server.poll_timeout() {
        old.server.handle_timeout(deadline.at);
        old.look(deadline.at, &mut ended);
    }
    assert_eq!(old.server.phase(), ServerPhase::Drained);
    let up = restart.start_up.map_or(began, |after| old.server.now().saturating_add(after));

    let mut new = Fleet::new(restart, 2);
    let (mut times, mut attempts_failed) = (Vec::with_capacity(restart.clients), 0);
    while let Some(Reverse((at, client))) = attempts.pop() {
        if at < up {
            attempts_failed += 1;
            attempts.push(Reverse((at.saturating_add(retries[client]), client)));
            continue;
        }
        while let Some(deadline) = new.server.poll_timeout().filter(|next| next.at <= at) {
            new.server.handle_timeout(deadline.at);
            new.look(deadline.at, &mut |client, _| panic!("client {client} has lost its session"));
        }
        new.connect(client, at);
        times.push(at.saturating_since(began));
    }
    new.server.check();
    assert_eq!(new.server.sessions_open() as usize, restart.clients, "every client is back");
    Comeback { times, attempts_failed }
}

/// A server and the clients that are connected to it.
struct Fleet {
    server: Server,
    clients: BTreeMap<ConnId, usize>,
}

impl Fleet {
    fn new(restart: &Restart, seed: u64) -> Self {
        let sessions = restart.clients as u32;
        let limits = Limits {
            connections_max: Some(2 * sessions),
            sessions_max: Some(sessions),
            ..Limits::default()
        };
        let Restart { drain_spread, .. } = *restart;
        let grace = Duration::from_secs(5).max(drain_spread.unwrap_or_default());
        let timeouts =
            Timeouts { drain_spread, shutdown_grace: Some(grace), ..Timeouts::default() };
        let mut config = Config::builder().limits(limits).timeouts(timeouts);
        if let Some(range) = &restart.retry {
            config = config.retry(range.clone());
        }
        let config = config.build().expect("a configuration that makes sense");
        let entropy = Box::new(SeededEntropy::new(seed, false));
        Self { server: Server::new(config, entropy, Time::ZERO), clients: BTreeMap::new() }
    }

    /// Opens a session for a client. Returns the reconnection time that the client is told.
    fn connect(&mut self, client: usize, now: Time) -> Option<Duration> {
        let conn = self.server.accept(Peer::local(), now).expect("room for every client");
        // In a response to HTTP/1.0 events are not wrapped in chunks.
        self.server.handle_input(conn, b"GET /sse HTTP/1.0\r\n\r\n", now);
        let bytes = self.server.transmit(conn).chunks().collect::<Vec<_>>().concat();
        self.server.handle_written(conn, bytes.len(), now);
        assert!(bytes.starts_with(b"HTTP/1.1 200 "), "{}", bytes.escape_ascii());
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let (mut decoder, mut events) = (sse::Decoder::new(4_096), 0);
        decoder.feed(&bytes[end..], &mut |_| events += 1).expect("an event");
        assert_eq!(events, 1, "the endpoint");
        self.clients.insert(conn, client);
        while self.server.poll_wake().is_some() {}
        while self.server.poll_event().is_some() {}
        decoder.retry_ms().map(Duration::from_millis)
    }

    /// Serves the sockets: what is queued is read at once. Calls `ended` for each client whose
    /// connection the server closes.
    fn look(&mut self, now: Time, ended: &mut dyn FnMut(usize, Time)) {
        while let Some(conn) = self.server.poll_wake() {
            loop {
                match self.server.interest(conn) {
                    Interest::Io { write: true, .. } => {
                        let count = self.server.transmit(conn).len();
                        self.server.handle_written(conn, count, now);
                    }
                    Interest::Io { write: false, .. } | Interest::Linger => break,
                    Interest::Close => {
                        self.server.handle_disconnect(conn, now);
                        if let Some(client) = self.clients.remove(&conn) {
                            ended(client, now);
                        }
                        break;
                    }
                }
            }
        }
        while let Some(event) = self.server.poll_event() {
            assert!(!matches!(event, Event::Message { .. }), "no client posts");
        }
    }
}
