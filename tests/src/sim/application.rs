//! The simulated application. It answers at once, late or never, sends notifications in bursts, and
//! broadcasts.
//!
//! Knows: the events that it got. Does not know: clients or their connections.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use mcp_sse_core::jsonrpc::Kind;
use mcp_sse_core::{
    AuthTicket, Delivery, Event, ForwardedPost, Frame, Limits, LookupAnswer, LookupTicket, Outcome,
    PostTicket, Principal, QueuedPostId, Refusal, SendError, SessionId, SessionLookup, ShardId,
    Verdict,
};

use super::connection::ConnectionKey;
use super::meter;
use super::request::{Expected, SimRequest};
use super::world::{BACKLOG_MAX, World};

/// How many items one of the application's lists holds. When it is full, the oldest item is dropped
/// and never answered.
const LIST_MAX: usize = 64;

/// What the application has not answered yet.
#[derive(Debug, Default)]
pub struct Application {
    /// Requests that were not answered: shard, session, id.
    requests: VecDeque<(usize, SessionId, String)>,
    /// Tickets of requests that wait for a verdict, with the request's number if it is known.
    questions: VecDeque<(usize, AuthTicket, Option<u64>)>,
    /// Posts that are to be forwarded to another shard.
    foreign: VecDeque<(usize, ShardId, ForwardedPost, PostTicket)>,
    /// Lookups that are to be sent to another shard.
    lookups: VecDeque<(usize, ShardId, SessionLookup, LookupTicket)>,
    /// Outcomes of forwarded posts, on the way back to the shard that received the post.
    outcomes: VecDeque<(usize, PostTicket, Outcome)>,
    /// Posts that are queued in another shard, by that shard's id of them.
    settling: BTreeMap<(usize, QueuedPostId), (usize, PostTicket)>,
    /// Sessions that have ended.
    old_sessions: VecDeque<(usize, SessionId)>,
    frames: u64,
    /// Bytes that the core allocated and that the application holds: posts that it has not
    /// forwarded.
    pub held_bytes: i64,
}

impl World {
    /// Handles an event of a shard.
    pub fn handle_event(&mut self, shard: usize, event: Event) {
        let prompt = self.setup.default_limits && !self.random.one_in(4);
        #[expect(clippy::wildcard_enum_match_arm, reason = "a new event should fail every run")]
        match event {
            Event::Asked { ticket, head } => {
                let number = head.field("x-ask").and_then(|n| core::str::from_utf8(n).ok());
                let number = number.and_then(|number| number.parse().ok());
                self.app.questions.push_back((shard, ticket, number));
                self.model.coverage.count("questions");
            }
            Event::Opened { session, conn, principal, head } => {
                let principal = principal.and_then(|p| p.name().parse().ok());
                let known = self.model.streams.get(&(shard, conn)).and_then(|s| s.principal);
                assert_eq!(principal, known, "opened on behalf of somebody else");
                let asked = self
                    .connections
                    .get(&(shard, conn))
                    .and_then(|connection| connection.stream_request);
                let number = head.field("x-ask").and_then(|n| core::str::from_utf8(n).ok());
                let number: Option<u64> = number.and_then(|number| number.parse().ok());
                assert!(asked.is_none() || asked == number, "opened for another request");
                let refused =
                    self.connections.get(&(shard, conn)).is_some_and(|l| l.stream_refused);
                assert!(!refused, "15: opened, and refused");
                self.model.opened((shard, conn), session, principal);
            }
            Event::Message { session, message } => {
                let text = core::str::from_utf8(message.body()).expect("a message is text");
                self.model.delivered(shard, session, text);
                if message.kind() == Kind::Request
                    && let Some(id) = message.id()
                {
                    self.app.requests.push_back((shard, session, id.into()));
                }
                drop(message);
                if prompt {
                    self.answer_request(true);
                }
            }
            Event::LookedFor { shard: to, lookup, ticket } => {
                self.app.lookups.push_back((shard, to, lookup, ticket));
                self.model.coverage.count("lookups");
            }
            Event::Foreign { shard: to, post, ticket } => {
                assert_eq!(to, post.shard());
                self.app.held_bytes += post.bytes() as i64;
                self.app.foreign.push_back((shard, to, post, ticket));
                self.model.coverage.count("foreign posts");
            }
            Event::Settled { post, outcome } => {
                let known = self.app.settling.remove(&(shard, post));
                let (from, ticket) = known.expect("10: a post is settled once");
                self.app.outcomes.push_back((from, ticket, outcome));
                self.model.coverage.count("foreign posts held");
            }
            Event::Unblocked { session } => {
                let key = self.model.sessions.get(&(shard, session)).expect("10: after the end");
                let stream = self.model.streams.get_mut(key).expect("a session has a stream");
                assert!(stream.refusals > 0, "{session} has room, and was never refused any");
                (stream.blocked, stream.refusals) = (false, stream.refusals - 1);
                self.model.coverage.count("unblocked");
            }
            Event::Closed { session, reason, frames_undelivered } => {
                self.model.closed(shard, session, reason, frames_undelivered);
                self.app.old_sessions.push_back((shard, session));
            }
            other => panic!("an event that is not known here: {other:?}"),
        }
        self.drop_oldest();
        if prompt {
            self.answer_question();
            self.look_up();
            self.forward_post();
            self.return_outcome();
        }
    }

