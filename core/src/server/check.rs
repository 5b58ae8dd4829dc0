//! The invariants: what holds between the parts of a server after every call of a method.
//!
//! Knows: every sum and list, and the parts that they are made of. Does not know: how they came about.

use alloc::collections::{BTreeMap, BTreeSet};

use super::Server;
use crate::arena::Key;
use crate::conn::{Conn, ConnPhase, Stage};
use crate::counter::Counter;
use crate::event::{ConnId, Event, ServerPhase};
use crate::jsonrpc::Kind;
use crate::limits::within;
use crate::principal::Principal;
use crate::session::{MessageTotals, PostOrigin, SessionState};
use crate::timers::{Role, TimerKind};

impl Server {
    /// Walks the whole state and asserts that it holds together. For tests and debug builds: it
    /// takes time in proportion to everything.
    ///
    /// # Panics
    ///
    /// If an invariant is broken, which is a bug in this crate.
    pub fn check(&self) {
        let mut frames = 0;
        let (mut queues_cost, mut bodies_bytes) = (0, 0);
        let (mut held, mut armed) = (0, self.timers.count(Role::ReceivedPost));
        let mut addresses = Counter::new();
        let mut body_addresses = Counter::new();
        let wakes: BTreeSet<ConnId> = self.wakes.iter().copied().collect();
        assert_eq!(wakes.len(), self.wakes.len(), "a connection is listed twice");
        for (key, conn) in self.conns.iter() {
            conn.outbox.check();
            frames += u64::from(conn.outbox.frames());
            queues_cost += conn.queue_shared(&self.config.limits);
            bodies_bytes += conn.body_bytes();
            let counts = self.config.address_key(conn.client).is_some();
            let theirs = conn.body_bytes() + conn.forwarded;
            assert_eq!(
                conn.counted,
                if counts { theirs } else { 0 },
                "request bytes of {}",
                ConnId(key)
            );
            if conn.counted > 0 {
                body_addresses.add_some(conn.counted_for, conn.counted);
            }
            held += usize::from(matches!(conn.phase, ConnPhase::Held { .. }));
            self.config.address_key(conn.peer.ip()).into_iter().for_each(|key| addresses.add(key));
            assert_eq!(conn.woken, wakes.contains(&ConnId(key)), "the wake-up list is off");
            armed += self.check_timers(key, conn);
            if let ConnPhase::Streaming { session, .. } = &conn.phase {
                let session = self.sessions.find(*session).expect("a stream has a session");
                assert_eq!(session.conn, key, "the session points back");
            } else if let ConnPhase::Held { session, .. } = &conn.phase {
                let session = self.sessions.find(*session).expect("a held post has a session");
                let waits = session.is_waited_for_by(PostOrigin::Conn(key));
                assert!(waits, "the session lists the post as waiting");
            }
        }
        assert_eq!(self.timers.check(), armed, "a timer without an owner");
        bodies_bytes += self.check_sessions(held);
        for event in &self.events {
            bodies_bytes += event.body_bytes();
        }
        bodies_bytes += self.check_forwards();
        assert_eq!(self.queues_cost, queues_cost, "the budget of queues is the sum of its parts");
        assert_eq!(self.bodies_bytes, bodies_bytes, "the budget of bodies is the sum of its parts");
        assert_eq!(self.conn_addresses, addresses, "connections by address");
        assert_eq!(self.body_addresses, body_addresses, "request bytes by address");
        let making_room = self.evicted.map(|key| self.conns[key].phase.stage());
        assert!(
            matches!(making_room, None | Some(Stage::Ended)),
            "an evicted connection has ended"
        );
        let undone = self.resumable.len() + self.releasable.len();
        assert_eq!(undone, 0, "a method returned with work undone");
        let delayed = self.phase == ServerPhase::Running || self.drain_at.is_none();
        assert!(delayed, "a shutdown that has begun is not awaited");
        let draining = matches!(self.phase, ServerPhase::Draining { .. });
        assert!(draining || self.idle_sessions.left() == 0, "sessions end in a shutdown only");
        self.check_metrics(frames);
    }

