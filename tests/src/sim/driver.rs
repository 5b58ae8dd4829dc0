//! The driver: sockets that take and bring what they can, and the clock.
//!
//! Knows: links, what the core is interested in, deadlines.
//! Does not know: what the bytes mean ([`super::hearing`]) or what must come of them ([`super::due`]).

use core::time::Duration;
use std::collections::BTreeSet;

use mcp_sse_core::{Deadline, Interest, Server, Time};

use super::ask::Wanted;
use super::link::{Fin, Link, LinkKey};
use super::model::Taking;
use super::setup::Cuts;
use super::world::World;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server had no more use for it.
    Closed,
    /// It broke: its peer or the network, which is the same to the server.
    Broken,
}

impl World {
    /// Something may have changed for a connection.
    pub fn touch(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(&key)
            && !core::mem::replace(&mut link.listed, true)
        {
            self.look.push_back(key);
        }
    }

    fn take_wakes(&mut self) {
        for shard in 0..self.shards.len() {
            let mut named = BTreeSet::new();
            while let Some(conn) = self.shards[shard].server.poll_wake() {
                assert!(named.insert(conn), "13: {conn} is named twice");
                self.touch((shard, conn));
            }
        }
    }

    /// Does what the sockets can do now.
    pub fn pump(&mut self) {
        self.take_wakes();
        let mut turns = 0;
        while let Some(key) = self.look.pop_front() {
            if let Some(link) = self.links.get_mut(&key) {
                link.listed = false;
                if self.serve(key) {
                    self.touch(key);
                }
            }
            self.take_wakes();
            turns += 1;
            assert!(turns < 2_000_000, "13: the sockets are never done");
        }
    }

    /// Does one thing for a connection. Says whether there may be more.
    fn serve(&mut self, key: LinkKey) -> bool {
        let interest = self.shards[key.0].server.interest(key.1);
        let now = self.now;
        let Some(link) = self.links.get_mut(&key) else { return false };
        link.believed = interest;
        let (read, write) = match interest {
            Interest::Io { read, write } => (read, write),
            Interest::Linger => (true, false),
            Interest::Close => {
                self.take_response(key);
                self.disconnect(key, End::Closed);
                return false;
            }
        };
        self.take_response(key);
        let Some(link) = self.links.get_mut(&key) else { return false };
        if write && link.room() > 0 {
            self.write(key);
            return true;
        }
        if read && link.arrived(now) > 0 {
            self.read(key);
            return true;
        }
        if read && link.ends_now(now) {
            link.fin = Fin::Read;
            self.trace.say(format_args!("{}/{} eof", key.0, key.1));
            self.call(key.0, 0, |server, now| server.handle_eof(key.1, now));
            return true;
        }
        false
    }

    /// The head of an answer whose HTTP is spoken elsewhere.
    fn take_response(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(&key) else { return };
        if link.exchange != Some(false) {
            return;
        }
        let Some(response) = self.shards[key.0].server.response(key.1) else { return };
        link.exchange = Some(true);
        let mut head = format!("HTTP/1.1 {} Elsewhere\r\n", response.status());
        for (name, value) in response.fields() {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.hear(key, head.as_bytes());
    }

    /// How many of `len` bytes a socket moves.
    fn cut(&mut self, len: usize) -> usize {
        let crumbs = self.setup.crumbs;
        if crumbs == 1 || self.chance.one_in(crumbs) { self.chance.piece(len) } else { len }
    }

    fn write(&mut self, key: LinkKey) {
        // As many pieces as one vectored write takes.
        let view = self.shards[key.0].server.transmit(key.1);
        let len: usize = view.chunks().take(64).map(<[u8]>::len).sum();
        let room = self.links.get(&key).map_or(0, Link::room);
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
        self.trace.say(format_args!("{}/{} writes {count} of {len}", key.0, key.1));
        self.trace.absorb(&bytes);
        self.call(key.0, 0, |server, now| server.handle_written(key.1, count, now));
        self.shards[key.0].bytes_out += count as u64;
        let pause = count < len && self.chance.one_in(4);
        if let Some(link) = self.links.get_mut(&key) {
            link.written += count as u64;
            if link.reading {
                link.read = link.written;
            }
            link.paused = pause;
            link.slow |= pause;
        }
        if pause {
            self.paused.push(key);
        }
        self.hear(key, &bytes);
        if let Some(link) = self.links.get_mut(&key) {
            link.last_written = self.now;
        }
    }

    fn read(&mut self, key: LinkKey) {
        let now = self.now;
        let (len, cuts) = (self.links.get(&key).map_or(0, |l| l.arrived(now)), self.setup.cuts);
        let count = match cuts {
            Cuts::Drawn => self.cut(len),
            Cuts::Whole | Cuts::Crumbs | Cuts::Pieces => len,
        };
        let Some(link) = self.links.get_mut(&key) else { return };
        let bytes = link.give(count, now);
        self.mark_completed(key);
        if cuts == Cuts::Drawn {
            self.trace.say(format_args!("{}/{} reads {count} of {len}", key.0, key.1));
        }
        self.shards[key.0].bytes_in += count as u64;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let piece = match cuts {
                Cuts::Drawn | Cuts::Whole => rest.len(),
                Cuts::Crumbs => 1,
                Cuts::Pieces => self.scissors.piece(rest.len()),
            };
            let (piece, tail) = rest.split_at(piece);
            let work = piece.len() as u64;
            self.call(key.0, work, |server, now| server.handle_input(key.1, piece, now));
            rest = tail;
        }
    }

