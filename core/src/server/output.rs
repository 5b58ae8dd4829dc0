//! Output: what is queued for a client, and what follows when bytes have been written.
//!
//! Knows: outboxes, the stall timer and the heartbeat that depend on them, and how an answer is rendered
//! for its request. Does not know: which answer is due, or what a connection does after it.
//!
//! Decision: the bytes that are read and dropped behind the last answer are bounded by
//! `linger_bytes_max` (16 MiB), and their time by `linger`. The official clients write a whole body
//! before they look for an answer: with a bound of 64 KiB they would lose the 413 to a post of 5 MiB,
//! even on loopback. How much of a body is dropped on a connection that stays open is another limit
//! (`discard_bytes_max`, 64 KiB).
//!
//! Decision: a byte now and then is not progress. While more than `stall_bytes_min` is queued, the stall
//! timer restarts only when that many bytes have been taken. Otherwise a few clients that take one byte
//! every 29 s could occupy the shared budget of queues for ever. Below that every byte counts, because a
//! client that reads small events takes few bytes at a time.

use super::Server;
use crate::answer::{Answer, Reply, ResponseContext};
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::event::ConnId;
use crate::http1::Persistence;
use crate::outbox::Segment;
use crate::request::Unread;
use crate::timers::{Role, TimerKind};

impl Server {
    /// Queues bytes for a peer, and arms the stall timer if nothing was queued.
    pub(super) fn push(&mut self, key: Key, segment: Segment) {
        let conn = &mut self.conns[key];
        let was_empty = conn.outbox.is_empty();
        self.queues_cost += conn.queue_shared_by(segment.cost(), &self.config.limits);
        self.metrics.count_queued(segment.cost());
        conn.outbox.push(segment);
        if was_empty {
            conn.taken = 0;
            self.arm(TimerKind::Stall, key);
        }
        self.wake(key);
    }

    /// Queues a rendered answer, or the beginning of a stream. The head of an exchange's answer is not
    /// queued but kept for [`Server::response`].
    pub(super) fn push_answer(&mut self, key: Key, answer: Answer) {
        if let Some(response) = self.conns[key].exchange.as_deref_mut() {
            *response = answer.head;
        }
        if answer.bytes.is_empty() {
            self.wake(key);
        } else {
            self.push(key, Segment::Answer(answer.bytes));
        }
    }

    /// Renders an answer for the request at hand, of which `unread` will be left.
    pub(super) fn answering<T>(
        &mut self,
        key: Key,
        unread: Unread,
        render: impl FnOnce(&Self, &ResponseContext<'_>) -> T,
    ) -> T {
        self.reply_before(key, unread);
        render(self, &self.conns[key].response_context(&self.config))
    }

    /// How an answer is framed. The connection is kept only if little of the request is left unread
    /// ([`Limits::discard_bytes_max`](crate::Limits::discard_bytes_max)).
    pub(super) fn reply_before(&mut self, key: Key, unread: Unread) -> Reply {
        let conn = &mut self.conns[key];
        let little = match unread {
            Unread::Known(left) => left <= u64::from(self.config.limits.discard_bytes_max),
            Unread::Unknown => false,
        };
        if !little {
            conn.reply.persistence = Persistence::Close;
        }
        conn.reply
    }

    /// Queues the answer to a request, and moves the connection to what follows: the next request, or its
    /// end.
    pub(super) fn answer(&mut self, key: Key, answer: Answer, unread: Unread) {
        // The record has what the phase knows, so it is written before the phase changes.
        self.note_answer(key, answer.status, answer.bytes.len());
        self.push_answer(key, answer);
        self.after_answer(key, unread);
    }

    /// Answers a post 202.
    pub(super) fn accepted(&mut self, key: Key) {
        self.metrics.posts_accepted += 1;
        let answer = self.answers.accepted(&self.conns[key].response_context(&self.config));
        self.answer(key, answer, Unread::Known(0));
    }

    /// Drops what is queued for a peer. Returns how many SSE events were among it.
    pub(super) fn clear_outbox(&mut self, key: Key) -> u32 {
        let conn = &mut self.conns[key];
        let frames = conn.outbox.frames();
        self.queues_cost -= conn.queue_shared(&self.config.limits);
        self.metrics.queue_bytes -= conn.outbox.cost();
        self.metrics.frames_undelivered += u64::from(frames);
        conn.outbox.clear();
        self.disarm(Role::Stall, key);
        frames
    }

    /// Lists a connection for [`Server::poll_wake`].
    pub(super) fn wake(&mut self, key: Key) {
        let conn = &mut self.conns[key];
        if !conn.woken {
            conn.woken = true;
            self.wakes.push_back(ConnId(key));
        }
    }

    /// Notes that `count` queued bytes have left.
    pub(super) fn take_written(&mut self, key: Key, count: usize) {
        let full = self.queues_full();
        let Some(conn) = self.conns.find_mut(key) else { return };
        let was_read = conn.takes_input(&self.config.limits, full);
        // The queue may have been dropped while a write of shares in it was under way.
        let dropped = matches!(conn.phase, ConnPhase::Ended) && conn.outbox.is_empty();
        if count == 0 || dropped {
            return;
        }
        let (before, cost) = (conn.queue_shared(&self.config.limits), conn.outbox.cost());
        let frames = conn.outbox.advance(count);
        self.queues_cost -= before - conn.queue_shared(&self.config.limits);
        self.metrics.queue_bytes -= cost - conn.outbox.cost();
        self.metrics.frames_sent += u64::from(frames);
        self.metrics.bytes_sent += count as u64;
        conn.taken = conn.taken.saturating_add(count as u64);
        let enough = self.config.limits.stall_bytes_min;
        let progress = conn.taken >= enough || conn.outbox.cost() <= enough;
        if progress {
            conn.taken = 0;
        }
        if conn.outbox.is_empty() {
            self.disarm(Role::Stall, key);
        } else if progress {
            self.arm(TimerKind::Stall, key);
        }
        if let ConnPhase::Streaming { session, ending, .. } = self.conns[key].phase {
            if !ending {
                self.arm(TimerKind::Heartbeat, key);
                self.unblock(session);
            }
        } else {
            self.resumable.push_back(key);
            if !was_read {
                self.read_again(key);
            }
        }
        self.wake(key);
        self.after_flush(key);
    }

    /// Restarts the input deadline of a connection that was not read, if it is read again now.
    fn read_again(&mut self, key: Key) {
        let conn = &self.conns[key];
        let armed = self.timers.armed(Role::Phase, key.index());
        if let Some(kind) = armed.filter(|kind| kind.is_for_input())
            && conn.takes_input(&self.config.limits, self.queues_full())
        {
            self.arm(kind, key);
        }
    }
}