    /// Checks that the counters balance, and that the gauges are the sums of what they count. `frames` is how
    /// many wait for their clients.
    fn check_metrics(&self, frames: u64) {
        self.metrics.check(self.conns.len(), self.sessions.len(), frames);
        let queued: u64 = self.conns.iter().map(|(_, conn)| conn.outbox.cost()).sum();
        assert_eq!(self.metrics.queue_bytes, queued, "bytes of all queues");
        let in_flight = self.sessions.iter().map(|(_, it)| u64::from(it.requests_in_flight()));
        assert_eq!(self.metrics.requests_in_flight, in_flight.sum::<u64>(), "requests in flight");
        let waiting = self.sessions.iter().map(|(_, session)| session.held().count() as u64);
        assert_eq!(self.metrics.posts_waiting, waiting.sum::<u64>(), "posts that wait");
    }

    /// Checks that a connection has the timers of its phase, and no others. Returns how many those are.
    fn check_timers(&self, key: Key, conn: &Conn) -> usize {
        let timeouts = &self.config.timeouts;
        let on = |kind: TimerKind, wanted: bool| Some(kind).filter(|_| wanted);
        let phase = match &conn.phase {
            // Listed even where they have no interval.
            ConnPhase::Head if conn.served && conn.scanner.is_idle() => Some(TimerKind::Idle),
            ConnPhase::Head => Some(TimerKind::Head),
            ConnPhase::Lingering { .. } => Some(TimerKind::Linger),
            ConnPhase::Deciding(_) | ConnPhase::Locating(_) => {
                on(TimerKind::Decision, timeouts.decision.is_some())
            }
            ConnPhase::Body { .. } | ConnPhase::Discarding { .. } => {
                on(TimerKind::Body, timeouts.body.is_some())
            }
            ConnPhase::Held { .. } => on(TimerKind::Hold, timeouts.hold.is_some()),
            // It waits for another shard. For this server's own application it does not wait in this phase.
            ConnPhase::Awaiting => on(TimerKind::Forward, timeouts.forward().is_some()),
            ConnPhase::Streaming { .. } | ConnPhase::Closing { .. } | ConnPhase::Ended => None,
        };
        let live = matches!(conn.phase, ConnPhase::Streaming { ending: false, .. });
        let quiet = conn.outbox.is_empty();
        let beat = self.timers.armed(Role::Heartbeat, key.index());
        // Behind queued bytes one may have passed; their leaving arms it again.
        let beats = live && timeouts.heartbeat.is_some() && (quiet || beat.is_some());
        let expected = [
            (Role::Phase, phase),
            (Role::Stall, on(TimerKind::Stall, !quiet && timeouts.stall.is_some())),
            (
                Role::SessionIdle,
                on(TimerKind::SessionIdle, live && timeouts.session_idle.is_some()),
            ),
            (
                Role::SessionLifetime,
                on(TimerKind::SessionLifetime, live && timeouts.session_lifetime.is_some()),
            ),
            (Role::Heartbeat, on(TimerKind::Heartbeat, beats)),
        ];
        for (role, kind) in expected {
            let armed = self.timers.armed(role, key.index());
            assert_eq!(armed, kind, "{role:?} of {} in {:?}", ConnId(key), conn.phase.stage());
        }
        expected.iter().filter(|(_, kind)| kind.is_some()).count()
    }

