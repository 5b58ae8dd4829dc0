//! The invariants that are checked between steps and at the end of a run.
//!
//! Knows: what the wire contract promises: every request is answered in time, streams have
//! heartbeats, and counters balance. Does not know: how the core keeps these promises.

use core::time::Duration;

use mcp_sse_core::{Fault, Interest, Server, ServerPhase, Timeouts};

use super::connection::{ConnectionKey, Fin, SimConnection};
use super::driver::Disconnect;
use super::request::{Expected, SimRequest};
use super::world::{BACKLOG_MAX, World};

impl World {
    /// Checks the invariants that hold at any time.
    pub fn verify(&mut self) {
        if !self.calls.is_multiple_of(self.setup.check_every) && self.setup.check_every > 1 {
            return;
        }
        // 13: the interest of a connection that `poll_wake` did not return has not changed. One
        // exception: reading behind queued output depends on the budget of all queues, whose
        // changes are not announced.
        for (key, connection) in &self.connections {
            let truth = self.shards[key.0].server.interest(key.1);
            let writes = |interest| matches!(interest, Interest::Io { write: true, .. });
            let queues =
                writes(truth) && writes(connection.known_interest) && !self.setup.default_limits;
            let same = connection.known_interest == truth || queues;
            assert!(
                same,
                "13: {} believes {:?}, and it is {truth:?}",
                key.1, connection.known_interest
            );
            let wants = writes(truth) && connection.room() > 0;
            assert!(!wants, "13: {} could write", key.1);
        }
        for shard in &mut self.shards {
            let server = &shard.server;
            let metrics = server.metrics();
            // 11: the driver's own counts.
            assert_eq!(metrics.bytes_received, shard.bytes_in, "11");
            assert_eq!(metrics.bytes_sent, shard.bytes_out, "11");
            assert_eq!(metrics.connections_accepted, shard.accepted, "11");
            assert!(metrics.heartbeats >= shard.heartbeats, "11");
            assert_eq!(metrics.sessions_open(), u64::from(server.sessions_open()), "11");
            assert_eq!(metrics.clock_backsteps, shard.backsteps, "11");
            // 6: the limits of each session and of the whole server.
            let limits = server.config().limits();
            let within = |most: Option<u32>, count: u32| most.is_none_or(|most| count <= most);
            assert!(within(limits.sessions_max, server.sessions_open()), "6: sessions");
            assert!(within(limits.connections_max, server.connections_open()), "6: connections");
            for view in server.sessions() {
                let asked = view.requests_in_flight();
                assert!(within(limits.in_flight_max, asked), "6: {asked} requests in flight");
                // The core does not limit the backlog that the application reports.
                let most = limits.inbound_messages_max.map(|most| most + BACKLOG_MAX);
                let inbound = view.inbound_messages();
                assert!(within(most, inbound), "6: {inbound} messages nobody has taken");
            }
        }
        for (&(shard, fault), &used) in &self.model.used_causes {
            let counted = self.shards[shard].server.metrics().fault(fault);
            assert!(used <= counted, "9: {used} lost something by {fault:?}, {counted} counted");
        }
        self.check_waiting();
        let open: u64 =
            self.shards.iter().map(|shard| u64::from(shard.server.connections_open())).sum();
        assert_eq!(open, self.connections.len() as u64, "11: connections");
    }

    // ── Who asks is answered. ───────────────────────────────────────────────────────────────────

    /// No client that reads waits longer than the wire contract allows for a response, a heartbeat
    /// or a close.
    fn check_waiting(&self) {
        for (&key, connection) in &self.connections {
            if connection.is_willing() {
                if let Some(request) = self.overdue(key, connection) {
                    panic!("nobody answers {request:?} on {}/{}", key.0, key.1);
                }
                self.check_heartbeat(key, connection);
                self.check_idle(key, connection);
            }
            let half_close = self.setup.half_close || connection.exchange.is_some();
            let left = connection.reader.is_stream() && connection.fin == Fin::Read;
            assert!(!left || half_close, "{}/{}: its client has ended the stream", key.0, key.1);
        }
    }

