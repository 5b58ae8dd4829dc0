//! Forwarded posts: posts that came by other shards, for sessions of this one.
//!
//! Knows: how a forwarded post is let in at once, or waits in one line with the posts of this shard's own
//! connections, and what its shard is told in the end.
//! Does not know: the way between shards. A forwarded post's connection is another shard's, and so is the answer.

use super::Server;
use crate::arena::Key;
use crate::error::Fault;
use crate::event::{Delivery, Event, ForwardedPost, Outcome, QueuedPostId, ServerPhase};
use crate::jsonrpc::Message;
use crate::limits::within;
use crate::session::{PostOrigin, WaitingPost};
use crate::time::Time;
use crate::timers::{Role, TimerKind};

/// A post that waits for room; or one whose outcome waits to be polled, so that its handle stays its own
/// until then.
#[derive(Debug)]
pub(crate) struct Forward {
    session: Key,
    message: Option<Message>,
}

impl Forward {
    /// Its message, if it waits for this session.
    pub(super) fn waits_for(&self, session: Key) -> Option<&Message> {
        self.message.as_ref().filter(|_| self.session == session)
    }
}

impl Server {
    /// Takes in a post that another shard received for a session of this one. Give what comes of it to
    /// that shard's [`acknowledge`](Self::acknowledge): the outcome at once, or that of
    /// [`Event::Settled`] if the post is held.
    ///
    /// That shard waits for [`Timeouts::hold`](crate::Timeouts::hold) and
    /// [`Timeouts::decision`](crate::Timeouts::decision) together. Do not deliver what has been on its way
    /// for most of the latter: its client may have been told that it was refused.
    pub fn deliver(&mut self, post: ForwardedPost, now: Time) -> Delivery {
        self.advance(now);
        let ForwardedPost { claim, message } = post;
        let found = self.find_session(&claim);
        let late = found.and_then(|key| self.admit_to_session(key).err());
        let delivery = match (found, late) {
            (None, _) => Delivery::Done(self.no_session_outcome()),
            (Some(_), Some(retry_after)) => Delivery::Done(Outcome::RateLimited { retry_after }),
            (Some(_), None) if !self.has_room_for(&message) => Delivery::Done(Outcome::Busy),
            (Some(session), None) if self.session_takes(session, &message) => {
                self.record(session, message);
                Delivery::Done(Outcome::Accepted)
            }
            (Some(session), None) => self.queue_forward(session, message),
        };
        self.settle();
        delivery
    }

    /// Whether a message that came from elsewhere may still be taken in.
    fn has_room_for(&self, message: &Message) -> bool {
        let bytes = self.bodies_bytes.saturating_add(message.memory_bytes());
        self.phase == ServerPhase::Running && within(self.config.limits.bodies_bytes_max, bytes)
    }

    /// What a forwarded post's shard is told whose session is not there.
    pub(super) const fn no_session_outcome(&self) -> Outcome {
        match self.phase {
            ServerPhase::Running => Outcome::UnknownSession,
            // Shutting down ends sessions that posts are still on their way to.
            ServerPhase::Draining { .. } | ServerPhase::Drained => Outcome::Busy,
        }
    }

    fn queue_forward(&mut self, session: Key, message: Message) -> Delivery {
        if !within(self.config.limits.forwarded_max, self.forwards.len().saturating_add(1)) {
            return Delivery::Done(Outcome::Busy);
        }
        self.bodies_bytes += message.memory_bytes();
        let waiting = WaitingPost::of(&message);
        let forward = self.forwards.insert(Forward { session, message: Some(message) });
        if let Some(found) = self.sessions.get_mut(session) {
            found.hold(PostOrigin::Forward(forward), waiting);
        }
        let timeouts = &self.config.timeouts;
        self.timers.arm(TimerKind::HoldForwarded, forward.index(), self.now, timeouts);
        self.metrics.posts_held += 1;
        Delivery::Held(QueuedPostId(forward))
    }

    /// There is room for a forwarded post.
    pub(super) fn release_forward(&mut self, forward: Key) {
        // If this comes late, its shard may have stopped waiting: then it must not be taken in.
        let late =
            self.timers.due(Role::Forward, forward.index()).is_some_and(|due| due < self.now);
        if late {
            return self.forward_hold_is_over(forward.index());
        }
        let Some((session, message)) = self.unqueue_forward(forward) else { return };
        self.record(session, message);
        self.settle_forward(forward, Outcome::Accepted);
    }

    /// A forwarded post was held for as long as its client can be made to wait.
    pub(super) fn forward_hold_is_over(&mut self, forward: u32) {
        let Some((forward, _)) = self.forwards.at(forward) else { return };
        let Some((session, message)) = self.unqueue_forward(forward) else { return };
        let told = self.tell_busy(session, &message);
        if told {
            self.note(None, Fault::Busy);
        }
        // Where it could not be told, its shard refuses it, and counts that.
        self.settle_forward(forward, if told { Outcome::Accepted } else { Outcome::Busy });
        self.releasable.push_back(session);
    }

    /// A forwarded post's message goes nowhere.
    pub(super) fn dismiss(&mut self, forward: Key, outcome: Outcome) {
        if self.unqueue_forward(forward).is_some() {
            self.settle_forward(forward, outcome);
        }
    }

    /// Takes the message of a forwarded post that waits, and the session it is for.
    fn unqueue_forward(&mut self, forward: Key) -> Option<(Key, Message)> {
        let found = self.forwards.get_mut(forward)?;
        let (session, message) = (found.session, found.message.take()?);
        self.bodies_bytes -= message.memory_bytes();
        self.timers.disarm(Role::Forward, forward.index());
        if let Some(found) = self.sessions.get_mut(session) {
            found.unhold(PostOrigin::Forward(forward));
        }
        Some((session, message))
    }

    fn settle_forward(&mut self, forward: Key, outcome: Outcome) {
        self.events.push_back(Event::Settled { post: QueuedPostId(forward), outcome });
    }

    /// For [`check`](Self::check): asserts that forwarded posts are where they belong, and adds their bytes up.
    pub(super) fn check_forwards(&self) -> u64 {
        let (mut bytes, mut waiting, mut settled) = (0, 0, 0);
        for (key, forward) in self.forwards.iter() {
            let armed = self.timers.is_armed(Role::Forward, key.index());
            let Some(message) = &forward.message else {
                assert!(!armed, "a forward without a message waits for nothing");
                settled += 1;
                continue;
            };
            assert_eq!(armed, self.config.timeouts.hold.is_some(), "a forward waits for a time");
            let session = self.sessions.get(forward.session).expect("a forward has a session");
            assert!(
                session.is_waited_for_by(PostOrigin::Forward(key)),
                "the session knows who waits"
            );
            bytes += message.memory_bytes();
            waiting += 1;
        }
        let held = self.sessions.iter().flat_map(|(_, session)| session.held());
        let forwards = held.filter(|post| matches!(post, PostOrigin::Forward(_))).count();
        assert_eq!(forwards, waiting, "sessions list forwards that wait");
        let told = self.events.iter().filter(|event| matches!(event, Event::Settled { .. }));
        assert_eq!(told.count(), settled, "a forward is there until its outcome is polled");
        assert!(within(self.config.limits.forwarded_max, self.forwards.len()), "too many forwards");
        bytes
    }
}
