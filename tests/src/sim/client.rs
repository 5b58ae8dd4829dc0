//! Simulated clients: polite, slow, pipelining, half-closing, vanishing, hostile, and those of
//! another HTTP server's exchanges.
//!
//! Knows: what each client sends next. Does not know: what must come back.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use mcp_sse_core::{AcceptError, Exchange, Interest, Peer, Time};

use super::connection::{ConnectionKey, Fin, SimConnection};
use super::driver::Disconnect;
use super::hostile;
use super::request::{Expected, RequestSize};
use super::world::World;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Polite,
    Slow,
    Pipelining,
    HalfClosing,
    Vanishing,
    Hostile,
    Exchanging,
}

/// A client with its connections.
#[derive(Debug)]
pub struct SimClient {
    pub behaviour: Behaviour,
    pub peer: Peer,
    /// The connection of its stream.
    pub stream: Option<ConnectionKey>,
    /// The connection on which it posts.
    pub poster: Option<ConnectionKey>,
}

impl SimClient {
    /// A client whose behaviour was not drawn yet.
    #[must_use]
    pub const fn unknown() -> Self {
        Self { behaviour: Behaviour::Polite, peer: Peer::local(), stream: None, poster: None }
    }
}

impl World {
    /// Draws a new behaviour and address for a client.
    pub fn draw_client(&mut self, at: usize) {
        const ALL: [Behaviour; 7] = [
            Behaviour::Polite,
            Behaviour::Slow,
            Behaviour::Pipelining,
            Behaviour::HalfClosing,
            Behaviour::Vanishing,
            Behaviour::Hostile,
            Behaviour::Exchanging,
        ];
        let behaviour = *self.random.pick(&ALL);
        let host = self.random.below(4) as u8;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let peer = match host {
            0 => Peer::local(),
            host => Peer::tcp(SocketAddr::from(([10, 0, 0, host], 1_000)), local),
        };
        let client = &mut self.clients[at];
        (client.behaviour, client.peer) = (behaviour, peer);
    }

    /// A connection of a client has ended.
    pub fn client_disconnected(&mut self, at: usize, key: ConnectionKey) {
        let client = &mut self.clients[at];
        if client.poster == Some(key) {
            client.poster = None;
        }
        if client.stream == Some(key) {
            client.stream = None;
            if self.random.one_in(4) {
                self.draw_client(at);
            }
        }
    }

    /// Lets a client do the next thing.
    pub fn client_acts(&mut self, at: usize) {
        let behaviour = self.clients[at].behaviour;
        if behaviour == Behaviour::Hostile && self.random.one_in(2) {
            return self.attack(at);
        }
        let Some(stream) = self.clients[at].stream else { return self.open_stream(at) };
        let knows = self.own_token(at).is_some();
        match self.random.below(32) {
            0 => self.check_health(at),
            1..=3 if !knows || behaviour == Behaviour::Slow => self.read_some(stream),
            4 if behaviour == Behaviour::Slow => self.stop_reading(stream),
            5 if matches!(behaviour, Behaviour::HalfClosing | Behaviour::Polite) => {
                let key = self.clients[at].poster.unwrap_or(stream);
                if key != stream || self.random.one_in(self.setup.burst) {
                    self.end_input(key);
                }
            }
            6 if behaviour == Behaviour::Vanishing => {
                let key = self.clients[at].poster.unwrap_or(stream);
                self.disconnect(key, Disconnect::Broken);
            }
            8 if matches!(behaviour, Behaviour::HalfClosing | Behaviour::Vanishing) => {
                self.send_half_post(at)
            }
            7 if behaviour == Behaviour::Vanishing || self.random.one_in(16) => {
                self.disconnect(stream, Disconnect::Broken);
            }
            _ if behaviour == Behaviour::Pipelining => {
                for _ in 0..=self.random.below(6) {
                    self.send_post(at);
                }
            }
            _ => self.send_post(at),
        }
    }