    /// Drops the oldest item of each list that is too long; it is never answered.
    fn drop_oldest(&mut self) {
        let app = &mut self.app;
        if app.requests.len() > LIST_MAX {
            app.requests.pop_front();
        }
        if app.questions.len() > LIST_MAX {
            app.questions.pop_front();
        }
        if app.foreign.len() > LIST_MAX {
            let forgotten = app.foreign.pop_front();
            app.held_bytes -= forgotten.map_or(0, |(_, _, post, _)| post.bytes() as i64);
        }
        if app.lookups.len() > LIST_MAX {
            app.lookups.pop_front();
        }
        if app.outcomes.len() > LIST_MAX {
            app.outcomes.pop_front();
        }
        if app.old_sessions.len() > 8 {
            app.old_sessions.pop_front();
        }
    }

    /// Lets the application do one thing without an event.
    pub fn application_acts(&mut self) {
        match self.random.below(15) {
            0..=2 => self.answer_request(false),
            3 => {
                for _ in 0..self.setup.burst {
                    self.answer_request(true);
                }
            }
            4 | 5 => self.send_notifications(),
            6 => self.broadcast(),
            7 => {
                if self.random.one_in(self.setup.burst)
                    && let Some((shard, session)) = self.some_session()
                {
                    // Half of the closes come while a frame is still queued.
                    if self.random.one_in(2) {
                        let json = self.new_notification();
                        let _ = self.send_frame(shard, session, json);
                    }
                    self.trace.log(format_args!("{shard} closes {session}"));
                    let key = self.model.sessions.get(&(shard, session));
                    if let Some(stream) = key.and_then(|key| self.model.streams.get_mut(key)) {
                        stream.closed_by_application = true;
                    }
                    self.call(shard, 0, |server, now| server.close(session, now));
                }
            }
            8 => self.report_backlog(),
            9 | 10 => self.answer_question(),
            11 => self.forward_post(),
            12 => self.look_up(),
            13 => self.return_outcome(),
            _ => self.call_stale_session(),
        }
    }

    /// Answers everything that waits.
    pub fn answer_all(&mut self) {
        for _ in 0..4 * LIST_MAX {
            self.answer_request(true);
            self.answer_question();
            self.look_up();
            self.forward_post();
            self.return_outcome();
            let app = &self.app;
            let left = app.requests.len()
                + app.questions.len()
                + app.foreign.len()
                + app.lookups.len()
                + app.outcomes.len();
            if left == 0 {
                break;
            }
        }
        self.pump();
    }

    fn some_session(&mut self) -> Option<(usize, SessionId)> {
        let len = self.model.sessions.len();
        if len == 0 {
            return None;
        }
        let at = self.random.below(len);
        self.model.sessions.keys().nth(at).copied()
    }

    // ── Frames. ─────────────────────────────────────────────────────────────────────────────────

    fn padding(&mut self) -> String {
        let len = match self.random.below(8) {
            0 => self.random.below(2_000),
            1 => self.random.below(300),
            _ => self.random.below(20),
        };
        "-".repeat(len)
    }

