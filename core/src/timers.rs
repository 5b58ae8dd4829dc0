//! Deadlines: one first-in-first-out lane for each kind of timeout.
//!
//! Knows: that all timeouts of one kind take equally long and that time never goes back, so a lane
//! in order of arming is in order of deadline. Arming, re-arming and disarming are O(1); there is no
//! heap and no tombstone.
//! Does not know: what a deadline means, or whose index it is given.
//!
//! Theory of operation: each owner (a connection's slot index) has one node per *role*, and a lane
//! is a doubly linked list threaded through the nodes. Kinds that exclude one another, because a
//! connection is in one phase at a time, share a role and so a node.

use alloc::vec::Vec;

use crate::limits::Timeouts;
use crate::time::Time;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimerKind {
    /// A request head has to be complete.
    Head,
    /// A request body has to be complete.
    Body,
    /// A keep-alive connection has been idle for long enough.
    Idle,
    /// A decision made elsewhere is due.
    Decision,
    /// A post has been held for long enough.
    Hold,
    /// A post that came by another shard has.
    HoldForwarded,
    /// What another shard has made of a post is due.
    Forward,
    /// Lingering behind a refusal is over.
    Linger,
    /// A stream has been silent for long enough.
    Heartbeat,
    /// A peer has taken no bytes for too long.
    Stall,
    /// A session has seen no post for too long.
    SessionIdle,
    /// A session has lived for long enough.
    SessionLifetime,
    /// The grace of a shutdown is over.
    Shutdown,
}

const LANES: usize = 12;
const ROLES: usize = 6;

/// A node of an owner. All kinds of one role are mutually exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Phase,
    /// Its owners are not connections but forwarded posts: posts that came by another shard.
    Forward,
    Heartbeat,
    Stall,
    SessionIdle,
    SessionLifetime,
}

impl TimerKind {
    const ALL: [Self; LANES] = [
        Self::Head,
        Self::Body,
        Self::Idle,
        Self::Decision,
        Self::Hold,
        Self::HoldForwarded,
        Self::Forward,
        Self::Linger,
        Self::Heartbeat,
        Self::Stall,
        Self::SessionIdle,
        Self::SessionLifetime,
    ];

    /// Whether it is for something that the peer has to say, which it can only while it is read.
    pub(crate) const fn is_for_input(self) -> bool {
        matches!(self, Self::Head | Self::Body | Self::Idle)
    }

    const fn role(self) -> Role {
        match self {
            Self::Head
            | Self::Body
            | Self::Idle
            | Self::Decision
            | Self::Hold
            | Self::Forward
            | Self::Linger
            | Self::Shutdown => Role::Phase,
            Self::HoldForwarded => Role::Forward,
            Self::Heartbeat => Role::Heartbeat,
            Self::Stall => Role::Stall,
            Self::SessionIdle => Role::SessionIdle,
            Self::SessionLifetime => Role::SessionLifetime,
        }
    }

    /// Whether a lane of this kind lists its owners even where the kind has no interval: those that
    /// may be closed to make room, in the order in which they came to wait.
    const fn is_always_listed(self) -> bool {
        matches!(self, Self::Head | Self::Idle | Self::Linger)
    }

    fn interval(self, timeouts: &Timeouts) -> Option<core::time::Duration> {
        match self {
            Self::Head => timeouts.head,
            Self::Body => timeouts.body,
            Self::Idle => timeouts.idle,
            Self::Decision => timeouts.decision,
            Self::Hold | Self::HoldForwarded => timeouts.hold,
            Self::Forward => timeouts.forward(),
            Self::Linger => timeouts.linger,
            Self::Heartbeat => timeouts.heartbeat,
            Self::Stall => timeouts.stall,
            Self::SessionIdle => timeouts.session_idle,
            Self::SessionLifetime => timeouts.session_lifetime,
            Self::Shutdown => timeouts.shutdown_grace,
        }
    }
}

const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    at: Time,
    previous: u32,
    next: u32,
    kind: Option<TimerKind>,
}

const UNARMED: Node = Node { at: Time::ZERO, previous: NIL, next: NIL, kind: None };

#[derive(Clone, Copy, Debug)]
struct Lane {
    first: u32,
    last: u32,
}

#[derive(Debug)]
pub(crate) struct Timers {
    nodes: [Vec<Node>; ROLES],
    lanes: [Lane; LANES],
}

