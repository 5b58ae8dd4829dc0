//! The whole of a run: servers, links, peers, the application, the model, and one clock.
//!
//! Knows: in which order things happen, and what must hold after each.
//! Does not know: what peers say ([`super::peer`]) or what the application does
//! ([`super::application`]).

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mcp_sse_core::{Deadline, Event, Fault, Interest, Phase, Server, Time};

use super::application::Application;
use super::chance::{Chance, Tokens};
use super::link::{Link, LinkKey};
use super::meter;
use super::model::Model;
use super::peer::Party;
use super::setup::{Cuts, Setup};
use super::trace::Trace;

/// Messages that the application says it holds for a session, at most.
pub const BACKLOG_MAX: u32 = 2;

/// A server, and what its driver counts.
#[derive(Debug)]
pub struct Shard {
    pub server: Server,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub accepted: u64,
    pub backsteps: u64,
    pub beats: u64,
    pub drained: bool,
}

/// One run.
pub struct World {
    pub setup: Setup,
    /// How to have this run again.
    pub name: String,
    pub chance: Chance,
    /// Decides about cuts and nothing else, so that runs can differ in nothing else.
    pub scissors: Chance,
    pub trace: Trace,
    pub shards: Vec<Shard>,
    pub now: Time,
    pub calls: u64,
    pub links: BTreeMap<LinkKey, Link>,
    pub look: VecDeque<LinkKey>,
    /// Sockets that take nothing until the next step.
    paused: Vec<LinkKey>,
    pub parties: Vec<Party>,
    pub app: Application,
    pub model: Model,
    pub asks: u64,
    /// Tokens of sessions that are no more.
    pub old_tokens: VecDeque<String>,
    /// Handles of connections that are no more.
    pub old_links: VecDeque<LinkKey>,
    /// The most that the core may hold.
    memory_max: i64,
    /// The most that it has held.
    pub memory_peak: i64,
    ending: bool,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\n── the last of what happened in {} ──", self.name);
            for line in self.trace.tail() {
                eprintln!("{line}");
            }
            eprintln!("── {} ──\n", self.name);
        }
    }
}

impl World {
    /// A world in which nothing has happened.
    #[must_use]
    pub fn new(setup: Setup, name: String, chance: Chance, trace: Trace) -> Self {
        let mut memory_max = 0_i64;
        let shards = setup.configs.iter().enumerate().map(|(at, config)| {
            let most = i64::try_from(config.memory_bytes_max()).unwrap_or(i64::MAX);
            memory_max = memory_max.saturating_add(most);
            let config = config.clone();
            let tokens = Tokens::new(at as u64, setup.entropy_fails);
            let server =
                meter::inside(|| Server::new(config.clone(), Box::new(tokens), Time::ZERO));
            let (bytes_in, bytes_out, accepted) = (0, 0, 0);
            Shard { server, bytes_in, bytes_out, accepted, backsteps: 0, beats: 0, drained: false }
        });
        let shards = shards.collect();
        let parties = (0..setup.parties).map(|_| Party::unknown()).collect();
        let mut world = Self {
            name,
            scissors: Chance::seeded(5),
            chance,
            trace,
            shards,
            now: Time::ZERO,
            calls: 0,
            links: BTreeMap::new(),
            look: VecDeque::new(),
            paused: Vec::new(),
            parties,
            app: Application::default(),
            model: Model { deferred: setup.deferred, ..Model::default() },
            asks: 0,
            old_tokens: VecDeque::new(),
            old_links: VecDeque::new(),
            memory_max,
            memory_peak: 0,
            ending: false,
            setup,
        };
        for at in 0..world.parties.len() {
            world.draw_party(at);
        }
        world
    }

    /// Lets everything happen, the end included.
    pub fn run(&mut self) {
        for _ in 0..self.setup.steps {
            if self.chance.is_spent() {
                break;
            }
            self.step();
        }
        self.finish();
    }

