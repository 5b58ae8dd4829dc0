//! Deadlines: which is next, and what each does when it has come.
//!
//! Knows: what each kind of timer is for. Does not know: how timers are kept (see `timers`), or what a
//! shutdown does (see `shutdown`).
//!
//! Decision: the deadlines for input (`head`, `body` and `idle`) restart when reading resumes; until then
//! only `stall` applies. While a client leaves its answers unread (`answers_bytes_max`), its next requests are not
//! read. If its input deadlines ran meanwhile, a request that waits in the socket would be lost
//! because its client seems idle.

use super::Server;
use super::refuse::Told;
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::error::Fault;
use crate::event::{CloseReason, Deadline};
use crate::outbox::Segment;
use crate::request::Unread;
use crate::sse::{HEARTBEAT_BARE, HEARTBEAT_CHUNKED};
use crate::timers::{Role, TimerKind};

/// How many due timers one call handles: enough to be cheap, few enough not to keep sockets waiting.
const TIMEOUTS_BATCH: usize = 256;

impl Server {
    /// Arms a timer of a connection, and notes the time that capacity decisions go by.
    pub(super) fn arm(&mut self, kind: TimerKind, key: Key) {
        self.timers.arm(kind, key.index(), self.now, &self.config.timeouts);
        if matches!(kind, TimerKind::Head | TimerKind::Idle | TimerKind::Linger) {
            self.conns[key].waiting_since = self.now;
        }
        if kind == TimerKind::Stall {
            self.conns[key].stalled_since = self.now;
        }
    }

    /// Disarms whatever timer of a connection has this role.
    pub(super) fn disarm(&mut self, role: Role, key: Key) {
        self.timers.disarm(role, key.index());
    }

    /// When the clock has to be looked at next, and what for.
    pub(super) fn next_deadline(&self) -> Option<Deadline> {
        let timers = self.timers.earliest().map(|(at, cause)| Deadline { at, cause });
        let all = [
            timers,
            self.shutdown_deadline(),
            self.tokens_deadline(),
            self.room_deadline(),
            self.queue_room_deadline(),
        ];
        all.into_iter().flatten().min_by_key(|deadline| deadline.at)
    }

    /// Acts on deadlines that have passed, as many as one call may.
    pub(super) fn take_timeouts(&mut self) {
        self.continue_shutdown();
        self.make_queue_room();
        self.end_sessions_without_token();
        for _ in 0..TIMEOUTS_BATCH {
            let Some((kind, owner)) = self.timers.pop_due(self.now) else { return };
            if kind == TimerKind::HoldForwarded {
                self.forward_hold_is_over(self.forwards.key_at(owner));
            } else {
                self.time_out(kind, self.conns.key_at(owner));
            }
        }
    }

    /// Acts on a connection's deadline.
    fn time_out(&mut self, kind: TimerKind, key: Key) {
        let conn = &self.conns[key];
        // An input deadline does not run while the connection is not read because its peer takes nothing
        // of what is queued: then the stall timer runs. `waiting_since` stays: the connection has waited
        // all the same.
        if kind.is_for_input() && !conn.takes_input(&self.config.limits, self.queues_full()) {
            return self.timers.arm(kind, key.index(), self.now, &self.config.timeouts);
        }
        match kind {
            // Without a byte of a request there is nothing to answer.
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
            // These do not belong to one connection: see `take_timeouts`.
            TimerKind::HoldForwarded | TimerKind::Shutdown | TimerKind::TokenRemoval => {}
        }
    }

    /// Ends a connection on which nothing happened for too long.
    fn lapse(&mut self, key: Key) {
        self.note(key, Fault::ConnectionIdle);
        self.end_quietly(key);
    }

    /// Queues a heartbeat, which shows that both ends are alive. While other bytes are queued it would show
    /// nothing: then the timer is armed again when they leave.
    fn beat(&mut self, key: Key) {
        let conn = &self.conns[key];
        let chunked = matches!(conn.phase, ConnPhase::Streaming { chunked: true, .. });
        if conn.outbox.is_empty() {
            self.metrics.heartbeats += 1;
            let beat = if chunked { HEARTBEAT_CHUNKED } else { HEARTBEAT_BARE };
            self.push(key, Segment::Static(beat));
        }
    }

    /// Gives up a connection whose peer takes nothing.
    pub(super) fn stalled(&mut self, key: Key, text: &str) {
        self.note_telling(Some(key), Fault::Stalled, &text, Told::Closing);
        self.give_up(key, CloseReason::Stalled);
    }

    /// Ends the session of a stream whose time is over.
    fn outlived(&mut self, key: Key, reason: CloseReason) {
        if let Some(session) = self.conns[key].streamed_session() {
            self.begin_end(session, reason);
        }
    }
}
