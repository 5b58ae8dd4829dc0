//! Whether the session that a post names exists on the shard that would own it, asked before the body is
//! read.
//!
//! Knows: which posts wait for that answer, and what becomes of them. Does not know: the way between shards.
//!
//! Chosen: a post whose body is complete when its head is goes to the other shard at once, and what it
//! finds there is its answer. Any other is asked about first, and its connection is not read meanwhile. So
//! made-up ids of other shards are answered 404 before a body takes room in the budget of bodies, as ids of
//! this shard are, and small posts take one way between shards and not two. Considered: asking about each
//! post, which doubles the way of all; a budget of their own for bodies that go elsewhere, which honest
//! posts to other shards would share with made-up ones.

use alloc::boxed::Box;

use super::Server;
use crate::arena::Key;
use crate::conn::{ConnPhase, PostTarget, Unlocated};
use crate::error::{Expired, Fault};
use crate::event::{Event, LookupAnswer, LookupTicket, ServerPhase, SessionLookup};
use crate::timers::{Role, TimerKind};

impl Server {
    /// Whether a session of this shard is there for another shard's post.
    pub(super) fn has_session(&self, lookup: &SessionLookup) -> LookupAnswer {
        let found = self.find_session(&lookup.claim).is_some();
        match (self.phase, found) {
            (ServerPhase::Running, true) => LookupAnswer::Found,
            (ServerPhase::Running, false) => LookupAnswer::UnknownSession,
            (ServerPhase::Draining { .. } | ServerPhase::Drained, _) => LookupAnswer::Unavailable,
        }
    }

    /// Whether a post's shard has to be asked before any of `input`, which goes on with its body, is used.
    pub(super) fn must_be_located(&self, key: Key, input: &[u8]) -> bool {
        let ConnPhase::Body {
            decoder, target: PostTarget::Elsewhere { unasked: Some(_), .. }, ..
        } = &self.conns[key].phase
        else {
            return false;
        };
        // What is wrong with it is said when it is read.
        let end = decoder.clone().decode(input, &self.body_limits, &mut |_| {});
        end.is_ok_and(|progress| !progress.done)
    }

    /// Asks about a post of which no body has been used, if its shard has not been asked.
    pub(super) fn locate_unread(&mut self, key: Key) {
        let unasked = matches!(
            self.conns[key].phase,
            ConnPhase::Body { target: PostTarget::Elsewhere { unasked: Some(_), .. }, .. }
        );
        if unasked
            && let ConnPhase::Body {
                decoder,
                target: PostTarget::Elsewhere { claim, unasked: Some(unread) },
                ..
            } = self.enter(key, ConnPhase::Awaiting)
        {
            self.locate(key, Unlocated { claim, decoder, unread, expects_continue: false });
        }
    }

    /// Asks the shard of a post's session whether it exists.
    pub(super) fn locate(&mut self, key: Key, post: Unlocated) {
        if let Err(fault) = self.admit_event() {
            self.disarm(Role::Phase, key);
            return self.refuse(key, fault, post.unread);
        }
        let (shard, claim) = (post.claim.token.shard(), (*post.claim).clone());
        self.enter(key, ConnPhase::Locating(Box::new(post)));
        self.arm(TimerKind::Decision, key);
        let (lookup, ticket) = (SessionLookup { claim }, LookupTicket(self.ticket(key)));
        self.events.push_back(Event::LookedFor { shard, lookup, ticket });
    }

    /// The other shard has answered: the body of the post is read, or the post is refused.
    pub(super) fn take_lookup_answer(
        &mut self,
        ticket: LookupTicket,
        answer: LookupAnswer,
    ) -> Result<(), Expired> {
        let key = self.redeem(ticket.0)?;
        let ConnPhase::Locating(post) = &self.conns[key].phase else {
            unreachable!("invariant: this kind of ticket belongs to this phase");
        };
        let unread = post.unread;
        match answer {
            LookupAnswer::Found => self.located(key),
            LookupAnswer::UnknownSession => self.refuse(key, Fault::UnknownSession, unread),
            LookupAnswer::Unavailable => self.refuse(key, Fault::Busy, unread),
        }
        Ok(())
    }

    /// The session exists: the body is read.
    fn located(&mut self, key: Key) {
        let ConnPhase::Locating(post) = self.enter(key, ConnPhase::Awaiting) else {
            unreachable!("invariant: its caller has looked");
        };
        let Unlocated { claim, decoder, expects_continue, .. } = *post;
        let target = PostTarget::Elsewhere { claim, unasked: None };
        self.begin_body(key, decoder, target, expects_continue);
    }
}
