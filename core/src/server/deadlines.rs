//! Deadlines: which is next, what each does when it has come, and the shutdown.
//!
//! Knows: what each kind of timer is for. Does not know: how timers are kept (see `timers`).

use alloc::vec::Vec;

use super::Server;
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::error::Fault;
use crate::event::{CloseReason, Deadline, ServerPhase};
use crate::http1::Persistence;
use crate::outbox::Segment;
use crate::request::Unread;
use crate::sse::{HEARTBEAT_BARE, HEARTBEAT_CHUNKED};
use crate::timers::{Role, TimerKind};

/// Due timers taken in one call: enough to be cheap, few enough not to keep sockets waiting.
const TIMEOUTS_BATCH: usize = 256;

impl Server {
    pub(super) fn arm(&mut self, kind: TimerKind, key: Key) {
        self.timers.arm(kind, key.index(), self.now, &self.config.timeouts);
        if matches!(kind, TimerKind::Head | TimerKind::Idle | TimerKind::Linger) {
            self.conns[key].waiting_since = self.now;
        }
        if kind == TimerKind::Stall {
            self.conns[key].stalled_since = self.now;
        }
    }

    pub(super) fn disarm(&mut self, role: Role, key: Key) {
        self.timers.disarm(role, key.index());
    }

    /// When the clock has to be looked at next, and what for.
    pub(super) fn next_deadline(&self) -> Option<Deadline> {
        let timers = self.timers.earliest().map(|(at, cause)| Deadline { at, cause });
        let shutdown = match self.phase {
            ServerPhase::Draining { until: Some(at) } if self.conns.len() > 0 => {
                Some(Deadline { at, cause: TimerKind::Shutdown })
            }
            ServerPhase::Running | ServerPhase::Draining { .. } | ServerPhase::Drained => None,
        };
        let all = [timers, shutdown, self.room_deadline(), self.queue_room_deadline()];
        all.into_iter().flatten().min_by_key(|deadline| deadline.at)
    }

    pub(super) fn take_timeouts(&mut self) {
        if let ServerPhase::Draining { until: Some(until) } = self.phase
            && until <= self.now
        {
            self.cut_everything();
        }
        self.make_queue_room();
        for _ in 0..TIMEOUTS_BATCH {
            let Some((kind, owner)) = self.timers.pop_due(self.now) else { return };
            if kind == TimerKind::HoldForwarded {
                self.forward_hold_is_over(self.forwards.key_at(owner));
            } else {
                self.time_out(kind, self.conns.key_at(owner));
            }
        }
    }

    fn time_out(&mut self, kind: TimerKind, key: Key) {
        let conn = &self.conns[key];
        // What it waits for may have come, and is not read before its peer takes what is queued; if
        // that takes too long it is the stall timer's affair. It has waited no less for that, so the
        // connection is as old as it was.
        if kind.is_for_input() && !conn.takes_input(&self.config.limits, self.queues_full()) {
            return self.timers.arm(kind, key.index(), self.now, &self.config.timeouts);
        }
        match kind {
            // A connection on which nothing was said is owed no answer.
            TimerKind::Head if conn.scanner.is_idle() => self.lapse(key),
            TimerKind::Head => self.refuse(key, Fault::HeadTimeout, Unread::Unknown),
            TimerKind::Body if matches!(conn.phase, ConnPhase::Discarding { .. }) => {
                self.lapse(key)
            }
            TimerKind::Body => self.refuse(key, Fault::BodyTimeout, Unread::Unknown),
            TimerKind::Idle => self.lapse(key),
            TimerKind::Decision | TimerKind::Forward => {
                let unread = if let ConnPhase::Deciding(plan) = &conn.phase {
                    plan.unread()
                } else if let ConnPhase::Locating(post) = &conn.phase {
                    post.unread
                } else {
                    Unread::Known(0)
                };
                self.refuse(key, Fault::DecisionTimeout, unread);
            }
            TimerKind::Hold => self.hold_is_over(key),
            TimerKind::Linger => self.end_quietly(key),
            TimerKind::Heartbeat => self.beat(key),
            TimerKind::Stall => self.stalled(key, Fault::Stalled.text()),
            TimerKind::SessionIdle => self.outlived(key, CloseReason::Idle),
            TimerKind::SessionLifetime => self.outlived(key, CloseReason::Expired),
            // A forwarded post's, and in no lane: see `take_timeouts`.
            TimerKind::HoldForwarded | TimerKind::Shutdown => {}
        }
    }

    fn lapse(&mut self, key: Key) {
        self.note(Some(key), Fault::ConnectionIdle);
        self.end_quietly(key);
    }

    /// Silence on a stream: says that both ends are alive. Never behind queued bytes, where it would
    /// say nothing; their leaving re-arms the timer.
    fn beat(&mut self, key: Key) {
        let conn = &self.conns[key];
        let chunked = matches!(conn.phase, ConnPhase::Streaming { chunked: true, .. });
        if conn.outbox.is_empty() {
            self.metrics.heartbeats += 1;
            self.push(
                key,
                Segment::Static(if chunked { HEARTBEAT_CHUNKED } else { HEARTBEAT_BARE }),
            );
        }
    }

    /// The peer of a connection takes nothing: what is queued for it is given up.
    pub(super) fn stalled(&mut self, key: Key, text: &str) {
        self.note_saying(Some(key), Fault::Stalled, text);
        self.give_up(key, CloseReason::Stalled);
    }

    fn outlived(&mut self, key: Key, reason: CloseReason) {
        if let Some(session) = self.conns[key].streamed_session() {
            self.begin_end(session, reason);
        }
    }

    // ── The shutdown. ───────────────────────────────────────────────────────────────────────────

    pub(super) fn drain(&mut self) {
        let grace = self.config.timeouts.shutdown_grace;
        self.phase =
            ServerPhase::Draining { until: grace.map(|grace| self.now.saturating_add(grace)) };
        log::info!(
            "shutting down: {} connections, {} sessions",
            self.conns.len(),
            self.sessions.len()
        );
        for key in self.connection_keys() {
            let conn = &mut self.conns[key];
            conn.reply.persistence = Persistence::Close;
            if conn.is_idle() {
                self.end_quietly(key);
            } else if matches!(conn.phase, ConnPhase::Head) && conn.scanner.is_idle() {
                self.close_after_flush(key);
            }
        }
        let idle: Vec<Key> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.requests_in_flight() == 0)
            .map(|(key, _)| key)
            .collect();
        for key in idle {
            self.begin_end(key, CloseReason::Shutdown);
        }
    }

    pub(super) fn cut_everything(&mut self) {
        self.phase = ServerPhase::Draining { until: None };
        for key in self.connection_keys() {
            self.give_up(key, CloseReason::Shutdown);
        }
    }

    fn connection_keys(&self) -> Vec<Key> {
        self.conns.iter().map(|(key, _)| key).collect()
    }
}
