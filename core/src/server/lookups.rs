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
use crate::http1::CONTINUE;
use crate::limits::within;
use crate::outbox::Segment;
use crate::time::Time;
use crate::timers::TimerKind;

impl Server {
    /// Whether this shard has the session that another shard's post is for, and takes its posts. Give
    /// the answer to that shard's [`answer_lookup`](Self::answer_lookup).
    ///
    /// Every way to miss takes the same steps. Nothing is counted: [`deliver`](Self::deliver) does that,
    /// and may still find that the session has ended.
    #[must_use]
    pub fn look_up(&self, lookup: &SessionLookup) -> LookupAnswer {
        let found = self.find_session(&lookup.claim).is_some();
        match (self.phase, found) {
            (ServerPhase::Running, true) => LookupAnswer::Found,
            (ServerPhase::Running, false) => LookupAnswer::UnknownSession,
            (ServerPhase::Draining { .. } | ServerPhase::Drained, _) => LookupAnswer::Unavailable,
        }
    }

    /// Answers [`Event::LookedFor`]: the body of the post is read, or the post is refused.
    ///
    /// # Errors
    ///
    /// [`Expired`] if the post has been refused meanwhile, or its connection is gone.
    pub fn answer_lookup(
        &mut self,
        ticket: LookupTicket,
        answer: LookupAnswer,
        now: Time,
    ) -> Result<(), Expired> {
        self.advance(now);
        let key = self.redeem(ticket.0)?;
        let Some(ConnPhase::Locating(post)) = self.conns.get(key).map(|conn| &conn.phase) else {
            return Err(Expired);
        };
        let unread = post.unread;
        match answer {
            LookupAnswer::Found => self.located(key),
            LookupAnswer::UnknownSession => self.refuse(key, Fault::UnknownSession, unread),
            LookupAnswer::Unavailable => self.refuse(key, Fault::Busy, unread),
        }
        self.settle();
        Ok(())
    }

    /// Whether a post's shard has to be asked before any of `input`, which goes on with its body, is used.
    pub(super) fn must_be_located(&self, key: Key, input: &[u8]) -> bool {
        let Some(conn) = self.conns.get(key) else { return false };
        let ConnPhase::Body { decoder, target, .. } = &conn.phase else { return false };
        if !matches!(target, PostTarget::Elsewhere { unasked: Some(_), .. }) {
            return false;
        }
        // What is wrong with it is said when it is read.
        let end = decoder.clone().decode(input, &self.body_limits, &mut |_| {});
        end.is_ok_and(|progress| !progress.done)
    }

    /// Asks about a post of which no body has been used, if its shard has not been asked.
    pub(super) fn locate_unread(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let unasked = matches!(
            conn.phase,
            ConnPhase::Body { target: PostTarget::Elsewhere { unasked: Some(_), .. }, .. }
        );
        if !unasked {
            return;
        }
        if let Some(ConnPhase::Body {
            decoder,
            target: PostTarget::Elsewhere { claim, unasked: Some(unread) },
            ..
        }) = self.enter(key, ConnPhase::Awaiting)
        {
            self.locate(key, Unlocated { claim, decoder, unread, expects_continue: false });
        }
    }

    /// Asks the shard of a post's session whether it exists.
    pub(super) fn locate(&mut self, key: Key, post: Unlocated) {
        if !within(self.config.limits.events_max, self.events.len() as u32) {
            self.disarm(crate::timers::Role::Phase, key);
            return self.refuse(key, Fault::EventsFull, post.unread);
        }
        let (shard, claim) = (post.claim.token.shard(), (*post.claim).clone());
        self.enter(key, ConnPhase::Locating(Box::new(post)));
        self.arm(TimerKind::Decision, key);
        let Some(ticket) = self.ticket(key) else { return };
        let (lookup, ticket) = (SessionLookup { claim }, LookupTicket(ticket));
        self.events.push_back(Event::LookedFor { shard, lookup, ticket });
    }

    /// The session exists: the body is read.
    fn located(&mut self, key: Key) {
        let Some(ConnPhase::Locating(post)) = self.enter(key, ConnPhase::Awaiting) else { return };
        let Unlocated { claim, decoder, expects_continue, .. } = *post;
        if expects_continue {
            self.push(key, Segment::Static(CONTINUE));
        }
        let empty = decoder.is_done();
        let target = PostTarget::Elsewhere { claim, unasked: None };
        self.enter(key, ConnPhase::Body { decoder, body: Default::default(), target });
        self.arm(TimerKind::Body, key);
        if empty {
            self.finish_body(key);
        }
    }
}
