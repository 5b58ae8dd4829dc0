//! A shard's mailbox: what handles on any thread, and the other shards of its server, want of it.
//!
//! Knows: what waits for the shard, how much may, and the task to wake.
//! Does not know: what the shard does with any of it.

use core::mem;
use core::task::{Context, Waker};
use std::time::Instant;

use mcp_sse_core::{
    ForwardedPost, HealthExtras, LookupAnswer, LookupTicket, Outcome, PostTicket, SessionId,
    SessionLookup,
};

use super::shared::Shared;

/// The items that wait for a shard, and the waker of the task that takes its turns.
///
/// It is bounded: each session is listed at most once until the shard takes the list, forwarded posts
/// and lookups are limited, and there are at most as many outcomes and lookup answers as connections
/// of the shard that wait for one.
#[derive(Default)]
pub(super) struct ShardMailbox(Shared<MailboxState>);

/// The limits are zero until [`limit_posts`](ShardMailbox::limit_posts) sets them; an empty mailbox
/// takes one post and one lookup in any case.
#[derive(Default)]
struct MailboxState {
    pending: Pending,
    /// Beyond this number, posts and lookups are each answered 503 at once.
    posts_max: u32,
    /// A single post may be larger.
    posts_bytes_max: u64,
    /// The shard has ended: it takes neither posts nor lookups nor answers.
    closed: bool,
    waker: Option<Waker>,
}

/// How a server was told to stop. [`Abort`](Self::Abort) prevails over [`Shutdown`](Self::Shutdown).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StopKind {
    /// Requests in progress are answered first.
    Shutdown,
    /// Every connection is cut at once.
    Abort,
}

/// A post that is forwarded to the shard of its session.
pub(super) struct ForwardRequest {
    pub(super) post: ForwardedPost,
    /// Takes the outcome, on the shard that received the post.
    pub(super) ticket: PostTicket,
    /// The number of the shard that received the post.
    pub(super) from: usize,
    /// When that shard forwarded it; `None` if its clock cannot say.
    pub(super) sent: Option<Instant>,
}

/// Another shard's lookup of a session, which it sends before it reads the body of a post to it.
pub(super) struct LookupRequest {
    pub(super) lookup: SessionLookup,
    /// Takes the answer, on the shard that sent the lookup.
    pub(super) ticket: LookupTicket,
    /// The number of the shard that sent the lookup.
    pub(super) from: usize,
}

/// The items that have come since the shard last took them.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) sessions: Vec<SessionId>,
    pub(super) stop: Option<StopKind>,
    pub(super) health_extras: Option<HealthExtras>,
    pub(super) posts: Vec<ForwardRequest>,
    posts_bytes: u64,
    pub(super) outcomes: Vec<(PostTicket, Outcome)>,
    pub(super) lookups: Vec<LookupRequest>,
    pub(super) lookup_answers: Vec<(LookupTicket, LookupAnswer)>,
}

impl ShardMailbox {
    /// Makes the mailbox of a further shard of the same server, with the stop and the health extras
    /// that wait in this one.
    pub(super) fn clone_pending(&self) -> Self {
        let Pending { stop, health_extras, .. } = &self.0.lock().pending;
        let (stop, health_extras) = (*stop, health_extras.clone());
        let pending = Pending { stop, health_extras, ..Pending::default() };
        Self(Shared::new(MailboxState { pending, ..MailboxState::default() }))
    }

    /// Lists a session whose own mailbox the shard is to serve.
    pub(super) fn session(&self, session: SessionId) {
        self.change(|state| state.pending.sessions.push(session));
    }

    /// Stops the server. A shutdown does not replace an abort.
    pub(super) fn stop(&self, how: StopKind) {
        self.change(|state| state.pending.stop = state.pending.stop.max(Some(how)));
    }

    /// Sets the health extras, in place of earlier ones that the shard has not taken.
    pub(super) fn set_health_extras(&self, extras: HealthExtras) {
        self.change(|state| state.pending.health_extras = Some(extras));
    }

    /// Wakes the shard: a control was sent, or a decision can go on.
    pub(super) fn wake(&self) {
        self.change(|_| {});
    }

    /// Sets how many posts may wait for the shard, and how many bytes of them. `None` is no limit.
    pub(super) fn limit_posts(&self, count: Option<u32>, bytes: Option<u64>) {
        self.change(|state| {
            state.posts_max = count.unwrap_or(u32::MAX);
            state.posts_bytes_max = bytes.unwrap_or(u64::MAX);
        });
    }

    /// Adds a post to one of the shard's sessions.
    ///
    /// # Errors
    ///
    /// The post's ticket, if too many posts are waiting or the shard has ended.
    pub(super) fn post(&self, request: ForwardRequest) -> Result<(), PostTicket> {
        self.change(|MailboxState { pending, posts_max, posts_bytes_max, closed, .. }| {
            let bytes = pending.posts_bytes.saturating_add(request.post.bytes());
            let fits = pending.posts.is_empty()
                || (pending.posts.len() < *posts_max as usize && bytes <= *posts_bytes_max);
            if *closed || !fits {
                return Err(request.ticket);
            }
            pending.posts_bytes = bytes;
            pending.posts.push(request);
            Ok(())
        })
    }

    /// Adds the outcome of a post that the shard forwarded to another.
    pub(super) fn outcome(&self, ticket: PostTicket, outcome: Outcome) {
        self.change(|state| {
            if !state.closed {
                state.pending.outcomes.push((ticket, outcome));
            }
        });
    }

    /// Adds a lookup of one of the shard's sessions.
    ///
    /// # Errors
    ///
    /// The lookup's ticket, if too many lookups are waiting or the shard has ended.
    pub(super) fn lookup(&self, request: LookupRequest) -> Result<(), LookupTicket> {
        self.change(|MailboxState { pending, posts_max, closed, .. }| {
            let waiting = pending.lookups.len();
            if *closed || (waiting > 0 && waiting >= *posts_max as usize) {
                return Err(request.ticket);
            }
            pending.lookups.push(request);
            Ok(())
        })
    }

    /// Adds the answer to a lookup that the shard sent to another.
    pub(super) fn lookup_answer(&self, ticket: LookupTicket, answer: LookupAnswer) {
        self.change(|state| {
            if !state.closed {
                state.pending.lookup_answers.push((ticket, answer));
            }
        });
    }

    /// Changes the state, and wakes the shard.
    fn change<R>(&self, change: impl FnOnce(&mut MailboxState) -> R) -> R {
        self.0.change(|state| (change(state), state.waker.take()))
    }

    /// Takes the items that wait, and registers the task of `cx` to be woken about the next one.
    pub(super) fn take(&self, cx: &Context<'_>) -> Pending {
        let mut state = self.0.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        mem::take(&mut state.pending)
    }

    /// Closes the mailbox of a shard that ends. Returns the items that it has not taken.
    pub(super) fn close(&self) -> Pending {
        let mut state = self.0.lock();
        state.closed = true;
        state.waker = None;
        mem::take(&mut state.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailbox_items_fit_the_sizes_that_limits_computes_with() {
        assert!(size_of::<LookupRequest>() <= 112, "{}", size_of::<LookupRequest>());
        assert!(size_of::<ForwardRequest>() <= 192 + 64 + 24, "{}", size_of::<ForwardRequest>());
    }
}
