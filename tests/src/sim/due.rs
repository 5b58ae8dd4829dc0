//! What must hold between steps, and in the end.
//!
//! Knows: what WIRE's promises come to: whoever asked is answered, streams are not silent, books balance.
//! Does not know: how any of it comes about.

use core::time::Duration;

use mcp_sse_core::{Fault, Interest, Server, ServerPhase, Timeouts};

use super::ask::{Ask, Wanted};
use super::driver::End;
use super::link::{Fin, Link, LinkKey};
use super::world::{BACKLOG_MAX, World};

impl World {
    /// Looks whether all of it is so.
    pub fn verify(&mut self) {
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
            let wants = writes(truth) && link.room() > 0;
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
        for (&(shard, fault), &used) in &self.model.mishaps {
            let counted = self.shards[shard].server.metrics().fault(fault);
            assert!(used <= counted, "9: {used} lost something by {fault:?}, {counted} counted");
        }
        self.nobody_waits();
        let open: u64 =
            self.shards.iter().map(|shard| u64::from(shard.server.connections_open())).sum();
        assert_eq!(open, self.links.len() as u64, "11: connections");
    }

    // ── Who asks is answered. ───────────────────────────────────────────────────────────────────

    /// Nobody who reads waits for longer than WIRE says, be it for an answer, a sign of life or an end.
    fn nobody_waits(&self) {
        for (&key, link) in &self.links {
            if link.is_willing() {
                if let Some(ask) = self.overdue(key, link) {
                    panic!("nobody answers {ask:?} on {}/{}", key.0, key.1);
                }
                self.beats(key, link);
                self.is_of_use(key, link);
            }
            let half_close = self.setup.half_close || link.exchange.is_some();
            let left = link.reader.is_stream() && link.fin == Fin::Read;
            assert!(!left || half_close, "{}/{}: its client has ended the stream", key.0, key.1);
        }
    }