    /// The client's connection for posts; a new one if it has none that takes further requests.
    pub fn poster(&mut self, at: usize) -> Option<ConnectionKey> {
        // Now and then a further connection; the old one is then left open.
        let another = self.random.one_in(4) && self.connections.len() < 64;
        if let Some(key) = self.clients[at].poster.filter(|_| !another) {
            let connection = self.connections.get(&key)?;
            if !connection.done && connection.fin == Fin::No {
                return Some(key);
            }
            if self.random.one_in(2) {
                return None;
            }
            // The old connection is left open.
        }
        let key = self.connect(at, None)?;
        self.clients[at].poster = Some(key);
        Some(key)
    }

    /// Opens a connection of a client; `None` if the server refuses it.
    pub fn connect(&mut self, at: usize, exchange: Option<Exchange<'_>>) -> Option<ConnectionKey> {
        let shard = self.random.below(self.shards.len());
        let peer = self.clients[at].peer;
        let exchanging = exchange.is_some();
        let open = self.shards[shard].server.connections_open();
        let accepting = self.shards[shard].server.can_accept();
        let accepted = self.call(shard, 4_096, |server, now| match exchange {
            Some(exchange) => server.exchange(exchange, peer, now),
            None => server.accept(peer, now),
        });
        self.trace.log(format_args!("{shard} accepts {peer} of {at}: {accepted:?}"));
        let limits = self.setup.configs[shard].limits();
        match accepted {
            Ok(conn) => {
                assert!(accepting, "13: accepted although it could not accept");
                assert!(limits.connections_max.is_none_or(|most| open < most), "6: connections");
                let known_interest = self.shards[shard].server.interest(conn);
                self.shards[shard].accepted += 1;
                let mut connection = SimConnection::new(at, exchanging, known_interest, self.now);
                connection.address = peer.remote().map(|remote| remote.ip());
                let slow_input =
                    self.clients[at].behaviour == Behaviour::Slow || self.random.one_in(8);
                if slow_input && self.random.one_in(2) {
                    let each = *self.random.pick(&[40, 10, 150]);
                    connection.bytes_per_step = Some((each, each));
                }
                let slow = self.clients[at].behaviour == Behaviour::Slow;
                let stalled = slow || self.random.one_in(8);
                self.connections.insert((shard, conn), connection);
                if stalled {
                    self.stop_reading((shard, conn));
                }
                self.mark_ready((shard, conn));
                Some((shard, conn))
            }
            Err(AcceptError::AtCapacity) => {
                assert_eq!(limits.connections_max, Some(open), "6: connections");
                None
            }
            Err(error) => {
                let draining = error == AcceptError::ShuttingDown;
                assert!(!draining || self.is_ending(), "{error}");
                self.model.coverage.count("not accepted");
                None
            }
        }
    }

    // ── Streams. ────────────────────────────────────────────────────────────────────────────────

    fn open_stream(&mut self, at: usize) {
        self.requests_sent += 1;
        let number = self.requests_sent;
        if self.clients[at].behaviour == Behaviour::Exchanging {
            let text = number.to_string();
            let (credentials, authorization) = self.credentials(at);
            let mut fields: Vec<(&str, &[u8])> =
                vec![("Host", b"localhost"), ("X-Ask", text.as_bytes())];
            for line in authorization.lines() {
                fields.extend(line.split_once(": ").map(|(name, it)| (name, it.as_bytes())));
            }
            let exchange = Exchange { method: "GET", target: "/sse", fields: &fields, mount: "" };
            let Some(key) = self.connect(at, Some(exchange)) else { return };
            self.clients[at].stream = Some(key);
            let head = format!(
                "GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Ask: {number}\r\n{authorization}\r\n"
            );
            self.stream_requested(key, number, RequestSize::of(head.as_bytes()), true);
            return self.set_credentials(key, credentials);
        }
        let Some(key) = self.connect(at, None) else { return };
        self.clients[at].stream = Some(key);
        if self.random.one_in(8) {
            self.requests_sent += 1;
            let (credentials, fields) = self.credentials(at);
            let number = self.requests_sent;
            let probe =
                format!("HEAD /sse HTTP/1.1\r\nHost: localhost\r\nX-Ask: {number}\r\n{fields}\r\n");
            self.send_request(key, self.requests_sent, probe.as_bytes(), Expected::Probe, true);
            self.set_credentials(key, credentials);
        }
        let (credentials, authorization) = self.credentials(at);
        let (version, fields) = match self.random.below(8) {
            4 => ("1.0", ""),
            5 => ("1.1", "Connection: close\r\n"),
            6 => ("1.1", "Accept: text/event-stream\r\nOrigin: http://localhost:5\r\n"),
            7 => ("1.1", "Content-Length: 0\r\n"),
            _ => ("1.1", ""),
        };
        let request = format!(
            "GET /sse HTTP/{version}\r\nHost: localhost:80\r\nX-Ask: {number}\r\n\
             {authorization}{fields}\r\n"
        );
        if self.clients[at].behaviour == Behaviour::Vanishing && self.random.one_in(4) {
            let most = self.random.below(request.len());
            return hostile::send_unpredictable(self, key, &request.as_bytes()[..most]);
        }
        self.send(key, request.as_bytes());
        self.stream_requested(key, number, RequestSize::of(request.as_bytes()), false);
        self.set_credentials(key, credentials);
    }

