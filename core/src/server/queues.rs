//! Room in the budget that all queues share, and whose queue is ended for it.
//!
//! Knows: what of a queue is its session's own, how much a waiting frame needs of the rest, and which
//! peers take nothing. Does not know: frames, or how senders are told of room (`input`, `streams`).
//!
//! Chosen: each session has [`queue_reserve_bytes`](crate::Limits::queue_reserve_bytes) that nobody else can
//! take, and when a frame that needs more waits because the rest is full, the largest queues of peers that
//! have taken nothing for [`stall_when_full`](crate::Timeouts::stall_when_full) are ended, until it fits.
//! Sessions that wait are told of room in the order in which they began to wait; if a pass can make none for
//! the first of them, the first that needs no more than there is goes before it, so that a large frame and a
//! slow reader together keep nobody else waiting. Considered: a shorter `stall` for everybody, which would
//! end slow readers that are in nobody's way; a limit on the queues of one address, which is of no use
//! behind a proxy, and on loopback; an index of queues by size, which every frame and every write would have
//! to keep. Instead all connections are looked at in one pass, only while somebody waits, and not again for
//! an eighth of `stall_when_full` unless that pass has ended as many queues as one pass may. The first pass
//! is as long after somebody began to wait: a server that was held up has not tried to write meanwhile, and
//! must not take that for peers that do not read.

use core::time::Duration;

use super::Server;
use crate::arena::Key;
use crate::event::Deadline;
use crate::limits::within;
use crate::time::Time;
use crate::timers::TimerKind;

/// Queues that one pass ends at most: few enough for one call.
const ENDED_BATCH: usize = 16;
/// Passes that end fewer are no closer together than this, however short `stall_when_full` is.
const PAUSE_MIN: Duration = Duration::from_millis(1);

const STALLED_WHILE_FULL: &str =
    "the peer takes no bytes, and others wait for room (limit queues_bytes_max)";

impl Server {
    /// Whether all queues together have room for so much more.
    pub(super) fn queues_take(&self, shared: u64) -> bool {
        shared == 0
            || within(self.config.limits.queues_bytes_max, self.queues_cost.saturating_add(shared))
    }

    /// What the frame that a session was refused would take of what all queues share.
    pub(super) fn refused_shared_cost(&self, session: Key) -> Option<u64> {
        let found = self.sessions.get(session)?;
        let conn = self.conns.get(found.conn)?;
        Some(conn.queue_shared_by(found.refused_cost?, &self.config.limits))
    }

    /// Whether there is room for the frame that a session was refused, if it still waits with one.
    fn has_room(&self, session: Key) -> bool {
        self.refused_shared_cost(session).is_none_or(|cost| self.queues_take(cost))
    }

    /// Whether the first session that waits for room in all queues together finds too little of it.
    pub(super) fn wants_queue_room(&self) -> bool {
        self.waiting_for_budget.front().is_some_and(|&first| !self.has_room(first))
    }

    /// When queues are looked at next to make room, if nothing else makes some.
    pub(super) fn queue_room_deadline(&self) -> Option<Deadline> {
        self.config.timeouts.stall_when_full?;
        let at = self.queues_looked_until;
        self.wants_queue_room().then_some(Deadline { at, cause: TimerKind::Stall })
    }

    /// Somebody begins to wait for room in all queues together, and is the first.
    pub(super) fn expect_queue_room(&mut self) {
        if let Some(patience) = self.config.timeouts.stall_when_full {
            self.queues_looked_until = self.queues_looked_until.max(self.after_pause(patience));
        }
    }

    fn after_pause(&self, patience: Duration) -> Time {
        self.now.saturating_add((patience / 8).max(PAUSE_MIN))
    }

    /// If somebody waits for room in all queues together, ends the largest queues of peers that have
    /// taken nothing for too long.
    pub(super) fn make_queue_room(&mut self) {
        let Some(patience) = self.config.timeouts.stall_when_full else { return };
        if self.now < self.queues_looked_until || !self.wants_queue_room() {
            return;
        }
        let (mut largest, next) = self.largest_stalled_queues(patience);
        largest.sort_unstable_by_key(|&(shared, _)| core::cmp::Reverse(shared));
        let mut ended = 0;
        for (_, key) in largest.into_iter().filter(|&(shared, _)| shared > 0) {
            if !self.wants_queue_room() {
                break;
            }
            if let Some((key, _)) = self.conns.at(key) {
                self.stalled(key, STALLED_WHILE_FULL);
                ended += 1;
            }
        }
        let unmet = ended < ENDED_BATCH && self.wants_queue_room();
        self.queues_looked_until =
            if unmet { next.max(self.after_pause(patience)) } else { self.now };
        if unmet && let Some(at) = self.waiting_for_budget.iter().position(|&it| self.has_room(it))
        {
            self.waiting_for_budget.rotate_left(at);
        }
    }

    /// The largest queues of all whose peers have taken nothing for as long, with what they take of
    /// what all queues share; and when the next of the others will have been as long.
    fn largest_stalled_queues(&self, patience: Duration) -> ([(u64, u32); ENDED_BATCH], Time) {
        let mut largest = [(0, 0); ENDED_BATCH];
        // What is queued from now on is not due before that.
        let mut next = self.now.saturating_add(patience);
        for (key, conn) in self.conns.iter() {
            let shared = conn.queue_shared(&self.config.limits);
            if shared == 0 {
                continue;
            }
            let due = conn.stalled_since.saturating_add(patience);
            if due > self.now {
                next = next.min(due);
            } else if let Some(least) = largest.iter_mut().min_by_key(|(shared, _)| *shared)
                && least.0 < shared
            {
                *least = (shared, key.index());
            }
        }
        (largest, next)
    }
}
