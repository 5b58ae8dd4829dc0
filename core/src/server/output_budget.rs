//! The budget that all output queues share: which sessions wait for room in it, and which queues are ended
//! to make room.
//!
//! Knows: which part of a queue is its session's own reserve, how much of the shared rest a waiting frame
//! needs, and which clients take nothing. Does not know: what is queued.
//!
//! Decision: each session has [`queue_reserve_bytes`](crate::Limits::queue_reserve_bytes) that no other
//! session can take. When a frame that needs more waits because the rest is full, queues are ended until it
//! fits: the largest queues of those clients that have taken nothing for
//! [`stall_when_full`](crate::Timeouts::stall_when_full). A shorter `stall` for all clients was considered;
//! it would end slow readers while there is room. So was a limit on the queues of one address; it is of no
//! use behind a proxy and on loopback.
//!
//! Decision: sessions are told of room in the order in which they began to wait. If a pass over all queues
//! makes no room for the first of them, the first one whose frame fits goes before it; otherwise a large
//! frame and a slow reader could together keep all other sessions waiting.
//!
//! Decision: all connections are looked at in one pass, only while a session waits. An index of queues by
//! size was considered; every frame and every write would have to update it. The next pass follows after an
//! eighth of `stall_when_full` (0.25 s if that is off), or at once if a pass has ended 16 queues, which is the
//! most that one pass may end. The first pass follows an eighth of `stall_when_full` after a session began to
//! wait. A server that was delayed has written nothing in the meantime, so this time shows which clients do
//! not read.

use core::time::Duration;

use super::Server;
use crate::arena::Key;
use crate::event::{Deadline, Event, SessionId};
use crate::limits::within;
use crate::metrics::ReachedLimit;
use crate::time::Time;
use crate::timers::TimerKind;

/// How many queues one pass ends at most: few enough for one call.
const ENDED_BATCH: usize = 16;
/// The shortest time between passes that end fewer, however short `stall_when_full` is.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The time between passes if `stall_when_full` is off: they end no queue, and go on to the next session.
const PAUSE_WITHOUT_STALL: Duration = Duration::from_millis(250);

const STALLED_WHILE_FULL: &str =
    "the peer takes no bytes, and others wait for room (limit queues_bytes_max)";

impl Server {
    /// Whether all queues together have reached their limit.
    pub(super) fn queues_full(&self) -> bool {
        !within(self.config.limits.queues_bytes_max, self.queues_cost)
    }

    /// Whether all queues together have room for `shared` more bytes of cost.
    pub(super) fn queues_have_room_for(&self, shared: u64) -> bool {
        shared == 0
            || within(self.config.limits.queues_bytes_max, self.queues_cost.saturating_add(shared))
    }

    /// What the frame that a session was refused would take of what all queues share.
    pub(super) fn refused_shared_cost(&self, session: Key) -> Option<u64> {
        let found = &self.sessions[session];
        let conn = &self.conns[found.conn];
        Some(conn.queue_shared_by(found.refused_cost?, &self.config.limits))
    }

    /// Whether there is room for the frame that a session was refused, if it still waits with one.
    fn has_room(&self, session: Key) -> bool {
        self.refused_shared_cost(session).is_none_or(|cost| self.queues_have_room_for(cost))
    }

    /// Whether the first session that waits for room in all queues together finds too little of it.
    pub(super) fn wants_queue_room(&self) -> bool {
        self.waiting_for_budget.front().is_some_and(|&first| !self.has_room(first))
    }

    /// A session waits for room in all queues together, for the frame that was refused last.
    pub(super) fn wait_for_budget(&mut self, key: Key) {
        if core::mem::replace(&mut self.sessions[key].waiting_for_budget, true) {
            return;
        }
        let soon = self.after_pause();
        match self.waiting_for_budget.len() {
            0 => self.queues_looked_until = self.queues_looked_until.max(soon),
            // While one session waits, passes may be far apart; with another, that one may go first.
            1 => self.queues_looked_until = self.queues_looked_until.min(soon),
            _ => {}
        }
        self.waiting_for_budget.push_back(key);
    }