    /// The connection's first request, if its response is overdue.
    fn overdue<'a>(
        &self,
        key: ConnectionKey,
        connection: &'a SimConnection,
    ) -> Option<&'a SimRequest> {
        // A lingering connection gets no further response; the reason is checked when it is closed.
        if connection.closed_by_answer
            || self.shards[key.0].server.interest(key.1) == Interest::Linger
        {
            return None;
        }
        let request = connection.requests.front()?;
        // Pipelined requests are handled in order, so the time counts from the previous response.
        let since = request
            .whole
            .or(request.begun)?
            .max(connection.last_answer)
            .max(connection.last_written);
        let waited = self.now.saturating_since(since);
        let answer_wait_max = match request.whole {
            Some(_) => self.wait_max(key, request)?,
            None => self.incomplete_wait_max(key)?,
        };
        (waited >= answer_wait_max).then_some(request)
    }

    /// How long the response to a complete request may take; `None` if there is no limit.
    fn wait_max(&self, key: ConnectionKey, request: &SimRequest) -> Option<Duration> {
        let timeouts = self.setup.configs[key.0].timeouts();
        let mut sum = Duration::ZERO;
        if self.setup.authorizes && request.expected != Expected::Health {
            sum += timeouts.decision?;
        }
        let (ours, room) = match request.expected {
            Expected::Post(number) => {
                let post = self.model.posts.get(&number)?;
                (!post.foreign && !post.forbidden, self.has_room(key, number))
            }
            // Its malformed token may name another shard.
            Expected::Refusal { .. } => (!self.setup.forwarding, true),
            Expected::Stream | Expected::Probe | Expected::Health => (true, true),
        };
        if !ours || !room {
            sum += timeouts.hold?;
        }
        if !ours {
            // The other shard is asked first, and then the body may arrive.
            sum += timeouts.decision? + timeouts.decision?;
        }
        Some(sum)
    }

    /// How long a request may stay incomplete: the sum of the deadlines of its head, its verdict
    /// and its body.
    fn incomplete_wait_max(&self, key: ConnectionKey) -> Option<Duration> {
        let timeouts = self.setup.configs[key.0].timeouts();
        // The shard of its session may be asked before its body is read.
        Some(timeouts.head? + timeouts.body? + timeouts.decision? + answer_wait_max(timeouts)?)
    }

    /// Whether a post's session has room, as far as the public interface shows it.
    fn has_room(&self, key: ConnectionKey, number: u64) -> bool {
        let limits = self.setup.configs[key.0].limits();
        let posts = &self.model.posts;
        let stream = posts.get(&number).and_then(|post| self.model.streams.get(&post.session?));
        // A post to an ended session is answered at once.
        let Some(stream) = stream else { return true };
        let view = stream.session.and_then(|session| self.shards[key.0].server.session(session));
        // The event that the session has opened or closed was not polled yet.
        let Some(view) = view else { return false };
        let within = |most: Option<u32>, count: u32| most.is_none_or(|most| count < most);
        // The bytes that wait are not visible here, so a small byte limit counts as full.
        limits.inbound_bytes_max.is_none_or(|most| most >= 1 << 20)
            && within(limits.inbound_messages_max, view.inbound_messages())
            && within(limits.in_flight_max, view.requests_in_flight())
    }

    /// A stream that was silent for the heartbeat interval got a heartbeat.
    fn check_heartbeat(&self, key: ConnectionKey, connection: &SimConnection) {
        let Some(stream) = self.model.streams.get(&key) else { return };
        let Some(interval) = self.setup.configs[key.0].timeouts().heartbeat else { return };
        let silence = self.now.saturating_since(connection.last_written);
        let due = stream.greeted && !stream.ended && silence > interval;
        assert!(!due, "{}/{}: nothing for {silence:?}, not even a heartbeat", key.0, key.1);
    }

    /// A connection on which nothing happened for the sum of all deadlines has got a response or
    /// was closed.
    fn check_idle(&self, key: ConnectionKey, connection: &SimConnection) {
        let Timeouts { head, body, idle, linger, .. } = self.setup.configs[key.0].timeouts();
        let parts =
            [*head, *body, *idle, *linger, answer_wait_max(self.setup.configs[key.0].timeouts())];
        let Some(most) = parts.into_iter().sum::<Option<Duration>>() else { return };
        let last = connection.last_given.max(connection.last_written);
        let quiet = self.now.saturating_since(last);
        let stream = connection.reader.is_stream()
            || connection.stream_request.is_some()
            || connection.exchange.is_some();
        let of_use = stream || quiet <= most;
        assert!(of_use, "{}/{}: nothing for {quiet:?}, and it is still there", key.0, key.1);
    }

    /// Checks a close by the server: a request without a response needs a counted fault as the
    /// cause. Returns whether there was one.
    pub fn check_close(&mut self, key: ConnectionKey) -> bool {
        let Some(connection) = self.connections.get(&key) else { return false };
        let owed = connection.requests.front().filter(|request| request.whole.is_some());
        let Some(request) = owed.filter(|_| !connection.closed_by_answer && !self.ending).cloned()
        else {
            return false;
        };
        // A client that ends its input on a stream ends the stream, and with it the responses that
        // were queued before it.
        if connection.stream_request.is_some() && connection.fin == Fin::Read {
            return false;
        }
        // Stalling is tried first: it is the client's own fault, while the other causes are those
        // of other clients.
        let stalled = connection.slow.then_some(Fault::Stalled);
        let others = [Fault::ConnectionEvicted, Fault::BodiesFull, Fault::BodiesPerAddressFull];
        let causes: Vec<Fault> = stalled.into_iter().chain(others).collect();
        let excused = causes.into_iter().any(|fault| self.use_as_cause(key.0, fault));
        assert!(excused, "{}/{} is closed, and owes an answer to {request:?}", key.0, key.1);
        true
    }

    /// Uses a counted fault as the cause of something, each once. Returns whether one was left.
    fn use_as_cause(&mut self, shard: usize, fault: Fault) -> bool {
        let told = self.shards[shard].refusals_received.get(&fault).copied().unwrap_or(0);
        let counted = self.shards[shard].server.metrics().fault(fault);
        let used = self.model.used_causes.entry((shard, fault)).or_default();
        let free = told + *used < counted;
        *used += u64::from(free);
        free
    }

    // ── The end. ────────────────────────────────────────────────────────────────────────────────

    /// Ends the run, by a shutdown or without, and checks that everything that was open is
    /// accounted for.
    pub fn finish(&mut self) {
        self.quiesce();
        self.ending = true;
        let orderly = !self.random.one_in(4);
        self.trace.log(format_args!("the end, {}", if orderly { "in order" } else { "abrupt" }));
        if orderly {
            for shard in 0..self.shards.len() {
                self.call(shard, 4_096, Server::shutdown);
                // A second shutdown changes nothing; an abort ends at once.
                match self.random.below(8) {
                    5 => self.call(shard, 4_096, Server::shutdown),
                    6 | 7 => self.call(shard, 4_096, Server::abort),
                    _ => {}
                }
            }
            self.pump();
            self.poll_all();
            for _ in 0..200 {
                let Some(deadline) = self.deadline() else { break };
                self.answer_all();
                self.advance(deadline.at);
                self.poll_all();
                self.pump();
            }
        }
        let left: Vec<ConnectionKey> = self.connections.keys().copied().collect();
        for key in left {
            self.disconnect(key, Disconnect::Broken);
            self.pump();
            self.poll_all();
        }
        self.answer_all();
        self.poll_all();
        self.verify_end(orderly);
    }

    /// Lets every client read and send the rest, so that nothing is left to wait for.
    fn quiesce(&mut self) {
        for connection in self.connections.values_mut() {
            (connection.reading, connection.paused, connection.window) = (true, false, u64::MAX);
            connection.read = connection.written;
            connection.deliver_all(self.now);
        }
        let keys: Vec<ConnectionKey> = self.connections.keys().copied().collect();
        for key in keys {
            self.mark_ready(key);
        }
        self.pump();
        for _ in 0..64 {
            self.poll_all();
            self.pump();
            self.resume();
        }
        self.verify();
        // After this time every wait has ended.
        let most =
            self.setup.configs.iter().filter_map(|config| answer_wait_max(config.timeouts())).max();
        self.advance(self.now.saturating_add(most.unwrap_or_default()));
        self.poll_all();
        self.resume();
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
                    self.model.coverage.add(fault.name(), metrics.fault(fault));
                }
            }
            self.model.coverage.add("heartbeats", metrics.heartbeats);
            self.model.coverage.add("posts held", metrics.posts_held);
            self.model.coverage.add("withdrawn", metrics.requests_withdrawn);
            self.model.coverage.add("connections", metrics.connections_accepted);
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

/// The longest time that a response may take: a verdict, a lookup and an acknowledgement, and room
/// in a queue.
fn answer_wait_max(timeouts: &Timeouts) -> Option<Duration> {
    Some(timeouts.decision? * 3 + timeouts.hold?)
}
