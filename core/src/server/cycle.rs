//! A connection from answer to answer: what is queued for its peer, and what it goes on to behind that.
//!
//! Knows: the phases' order, the budget of queues, what an answer leaves unread. Does not know: which
//! answer is due, or why.

use alloc::sync::Arc;

use super::Server;
use crate::answer::Reply;
use crate::arena::Key;
use crate::conn::{ConnPhase, Stage};
use crate::event::{CloseReason, ConnId, ServerPhase};
use crate::exchange::ResponseHead;
use crate::http1::Persistence;
use crate::outbox::Segment;
use crate::request::Unread;
use crate::timers::{Role, TimerKind};

impl Server {
    /// Queues bytes for a peer.
    pub(super) fn push(&mut self, key: Key, segment: Segment) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let was_empty = conn.outbox.is_empty();
        self.queues_cost += conn.queue_shared_by(segment.cost(), &self.config.limits);
        conn.outbox.push(segment);
        if was_empty {
            conn.taken = 0;
            self.arm(TimerKind::Stall, key);
        }
        self.wake(key);
    }

    /// Queues a rendered answer, or the beginning of a stream. Where HTTP is spoken elsewhere its head
    /// is kept apart from it.
    pub(super) fn push_answer(&mut self, key: Key, bytes: Arc<[u8]>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let mut start = 0;
        if let Some(response) = conn.exchange.as_deref_mut() {
            let (head, body) = ResponseHead::split(&bytes);
            *response = Some(head);
            start = body;
        }
        if start < bytes.len() {
            // A head is far below 2^32 bytes.
            self.push(key, Segment::Answer { bytes, start: start as u32 });
        } else {
            self.wake(key);
        }
    }

    /// Throws away what waits for a peer. Returns how many events that were.
    pub(super) fn clear_outbox(&mut self, key: Key) -> u32 {
        let Some(conn) = self.conns.get_mut(key) else { return 0 };
        let frames = conn.outbox.frames();
        self.queues_cost -= conn.queue_shared(&self.config.limits);
        self.metrics.frames_undelivered += u64::from(frames);
        conn.outbox.clear();
        self.disarm(Role::Stall, key);
        frames
    }

    /// Moves a connection to another phase, and keeps the books of what the old one held.
    pub(super) fn enter(&mut self, key: Key, phase: ConnPhase) -> Option<ConnPhase> {
        let conn = self.conns.get_mut(key)?;
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
        Some(old)
    }

    /// Sends the last word on a request and goes on to what follows it: the next request, or the
    /// end of the connection.
    pub(super) fn answer(&mut self, key: Key, bytes: Arc<[u8]>, unread: Unread) {
        self.push_answer(key, bytes);
        self.after_answer(key, unread);
    }

    /// How an answer is framed, given what will be left unread of its request: the connection goes on
    /// only behind little.
    pub(super) fn reply_before(&mut self, key: Key, unread: Unread) -> Reply {
        let Some(conn) = self.conns.get_mut(key) else { return Reply::CLOSE };
        let little = match unread {
            Unread::Known(left) => left <= u64::from(self.config.limits.discard_bytes_max),
            Unread::Unknown => false,
        };
        if !little {
            conn.reply.persistence = Persistence::Close;
        }
        conn.reply
    }

    pub(super) fn after_answer(&mut self, key: Key, unread: Unread) {
        let Some(conn) = self.conns.get(key) else { return };
        let keep = conn.reply.persistence != Persistence::Close;
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
        if let Some(conn) = self.conns.get_mut(key) {
            conn.scanner = Default::default();
            conn.reply = Reply::CLOSE;
            // A proxy's next request may be another client's.
            (conn.client, conn.route, conn.session) = (conn.peer.ip(), None, None);
            // So what has come of that is not counted for this one.
            if conn.counted > 0 {
                self.recount_bodies(key);
            }
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
        let Some(conn) = self.conns.get(key) else { return };
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
            ConnPhase::Streaming { session, ending: true, .. } => self.finish_session(session),
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

    /// The connection has no future, not even for what is queued.
    pub(super) fn cut(&mut self, key: Key) {
        self.clear_outbox(key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Ended);
        self.timers.disarm_all(key.index());
    }

    /// Forgets stashed input and half a head.
    pub(super) fn drop_input(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key) {
            self.bodies_bytes -= conn.pending_input.capacity() as u64;
            conn.pending_input = Default::default();
            conn.pending_input_at = 0;
            conn.partial = Default::default();
            if conn.counted > 0 {
                self.recount_bodies(key);
            }
        }
    }

    /// Ends a connection without an answer; what was queued before still leaves.
    pub(super) fn end_quietly(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Ended);
    }

    pub(super) fn disconnect(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        if let ConnPhase::Streaming { session, .. } = conn.phase {
            self.end_session(session, CloseReason::Peer);
        }
        self.abandon_post(key);
        self.cut(key);
        let Some(conn) = self.conns.remove(key) else { return };
        if let Some(address) = self.config.address_key(conn.peer.ip()) {
            self.conn_addresses.subtract(&address);
        }
        self.evicted = self.evicted.filter(|&evicted| evicted != key);
        self.metrics.connections_ended += 1;
        log::debug!("{} is gone", ConnId(key));
    }
}
