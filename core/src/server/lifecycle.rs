//! A connection from request to request: its phases, the tickets it waits for, and its end.
//!
//! Knows: the order of phases and what an answer leaves unread. Does not know: which answer is due, or why.

use super::Server;
use crate::answer::Reply;
use crate::arena::Key;
use crate::conn::{ConnPhase, Stage};
use crate::error::Expired;
use crate::event::{CloseReason, ConnId, ServerPhase, Ticket};
use crate::http1::Persistence;
use crate::request::Unread;
use crate::timers::{Role, TimerKind};

impl Server {
    /// Moves a connection to another phase, and keeps the books of what the old one held.
    pub(super) fn enter(&mut self, key: Key, phase: ConnPhase) -> ConnPhase {
        let conn = &mut self.conns[key];
        let (from, to) = (conn.phase.stage(), phase.stage());
        if to != Stage::Awaiting {
            conn.forwarded = 0;
        }
        debug_assert!(from.followers().contains(&to), "{from:?} became {to:?}");
        let before = (conn.body_bytes(), conn.queue_shared(&self.config.limits));
        let old = core::mem::replace(&mut conn.phase, phase);
        self.bodies_bytes = self.bodies_bytes - before.0 + conn.body_bytes();
        self.queues_cost = self.queues_cost - before.1 + conn.queue_shared(&self.config.limits);
        // A post that comes whole and is not held is never counted for its address.
        let waits = to == Stage::Held || conn.counted > 0;
        // The new phase may have a use for input that the old one had to leave.
        if conn.eof || !conn.stashed().is_empty() {
            self.resumable.push_back(key);
        }
        if waits {
            self.recount_bodies(key);
        }
        self.wake(key);
        old
    }

    pub(super) fn ticket(&mut self, key: Key) -> Ticket {
        let conn = &mut self.conns[key];
        conn.tickets = conn.tickets.wrapping_add(1);
        Ticket { conn: key, number: conn.tickets }
    }

    /// The connection that a ticket was given out for, if it still waits for exactly this one.
    pub(super) fn redeem(&self, ticket: Ticket) -> Result<Key, Expired> {
        if self.awaits(&ticket) { Ok(ticket.conn) } else { Err(Expired) }
    }

    /// Whether a ticket's question is still open.
    pub(super) fn awaits(&self, ticket: &Ticket) -> bool {
        self.conns.find(ticket.conn).is_some_and(|conn| {
            let waits = matches!(
                conn.phase,
                ConnPhase::Deciding(_) | ConnPhase::Locating(_) | ConnPhase::Awaiting
            );
            waits && conn.tickets == ticket.number
        })
    }

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

    /// Ready for the next request on this connection.
    pub(super) fn await_request(&mut self, key: Key) {
        if self.phase != ServerPhase::Running {
            return self.close_after_flush(key);
        }
        self.enter(key, ConnPhase::Head);
        let conn = &mut self.conns[key];
        conn.scanner = Default::default();
        conn.reply = Reply::CLOSE;
        // A proxy's next request may be another client's.
        (conn.client, conn.route, conn.session) = (conn.peer.ip(), None, None);
        // So what has come of that is not counted for this one.
        if conn.counted > 0 {
            self.recount_bodies(key);
        }
        self.arm(TimerKind::Idle, key);
    }

    /// Everything has been said; the peer gets what is queued and then some time to read it.
    pub(super) fn close_after_flush(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Closing { discarded: 0 });
        self.after_flush(key);
    }

    /// What a connection without queued bytes goes on to.
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
            // Everything has left: the session is over, and its connection with it.
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

    /// Ends a connection without an answer; what was queued before still leaves.
    pub(super) fn end_quietly(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Ended);
    }

    /// A connection is given up, and with it the session whose stream it carries, or the post that it
    /// holds. What is queued for its peer is thrown away.
    pub(super) fn give_up(&mut self, key: Key, reason: CloseReason) {
        if let Some(session) = self.conns[key].streamed_session() {
            return self.end_session(session, reason);
        }
        self.abandon_post(key);
        self.cut(key);
    }

    /// The connection has no future, not even for what is queued.
    pub(super) fn cut(&mut self, key: Key) {
        self.clear_outbox(key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Ended);
        self.timers.disarm_all(key.index());
    }

    /// Forgets stashed input and half a head.
    pub(super) fn drop_input(&mut self, key: Key) {
        let conn = &mut self.conns[key];
        self.bodies_bytes -= conn.pending_input.capacity() as u64;
        conn.pending_input = Default::default();
        conn.pending_input_at = 0;
        conn.partial = Default::default();
        if conn.counted > 0 {
            self.recount_bodies(key);
        }
    }

    pub(super) fn disconnect(&mut self, key: Key) {
        if self.conns.find(key).is_none() {
            return;
        }
        self.give_up(key, CloseReason::Peer);
        let conn = self.conns.remove(key);
        if let Some(address) = self.config.address_key(conn.peer.ip()) {
            self.conn_addresses.subtract(&address);
        }
        self.evicted = self.evicted.filter(|&evicted| evicted != key);
        self.metrics.connections_ended += 1;
        log::debug!("{} is gone", ConnId(key));
    }
}