    /// Lets one thing happen, and what follows from it.
    pub fn step(&mut self) {
        while let Some(key) = self.paused.pop() {
            if let Some(link) = self.links.get_mut(&key) {
                link.paused = false;
                self.touch(key);
            }
        }
        let party = self.chance.below(self.parties.len());
        match self.chance.below(16) {
            0..=7 => self.party_acts(party),
            8 | 9 => self.time_passes(),
            10..=13 => self.application_acts(),
            14 => self.link_suffers(party),
            _ => self.mischief(),
        }
        self.pump();
        if self.chance.below(100) < self.setup.attention {
            self.poll_all();
        }
        self.verify();
    }

    /// Calls the core. `work` is in proportion to what the call may take.
    pub fn call<T>(
        &mut self,
        shard: usize,
        work: u64,
        verb: impl FnOnce(&mut Server, Time) -> T,
    ) -> T {
        self.calls += 1;
        let mut now = self.now;
        let holder = &mut self.shards[shard];
        // A clock that goes back is counted, and makes no difference.
        if self.setup.cuts == Cuts::Drawn
            && self.calls.is_multiple_of(257)
            && now > holder.server.now()
        {
            now = Time::from_micros(holder.server.now().as_micros().saturating_sub(1));
            holder.backsteps += u64::from(now < holder.server.now());
            let before = holder.server.metrics().clock_backsteps;
            meter::inside(|| holder.server.handle_timeout(now));
            let after = holder.server.metrics().clock_backsteps;
            assert!(after - before <= 1);
            now = self.now;
        }
        let before = meter::allocations();
        let result = meter::inside(|| verb(&mut holder.server, now));
        // 7: a step here is an allocation, of which no request, answer or event takes more than a few.
        let steps = meter::allocations() - before;
        let others = 16 * u64::from(holder.server.connections_open());
        assert!(steps <= 128 + work + others, "7: {steps} allocations in one call");
        if self.calls.is_multiple_of(self.setup.check_every) {
            // 6, 11, 13 from within: budgets, counters, lists, lanes, wakes.
            self.shards[shard].server.check();
        }
        // 6, from without: what the core has asked for and not given back.
        let peak = meter::take_peak();
        self.memory_peak = self.memory_peak.max(peak);
        let most = self.memory_max.saturating_add(self.app.held_bytes);
        assert!(peak <= most, "6: the core held {peak} bytes and may hold {most}");
        result
    }