    /// Checks sessions, the posts that wait for them, and what is counted about them elsewhere. Returns
    /// their part of the budget of request bytes. `held` is how many connections hold a post.
    fn check_sessions(&self, mut held: usize) -> u64 {
        let mut bytes = 0;
        let mut addresses = Counter::new();
        let mut principals: BTreeMap<&Principal, u32> = BTreeMap::new();
        let waiting_for_budget: BTreeSet<Key> = self.waiting_for_budget.iter().copied().collect();
        assert_eq!(
            waiting_for_budget.len(),
            self.waiting_for_budget.len(),
            "a session waits for room twice"
        );
        let mut unpolled: BTreeMap<Key, MessageTotals> = BTreeMap::new();
        for event in &self.events {
            if let Event::Message { session, message, .. } = event {
                let totals = unpolled.entry(session.0).or_default();
                totals.messages += 1;
                totals.bytes += message.body().len() as u64;
            }
        }
        for (key, session) in self.sessions.iter() {
            bytes += session.backlog.bytes;
            session.address.into_iter().for_each(|address| addresses.add(address));
            if let Some(principal) = &session.principal {
                *principals.entry(principal).or_default() += 1;
            }
            let waiting = unpolled.get(&key).copied().unwrap_or_default();
            assert_eq!(session.unpolled, waiting, "messages that were not polled");
            assert_eq!(
                session.waiting_for_budget,
                waiting_for_budget.contains(&key),
                "sessions that wait for room are listed"
            );
            let asked = session.requests_in_flight();
            assert!(within(self.config.limits.in_flight_max, asked), "too many in flight");
            held -= self.check_held(key, session);
            self.check_stream(key, session);
        }
        assert_eq!(held, 0, "a session does not list a post twice");
        assert_eq!(self.session_addresses, addresses, "sessions by address");
        let all: u64 = principals.values().copied().map(u64::from).sum();
        assert_eq!(self.principals.check(), all, "sessions of all principals");
        for (principal, sessions) in principals {
            assert_eq!(self.principals.sessions(principal), sessions, "sessions by principal");
        }
        bytes
    }

    /// Checks that the posts that a session lists as waiting wait for it. Returns how many of them are held
    /// by connections.
    fn check_held(&self, key: Key, session: &SessionState) -> usize {
        let (mut conns, mut others) = (0, 0);
        for (post, waiting) in session.waiting() {
            let message = match post {
                PostOrigin::Forward(forward) => {
                    self.forwards.find(forward).and_then(|found| found.waits_for(key))
                }
                PostOrigin::Conn(conn) => {
                    conns += 1;
                    match self.conns.find(conn).map(|conn| &conn.phase) {
                        Some(ConnPhase::Held { session, message }) if *session == key => {
                            Some(&**message)
                        }
                        _ => None,
                    }
                }
            };
            let message = message.expect("a post that a session lists as waiting waits for it");
            assert!(waiting.is_of(message), "what is kept of a post is so");
            others += u32::from(message.kind() != Kind::Request);
        }
        assert_eq!(session.held_others, others, "held posts that are no requests");
        conns
    }

    /// Checks the stream of a session.
    fn check_stream(&self, key: Key, session: &SessionState) {
        let conn = self.conns.find(session.conn).expect("a session has a stream");
        let ConnPhase::Streaming { session: streamed, ending, .. } = conn.phase else {
            panic!("a session's connection streams")
        };
        assert_eq!(
            (streamed, ending),
            (key, session.ending.is_some()),
            "its connection streams it"
        );
        let forgotten =
            session.refused_cost.is_some() && !session.waiting_for_budget && conn.outbox.is_empty();
        assert!(!forgotten, "the application would not be told that there is room");
        let told = session.ending.is_none() || session.refused_cost.is_none();
        assert!(told, "what is ending has no room any more");
    }

    /// Asserts that forwarded posts are where they belong, and adds their bytes up.
    pub(super) fn check_forwards(&self) -> u64 {
        let (mut bytes, mut waiting, mut settled) = (0, 0, 0);
        for (key, forward) in self.forwards.iter() {
            let armed = self.timers.armed(Role::ReceivedPost, key.index()).is_some();
            let Some(message) = &forward.message else {
                assert!(!armed, "a forward without a message waits for nothing");
                settled += 1;
                continue;
            };
            assert_eq!(armed, self.config.timeouts.hold.is_some(), "a forward waits for a time");
            let session = self.sessions.find(forward.session).expect("a forward has a session");
            assert!(
                session.is_waited_for_by(PostOrigin::Forward(key)),
                "the session lists the post as waiting"
            );
            bytes += message.memory_bytes();
            waiting += 1;
        }
        let held = self.sessions.iter().flat_map(|(_, session)| session.held());
        let forwards = held.filter(|post| matches!(post, PostOrigin::Forward(_))).count();
        assert_eq!(forwards, waiting, "sessions list forwards that wait");
        let told = self.events.iter().filter(|event| matches!(event, Event::Settled { .. }));
        assert_eq!(told.count(), settled, "a forward is there until its outcome is polled");
        assert!(within(self.config.limits.forwarded_max, self.forwards.len()), "too many forwards");
        bytes
    }
}
