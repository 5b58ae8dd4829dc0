//! Peers: polite, slow, pipelining, half-closing, vanishing, hostile, and those whose HTTP is spoken
//! elsewhere.
//!
//! Knows: what each of them says next. Does not know: what comes of it.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use mcp_sse_core::{AcceptError, Exchange, Interest, Peer, Time};

use super::ask::{Size, Wanted};
use super::driver::End;
use super::hostile;
use super::link::{Fin, Link, LinkKey};
use super::world::World;

/// How a peer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Polite,
    Slow,
    Pipelining,
    HalfClosing,
    Vanishing,
    Hostile,
    Elsewhere,
}

/// A client with its connections.
#[derive(Debug)]
pub struct Party {
    pub manner: Manner,
    pub peer: Peer,
    /// Its stream.
    pub stream: Option<LinkKey>,
    /// Where it posts.
    pub poster: Option<LinkKey>,
}

impl Party {
    /// One that has not been drawn.
    #[must_use]
    pub const fn unknown() -> Self {
        Self { manner: Manner::Polite, peer: Peer::local(), stream: None, poster: None }
    }
}

impl World {
    /// Somebody else takes a party's place.
    pub fn draw_party(&mut self, at: usize) {
        const ALL: [Manner; 7] = [
            Manner::Polite,
            Manner::Slow,
            Manner::Pipelining,
            Manner::HalfClosing,
            Manner::Vanishing,
            Manner::Hostile,
            Manner::Elsewhere,
        ];
        let manner = *self.chance.pick(&ALL);
        let host = self.chance.below(4) as u8;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let peer = match host {
            0 => Peer::local(),
            host => Peer::tcp(SocketAddr::from(([10, 0, 0, host], 1_000)), local),
        };
        let party = &mut self.parties[at];
        (party.manner, party.peer) = (manner, peer);
    }

    /// A party's connection is gone.
    pub fn party_lost(&mut self, at: usize, key: LinkKey) {
        let party = &mut self.parties[at];
        if party.poster == Some(key) {
            party.poster = None;
        }
        if party.stream == Some(key) {
            party.stream = None;
            if self.chance.one_in(4) {
                self.draw_party(at);
            }
        }
    }

    /// A party does the next thing.
    pub fn party_acts(&mut self, at: usize) {
        let manner = self.parties[at].manner;
        if manner == Manner::Hostile && self.chance.one_in(2) {
            return self.attack(at);
        }
        let Some(stream) = self.parties[at].stream else { return self.open_stream(at) };
        let knows = self.own_token(at).is_some();
        match self.chance.below(32) {
            0 => self.check_health(at),
            1..=3 if !knows || manner == Manner::Slow => self.reads_some(stream),
            4 if manner == Manner::Slow => self.stops_reading(stream),
            5 if matches!(manner, Manner::HalfClosing | Manner::Polite) => {
                let key = self.parties[at].poster.unwrap_or(stream);
                if key != stream || self.chance.one_in(self.setup.burst) {
                    self.says_no_more(key);
                }
            }
            6 if manner == Manner::Vanishing => {
                let key = self.parties[at].poster.unwrap_or(stream);
                self.disconnect(key, End::Broken);
            }
            8 if matches!(manner, Manner::HalfClosing | Manner::Vanishing) => self.says_half(at),
            7 if manner == Manner::Vanishing || self.chance.one_in(16) => {
                self.disconnect(stream, End::Broken);
            }
            _ if manner == Manner::Pipelining => {
                for _ in 0..=self.chance.below(6) {
                    self.posts(at);
                }
            }
            _ => self.posts(at),
        }
    }

    /// A party's connection, if it has one whose requests are not over; otherwise a new one.
    pub fn poster(&mut self, at: usize) -> Option<LinkKey> {
        // Now and then another beside it, which is then left to itself.
        let another = self.chance.one_in(4) && self.links.len() < 64;
        if let Some(key) = self.parties[at].poster.filter(|_| !another) {
            let link = self.links.get(&key)?;
            if !link.done && link.fin == Fin::No {
                return Some(key);
            }
            if self.chance.one_in(2) {
                return None;
            }
            // It is left to itself.
        }
        let key = self.connect(at, None)?;
        self.parties[at].poster = Some(key);
        Some(key)
    }

