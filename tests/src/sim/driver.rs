//! The simulated driver: it reads and writes sockets as far as they are ready, and advances the
//! clock.
//!
//! Knows: connections, the core's interest in them, and deadlines. Does not know: what the bytes
//! mean ([`super::responses`]) or what must come of them ([`super::invariants`]).

use core::time::Duration;
use std::collections::BTreeSet;

use mcp_sse_core::{Deadline, Interest, Server, Time};

use super::connection::{ConnectionKey, Fin, SimConnection};
use super::model::PeerReads;
use super::request::Expected;
use super::setup::Cuts;
use super::world::World;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The core's interest is `Close`.
    Closed,
    /// It broke. Whether the client or the network broke it is the same to the server.
    Broken,
}

impl World {
    /// Lists a connection for which there may be something to do.
    pub fn mark_ready(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(&key)
            && !core::mem::replace(&mut connection.listed, true)
        {
            self.ready.push_back(key);
        }
    }

    fn drain_wakes(&mut self) {
        for shard in 0..self.shards.len() {
            let mut named = BTreeSet::new();
            while let Some(conn) = self.shards[shard].server.poll_wake() {
                assert!(named.insert(conn), "13: {conn} is named twice");
                self.mark_ready((shard, conn));
            }
        }
    }

    /// Reads and writes until no socket is ready.
    pub fn pump(&mut self) {
        self.drain_wakes();
        let mut turns = 0;
        while let Some(key) = self.ready.pop_front() {
            if let Some(connection) = self.connections.get_mut(&key) {
                connection.listed = false;
                if self.serve(key) {
                    self.mark_ready(key);
                }
            }
            self.drain_wakes();
            turns += 1;
            assert!(turns < 2_000_000, "13: the sockets are never done");
        }
    }

