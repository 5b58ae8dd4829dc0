//! The shutdown: its delay, the end of idle sessions, and the end of its grace.
//!
//! Knows: what a shutdown ends, and when. Does not know: who asked for it, or what an end consists of.
//!
//! Decision: a shutdown ends sessions without requests in flight, and waits for the others as long as
//! `shutdown_grace` allows. Posts are answered 503 meanwhile. A second `shutdown` changes nothing, because
//! dropping the last owner of a server calls it as well. `abort` closes all connections.
//!
//! Decision: `drain_delay` is not a phase of its own. During the delay the server serves as in the phase
//! `Running`, and only `/ready` and `/health` report that it is about to stop. So code that depends on the
//! phase needs no case for the delay.
//!
//! Decision: with `drain_spread` idle sessions end at equal intervals, in the order of their slots. Random
//! times were considered, but they are less even, and the times after which clients reconnect are random
//! already. The list of sessions is made once, so each end takes constant time.

use alloc::vec::Vec;
use core::time::Duration;

use super::Server;
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::event::{CloseReason, Deadline, Event, ServerPhase};
use crate::http1::Persistence;
use crate::session::SessionState;
use crate::time::Time;
use crate::timers::TimerKind;

/// How many idle sessions one call ends when their times have come.
const ENDS_BATCH: usize = 256;

/// The sessions that were idle when the shutdown began, and when each is to end.
#[derive(Debug, Default)]
pub(super) struct IdleSessions {
    keys: Vec<Key>,
    /// How many of them have had their time.
    passed: usize,
    began: Time,
    spread: Duration,
}

impl IdleSessions {
    /// When the next session is to end.
    fn next_at(&self) -> Option<Time> {
        let count = self.keys.len() as u128;
        let micros = (self.spread.as_micros() * self.passed as u128).checked_div(count)?;
        let after = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        Some(self.began.saturating_add(after))
    }

    /// The next session whose time has come.
    fn pop_due(&mut self, now: Time) -> Option<Key> {
        let key =
            self.next_at().filter(|&at| at <= now).and(self.keys.get(self.passed).copied())?;
        self.passed += 1;
        if self.passed == self.keys.len() {
            *self = Self::default();
        }
        Some(key)
    }

    /// How many sessions are still to end.
    pub(super) const fn left(&self) -> usize {
        self.keys.len() - self.passed
    }
}

impl Server {
    /// Begins to shut down, at once or after the delay.
    pub(super) fn begin_shutdown(&mut self) {
        if self.phase != ServerPhase::Running || self.drain_at.is_some() {
            return;
        }
        match self.config.timeouts.drain_delay {
            Some(delay) if !delay.is_zero() => {
                log::info!(
                    event = "shutdown_announced",
                    shard = self.config.shard,
                    delay_ms = delay.as_millis() as u64;
                    "the server is not ready any more; its shutdown starts in {delay:?} (drain_delay)"
                );
                self.drain_at = Some(self.now.saturating_add(delay));
            }
            Some(_) | None => self.drain(),
        }
    }

    /// Whether a shutdown was asked for.
    pub(super) fn is_stopping(&self) -> bool {
        self.phase != ServerPhase::Running || self.drain_at.is_some()
    }

    /// When the shutdown has something to do next.
    pub(super) fn shutdown_deadline(&self) -> Option<Deadline> {
        let grace = match self.phase {
            ServerPhase::Draining { until } => until.filter(|_| self.conns.len() > 0),
            ServerPhase::Running | ServerPhase::Drained => None,
        };
        let times = [self.drain_at, grace, self.idle_sessions.next_at()];
        let at = times.into_iter().flatten().min()?;
        Some(Deadline { at, cause: TimerKind::Shutdown })
    }

    /// Does what is due in a shutdown.
    pub(super) fn continue_shutdown(&mut self) {
        if self.drain_at.is_some_and(|at| at <= self.now) {
            self.drain();
        }
        if let ServerPhase::Draining { until: Some(until) } = self.phase
            && until <= self.now
        {
            self.cut_everything();
        }
        self.end_idle_sessions(ENDS_BATCH);
    }

    /// Begins to drain: ends what is idle, and leaves the rest until the grace is over.
    fn drain(&mut self) {
        let grace = self.config.timeouts.shutdown_grace;
        self.drain_at = None;
        self.phase =
            ServerPhase::Draining { until: grace.map(|grace| self.now.saturating_add(grace)) };
        log::info!(
            event = "shutdown_started",
            shard = self.config.shard,
            connections = self.conns.len(),
            sessions = self.sessions.len();
            "the server is shutting down: {} connections and {} sessions are open",
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
        let sessions = self.sessions.iter();
        let idle = sessions.filter(|(_, session)| session.requests_in_flight() == 0);
        self.idle_sessions = IdleSessions {
            keys: idle.map(|(key, _)| key).collect(),
            passed: 0,
            began: self.now,
            spread: self.config.timeouts.drain_spread.unwrap_or_default(),
        };
        self.end_idle_sessions(usize::MAX);
    }

    /// Ends idle sessions whose times have come. One that has a request in flight by now ends when that is
    /// answered.
    fn end_idle_sessions(&mut self, count_max: usize) {
        for _ in 0..count_max {
            let Some(key) = self.idle_sessions.pop_due(self.now) else { return };
            let is_idle = |session: &SessionState| session.requests_in_flight() == 0;
            if self.sessions.find(key).is_some_and(is_idle) {
                self.begin_end(key, CloseReason::Shutdown);
            }
        }
    }

    /// Ends the shutdown: cuts every connection.
    pub(super) fn cut_everything(&mut self) {
        self.drain_at = None;
        self.idle_sessions = IdleSessions::default();
        self.phase = ServerPhase::Draining { until: None };
        for key in self.connection_keys() {
            self.give_up(key, CloseReason::Shutdown);
        }
    }

    /// Notes the end of the shutdown when no connection is left.
    pub(super) fn end_shutdown_if_drained(&mut self) {
        if self.conns.len() == 0 && matches!(self.phase, ServerPhase::Draining { .. }) {
            self.phase = ServerPhase::Drained;
            self.idle_sessions = IdleSessions::default();
            self.events.push_back(Event::Drained);
        }
    }

    fn connection_keys(&self) -> Vec<Key> {
        self.conns.iter().map(|(key, _)| key).collect()
    }
}