    /// Tells the application if a session that has refused a frame has room for it. Says whether it did.
    pub(super) fn unblock(&mut self, key: Key) -> bool {
        let limits = &self.config.limits;
        let session = &self.sessions[key];
        let Some(cost) = session.refused_cost else { return false };
        let conn = &self.conns[session.conn];
        let shared = conn.queue_shared_by(cost, limits);
        let queued = conn.outbox.cost();
        // Below half, so that a full queue is not announced as free for every small write.
        let low = queued == 0
            || (within(limits.queue_bytes_max, queued.saturating_add(cost))
                && within(limits.queue_bytes_max, queued.saturating_mul(2)));
        if !low {
            return false;
        }
        if !self.queues_have_room_for(shared) {
            // The session's own queue has room: from here on it waits for room in all queues together.
            self.wait_for_budget(key);
            return false;
        }
        self.sessions[key].refused_cost = None;
        self.events.push_back(Event::Unblocked { session: SessionId(key) });
        true
    }

    /// The event for the session that has waited longest for room in all queues together, if there is room
    /// for its frame now. Those behind it are not looked at before.
    pub(super) fn poll_unblocked(&mut self) -> Option<Event> {
        while let Some(&key) = self.waiting_for_budget.front() {
            #[cfg(test)]
            crate::testing::step();
            if self.wants_queue_room() {
                return None;
            }
            self.waiting_for_budget.pop_front();
            self.sessions[key].waiting_for_budget = false;
            if self.unblock(key) {
                return self.events.pop_front();
            }
        }
        None
    }

    /// When the next pass comes, if nothing else makes room.
    pub(super) fn queue_room_deadline(&self) -> Option<Deadline> {
        let ends_queues = self.config.timeouts.stall_when_full.is_some();
        let of_use = ends_queues || self.waiting_for_budget.len() > 1;
        let at = self.queues_looked_until;
        (of_use && self.wants_queue_room()).then_some(Deadline { at, cause: TimerKind::Stall })
    }

    /// When the next pass may come.
    fn after_pause(&self) -> Time {
        let patience = self.config.timeouts.stall_when_full;
        let pause = patience.map_or(PAUSE_WITHOUT_STALL, |it| (it / 8).max(PAUSE_MIN));
        self.now.saturating_add(pause)
    }

    /// If the first session that waits for room in all queues together has none, ends the largest queues of
    /// peers that have taken nothing for too long. If that makes too little room, the first session that
    /// has some goes before it.
    pub(super) fn make_queue_room(&mut self) {
        if self.now < self.queues_looked_until || !self.wants_queue_room() {
            return;
        }
        let (ended, next) = match self.config.timeouts.stall_when_full {
            Some(patience) => self.end_stalled_queues(patience),
            None => (0, self.now),
        };
        if ended == ENDED_BATCH || !self.wants_queue_room() {
            self.queues_looked_until = self.now;
            return;
        }
        self.queues_looked_until = self.after_pause();
        if self.waiting_for_budget.len() == 1 {
            // No other session can go before it, so a pass is of no use before a further queue may be ended.
            self.queues_looked_until = self.queues_looked_until.max(next);
        } else if let Some(at) = self.waiting_for_budget.iter().position(|&it| self.has_room(it)) {
            self.waiting_for_budget.rotate_left(at);
        }
    }

    /// Ends the largest queues whose peers have taken nothing for `patience`, until the first session that
    /// waits has room. Returns how many it has ended, and when there may be a further one.
    fn end_stalled_queues(&mut self, patience: Duration) -> (usize, Time) {
        let (mut largest, next) = self.largest_stalled_queues(patience);
        largest.sort_unstable_by_key(|&(shared, _)| core::cmp::Reverse(shared));
        let mut ended = 0;
        for (_, key) in largest.into_iter().filter(|&(shared, _)| shared > 0) {
            if !self.wants_queue_room() {
                break;
            }
            self.metrics.count_limit(ReachedLimit::Queues);
            self.stalled(self.conns.key_at(key), STALLED_WHILE_FULL);
            ended += 1;
        }
        (ended, next)
    }

    /// The largest queues whose peers have taken nothing for `patience`: the cost of each in the shared
    /// budget, and its connection's slot. And when that will be so of the next of the others.
    fn largest_stalled_queues(&self, patience: Duration) -> ([(u64, u32); ENDED_BATCH], Time) {
        let mut largest = [(0, 0); ENDED_BATCH];
        // A queue that begins now is not due before that.
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
