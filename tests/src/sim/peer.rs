//! Peers: polite, slow, pipelining, half-closing, vanishing, hostile, and those whose HTTP is spoken
//! elsewhere.
//!
//! Knows: what each of them says next. Does not know: what comes of it.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use mcp_sse_core::{AcceptError, Exchange, Interest, Peer};

use super::hostile;
use super::link::{Fin, Link, LinkKey, Wanted};
use super::model::{Carries, Post, Ticketed};
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
        let manner = if self.setup.rough { *self.chance.pick(&ALL) } else { Manner::Polite };
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
                self.disconnect(key, "broken");
            }
            7 if manner == Manner::Vanishing || self.chance.one_in(16) => {
                self.disconnect(stream, "broken");
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
        let another = self.setup.rough && self.chance.one_in(4) && self.links.len() < 64;
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
                let link = Link::new(at, elsewhere, believed, self.now);
                let slow = self.parties[at].manner == Manner::Slow;
                let tangled = self.setup.rough && (slow || self.chance.one_in(8));
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
            let fields: &[(&str, &[u8])] = &[("Host", b"localhost"), ("X-Ask", text.as_bytes())];
            let exchange = Exchange { method: "GET", target: "/sse", fields, mount: "" };
            let Some(key) = self.connect(at, Some(exchange)) else { return };
            self.parties[at].stream = Some(key);
            return self.asked_for_stream(key, number, true);
        }
        let Some(key) = self.connect(at, None) else { return };
        self.parties[at].stream = Some(key);
        if self.chance.one_in(8) {
            self.asks += 1;
            let probe =
                format!("HEAD /sse HTTP/1.1\r\nHost: localhost\r\nX-Ask: {}\r\n\r\n", self.asks);
            self.ask(key, self.asks, probe.as_bytes(), Wanted::Health, true);
        }
        let (version, fields) = match self.chance.below(8) {
            4 => ("1.0", ""),
            5 => ("1.1", "Connection: close\r\n"),
            6 => ("1.1", "Accept: text/event-stream\r\nOrigin: http://localhost:5\r\n"),
            7 => ("1.1", "Content-Length: 0\r\n"),
            _ => ("1.1", ""),
        };
        let request = format!(
            "GET /sse HTTP/{version}\r\nHost: localhost:80\r\nX-Ask: {number}\r\n{fields}\r\n"
        );
        if self.parties[at].manner == Manner::Vanishing && self.chance.one_in(4) {
            let most = self.chance.below(request.len());
            return hostile::goes_wild(self, key, &request.as_bytes()[..most]);
        }
        self.send(key, request.as_bytes());
        self.asked_for_stream(key, number, false);
    }

    fn asked_for_stream(&mut self, key: LinkKey, number: u64, elsewhere: bool) {
        let Some(link) = self.links.get_mut(&key) else { return };
        link.ask(number, Wanted::Stream, false);
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

    // ── Posts. ──────────────────────────────────────────────────────────────────────────────────

    /// A token to post to, and the session that it names, unless it names none.
    fn some_token(&mut self, at: usize) -> Option<(Option<LinkKey>, String)> {
        match if self.setup.rough { self.chance.below(24) } else { 0 } {
            21 => {
                // A neighbour's: on whose behalf somebody posts is for the application to say.
                let other = self.chance.below(self.parties.len());
                self.own_token(other).map(|(key, token)| (Some(key), token))
            }
            22 => self.old_tokens.back().map(|token| (None, token.clone())),
            23 => {
                let (_, token) = self.own_token(at)?;
                let at = self.chance.below(token.len());
                let mut octets = token.into_bytes();
                octets[at] = if octets[at] == b'A' { b'B' } else { b'A' };
                String::from_utf8(octets).ok().map(|token| (None, token))
            }
            _ => self.own_token(at).map(|(key, token)| (Some(key), token)),
        }
    }

    fn text(&mut self, number: u64) -> (String, Carries) {
        let len = match self.chance.below(16) {
            14 => self.chance.below(300),
            15 if self.setup.rough => self.chance.below(4_000),
            _ => self.chance.below(16),
        };
        let fill = ".".repeat(len);
        let params = format!(r#"{{"post":{number},"fill":"{fill}"}}"#);
        match self.chance.below(12) {
            0..=4 => (
                format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"do","params":{params}}}"#),
                Carries::Request,
            ),
            5 => (
                format!(r#"{{"jsonrpc":"2.0","id":"{number}","method":"do","params":{params}}}"#),
                Carries::Request,
            ),
            6 => {
                let of = number.saturating_sub(1 + self.chance.below(4) as u64);
                let params = format!(r#"{{"post":{number},"requestId":{of}}}"#);
                let method = "notifications/cancelled";
                (
                    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#),
                    Carries::Other,
                )
            }
            7 => (format!(r#"{{"jsonrpc":"2.0","id":"s","result":{params}}}"#), Carries::Other),
            _ => {
                (format!(r#"{{"jsonrpc":"2.0","method":"say","params":{params}}}"#), Carries::Other)
            }
        }
    }

    fn posts(&mut self, at: usize) {
        let Some((session, token)) = self.some_token(at) else { return };
        self.asks += 1;
        let number = self.asks;
        let (text, carries) = self.text(number);
        if self.parties[at].manner == Manner::Elsewhere && self.chance.one_in(2) {
            return self.posts_elsewhere(at, number, session, &token, text, carries);
        }
        let Some(key) = self.poster(at) else { return };
        let (bytes, last, direct) = self.request(number, &token, &text);
        self.record(key, number, session, text, carries, direct);
        self.ask(key, number, &bytes, Wanted::Post(number), false);
        if let Some(link) = self.links.get_mut(&key) {
            link.done |= last;
        }
        self.model.tour.count("posts");
    }

    /// What the model has to know of a post.
    pub fn record(
        &mut self,
        key: LinkKey,
        number: u64,
        session: Option<LinkKey>,
        text: String,
        carries: Carries,
        direct: bool,
    ) {
        let foreign = session.is_some_and(|session| session.0 != key.0);
        let place = self.links.get(&key).map_or(0, |link| link.asked);
        let post = Post {
            text,
            carries,
            link: key,
            place,
            session,
            forbidden: session.is_none(),
            foreign,
            principal: None,
            status: None,
            delivered: false,
            ticket: Ticketed::None,
            busy: false,
            direct: direct && !foreign,
            completed: None,
            abandoned: false,
        };
        self.model.posted(number, post);
    }

    /// A post's bytes; whether it is the last on its connection; whether nothing holds it up.
    pub fn request(&mut self, number: u64, token: &str, text: &str) -> (Vec<u8>, bool, bool) {
        let instance = self.setup.instance;
        let head = |version: &str, fields: &str| {
            format!(
                "POST /messages?session_id={instance}{token} HTTP/{version}\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\nX-Ask: {number}\r\n{fields}\r\n"
            )
        };
        let length = format!("Content-Length: {}\r\n", text.len());
        match self.chance.below(12) {
            7 => {
                ((head("1.1", &(length + "Connection: close\r\n")) + text).into_bytes(), true, true)
            }
            8 => ((head("1.0", &length) + text).into_bytes(), true, true),
            9 => {
                let keep = length + "Connection: keep-alive\r\n";
                ((head("1.0", &keep) + text).into_bytes(), false, true)
            }
            10 => {
                let expect = length + "Expect: 100-continue\r\n";
                ((head("1.1", &expect) + text).into_bytes(), false, false)
            }
            11 => {
                let mut bytes = head("1.1", "Transfer-Encoding: chunked\r\n").into_bytes();
                let mut rest = text;
                while !rest.is_empty() {
                    let (chunk, tail) = rest.split_at(1 + self.chance.below(rest.len()));
                    let extension = if self.chance.one_in(2) { ";a=b" } else { "" };
                    let chunk = format!("{:x}{extension}\r\n{chunk}\r\n", chunk.len());
                    bytes.extend_from_slice(chunk.as_bytes());
                    rest = tail;
                }
                bytes.extend_from_slice(b"0\r\nX-Trailer: t\r\n\r\n");
                (bytes, false, true)
            }
            _ => ((head("1.1", &length) + text).into_bytes(), false, true),
        }
    }

    fn posts_elsewhere(
        &mut self,
        at: usize,
        number: u64,
        session: Option<LinkKey>,
        token: &str,
        text: String,
        carries: Carries,
    ) {
        let target = format!("/messages?session_id={}{token}", self.setup.instance);
        let (ask, len) = (number.to_string(), text.len().to_string());
        let mut fields: Vec<(&str, &[u8])> = vec![
            ("Host", b"localhost"),
            ("Content-Type", b"application/json"),
            ("X-Ask", ask.as_bytes()),
        ];
        let known = self.chance.one_in(2);
        if known {
            fields.push(("Content-Length", len.as_bytes()));
        }
        let exchange = Exchange { method: "POST", target: &target, fields: &fields, mount: "" };
        let Some(key) = self.connect(at, Some(exchange)) else { return };
        self.record(key, number, session, text.clone(), carries, known);
        self.ask(key, number, text.as_bytes(), Wanted::Post(number), false);
        if let Some(link) = self.links.get_mut(&key) {
            (link.fin, link.done) = (Fin::Sent, true);
        }
        self.model.tour.count("posts elsewhere");
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
        let late = self.setup.rough && self.chance.one_in(8);
        let delay = if late { self.chance.below(3_000_000) } else { 0 };
        let Some(link) = self.links.get_mut(&key) else { return };
        link.send(bytes);
        if delay > 0 {
            link.arrives = now.saturating_add(Duration::from_micros(delay as u64));
        }
        self.trace.say(format_args!("{}/{} sends {} bytes", key.0, key.1, bytes.len()));
        self.touch(key);
    }

    /// A peer sends a request.
    pub fn ask(&mut self, key: LinkKey, number: u64, bytes: &[u8], wanted: Wanted, bodiless: bool) {
        self.send(key, bytes);
        if let Some(link) = self.links.get_mut(&key) {
            link.ask(number, wanted, bodiless);
        }
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
        (link.reading, link.window) = (false, window);
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
            5..=7 if self.setup.rough => self.stops_reading(key),
            8 if self.setup.rough => {
                let late = Duration::from_millis(self.chance.below(20_000) as u64);
                let arrives = self.now.saturating_add(late);
                if let Some(link) = self.links.get_mut(&key) {
                    link.arrives = arrives;
                }
            }
            9 if self.setup.rough && self.chance.one_in(self.setup.burst) => {
                self.disconnect(key, "reset");
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
                // 13: before the deadline nothing is due.
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