    /// A new connection of a party, or what was said when there was none to be had.
    pub fn connect(&mut self, at: usize, exchange: Option<Exchange<'_>>) -> Option<LinkKey> {
        let shard = self.chance.below(self.shards.len());
        let peer = self.parties[at].peer;
        let elsewhere = exchange.is_some();
        let open = self.shards[shard].server.connections_open();
        let accepting = self.shards[shard].server.can_accept();
        let accepted = self.call(shard, 4_096, |server, now| match exchange {
            Some(exchange) => server.exchange(exchange, peer, now),
            None => server.accept(peer, now),
        });
        self.trace.say(format_args!("{shard} accepts {peer} of {at}: {accepted:?}"));
        let limits = self.setup.configs[shard].limits();
        match accepted {
            Ok(conn) => {
                assert!(accepting, "13: accepted although it could not accept");
                assert!(limits.connections_max.is_none_or(|most| open < most), "6: connections");
                let believed = self.shards[shard].server.interest(conn);
                self.shards[shard].accepted += 1;
                let mut link = Link::new(at, elsewhere, believed, self.now);
                link.address = peer.remote().map(|remote| remote.ip());
                let drips = self.parties[at].manner == Manner::Slow || self.chance.one_in(8);
                if drips && self.chance.one_in(2) {
                    let each = *self.chance.pick(&[40, 10, 150]);
                    link.drip = Some((each, each));
                }
                let slow = self.parties[at].manner == Manner::Slow;
                let tangled = slow || self.chance.one_in(8);
                self.links.insert((shard, conn), link);
                if tangled {
                    self.stops_reading((shard, conn));
                }
                self.touch((shard, conn));
                Some((shard, conn))
            }
            Err(AcceptError::AtCapacity) => {
                assert_eq!(limits.connections_max, Some(open), "6: connections");
                None
            }
            Err(error) => {
                let draining = error == AcceptError::ShuttingDown;
                assert!(!draining || self.is_ending(), "{error}");
                self.model.tour.count("not accepted");
                None
            }
        }
    }

    // ── Streams. ────────────────────────────────────────────────────────────────────────────────