    // ── The driver. ─────────────────────────────────────────────────────────────────────────────

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
                self.disconnect(key, "closed");
                return false;
            }
        };
        self.take_response(key);
        let Some(link) = self.links.get_mut(&key) else { return false };
        if write && link.room() > 0 {
            self.write(key);
            return true;
        }
        if !read || link.arrives > now {
            return false;
        }
        if !link.inbound.is_empty() {
            self.read(key);
            return true;
        }
        if link.fin == super::link::Fin::Sent {
            link.fin = super::link::Fin::Read;
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
        let (len, cuts) = (self.links.get(&key).map_or(0, |l| l.inbound.len()), self.setup.cuts);
        let count = match cuts {
            Cuts::Drawn => self.cut(len),
            Cuts::Whole | Cuts::Crumbs | Cuts::Pieces => len,
        };
        let Some(link) = self.links.get_mut(&key) else { return };
        let bytes: Vec<u8> = link.inbound.drain(..count).collect();
        link.given += count as u64;
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
        if let super::link::Wanted::Post(number) = ask.wanted
            && let Some(post) = self.model.posts.get_mut(&number)
            && post.direct
            && empty
            && post.completed.is_none()
        {
            post.completed = Some(self.calls + 1);
        }
    }

    /// The connection is gone, however that came about.
    pub fn disconnect(&mut self, key: LinkKey, how: &str) {
        let Some(link) = self.links.remove(&key) else { return };
        self.trace.say(format_args!("{}/{} is {how}", key.0, key.1));
        self.call(key.0, 0, |server, now| server.handle_disconnect(key.1, now));
        let unanswered = link.asks.iter().filter_map(|ask| match ask.wanted {
            super::link::Wanted::Post(number) => Some((number, ask.end <= link.given)),
            super::link::Wanted::Stream
            | super::link::Wanted::Health
            | super::link::Wanted::Refusal { .. } => None,
        });
        self.model.gone(key, unanswered);
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

    fn deadline(&self) -> Option<Deadline> {
        let deadlines = self.shards.iter().filter_map(|shard| shard.server.poll_timeout());
        deadlines.min_by_key(|deadline| deadline.at)
    }

    fn time_passes(&mut self) {
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
            if !link.inbound.is_empty() && link.arrives <= self.now && !link.listed {
                link.listed = true;
                self.look.push_back(key);
            }
        }
    }

    // ── What must hold. ─────────────────────────────────────────────────────────────────────────

    fn verify(&mut self) {
        if !self.calls.is_multiple_of(self.setup.check_every) && self.setup.check_every > 1 {
            return;
        }
        // 13: who is not named by `poll_wake` has not changed. Reading behind queued output depends on
        // all queues together, which is not announced.
        for (key, link) in &self.links {
            let truth = self.shards[key.0].server.interest(key.1);
            let writes = |interest| matches!(interest, Interest::Io { write: true, .. });
            let queues = writes(truth) && writes(link.believed) && !self.setup.generous;
            let same = link.believed == truth || queues;
            assert!(same, "13: {} believes {:?}, and it is {truth:?}", key.1, link.believed);
            let wants = writes(truth) && link.room() > 0 && !link.paused;
            assert!(!wants, "13: {} could write", key.1);
        }
        for shard in &mut self.shards {
            let server = &shard.server;
            let metrics = server.metrics();
            // 11: what the driver has counted.
            assert_eq!(metrics.bytes_received, shard.bytes_in, "11");
            assert_eq!(metrics.bytes_sent, shard.bytes_out, "11");
            assert_eq!(metrics.connections_accepted, shard.accepted, "11");
            assert!(metrics.heartbeats >= shard.beats, "11");
            assert_eq!(metrics.sessions_open(), u64::from(server.sessions_open()), "11");
            assert_eq!(metrics.clock_backsteps, shard.backsteps, "11");
            // 6: what each session may hold, and what all queues and slots may.
            let limits = server.config().limits();
            let within = |most: Option<u32>, count: u32| most.is_none_or(|most| count <= most);
            assert!(within(limits.sessions_max, server.sessions_open()), "6: sessions");
            assert!(within(limits.connections_max, server.connections_open()), "6: connections");
            for view in server.sessions() {
                let asked = view.requests_in_flight();
                assert!(within(limits.in_flight_max, asked), "6: {asked} requests in flight");
                // What an application says that it holds itself is not for the core to bound.
                let most = limits.inbound_messages_max.map(|most| most + BACKLOG_MAX);
                let inbound = view.inbound_messages();
                assert!(within(most, inbound), "6: {inbound} messages nobody has taken");
            }
        }
        let open: u64 =
            self.shards.iter().map(|shard| u64::from(shard.server.connections_open())).sum();
        assert_eq!(open, self.links.len() as u64, "11: connections");
    }

    // ── The end. ────────────────────────────────────────────────────────────────────────────────

    /// Ends the run: in order or not, and what was open is accounted for.
    pub fn finish(&mut self) {
        self.quiesce();
        self.ending = true;
        let orderly = !self.chance.one_in(4);
        self.trace.say(format_args!("the end, {}", if orderly { "in order" } else { "abrupt" }));
        if orderly {
            for shard in 0..self.shards.len() {
                self.call(shard, 4_096, Server::shutdown);
                if self.chance.one_in(4) {
                    self.call(shard, 4_096, Server::shutdown);
                }
            }
            self.pump();
            self.poll_all();
            for _ in 0..200 {
                let Some(deadline) = self.deadline() else { break };
                self.answer_everything();
                self.advance(deadline.at);
                self.poll_all();
                self.pump();
            }
        }
        let left: Vec<LinkKey> = self.links.keys().copied().collect();
        for key in left {
            self.disconnect(key, "cut");
            self.pump();
            self.poll_all();
        }
        self.answer_everything();
        self.poll_all();
        self.verify_end(orderly);
    }

    /// Lets everybody read and say the rest, so that whatever still waits waits for nothing.
    fn quiesce(&mut self) {
        for link in self.links.values_mut() {
            (link.reading, link.paused, link.window) = (true, false, u64::MAX);
            (link.read, link.arrives) = (link.written, self.now);
        }
        let keys: Vec<LinkKey> = self.links.keys().copied().collect();
        for key in keys {
            self.touch(key);
        }
        self.pump();
        for _ in 0..64 {
            self.poll_all();
            self.pump();
            self.unpause();
        }
        self.verify();
        for (key, stream) in &self.model.streams {
            let Some(session) = stream.session.filter(|_| stream.blocked) else { continue };
            let view = self.shards[key.0].server.session(session);
            let waits = view.is_some_and(|view| !view.is_ending());
            assert!(!waits, "13: {session} was refused a frame and never told that it has room");
        }
    }

    /// Lets paused sockets go on.
    pub fn unpause(&mut self) {
        let paused: Vec<LinkKey> =
            self.links.iter().filter(|(_, link)| link.paused).map(|(&key, _)| key).collect();
        for key in paused {
            if let Some(link) = self.links.get_mut(&key) {
                link.paused = false;
            }
            self.touch(key);
        }
        self.pump();
    }

    fn verify_end(&mut self, orderly: bool) {
        let mut withdrawn = 0;
        for shard in &mut self.shards {
            let server = &mut shard.server;
            server.check();
            let metrics = server.metrics();
            assert_eq!(metrics.connections_open(), 0, "11: connections");
            assert_eq!(metrics.sessions_open(), 0, "11: sessions");
            let ended = metrics.frames_sent + metrics.frames_undelivered;
            assert_eq!(metrics.frames_queued, ended, "11: frames");
            withdrawn += metrics.requests_withdrawn;
            for &fault in Fault::ALL {
                if metrics.fault(fault) > 0 {
                    self.model.tour.add(fault.name(), metrics.fault(fault));
                }
            }
            self.model.tour.add("heartbeats", metrics.heartbeats);
            self.model.tour.add("posts held", metrics.posts_held);
            self.model.tour.add("withdrawn", metrics.requests_withdrawn);
            self.model.tour.add("connections", metrics.connections_accepted);
            if orderly {
                assert_eq!(server.phase(), Phase::Drained);
                assert!(shard.drained, "10: the end was told");
            }
            assert_eq!(server.poll_timeout(), None, "13: nothing is left to be waited for");
            assert!(server.poll_wake().is_none() && server.poll_event().is_none(), "13");
        }
        self.model.finish(withdrawn);
    }

    /// Forgets the servers and everything of theirs. Says how many bytes they leave behind.
    pub fn leave(mut self) -> (Trace, super::model::Tour, u64, i64) {
        self.app = Application::default();
        self.shards.clear();
        let trace = core::mem::take(&mut self.trace);
        let tour = core::mem::take(&mut self.model.tour);
        (trace, tour, self.model.messages, self.memory_peak)
    }

    /// An event was polled.
    pub fn poll(&mut self, shard: usize) -> bool {
        let event = self.call(shard, 0, |server, _| server.poll_event());
        let Some(event) = event else { return false };
        if self.trace.verbose {
            let text = format!("{event:?}");
            // 14: neither the token nor what makes it one.
            let told = |token: &String| text.contains(&token[8..]);
            let mut streams = self.model.streams.values();
            assert!(!streams.any(|stream| stream.token.as_ref().is_some_and(told)), "14: {text}");
            self.trace.say(format_args!("{shard} tells {text}"));
        }
        if let Event::Drained = event {
            assert!(!core::mem::replace(&mut self.shards[shard].drained, true), "10: told once");
            assert_eq!(self.shards[shard].server.connections_open(), 0);
            return true;
        }
        self.told(shard, event);
        true
    }

    /// Polls until there are no events.
    pub fn poll_all(&mut self) {
        for shard in 0..self.shards.len() {
            let mut events = 0;
            while self.poll(shard) {
                self.pump();
                events += 1;
                assert!(events < 1_000_000, "13: events without end");
            }
        }
    }

    /// Whether the run is being ended.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        self.ending
    }
}
