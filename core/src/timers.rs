//! Deadlines: one first-in-first-out list for each kind of timeout.
//!
//! All timeouts of one kind have the same duration, and time never goes back. A list in the order
//! of arming is therefore in the order of deadlines, and arming, re-arming and disarming take
//! constant time. There is no heap, and there are no entries of disarmed timers.
//!
//! Each owner (the slot index of a connection) has one node per *role*. A list is a doubly linked
//! list of nodes, called a lane. Kinds that exclude each other, because a connection is in one
//! phase at a time, share a role and thereby a node.
//!
//! Knows: the duration of each kind. Does not know: what happens at a deadline, or what the owner's
//! index refers to.

use alloc::vec::Vec;

use crate::limits::Timeouts;
use crate::time::Time;

/// The timeout that a deadline belongs to. [`Deadline::cause`](crate::Deadline::cause) contains it.
/// The durations are in [`Timeouts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimerKind {
    /// Deadline for a complete request head ([`Timeouts::head`]).
    Head,
    /// Deadline for a complete request body ([`Timeouts::body`]).
    Body,
    /// Deadline for the next request on a keep-alive connection ([`Timeouts::idle`]).
    Idle,
    /// Deadline for a decision that is made elsewhere ([`Timeouts::decision`]).
    Decision,
    /// Deadline for a post that is held because its session has no room ([`Timeouts::hold`]).
    Hold,
    /// Deadline for a forwarded post that waits in its session's queue ([`Timeouts::hold`]).
    HoldForwarded,
    /// Deadline for the outcome of a post that was forwarded to another shard ([`Timeouts::hold`]
    /// and [`Timeouts::decision`] together).
    Forward,
    /// End of reading and discarding input after the last answer of a connection
    /// ([`Timeouts::linger`]).
    Linger,
    /// Time of the next heartbeat on a silent stream ([`Timeouts::heartbeat`]).
    Heartbeat,
    /// Deadline for a peer to take queued bytes ([`Timeouts::stall`]).
    Stall,
    /// Deadline for the next post to a session ([`Timeouts::session_idle`]).
    SessionIdle,
    /// End of the lifetime of a session ([`Timeouts::session_lifetime`]).
    SessionLifetime,
    /// The next step of a shutdown: its beginning ([`Timeouts::drain_delay`]), the end of an idle
    /// session ([`Timeouts::drain_spread`]), or the end of its grace period
    /// ([`Timeouts::shutdown_grace`]).
    Shutdown,
    /// There are sessions to compare with replaced tokens
    /// ([`Server::replace_tokens`](crate::Server::replace_tokens)). This is due at once.
    TokenRemoval,
}

const LANES: usize = 12;
const ROLES: usize = 6;

/// Which node of an owner a timer uses. All kinds with the same role exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Phase,
    /// The owners in this role are not connections but posts that another shard has received and
    /// forwarded to this one.
    ReceivedPost,
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

    /// Whether the deadline is for input of the peer, which can arrive only while its connection is
    /// read.
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
            | Self::Shutdown
            | Self::TokenRemoval => Role::Phase,
            Self::HoldForwarded => Role::ReceivedPost,
            Self::Heartbeat => Role::Heartbeat,
            Self::Stall => Role::Stall,
            Self::SessionIdle => Role::SessionIdle,
            Self::SessionLifetime => Role::SessionLifetime,
        }
    }

    /// Whether the lane of this kind contains its owners even if the kind has no timeout.
    /// Connections in these lanes may be closed to make room for others, the longest-waiting first.
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
            Self::TokenRemoval => None,
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

// Indices below are enum discriminants into arrays of exactly that length, and owner indices of
// nodes that exist because `arm` has made them. A miss is a bug in this file.
#[expect(clippy::indexing_slicing, reason = "discriminants and linked indices, see above")]
impl Timers {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: [const { Vec::new() }; ROLES],
            lanes: [Lane { first: NIL, last: NIL }; LANES],
        }
    }

    /// Arms `kind` for `owner` with its duration in `timeouts` from `now`, and disarms the kind
    /// that used the same role. A kind without a timeout is only disarmed, or is listed without a
    /// deadline.
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

    /// The deadline of `role` of `owner`, if it is armed.
    pub(crate) fn due(&self, role: Role, owner: u32) -> Option<Time> {
        let node = self.nodes[role as usize].get(owner as usize)?;
        node.kind.map(|_| node.at)
    }

    /// The earliest deadline.
    pub(crate) fn earliest(&self) -> Option<(Time, TimerKind)> {
        TimerKind::ALL
            .into_iter()
            .filter_map(|kind| self.front(kind).map(|(_, at)| (at, kind)))
            .filter(|(at, _)| *at < Time::MAX)
            .min_by_key(|(at, _)| *at)
    }

    /// Disarms and returns one timer whose deadline has passed, if there is one.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<(TimerKind, u32)> {
        let (at, kind) = self.earliest()?;
        if at > now {
            return None;
        }
        let (owner, _) = self.front(kind)?;
        self.disarm(kind.role(), owner);
        Some((kind, owner))
    }

    /// The owner whose timer of this kind was armed first.
    pub(crate) fn oldest(&self, kind: TimerKind) -> Option<u32> {
        self.front(kind).map(|(owner, _)| owner)
    }

    fn front(&self, kind: TimerKind) -> Option<(u32, Time)> {
        let first = self.lanes[kind as usize].first;
        (first != NIL).then(|| (first, self.nodes[kind.role() as usize][first as usize].at))
    }

    /// The kind that is armed in `role` of `owner`.
    pub(crate) fn armed(&self, role: Role, owner: u32) -> Option<TimerKind> {
        self.nodes[role as usize].get(owner as usize)?.kind
    }

    /// The number of owners with a timer armed in `role`.
    pub(crate) fn count(&self, role: Role) -> usize {
        self.nodes[role as usize].iter().filter(|node| node.kind.is_some()).count()
    }

    /// Asserts that every lane is sorted and linked correctly. Returns the number of armed timers.
    /// For tests and debug builds.
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