    fn answer_request(&mut self, oldest: bool) {
        let len = self.app.requests.len();
        if len == 0 {
            return;
        }
        let at = if oldest { 0 } else { self.random.below(len) };
        let Some((shard, session, id)) = self.app.requests.remove(at) else { return };
        let padding = self.padding();
        self.app.frames += 1;
        let frame = self.app.frames;
        let json = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"frame":{frame},"fill":"{padding}"}}}}"#
        );
        if self.send_frame(shard, session, json.into()) == Err(SendError::Full) && !self.is_ending()
        {
            self.app.requests.push_back((shard, session, id));
            self.drop_oldest();
        }
    }

    fn new_notification(&mut self) -> Rc<str> {
        let padding = self.padding();
        self.app.frames += 1;
        let frame = self.app.frames;
        format!(
            r#"{{"jsonrpc":"2.0","method":"note","params":{{"frame":{frame},"fill":"{padding}"}}}}"#
        )
        .into()
    }

    fn send_notifications(&mut self) {
        let Some((shard, session)) = self.some_session() else { return };
        for _ in 0..self.random.below(self.setup.burst) {
            let json = self.new_notification();
            if self.send_frame(shard, session, json).is_err() {
                break;
            }
        }
    }

    fn send_frame(
        &mut self,
        shard: usize,
        session: SessionId,
        json: Rc<str>,
    ) -> Result<(), SendError> {
        let frame = meter::inside(|| Frame::message(json.as_bytes()).expect("JSON"));
        let alive = self.is_alive(shard, session);
        let result = self.call(shard, 0, |server, now| server.send(session, &frame, now));
        self.trace.log(format_args!("{shard} sends {session} {} bytes: {result:?}", json.len()));
        match result {
            Ok(()) => {
                let &key = self.model.sessions.get(&(shard, session)).expect("10: after the end");
                self.model.sent(key, json);
                if !self.is_ending() {
                    self.check_budgets(key);
                }
            }
            Err(SendError::Gone) => assert!(!alive, "12: {session} is not gone"),
            Err(SendError::Full) => {
                // If nothing is queued, a frame that fits into the session's own reserve must be
                // accepted.
                let server = &self.shards[shard].server;
                let reserve = server.config().limits().queue_reserve_bytes;
                let idle = server.session(session).is_some_and(|view| view.frames_queued() == 0);
                let empty = idle
                    && self
                        .model
                        .sessions
                        .get(&(shard, session))
                        .is_some_and(|key| self.shards[key.0].server.transmit(key.1).is_empty());
                // The chunked form is a few bytes longer.
                let fits = frame.chunked().len() as u64 + Limits::SEGMENT_COST <= reserve;
                assert!(!(empty && fits), "6: {session} is refused what is its own");
                self.refused(shard, session);
            }
            Err(SendError::TooLarge) => {
                let limits = self.setup.configs[shard].limits();
                let most = limits.queues_bytes_max.map(|most| most + limits.queue_reserve_bytes);
                assert!(most.is_some_and(|most| frame.wire_len() as u64 + 64 > most));
            }
            Err(other) => panic!("an error that is not known here: {other}"),
        }
        result
    }

    /// Invariant 6: an accepted frame fitted into its queue and into the budget of all queues.
    /// Responses may exceed the budget, so only streams are checked.
    fn check_budgets(&self, key: ConnectionKey) {
        let server = &self.shards[key.0].server;
        // This is less than what the core counts if a segment was written in part.
        let cost = |key: ConnectionKey| {
            let pieces = server.transmit(key.1);
            let each = pieces.chunks().map(|piece| piece.len() as u64 + Limits::SEGMENT_COST);
            each.fold((0, 0), |(sum, count), cost| (sum + cost, count + 1))
        };
        let limits = server.config().limits();
        let (own, pieces) = cost(key);
        let most = limits.queue_bytes_max.filter(|_| pieces > 1).unwrap_or(u64::MAX);
        assert!(own <= most, "6: {own} bytes in a queue of {most}");
        let here = self.model.sessions.values().filter(|other| other.0 == key.0);
        let own = limits.queue_reserve_bytes;
        let all: u64 = here.map(|&other| cost(other).0.saturating_sub(own)).sum();
        let most = limits.queues_bytes_max.unwrap_or(u64::MAX);
        assert!(all <= most, "6: {all} bytes in all queues, and {most} may be");
    }

    fn refused(&mut self, shard: usize, session: SessionId) {
        let &key = self.model.sessions.get(&(shard, session)).expect("10: after the end");
        let stream = self.model.streams.get_mut(&key).expect("a session has a stream");
        (stream.blocked, stream.refusals) = (true, stream.refusals + 1);
        self.model.coverage.count("full");
    }

    fn broadcast(&mut self) {
        let shard = self.random.below(self.shards.len());
        let all = self.model.sessions.keys().filter(|key| key.0 == shard);
        let here: Vec<SessionId> = all.map(|&(_, session)| session).collect();
        let json = self.new_notification();
        let frame = meter::inside(|| Frame::message(json.as_bytes()).expect("JSON"));
        let queued = |world: &Self, session| {
            world.shards[shard].server.session(session).map(|view| view.frames_queued())
        };
        let before: Vec<_> = here.iter().map(|&session| queued(self, session)).collect();
        let to = here.clone();
        let reach = self.call(shard, 0, |server, now| server.broadcast(to, &frame, now));
        self.trace.log(format_args!("{shard} tells everybody: {reach:?}"));
        let (mut taken, mut full) = (0, 0);
        for (&session, before) in here.iter().zip(before) {
            let alive = self.is_alive(shard, session);
            if queued(self, session) != before {
                taken += 1;
                let &key = self.model.sessions.get(&(shard, session)).expect("an open session");
                self.model.sent(key, json.clone());
            } else if alive && reach.full > 0 {
                full += 1;
                self.refused(shard, session);
            }
        }
        assert_eq!((reach.queued, reach.full), (taken, full), "{reach:?}");
    }

    fn report_backlog(&mut self) {
        let Some((shard, session)) = self.some_session() else { return };
        let messages = self.random.below(1 + BACKLOG_MAX as usize) as u32;
        let bytes = 100 * u64::from(messages);
        self.call(shard, 0, |server, now| server.set_backlog(session, messages, bytes, now));
        if self.setup.default_limits {
            self.call(shard, 0, |server, now| server.set_backlog(session, 0, 0, now));
        }
    }

    // ── Tickets: 10. ────────────────────────────────────────────────────────────────────────────

    fn answer_question(&mut self) {
        let Some((shard, ticket, number)) = self.app.questions.pop_front() else { return };
        if self.random.one_in(16) && !self.is_ending() {
            return drop(ticket);
        }
        let stream = number.and_then(|number| self.connection_of_request(shard, number));
        let post = number.and_then(|number| self.model.posts.get(&number));
        let owner = post.and_then(|post| self.model.streams.get(&post.session?)?.principal);
        let own = owner.unwrap_or_else(|| stream.map_or(0, |key| key.1.slot() % 3));
        let name = if self.random.one_in(6) { self.random.below(3) } else { own };
        let verdict = match self.random.below(24) {
            20 => Verdict::Refuse(Refusal::Unauthenticated),
            21 => Verdict::Refuse(Refusal::InvalidToken),
            22 => Verdict::Refuse(Refusal::Forbidden),
            23 => Verdict::Refuse(Refusal::Unavailable),
            _ => Verdict::Allow(Principal::new(&name.to_string())),
        };
        let allowed = matches!(verdict, Verdict::Allow(_)).then_some(name);
        let refusal = if let Verdict::Refuse(refusal) = &verdict { Some(*refusal) } else { None };
        if let Some(request) = number.and_then(|number| self.request_mut(shard, number)) {
            request.refusal = refusal;
        }
        let result = self.call(shard, 0, |server, now| server.authorize(ticket, verdict, now));
        self.trace.log(format_args!("{shard} {number:?} allowed: {allowed:?}: {result:?}"));
        if result.is_ok() {
            self.model.coverage.count("questions answered");
            if let Some(post) = number.and_then(|number| self.model.posts.get_mut(&number)) {
                post.principal = allowed;
            }
            if let Some(key) = stream {
                self.model.streams.entry(key).or_default().principal = allowed;
            }
        } else {
            self.model.coverage.count("questions expired");
            if let Some(number) = number {
                self.expired(shard, number);
            }
        }
    }

    /// A request that has no response yet.
    fn request_mut(&mut self, shard: usize, number: u64) -> Option<&mut SimRequest> {
        let connections = self.connections.iter_mut().filter(|(key, _)| key.0 == shard);
        connections
            .flat_map(|(_, connection)| &mut connection.requests)
            .find(|request| request.number == number)
    }

    /// Invariant 10: if a ticket has expired, its request has a response, or its connection has
    /// gone.
    fn expired(&mut self, shard: usize, number: u64) {
        self.pump();
        let waits = self.connections.iter().find(|(key, connection)| {
            let waits = connection.requests.front().is_some_and(|request| request.number == number);
            key.0 == shard && waits && connection.is_willing() && !connection.closed_by_answer
        });
        assert!(waits.is_none(), "10: the ticket of {number} has expired, and it has no answer");
    }

    /// The connection of the stream request with this number.
    fn connection_of_request(&self, shard: usize, number: u64) -> Option<ConnectionKey> {
        let asked =
            |request: &SimRequest| request.number == number && request.expected == Expected::Stream;
        let found = self
            .connections
            .iter()
            .find(|(key, connection)| key.0 == shard && connection.requests.iter().any(asked));
        found.map(|(&key, _)| key)
    }

    /// A post goes to the shard it is for.
    fn forward_post(&mut self) {
        let Some((shard, to, post, ticket)) = self.app.foreign.pop_front() else { return };
        self.app.held_bytes -= post.bytes() as i64;
        if self.random.one_in(32) {
            return drop((post, ticket));
        }
        let to = usize::from(to.0);
        let delivery = if to < self.shards.len() {
            self.call(to, 0, |server, now| server.deliver(post, now))
        } else {
            Delivery::Done(Outcome::UnknownSession)
        };
        self.trace.log(format_args!("{shard} hands a post on to {to}: {delivery:?}"));
        match delivery {
            Delivery::Done(outcome) => self.app.outcomes.push_back((shard, ticket, outcome)),
            Delivery::Held(post) => {
                let before = self.app.settling.insert((to, post), (shard, ticket));
                assert!(before.is_none(), "12: {post} is held twice");
            }
        }
    }

    /// Sends the oldest waiting lookup to its shard, and the answer back.
    fn look_up(&mut self) {
        let Some((shard, to, lookup, ticket)) = self.app.lookups.pop_front() else { return };
        if self.random.one_in(32) {
            return drop(ticket);
        }
        let to = usize::from(to.0);
        let answer = if to >= self.shards.len() {
            LookupAnswer::UnknownSession
        } else if self.random.one_in(32) && !self.setup.default_limits {
            LookupAnswer::Unavailable
        } else {
            self.call(to, 0, |server, _| server.look_up(&lookup))
        };
        let result = self.call(shard, 0, |server, now| server.answer_lookup(ticket, answer, now));
        self.trace.log(format_args!("{shard} hears of {to}: {answer:?}: {result:?}"));
        self.model.coverage.count(&format!("looked up: {answer:?}"));
    }

    fn return_outcome(&mut self) {
        let Some((shard, ticket, outcome)) = self.app.outcomes.pop_front() else { return };
        let result = self.call(shard, 0, |server, now| server.acknowledge(ticket, outcome, now));
        self.trace.log(format_args!("{shard} hears back {outcome:?}: {result:?}"));
    }

    /// Invariant 12: calls with the id of an ended session have no effect.
    fn call_stale_session(&mut self) {
        let Some(&(shard, session)) = self.app.old_sessions.front() else { return };
        let server = &self.shards[shard].server;
        assert!(server.session(session).is_none(), "12: {session} has ended");
        let frame = meter::inside(|| Frame::message(b"{}").expect("JSON"));
        let before = server.metrics().frames_queued;
        let result = self.call(shard, 0, |server, now| server.send(session, &frame, now));
        assert_eq!(result, Err(SendError::Gone), "12: {session} has ended");
        self.call(shard, 0, |server, now| server.close(session, now));
        self.call(shard, 0, |server, now| server.set_backlog(session, 9, 9, now));
        assert_eq!(self.shards[shard].server.metrics().frames_queued, before, "12");
        self.model.coverage.count("stale sessions");
    }
}