// Indices below are enum discriminants into arrays of exactly that length, and owner indices whose
// node `node_mut` has just made sure of: a miss is a bug in this file.
#[expect(clippy::indexing_slicing, reason = "discriminants and linked indices, see above")]
impl Timers {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: [const { Vec::new() }; ROLES],
            lanes: [Lane { first: NIL, last: NIL }; LANES],
        }
    }

    /// Arms `kind` for `owner`, `timeouts` from `now`, in place of whatever held the same role.
    /// A kind without an interval is merely disarmed, or listed for ever.
    pub(crate) fn arm(&mut self, kind: TimerKind, owner: u32, now: Time, timeouts: &Timeouts) {
        let role = kind.role();
        self.disarm(role, owner);
        let at = match kind.interval(timeouts) {
            Some(interval) => now.saturating_add(interval),
            None if kind.is_always_listed() => Time::MAX,
            None => return,
        };
        let last = self.lanes[kind as usize].last;
        debug_assert!(
            last == NIL || self.nodes[role as usize][last as usize].at <= at,
            "a lane lost its order: time went back"
        );
        let nodes = &mut self.nodes[role as usize];
        if nodes.len() <= owner as usize {
            nodes.resize(owner as usize + 1, UNARMED);
        }
        nodes[owner as usize] = Node { at, previous: last, next: NIL, kind: Some(kind) };
        let lane = &mut self.lanes[kind as usize];
        lane.last = owner;
        if last == NIL {
            lane.first = owner;
        } else {
            nodes[last as usize].next = owner;
        }
    }

    pub(crate) fn disarm(&mut self, role: Role, owner: u32) {
        let nodes = &mut self.nodes[role as usize];
        let Some(node) = nodes.get_mut(owner as usize) else { return };
        let Node { previous, next, kind: Some(kind), .. } = *node else { return };
        *node = UNARMED;
        let lane = &mut self.lanes[kind as usize];
        match previous {
            NIL => lane.first = next,
            _ => nodes[previous as usize].next = next,
        }
        match next {
            NIL => lane.last = previous,
            _ => nodes[next as usize].previous = previous,
        }
    }

    pub(crate) fn disarm_all(&mut self, owner: u32) {
        for role in
            [Role::Phase, Role::Heartbeat, Role::Stall, Role::SessionIdle, Role::SessionLifetime]
        {
            self.disarm(role, owner);
        }
    }

    /// When `role` of `owner` is due, if it is armed.
    pub(crate) fn due(&self, role: Role, owner: u32) -> Option<Time> {
        let node = self.nodes[role as usize].get(owner as usize)?;
        node.kind.map(|_| node.at)
    }

    pub(crate) fn is_armed(&self, role: Role, owner: u32) -> bool {
        self.nodes[role as usize].get(owner as usize).is_some_and(|node| node.kind.is_some())
    }

    /// The next deadline of all.
    pub(crate) fn earliest(&self) -> Option<(Time, TimerKind)> {
        TimerKind::ALL
            .into_iter()
            .filter_map(|kind| self.front(kind).map(|(_, at)| (at, kind)))
            .filter(|(at, _)| *at < Time::MAX)
            .min_by_key(|(at, _)| *at)
    }

    /// Takes one deadline that has passed, of any kind, and disarms it.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<(TimerKind, u32)> {
        let (at, kind) = self.earliest()?;
        if at > now {
            return None;
        }
        let (owner, _) = self.front(kind)?;
        self.disarm(kind.role(), owner);
        Some((kind, owner))
    }

    /// The owner that was armed longest ago.
    pub(crate) fn oldest(&self, kind: TimerKind) -> Option<u32> {
        self.front(kind).map(|(owner, _)| owner)
    }

    fn front(&self, kind: TimerKind) -> Option<(u32, Time)> {
        let first = self.lanes[kind as usize].first;
        (first != NIL).then(|| (first, self.nodes[kind.role() as usize][first as usize].at))
    }

    /// What is armed in `role` of `owner`.
    pub(crate) fn armed(&self, role: Role, owner: u32) -> Option<TimerKind> {
        self.nodes[role as usize].get(owner as usize)?.kind
    }

    /// How many owners have something armed in `role`.
    pub(crate) fn count(&self, role: Role) -> usize {
        self.nodes[role as usize].iter().filter(|node| node.kind.is_some()).count()
    }

    /// Asserts that every lane is sorted and well linked. Returns how many timers are armed. For tests
    /// and debug builds.
    pub(crate) fn check(&self) -> usize {
        let mut linked = 0;
        for kind in TimerKind::ALL {
            let nodes = &self.nodes[kind.role() as usize];
            let (mut previous, mut at) = (NIL, Time::ZERO);
            let mut owner = self.lanes[kind as usize].first;
            while owner != NIL {
                let node = nodes[owner as usize];
                assert_eq!((node.kind, node.previous), (Some(kind), previous), "badly linked");
                assert!(at <= node.at, "a lane out of order");
                (previous, at, owner) = (owner, node.at, node.next);
                linked += 1;
            }
            assert_eq!(self.lanes[kind as usize].last, previous, "a lane's end is off");
        }
        let armed = self.nodes.iter().flatten().filter(|node| node.kind.is_some()).count();
        assert_eq!(linked, armed, "an armed node is in no lane");
        armed
    }
}

#[cfg(test)]
mod tests;