    /// Does one read or write of a connection. Returns whether there may be more to do.
    fn serve(&mut self, key: ConnectionKey) -> bool {
        let interest = self.shards[key.0].server.interest(key.1);
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&key) else { return false };
        connection.known_interest = interest;
        let (read, write) = match interest {
            Interest::Io { read, write } => (read, write),
            Interest::Linger => (true, false),
            Interest::Close => {
                self.take_response(key);
                self.disconnect(key, Disconnect::Closed);
                return false;
            }
        };
        self.take_response(key);
        let Some(connection) = self.connections.get_mut(&key) else { return false };
        if write && connection.room() > 0 {
            self.write(key);
            return true;
        }
        if read && connection.arrived(now) > 0 {
            self.read(key);
            return true;
        }
        if read && connection.ends_now(now) {
            connection.fin = Fin::Read;
            self.trace.log(format_args!("{}/{} eof", key.0, key.1));
            self.call(key.0, 0, |server, now| server.handle_eof(key.1, now));
            return true;
        }
        false
    }

    /// Takes the head of an exchange's response.
    fn take_response(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.exchange != Some(false) {
            return;
        }
        let Some(response) = self.shards[key.0].server.response(key.1) else { return };
        connection.exchange = Some(true);
        let mut head = format!("HTTP/1.1 {} Elsewhere\r\n", response.status());
        for (name, value) in response.fields() {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.receive(key, head.as_bytes());
    }

    /// Draws how many of `len` bytes a socket reads or writes at once.
    fn cut(&mut self, len: usize) -> usize {
        let short_io_one_in = self.setup.short_io_one_in;
        if short_io_one_in == 1 || self.random.one_in(short_io_one_in) {
            self.random.piece_len(len)
        } else {
            len
        }
    }

    fn write(&mut self, key: ConnectionKey) {
        // One vectored write takes up to 64 slices.
        let view = self.shards[key.0].server.transmit(key.1);
        let len: usize = view.chunks().take(64).map(<[u8]>::len).sum();
        let room = self.connections.get(&key).map_or(0, SimConnection::room);
        assert!(len > 0, "13: a write was wanted, of nothing");
        let most = usize::try_from(room).unwrap_or(usize::MAX).min(len);
        let count = self.cut(most);
        let mut bytes = Vec::with_capacity(count);
        let view = self.shards[key.0].server.transmit(key.1);
        if count > 64 {
            for chunk in view.chunks() {
                bytes.extend_from_slice(&chunk[..chunk.len().min(count - bytes.len())]);
            }
        } else {
            for chunk in view.detach(count).chunks() {
                bytes.extend_from_slice(&chunk[..chunk.len().min(count - bytes.len())]);
            }
        }
        self.trace.log(format_args!("{}/{} writes {count} of {len}", key.0, key.1));
        self.trace.absorb(&bytes);
        self.call(key.0, 0, |server, now| server.handle_written(key.1, count, now));
        self.shards[key.0].bytes_out += count as u64;
        let pause = count < len && self.random.one_in(4);
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.written += count as u64;
            if connection.reading {
                connection.read = connection.written;
            }
            connection.paused = pause;
            connection.slow |= pause;
        }
        if pause {
            self.paused.push(key);
        }
        self.receive(key, &bytes);
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.last_written = self.now;
        }
    }

    fn read(&mut self, key: ConnectionKey) {
        let now = self.now;
        let (len, cuts) =
            (self.connections.get(&key).map_or(0, |l| l.arrived(now)), self.setup.cuts);
        let count = match cuts {
            Cuts::Random => self.cut(len),
            Cuts::Whole | Cuts::SingleBytes | Cuts::Pieces => len,
        };
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let bytes = connection.give(count, now);
        self.mark_completed(key);
        if cuts == Cuts::Random {
            self.trace.log(format_args!("{}/{} reads {count} of {len}", key.0, key.1));
        }
        self.shards[key.0].bytes_in += count as u64;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let piece = match cuts {
                Cuts::Random | Cuts::Whole => rest.len(),
                Cuts::SingleBytes => 1,
                Cuts::Pieces => self.cut_random.piece_len(rest.len()),
            };
            let (piece, tail) = rest.split_at(piece);
            let work = piece.len() as u64;
            self.call(key.0, work, |server, now| server.handle_input(key.1, piece, now));
            rest = tail;
        }
    }

    /// Records with which call a post becomes complete, if it is the only request that waits on its
    /// connection.
    fn mark_completed(&mut self, key: ConnectionKey) {
        // A request that waits for a verdict continues at a time that the model does not know.
        if self.setup.authorizes || self.setup.cuts != Cuts::Random {
            return;
        }
        let Some(connection) = self.connections.get(&key) else { return };
        let empty = self.shards[key.0].server.transmit(key.1).is_empty();
        let quiet = connection.answered + 1 == connection.asked || connection.requests.len() == 1;
        let Some(request) =
            connection.requests.front().filter(|request| quiet && request.end <= connection.given)
        else {
            return;
        };
        if let Expected::Post(number) = request.expected
            && let Some(post) = self.model.posts.get_mut(&number)
            && post.direct
            && empty
            && post.completed.is_none()
        {
            post.completed = Some(self.calls + 1);
        }
    }

    /// Ends a connection.
    pub fn disconnect(&mut self, key: ConnectionKey, end: Disconnect) {
        let explained = end == Disconnect::Closed && self.check_close(key);
        let Some(connection) = self.connections.remove(&key) else { return };
        let peer = match end {
            Disconnect::Closed if explained || self.ending || connection.fin == Fin::Read => {
                PeerReads::Nothing
            }
            Disconnect::Closed if connection.is_willing() => PeerReads::All,
            Disconnect::Closed => PeerReads::Little,
            Disconnect::Broken => PeerReads::Nothing,
        };
        self.trace.log(format_args!("{}/{} is gone: {end:?}", key.0, key.1));
        self.call(key.0, 0, |server, now| server.handle_disconnect(key.1, now));
        let unanswered = connection
            .requests
            .iter()
            .filter_map(|request| Some((request.post()?, request.whole.is_some())));
        self.model.gone(key, unanswered, peer);
        for number in connection.hidden {
            self.model.forget(number);
        }
        self.old_connections.push_back(key);
        if self.old_connections.len() > 8 {
            self.old_connections.pop_front();
        }
        if let Some((_, token)) = connection.token {
            self.old_tokens.push_back(token);
            if self.old_tokens.len() > 8 {
                self.old_tokens.pop_front();
            }
        }
        self.client_disconnected(connection.client, key);
    }

    // ── The clock. ──────────────────────────────────────────────────────────────────────────────

    /// The earliest deadline.
    pub fn deadline(&self) -> Option<Deadline> {
        let deadlines = self.shards.iter().filter_map(|shard| shard.server.poll_timeout());
        deadlines.min_by_key(|deadline| deadline.at)
    }

    /// Advances the clock by a random amount, which may be zero.
    pub fn time_passes(&mut self) {
        let to = match self.random.below(8) {
            0 | 1 => self.deadline().map_or(self.now, |deadline| deadline.at),
            2 if self.setup.short_io_one_in == 1
                || self.random.one_in(self.setup.short_io_one_in) =>
            {
                let micros = self.random.below(8_000_000) as u64;
                self.now.saturating_add(Duration::from_micros(micros))
            }
            _ => self.now.saturating_add(Duration::from_millis(self.random.below(64) as u64)),
        };
        self.advance(to);
    }

    /// Advances the clock to `to`, and fires every deadline on the way.
    pub fn advance(&mut self, to: Time) {
        loop {
            let deadline = self.deadline().filter(|deadline| deadline.at <= to);
            self.now = deadline.map_or(to, |deadline| deadline.at).max(self.now);
            self.trace.log(format_args!("it is {} ({:?})", self.now, deadline.map(|d| d.cause)));
            self.arrivals();
            if deadline.is_none() {
                return;
            }
            for shard in 0..self.shards.len() {
                self.fire_timers(shard);
            }
            self.pump();
            if self.setup.poll_percent == 100 {
                self.poll_all();
            }
        }
    }

    fn fire_timers(&mut self, shard: usize) {
        let due = |world: &Self| {
            let deadline = world.shards[shard].server.poll_timeout();
            deadline.is_some_and(|deadline| deadline.at <= world.now)
        };
        let mut calls = 0;
        while due(self) {
            self.call(shard, 1_024, Server::handle_timeout);
            calls += 1;
            // 13: a timeout that was handled is not due again.
            assert!(calls < 1_000, "13: a deadline comes again and again");
        }
    }

    fn arrivals(&mut self) {
        for (&key, connection) in &mut self.connections {
            if !connection.listed
                && (connection.arrived(self.now) > 0 || connection.ends_now(self.now))
            {
                connection.listed = true;
                self.ready.push_back(key);
            }
        }
    }

    /// Resumes paused sockets, and lets slow connections deliver their next bytes.
    pub fn resume(&mut self) {
        for key in core::mem::take(&mut self.paused) {
            if let Some(connection) = self.connections.get_mut(&key) {
                connection.paused = false;
                self.mark_ready(key);
            }
        }
        for connection in self.connections.values_mut() {
            if let Some((each, left)) = &mut connection.bytes_per_step {
                *left = *each;
            }
        }
        self.arrivals();
        self.pump();
    }
}
