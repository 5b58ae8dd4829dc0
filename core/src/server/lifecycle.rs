//! The life of a connection: its phases from request to request, the tickets that it waits for, and its end.
//!
//! Knows: which phase follows which, and what each change adds to or takes from the budgets.
//! Does not know: which answer is due, or why.

use super::Server;
use super::records::Named;
use crate::answer::Reply;
use crate::arena::Key;
use crate::conn::{ConnPhase, RequestInfo, Stage};
use crate::error::Expired;
use crate::event::{CloseReason, ConnId, ServerPhase, Ticket};
use crate::http1::Persistence;
use crate::request::Unread;
use crate::timers::{Role, TimerKind};

impl Server {
    /// Moves a connection to another phase, updates the budgets by what the two hold, and returns the old
    /// one. No phase changes but here.
    pub(super) fn enter(&mut self, key: Key, phase: ConnPhase) -> ConnPhase {
        if phase.stage() == Stage::Ended {
            self.note_unanswered(key);
        }
        let conn = &mut self.conns[key];
        let (from, to) = (conn.phase.stage(), phase.stage());
        if to != Stage::Awaiting {
            conn.forwarded = 0;
        }
        debug_assert!(from.followers().contains(&to), "{from:?} became {to:?}");
        if from == Stage::Deciding {
            // The question was asked as soon as the request was there.
            self.metrics.decision_times.observe(self.now.saturating_since(conn.waiting_since));
        }
        let before = (conn.body_bytes(), conn.queue_shared(&self.config.limits));
        let old = core::mem::replace(&mut conn.phase, phase);
        self.bodies_bytes = self.bodies_bytes - before.0 + conn.body_bytes();
        self.queues_cost = self.queues_cost - before.1 + conn.queue_shared(&self.config.limits);
        // A post that arrives whole and is not held is never counted for its address.
        let waits = to == Stage::Held || conn.counted > 0;
        // The new phase may be able to use input that the old one had to leave.
        if conn.eof || !conn.pending().is_empty() {
            self.resumable.push_back(key);
        }
        if waits {
            self.count_bodies(key);
        }
        self.wake(key);
        old
    }

    /// A new ticket for a connection; earlier ones expire.
    pub(super) fn ticket(&mut self, key: Key) -> Ticket {
        let conn = &mut self.conns[key];
        conn.tickets = conn.tickets.wrapping_add(1);
        Ticket { conn: key, number: conn.tickets }
    }

    /// The connection that a ticket was given out for, if it still waits for this ticket in `stage`.
    pub(super) fn redeem(&self, ticket: Ticket, stage: Stage) -> Result<Key, Expired> {
        if self.awaits(&ticket, stage) { Ok(ticket.conn) } else { Err(Expired) }
    }

    /// Whether a connection still waits for this ticket in `stage`. The stage is compared because a caller
    /// may give a ticket of another server, whose connection can have the same key and number.
    pub(super) fn awaits(&self, ticket: &Ticket, stage: Stage) -> bool {
        self.conns
            .find(ticket.conn)
            .is_some_and(|conn| conn.phase.stage() == stage && conn.tickets == ticket.number)
    }

    /// Moves on from a request that has been answered: to the rest of its body, to the next request, or to
    /// the end of the connection.
    pub(super) fn after_answer(&mut self, key: Key, unread: Unread) {
        let keep = self.conns[key].reply.persistence != Persistence::Close;
        match unread {
            Unread::Known(0) if keep => self.await_request(key),
            Unread::Known(left) if keep => {
                self.enter(key, ConnPhase::Discarding { left });
                self.arm(TimerKind::Body, key);
            }
            Unread::Known(_) | Unread::Unknown => self.close_after_flush(key),
        }
    }

    /// Makes a connection ready for the next request.
    pub(super) fn await_request(&mut self, key: Key) {
        if self.phase != ServerPhase::Running {
            return self.close_after_flush(key);
        }
        self.enter(key, ConnPhase::Head);
        let conn = &mut self.conns[key];
        conn.scanner = Default::default();
        conn.reply = Reply::CLOSE;
        // The next request of a proxy may be another client's.
        conn.client = conn.peer.ip();
        conn.request = RequestInfo::default();
        // Pending input belongs to that request, and no longer counts for this client's address.
        if conn.counted > 0 {
            self.count_bodies(key);
        }
        self.arm(TimerKind::Idle, key);
    }

    /// Closes a connection once what is queued has left and the peer has had time to read it.
    pub(super) fn close_after_flush(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Closing { discarded: 0 });
        self.after_flush(key);
    }

    /// Moves a connection on if it has waited for its queue to become empty, and it is.
    pub(super) fn after_flush(&mut self, key: Key) {
        let conn = &self.conns[key];
        if !conn.outbox.is_empty() {
            return;
        }
        match conn.phase {
            ConnPhase::Closing { .. } if conn.eof || conn.exchange.is_some() => {
                self.enter(key, ConnPhase::Ended);
            }
            ConnPhase::Closing { discarded } => {
                // Closing with bytes unread makes the kernel send a reset, which can overtake and
                // destroy the answer (RFC 9112 section 9.6).
                self.enter(key, ConnPhase::Lingering { discarded });
                self.arm(TimerKind::Linger, key);
            }
            ConnPhase::Streaming { session, ending: true, .. } => {
                self.end_session(session, CloseReason::Application);
            }
            ConnPhase::Head
            | ConnPhase::Deciding(_)
            | ConnPhase::Locating(_)
            | ConnPhase::Body { .. }
            | ConnPhase::Held { .. }
            | ConnPhase::Awaiting
            | ConnPhase::Discarding { .. }
            | ConnPhase::Streaming { ending: false, .. }
            | ConnPhase::Lingering { .. }
            | ConnPhase::Ended => {}
        }
    }

    /// Ends a connection without an answer. What is queued still leaves.
    pub(super) fn end_quietly(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Ended);
    }

    /// Cuts a connection, and ends the session whose stream it carries, or drops the post that it holds.
    pub(super) fn give_up(&mut self, key: Key, reason: CloseReason) {
        if let Some(session) = self.conns[key].streamed_session() {
            return self.end_session(session, reason);
        }
        self.abandon_post(key);
        self.cut(key);
    }

    /// Ends a connection at once. What is queued for its peer is dropped.
    pub(super) fn cut(&mut self, key: Key) {
        self.clear_outbox(key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Ended);
        self.timers.disarm_all(key.index());
    }

    /// Drops pending input and the beginning of a head.
    pub(super) fn drop_input(&mut self, key: Key) {
        let conn = &mut self.conns[key];
        self.bodies_bytes -= conn.pending_input.capacity() as u64;
        conn.pending_input = Default::default();
        conn.pending_input_at = 0;
        conn.partial = Default::default();
        if conn.counted > 0 {
            self.count_bodies(key);
        }
    }

    /// Forgets a connection whose socket is closed.
    pub(super) fn disconnect(&mut self, key: Key) {
        let Some(_) = self.conns.find(key) else { return };
        self.give_up(key, CloseReason::Peer);
        let conn = self.conns.remove(key);
        if let Some(address) = self.config.address_key(conn.peer.ip()) {
            self.conn_addresses.subtract(&address);
        }
        self.evicted = self.evicted.filter(|&evicted| evicted != key);
        self.metrics.connections_ended += 1;
        log::debug!(
            event = "connection_closed",
            connection = ConnId(key),
            peer = conn.peer;
            "connection {} from {} is closed", ConnId(key), Named(&conn.peer)
        );
    }
}
