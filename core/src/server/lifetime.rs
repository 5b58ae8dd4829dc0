//! Deadlines, and the end of it all.

use alloc::vec::Vec;

use super::Server;
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::error::Fault;
use crate::event::{CloseReason, ServerPhase};
use crate::http1::Persistence;
use crate::outbox::Segment;
use crate::request::Unread;
use crate::sse::{HEARTBEAT_BARE, HEARTBEAT_CHUNKED};
use crate::time::Time;
use crate::timers::TimerKind;

/// Due timers taken in one call: enough to be cheap, few enough not to keep sockets waiting.
const TIMEOUTS_BATCH: usize = 256;

impl Server {
    /// Stops serving, in order.
    ///
    /// No connection is accepted from here on and idle ones close. Requests under way are answered;
    /// sessions with requests in flight go on until those have their answers, the others end at
    /// once: what is queued leaves, then the stream ends. When the grace
    /// ([`Timeouts::shutdown_grace`](crate::Timeouts::shutdown_grace)) is over, or at
    /// [`abort`](Self::abort), the rest is cut. [`Event::Drained`](crate::Event::Drained) follows
    /// when no connection is left.
    ///
    /// A server that is stopping already goes on as it does: calling this again changes nothing, and
    /// does not lengthen the grace.
    pub fn shutdown(&mut self, now: Time) {
        self.advance(now);
        match self.phase {
            ServerPhase::Running => self.drain(),
            ServerPhase::Draining { .. } | ServerPhase::Drained => {}
        }
        self.settle();
    }

    /// Stops serving at once, whether or not [`shutdown`](Self::shutdown) was called before.
    ///
    /// Every connection is cut: what is queued for its peer is thrown away, requests under way get no
    /// answer, and sessions end with [`CloseReason::Shutdown`].
    /// [`Event::Drained`](crate::Event::Drained) follows when the driver has closed every socket.
    /// Calling this again changes nothing.
    pub fn abort(&mut self, now: Time) {
        self.advance(now);
        match self.phase {
            ServerPhase::Running | ServerPhase::Draining { .. } => {
                log::info!("stopping at once: {} connections are cut", self.conns.len());
                self.cut_everything();
            }
            ServerPhase::Drained => {}
        }
        self.settle();
    }

    fn drain(&mut self) {
        let grace = self.config.timeouts.shutdown_grace;
        self.phase =
            ServerPhase::Draining { until: grace.map(|grace| self.now.saturating_add(grace)) };
        log::info!(
            "shutting down: {} connections, {} sessions",
            self.conns.len(),
            self.sessions.len()
        );
        for key in self.connection_keys() {
            let Some(conn) = self.conns.get_mut(key) else { continue };
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

    fn cut_everything(&mut self) {
        self.phase = ServerPhase::Draining { until: None };
        for key in self.connection_keys() {
            match self.conns.get(key).map(|conn| &conn.phase) {
                Some(&ConnPhase::Streaming { session, .. }) => {
                    self.end_session(session, CloseReason::Shutdown);
                }
                Some(_) => {
                    self.abandon_post(key);
                    self.cut(key);
                }
                None => {}
            }
        }
    }

    fn connection_keys(&self) -> Vec<Key> {
        self.conns.iter().map(|(key, _)| key).collect()
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
                self.forward_hold_is_over(owner);
            } else if let Some((key, _)) = self.conns.at(owner) {
                self.time_out(kind, key);
            }
        }
    }

    fn time_out(&mut self, kind: TimerKind, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
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
        let Some(conn) = self.conns.get(key) else { return };
        let ConnPhase::Streaming { chunked, ending: false, .. } = conn.phase else { return };
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
        match self.conns.get(key).map(|conn| &conn.phase) {
            Some(&ConnPhase::Streaming { session, .. }) => {
                self.end_session(session, CloseReason::Stalled);
            }
            Some(_) => {
                self.abandon_post(key);
                self.cut(key);
            }
            None => {}
        }
    }

    fn outlived(&mut self, key: Key, reason: CloseReason) {
        if let Some(&ConnPhase::Streaming { session, .. }) = self.conns.get(key).map(|c| &c.phase) {
            self.begin_end(session, reason);
        }
    }

    /// The latest time that the server was told.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }
}