    fn stream_requested(
        &mut self,
        key: ConnectionKey,
        number: u64,
        size: RequestSize,
        exchanging: bool,
    ) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.add_request(number, Expected::Stream, false, size);
        if exchanging {
            // The server has received the whole request.
            connection.give(0, now);
        }
        connection.stream_request = Some(number);
        connection.done = true;
        if exchanging && self.random.one_in(2) {
            connection.fin = Fin::Sent;
        }
    }

    /// The token that a client has received on its stream.
    pub fn own_token(&self, at: usize) -> Option<(ConnectionKey, String)> {
        let key = self.clients[at].stream?;
        let connection = self.connections.get(&key)?;
        let (until, token) = connection.token.as_ref()?;
        (connection.read >= *until).then(|| (key, token.clone()))
    }

    fn check_health(&mut self, at: usize) {
        let Some(key) = self.poster(at) else { return };
        self.requests_sent += 1;
        let (method, path) = *self.random.pick(&[("GET", "/health"), ("HEAD", "/ready/")]);
        let bytes = format!("{method} {path} HTTP/1.1\r\nHost: anything\r\n\r\n");
        self.send_request(
            key,
            self.requests_sent,
            bytes.as_bytes(),
            Expected::Health,
            method == "HEAD",
        );
    }

    fn attack(&mut self, at: usize) {
        hostile::attack(self, at);
    }

    // ── Links. ──────────────────────────────────────────────────────────────────────────────────

    /// Sends bytes, which may arrive later.
    pub fn send(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let now = self.now;
        let late = self.random.one_in(8);
        let delay = if late { self.random.below(3_000_000) } else { 0 };
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.send(bytes);
        if delay > 0 {
            connection.arrives = now.saturating_add(Duration::from_micros(delay as u64));
        }
        self.trace.log(format_args!("{}/{} sends {} bytes", key.0, key.1, bytes.len()));
        self.mark_ready(key);
    }

    /// Sends a request. Now and then its last part arrives later.
    pub fn send_request(
        &mut self,
        key: ConnectionKey,
        number: u64,
        bytes: &[u8],
        expected: Expected,
        bodiless: bool,
    ) {
        let gap = self.random.one_in(8).then(|| self.draw_gap(bytes.len()));
        if let (Some((at, until)), Some(connection)) = (gap, self.connections.get_mut(&key)) {
            connection.gap = Some((connection.sent + at, until));
            self.model.coverage.count("requests in two pieces");
        }
        self.send(key, bytes);
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.add_request(number, expected, bodiless, RequestSize::of(bytes));
        }
    }

    /// Draws where in `len` bytes there is a gap, and until when.
    fn draw_gap(&mut self, len: usize) -> (u64, Time) {
        let at = self.random.below(len.max(1)) as u64;
        let most = *self.random.pick(&[100, 1_000, 10_000, 40_000]);
        (at, self.now.saturating_add(Duration::from_millis(self.random.below(most) as u64)))
    }

    fn read_some(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let waiting = usize::try_from(connection.written - connection.read).unwrap_or(usize::MAX);
        if waiting > 0 {
            connection.read += self.random.piece_len(waiting) as u64;
        } else if self.random.one_in(4) {
            connection.reading = true;
        }
        self.mark_ready(key);
    }

    fn stop_reading(&mut self, key: ConnectionKey) {
        let window = *self.random.pick(&[1, 100, 1_000, 10_000]);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        (connection.reading, connection.slow, connection.window) = (false, true, window);
        self.mark_ready(key);
    }

    fn end_input(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.fin == Fin::No {
            connection.fin = Fin::Sent;
        }
        connection.done = true;
        self.trace.log(format_args!("{}/{} sends its last", key.0, key.1));
        self.mark_ready(key);
    }

    /// Disturbs a connection of a client: it reads less, or later, or breaks.
    pub fn disturb_connection(&mut self, at: usize) {
        let client = &self.clients[at];
        let keys = [client.stream, client.poster];
        let Some(key) = keys[self.random.below(2)] else { return };
        match self.random.below(16) {
            0..=4 => self.read_some(key),
            5..=7 => self.stop_reading(key),
            8 => {
                let late = Duration::from_millis(self.random.below(20_000) as u64);
                let arrives = self.now.saturating_add(late);
                if let Some(connection) = self.connections.get_mut(&key) {
                    connection.arrives = arrives;
                }
            }
            9 if self.random.one_in(self.setup.burst) => {
                self.disconnect(key, Disconnect::Broken);
            }
            _ => {
                if let Some(connection) = self.connections.get_mut(&key) {
                    (connection.reading, connection.read) = (true, connection.written);
                }
                self.mark_ready(key);
            }
        }
    }

    /// Makes calls that a driver need not make, and calls with stale ids.
    pub fn spurious_calls(&mut self) {
        let shard = self.random.below(self.shards.len());
        match self.random.below(4) {
            0 => {
                let seconds = 1_700_000_000 + self.now.as_micros() / 1_000_000;
                let server = &mut self.shards[shard].server;
                super::meter::inside(|| server.handle_wall_clock(seconds));
            }
            1 => {
                // 13: before the deadline nothing is due. Any call may make room for waiting
                // sessions, so one call comes first.
                self.call(shard, 0, |server, now| server.handle_timeout(now));
                self.pump();
                let deadline = self.shards[shard].server.poll_timeout();
                if deadline.is_none_or(|deadline| deadline.at > self.now) {
                    self.call(shard, 0, mcp_sse_core::Server::handle_timeout);
                    let after = self.shards[shard].server.poll_timeout();
                    assert_eq!(deadline, after, "13: a deadline that was not due");
                    assert_eq!(self.shards[shard].server.poll_wake(), None, "13");
                }
            }
            _ => self.call_stale_connection(),
        }
    }

    /// Invariant 12: a stale connection id has no effect, and never reaches the slot's next
    /// connection.
    fn call_stale_connection(&mut self) {
        let Some(&(shard, conn)) = self.old_connections.front() else { return };
        let server = &self.shards[shard].server;
        assert_eq!(server.interest(conn), Interest::Close, "12: {conn} is gone");
        assert!(server.transmit(conn).is_empty(), "12: {conn} is gone");
        assert!(server.response(conn).is_none(), "12: {conn} is gone");
        // Any call may fire timeouts; after this one none is due.
        self.call(shard, 0, |server, now| server.handle_disconnect(conn, now));
        self.pump();
        let before = self.shards[shard].server.metrics().bytes_sent;
        self.call(shard, 0, |server, now| server.handle_input(conn, b"GET ", now));
        self.shards[shard].bytes_in += 4;
        self.call(shard, 0, |server, now| server.handle_eof(conn, now));
        self.call(shard, 0, |server, now| server.handle_written(conn, 3, now));
        self.call(shard, 0, |server, now| server.handle_disconnect(conn, now));
        let server = &mut self.shards[shard].server;
        assert_eq!(server.metrics().bytes_sent, before, "12: {conn} is gone");
        assert_eq!(server.poll_wake(), None, "12: {conn} is gone");
        self.model.coverage.count("stale connections");
    }
}