    /// A post is complete with what the core is given next, if nothing was before it.
    fn mark_completed(&mut self, key: LinkKey) {
        // Who is asked about may wait; then nobody knows when it goes on.
        if self.setup.asked || self.setup.cuts != Cuts::Drawn {
            return;
        }
        let Some(link) = self.links.get(&key) else { return };
        let empty = self.shards[key.0].server.transmit(key.1).is_empty();
        let quiet = link.answered + 1 == link.asked || link.asks.len() == 1;
        let Some(ask) = link.asks.front().filter(|ask| quiet && ask.end <= link.given) else {
            return;
        };
        if let Wanted::Post(number) = ask.wanted
            && let Some(post) = self.model.posts.get_mut(&number)
            && post.direct
            && empty
            && post.completed.is_none()
        {
            post.completed = Some(self.calls + 1);
        }
    }

    /// The connection is gone.
    pub fn disconnect(&mut self, key: LinkKey, end: End) {
        let explained = end == End::Closed && self.closes_for_a_reason(key);
        let Some(link) = self.links.remove(&key) else { return };
        let peer = match end {
            End::Closed if explained || self.ending || link.fin == Fin::Read => Taking::Nothing,
            End::Closed if link.is_willing() => Taking::All,
            End::Closed => Taking::Little,
            End::Broken => Taking::Nothing,
        };
        self.trace.say(format_args!("{}/{} is gone: {end:?}", key.0, key.1));
        self.call(key.0, 0, |server, now| server.handle_disconnect(key.1, now));
        let unanswered =
            link.asks.iter().filter_map(|ask| Some((ask.post()?, ask.whole.is_some())));
        self.model.gone(key, unanswered, peer);
        for number in link.hidden {
            self.model.forget(number);
        }
        self.old_links.push_back(key);
        if self.old_links.len() > 8 {
            self.old_links.pop_front();
        }
        if let Some((_, token)) = link.token {
            self.old_tokens.push_back(token);
            if self.old_tokens.len() > 8 {
                self.old_tokens.pop_front();
            }
        }
        self.party_lost(link.party, key);
    }

    // ── The clock. ──────────────────────────────────────────────────────────────────────────────

    /// What is due next.
    pub fn deadline(&self) -> Option<Deadline> {
        let deadlines = self.shards.iter().filter_map(|shard| shard.server.poll_timeout());
        deadlines.min_by_key(|deadline| deadline.at)
    }

    /// Some time passes, or none.
    pub fn time_passes(&mut self) {
        let to = match self.chance.below(8) {
            0 | 1 => self.deadline().map_or(self.now, |deadline| deadline.at),
            2 if self.setup.crumbs == 1 || self.chance.one_in(self.setup.crumbs) => {
                let micros = self.chance.below(8_000_000) as u64;
                self.now.saturating_add(Duration::from_micros(micros))
            }
            _ => self.now.saturating_add(Duration::from_millis(self.chance.below(64) as u64)),
        };
        self.advance(to);
    }

    /// Lets the time come, from deadline to deadline.
    pub fn advance(&mut self, to: Time) {
        loop {
            let deadline = self.deadline().filter(|deadline| deadline.at <= to);
            self.now = deadline.map_or(to, |deadline| deadline.at).max(self.now);
            self.trace.say(format_args!("it is {} ({:?})", self.now, deadline.map(|d| d.cause)));
            self.arrivals();
            if deadline.is_none() {
                return;
            }
            for shard in 0..self.shards.len() {
                self.let_time_out(shard);
            }
            self.pump();
            if self.setup.attention == 100 {
                self.poll_all();
            }
        }
    }

    fn let_time_out(&mut self, shard: usize) {
        let due = |world: &Self| {
            let deadline = world.shards[shard].server.poll_timeout();
            deadline.is_some_and(|deadline| deadline.at <= world.now)
        };
        let mut calls = 0;
        while due(self) {
            self.call(shard, 1_024, Server::handle_timeout);
            calls += 1;
            // 13: a deadline that has passed is gone.
            assert!(calls < 1_000, "13: a deadline comes again and again");
        }
    }

    fn arrivals(&mut self) {
        for (&key, link) in &mut self.links {
            if !link.listed && (link.arrived(self.now) > 0 || link.ends_now(self.now)) {
                link.listed = true;
                self.look.push_back(key);
            }
        }
    }

    /// Sockets that were paused go on, and slow links bring their next bytes.
    pub fn go_on(&mut self) {
        for key in core::mem::take(&mut self.paused) {
            if let Some(link) = self.links.get_mut(&key) {
                link.paused = false;
                self.touch(key);
            }
        }
        for link in self.links.values_mut() {
            if let Some((each, left)) = &mut link.drip {
                *left = *each;
            }
        }
        self.arrivals();
        self.pump();
    }
}