    fn open_stream(&mut self, at: usize) {
        self.asks += 1;
        let number = self.asks;
        if self.parties[at].manner == Manner::Elsewhere {
            let text = number.to_string();
            let (credentials, authorization) = self.credentials(at);
            let mut fields: Vec<(&str, &[u8])> =
                vec![("Host", b"localhost"), ("X-Ask", text.as_bytes())];
            for line in authorization.lines() {
                fields.extend(line.split_once(": ").map(|(name, it)| (name, it.as_bytes())));
            }
            let exchange = Exchange { method: "GET", target: "/sse", fields: &fields, mount: "" };
            let Some(key) = self.connect(at, Some(exchange)) else { return };
            self.parties[at].stream = Some(key);
            let head = format!(
                "GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Ask: {number}\r\n{authorization}\r\n"
            );
            self.asked_for_stream(key, number, Size::of(head.as_bytes()), true);
            return self.vouch(key, credentials);
        }
        let Some(key) = self.connect(at, None) else { return };
        self.parties[at].stream = Some(key);
        if self.chance.one_in(8) {
            self.asks += 1;
            let (credentials, fields) = self.credentials(at);
            let number = self.asks;
            let probe =
                format!("HEAD /sse HTTP/1.1\r\nHost: localhost\r\nX-Ask: {number}\r\n{fields}\r\n");
            self.ask(key, self.asks, probe.as_bytes(), Wanted::Probe, true);
            self.vouch(key, credentials);
        }
        let (credentials, authorization) = self.credentials(at);
        let (version, fields) = match self.chance.below(8) {
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
        if self.parties[at].manner == Manner::Vanishing && self.chance.one_in(4) {
            let most = self.chance.below(request.len());
            return hostile::goes_wild(self, key, &request.as_bytes()[..most]);
        }
        self.send(key, request.as_bytes());
        self.asked_for_stream(key, number, Size::of(request.as_bytes()), false);
        self.vouch(key, credentials);
    }

    fn asked_for_stream(&mut self, key: LinkKey, number: u64, size: Size, elsewhere: bool) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&key) else { return };
        link.ask(number, Wanted::Stream, false, size);
        if elsewhere {
            // The server has been given all of it.
            link.give(0, now);
        }
        link.stream_ask = Some(number);
        link.done = true;
        if elsewhere && self.chance.one_in(2) {
            link.fin = Fin::Sent;
        }
    }

    /// The token that a party has read from its stream.
    pub fn own_token(&self, at: usize) -> Option<(LinkKey, String)> {
        let key = self.parties[at].stream?;
        let link = self.links.get(&key)?;
        let (until, token) = link.token.as_ref()?;
        (link.read >= *until).then(|| (key, token.clone()))
    }

    fn check_health(&mut self, at: usize) {
        let Some(key) = self.poster(at) else { return };
        self.asks += 1;
        let (method, path) = *self.chance.pick(&[("GET", "/health"), ("HEAD", "/ready/")]);
        let bytes = format!("{method} {path} HTTP/1.1\r\nHost: anything\r\n\r\n");
        self.ask(key, self.asks, bytes.as_bytes(), Wanted::Health, method == "HEAD");
    }

    fn attack(&mut self, at: usize) {
        hostile::attack(self, at);
    }

    // ── Links. ──────────────────────────────────────────────────────────────────────────────────

    /// A peer sends bytes, which may take their time.
    pub fn send(&mut self, key: LinkKey, bytes: &[u8]) {
        let now = self.now;
        let late = self.chance.one_in(8);
        let delay = if late { self.chance.below(3_000_000) } else { 0 };
        let Some(link) = self.links.get_mut(&key) else { return };
        link.send(bytes);
        if delay > 0 {
            link.arrives = now.saturating_add(Duration::from_micros(delay as u64));
        }
        self.trace.say(format_args!("{}/{} sends {} bytes", key.0, key.1, bytes.len()));
        self.touch(key);
    }

    /// A peer sends a request. Now and then some of it comes later than the rest.
    pub fn ask(&mut self, key: LinkKey, number: u64, bytes: &[u8], wanted: Wanted, bodiless: bool) {
        let gap = self.chance.one_in(8).then(|| self.draw_gap(bytes.len()));
        if let (Some((at, until)), Some(link)) = (gap, self.links.get_mut(&key)) {
            link.gap = Some((link.sent + at, until));
            self.model.tour.count("requests in two pieces");
        }
        self.send(key, bytes);
        if let Some(link) = self.links.get_mut(&key) {
            link.ask(number, wanted, bodiless, Size::of(bytes));
        }
    }

    /// Where in `len` bytes there is a gap, and until when.
    fn draw_gap(&mut self, len: usize) -> (u64, Time) {
        let at = self.chance.below(len.max(1)) as u64;
        let most = *self.chance.pick(&[100, 1_000, 10_000, 40_000]);
        (at, self.now.saturating_add(Duration::from_millis(self.chance.below(most) as u64)))
    }

    fn reads_some(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(&key) else { return };
        let waiting = usize::try_from(link.written - link.read).unwrap_or(usize::MAX);
        if waiting > 0 {
            link.read += self.chance.piece(waiting) as u64;
        } else if self.chance.one_in(4) {
            link.reading = true;
        }
        self.touch(key);
    }

    fn stops_reading(&mut self, key: LinkKey) {
        let window = *self.chance.pick(&[1, 100, 1_000, 10_000]);
        let Some(link) = self.links.get_mut(&key) else { return };
        (link.reading, link.slow, link.window) = (false, true, window);
        self.touch(key);
    }

    fn says_no_more(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(&key) else { return };
        if link.fin == Fin::No {
            link.fin = Fin::Sent;
        }
        link.done = true;
        self.trace.say(format_args!("{}/{} sends its last", key.0, key.1));
        self.touch(key);
    }

    /// Something befalls a connection.
    pub fn link_suffers(&mut self, at: usize) {
        let party = &self.parties[at];
        let keys = [party.stream, party.poster];
        let Some(key) = keys[self.chance.below(2)] else { return };
        match self.chance.below(16) {
            0..=4 => self.reads_some(key),
            5..=7 => self.stops_reading(key),
            8 => {
                let late = Duration::from_millis(self.chance.below(20_000) as u64);
                let arrives = self.now.saturating_add(late);
                if let Some(link) = self.links.get_mut(&key) {
                    link.arrives = arrives;
                }
            }
            9 if self.chance.one_in(self.setup.burst) => {
                self.disconnect(key, End::Broken);
            }
            _ => {
                if let Some(link) = self.links.get_mut(&key) {
                    (link.reading, link.read) = (true, link.written);
                }
                self.touch(key);
            }
        }
    }

    /// What a driver does that is not quite awake.
    pub fn mischief(&mut self) {
        let shard = self.chance.below(self.shards.len());
        match self.chance.below(4) {
            0 => {
                let seconds = 1_700_000_000 + self.now.as_micros() / 1_000_000;
                let server = &mut self.shards[shard].server;
                super::meter::inside(|| server.handle_wall_clock(seconds));
            }
            1 => {
                // 13: before the deadline nothing is due, but for room that any call may make.
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
            _ => self.call_the_dead(),
        }
    }

    /// Invariant 12: a stale handle is a miss, and never finds the next tenant.
    fn call_the_dead(&mut self) {
        let Some(&(shard, conn)) = self.old_links.front() else { return };
        let server = &self.shards[shard].server;
        assert_eq!(server.interest(conn), Interest::Close, "12: {conn} is gone");
        assert!(server.transmit(conn).is_empty(), "12: {conn} is gone");
        assert!(server.response(conn).is_none(), "12: {conn} is gone");
        // Any call may find that somebody has had their time; after this one nobody has.
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
        self.model.tour.count("stale connections");
    }
}
