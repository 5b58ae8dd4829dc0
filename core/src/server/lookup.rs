//! Lookups: whether the session that a post names exists on another shard, asked before the body is read.
//!
//! Knows: which posts wait for that answer, and what becomes of them. Does not know: how a question gets to
//! another shard.
//!
//! Decision: a post whose body arrives whole with its head is forwarded to the other shard at once, and is
//! answered with its outcome there. Before the body of any other post is read, the other shard is asked
//! whether it has the session, and the connection is not read meanwhile. So a post with an invented token of
//! another shard is answered 404 before its body takes room in the budget of request bytes, like one with an
//! invented token of this shard. A small post takes one exchange of messages between shards, and a large post
//! takes two. Two alternatives were considered. To ask before every post would double the time that small
//! posts take. With a separate budget for the bodies of posts to other shards, posts with invented tokens
//! could use up the room of posts to sessions that exist.

use alloc::boxed::Box;

use super::Server;
use crate::arena::Key;
use crate::conn::{ConnPhase, PostTarget, Unlocated};
use crate::error::Fault;
use crate::event::{Event, LookupAnswer, LookupTicket, ServerPhase, SessionLookup};
use crate::request::Unread;
use crate::timers::{Role, TimerKind};

impl Server {
    /// Whether this shard has the session that another shard's post names.
    pub(super) fn has_session(&self, lookup: &SessionLookup) -> LookupAnswer {
        let found = self.find_session(&lookup.claim).is_some();
        match (self.phase, found) {
            (ServerPhase::Running, true) => LookupAnswer::Found,
            (ServerPhase::Running, false) => LookupAnswer::UnknownSession,
            (ServerPhase::Draining { .. } | ServerPhase::Drained, _) => LookupAnswer::Unavailable,
        }
    }

    /// Whether another shard has to be asked before `input`, which continues a post's body, is used.
    pub(super) fn must_be_located(&self, key: Key, input: &[u8]) -> bool {
        let Some(decoder) = self.conns[key].phase.unasked() else { return false };
        // If this input makes the body malformed, no lookup is needed: `run_body` refuses the post.
        let end = decoder.clone().decode(input, &self.body_limits, &mut |_| {});
        end.is_ok_and(|progress| !progress.done)
    }

    /// Asks the other shard about the post that this connection has begun to receive, unless that shard has
    /// been asked already. Before that no input is used for the body, so no byte of it is lost here.
    pub(super) fn locate_unread(&mut self, key: Key) {
        if self.conns[key].phase.unasked().is_some()
            && let ConnPhase::Body {
                decoder,
                target: PostTarget::Elsewhere { claim, asked: false },
                ..
            } = self.enter(key, ConnPhase::Awaiting)
        {
            let unread = Unread::of_body(&decoder);
            self.locate(key, Unlocated { claim, decoder, unread, expects_continue: false });
        }
    }

    /// Asks another shard whether it has the session of a post.
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

    /// Applies the other shard's answer: the body of the post is read, or the post is refused.
    pub(super) fn take_lookup_answer(&mut self, key: Key, answer: LookupAnswer) {
        let ConnPhase::Locating(post) = self.enter(key, ConnPhase::Awaiting) else {
            unreachable!("invariant: this kind of ticket belongs to this phase");
        };
        let Unlocated { claim, decoder, unread, expects_continue } = *post;
        match answer {
            LookupAnswer::Found => {
                let target = PostTarget::Elsewhere { claim, asked: true };
                self.begin_body(key, decoder, target, expects_continue);
            }
            LookupAnswer::UnknownSession => self.refuse(key, Fault::UnknownSession, unread),
            LookupAnswer::Unavailable => self.refuse(key, Fault::Busy, unread),
        }
    }
}