    /// The request that should have been answered.
    fn overdue<'a>(&self, key: LinkKey, link: &'a Link) -> Option<&'a Ask> {
        // A connection that lingers is told nothing more; why, is asked when it is closed.
        if link.closed_by_answer || self.shards[key.0].server.interest(key.1) == Interest::Linger {
            return None;
        }
        let ask = link.asks.front()?;
        // Behind others its turn comes when their answers have left.
        let since = ask.whole.or(ask.begun)?.max(link.last_answer).max(link.last_written);
        let waited = self.now.saturating_since(since);
        let patience = match ask.whole {
            Some(_) => self.patience_with(key, ask)?,
            None => self.patience_with_half(key)?,
        };
        (waited >= patience).then_some(ask)
    }

    /// For how long a request may wait whose turn it is, if there is an end to it.
    fn patience_with(&self, key: LinkKey, ask: &Ask) -> Option<Duration> {
        let timeouts = self.setup.configs[key.0].timeouts();
        let mut sum = Duration::ZERO;
        if self.setup.asked && ask.wanted != Wanted::Health {
            sum += timeouts.decision?;
        }
        let (ours, room) = match ask.wanted {
            Wanted::Post(number) => {
                let post = self.model.posts.get(&number)?;
                // A ticket comes when it has been held.
                let room = self.has_room(key, number) && !self.setup.deferred;
                (!post.foreign && !post.forbidden, room)
            }
            // Its token may seem to be another shard's.
            Wanted::Refusal { .. } => (!self.setup.forwarding, true),
            Wanted::Stream | Wanted::Probe | Wanted::Health => (true, true),
        };
        if !ours || !room {
            sum += timeouts.hold?;
        }
        if !ours || self.setup.deferred {
            sum += timeouts.decision?;
        }
        if !ours {
            // Its shard is asked first, and then the body has its time.
            sum += timeouts.decision?;
        }
        Some(sum)
    }

    /// For how long a request may be under way: its head, what is decided of it, its body.
    fn patience_with_half(&self, key: LinkKey) -> Option<Duration> {
        let timeouts = self.setup.configs[key.0].timeouts();
        // Its shard may be asked before its body is read.
        Some(timeouts.head? + timeouts.body? + timeouts.decision? + patience(timeouts)?)
    }

    /// Whether a post's session can take it now, as far as anybody can see.
    fn has_room(&self, key: LinkKey, number: u64) -> bool {
        let limits = self.setup.configs[key.0].limits();
        let posts = &self.model.posts;
        let stream = posts.get(&number).and_then(|post| self.model.streams.get(&post.session?));
        // A session that is gone needs none.
        let Some(stream) = stream else { return true };
        let view = stream.session.and_then(|session| self.shards[key.0].server.session(session));
        // The application does not know yet that it is there, or not.
        let Some(view) = view else { return false };
        let within = |most: Option<u32>, count: u32| most.is_none_or(|most| count < most);
        // Of bytes only the application knows, and of who came before.
        limits.inbound_bytes_max.is_none_or(|most| most >= 1 << 20)
            && within(limits.inbound_messages_max, view.inbound_messages())
            && within(limits.in_flight_max, view.requests_in_flight())
    }

    /// A stream that has been silent for long has beaten.
    fn beats(&self, key: LinkKey, link: &Link) {
        let Some(stream) = self.model.streams.get(&key) else { return };
        let Some(interval) = self.setup.configs[key.0].timeouts().heartbeat else { return };
        let silence = self.now.saturating_since(link.last_written);
        let due = stream.greeted && !stream.ended && silence > interval;
        assert!(!due, "{}/{}: nothing for {silence:?}, not even a heartbeat", key.0, key.1);
    }

    /// A connection on which nothing has happened for longer than for anything there is a deadline has been
    /// told so, or closed.
    fn is_of_use(&self, key: LinkKey, link: &Link) {
        let Timeouts { head, body, idle, linger, .. } = self.setup.configs[key.0].timeouts();
        let parts = [*head, *body, *idle, *linger, patience(self.setup.configs[key.0].timeouts())];
        let Some(most) = parts.into_iter().sum::<Option<Duration>>() else { return };
        let last = link.last_given.max(link.last_written);
        let quiet = self.now.saturating_since(last);
        let stream =
            link.reader.is_stream() || link.stream_ask.is_some() || link.exchange.is_some();
        let of_use = stream || quiet <= most;
        assert!(of_use, "{}/{}: nothing for {quiet:?}, and it is still there", key.0, key.1);
    }

    /// The server closes a connection: nobody on it is left waiting without a reason. Says whether
    /// there was one.
    pub fn closes_for_a_reason(&mut self, key: LinkKey) -> bool {
        let Some(link) = self.links.get(&key) else { return false };
        let owed = link.asks.front().filter(|ask| ask.whole.is_some());
        let Some(ask) = owed.filter(|_| !link.closed_by_answer && !self.ending).cloned() else {
            return false;
        };
        // Who ends a stream's input has ended the stream, and what was still queued in front of it.
        if link.stream_ask.is_some() && link.fin == Fin::Read {
            return false;
        }
        // What can be a peer's own slowness is not put down to what the others need.
        let stalled = link.slow.then_some(Fault::Stalled);
        let others = [Fault::ConnectionEvicted, Fault::BodiesFull, Fault::BodiesPerAddressFull];
        let causes: Vec<Fault> = stalled.into_iter().chain(others).collect();
        let excused = causes.into_iter().any(|fault| self.excuse(key.0, fault));
        assert!(excused, "{}/{} is closed, and owes an answer to {ask:?}", key.0, key.1);
        true
    }

    /// Whether something has gone wrong that has not explained anything else yet.
    fn excuse(&mut self, shard: usize, fault: Fault) -> bool {
        let told = self.shards[shard].heard.get(&fault).copied().unwrap_or(0);
        let counted = self.shards[shard].server.metrics().fault(fault);
        let used = self.model.mishaps.entry((shard, fault)).or_default();
        let free = told + *used < counted;
        *used += u64::from(free);
        free
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
                // Again, which changes nothing; or at once.
                match self.chance.below(8) {
                    5 => self.call(shard, 4_096, Server::shutdown),
                    6 | 7 => self.call(shard, 4_096, Server::abort),
                    _ => {}
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
            self.disconnect(key, End::Broken);
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
            link.read = link.written;
            link.hurry(self.now);
        }
        let keys: Vec<LinkKey> = self.links.keys().copied().collect();
        for key in keys {
            self.touch(key);
        }
        self.pump();
        for _ in 0..64 {
            self.poll_all();
            self.pump();
            self.go_on();
        }
        self.verify();
        // Whatever may be waited for comes, or is given up.
        let most = self.setup.configs.iter().filter_map(|config| patience(config.timeouts())).max();
        self.advance(self.now.saturating_add(most.unwrap_or_default()));
        self.poll_all();
        self.go_on();
        self.verify();
        for (key, stream) in &self.model.streams {
            let Some(session) = stream.session.filter(|_| stream.blocked) else { continue };
            let view = self.shards[key.0].server.session(session);
            let waits = view.is_some_and(|view| !view.is_ending());
            assert!(!waits, "13: {session} was refused a frame and never told that it has room");
        }
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
                assert_eq!(server.phase(), ServerPhase::Drained);
                assert!(shard.drained, "10: the end was told");
            }
            assert_eq!(server.poll_timeout(), None, "13: nothing is left to be waited for");
            assert!(server.poll_wake().is_none() && server.poll_event().is_none(), "13");
        }
        self.model.finish(withdrawn);
    }
}

/// The longest that an answer may be waited for: somebody decides, it is held, somebody decides again.
fn patience(timeouts: &Timeouts) -> Option<Duration> {
    Some(timeouts.decision? * 3 + timeouts.hold?)
}
