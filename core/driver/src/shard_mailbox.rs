//! How handles on any thread, and the other shards of a server, get a shard's attention.

use core::mem;
use core::task::{Context, Waker};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mcp_sse_core::{
    ForwardedPost, HealthExtras, LookupAnswer, LookupTicket, Outcome, PostTicket, SessionId,
    SessionLookup,
};

/// The sessions whose handles want something, the posts that other shards bring, and whom to wake
/// about it.
///
/// Not a queue that can grow: each handle lists its session at most once until the shard has looked,
/// posts and lookups have a limit, and there are no more outcomes and answers than connections that
/// wait for one.
#[derive(Debug, Default)]
pub(super) struct ShardMailbox {
    state: Mutex<MailboxState>,
}

/// Until the shard has said how many posts it takes, it takes one.
#[derive(Debug, Default)]
struct MailboxState {
    sessions: Vec<SessionId>,
    stop: Option<StopKind>,
    report: Option<HealthExtras>,
    posts: Vec<ForwardRequest>,
    /// Further posts, and further lookups, are answered 503 at once.
    posts_max: u32,
    posts_bytes: u64,
    /// One larger post alone is allowed.
    posts_bytes_max: u64,
    outcomes: Vec<(PostTicket, Outcome)>,
    lookups: Vec<Inquiry>,
    lookup_answers: Vec<(LookupTicket, LookupAnswer)>,
    /// The shard has ended: no post is taken any more.
    closed: bool,
    waker: Option<Waker>,
}

/// How a server was asked to stop. Of two requests the later variant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StopKind {
    /// In order.
    Shutdown,
    /// At once.
    Abort,
}

/// A post on its way to the shard that has its session.
#[derive(Debug)]
pub(super) struct ForwardRequest {
    pub(super) post: ForwardedPost,
    /// Answers it, on the shard that it came to.
    pub(super) ticket: PostTicket,
    /// The number of that shard.
    pub(super) from: usize,
    /// When it was sent there.
    pub(super) sent: Option<Instant>,
}

/// A question of another shard: whether a session exists, before the body of a post to it is read.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) lookup: SessionLookup,
    /// Takes the answer, on the shard that asks.
    pub(super) ticket: LookupTicket,
    /// The number of that shard.
    pub(super) from: usize,
}

/// What was wanted since the last look.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) sessions: Vec<SessionId>,
    pub(super) stop: Option<StopKind>,
    pub(super) report: Option<HealthExtras>,
    pub(super) posts: Vec<ForwardRequest>,
    pub(super) outcomes: Vec<(PostTicket, Outcome)>,
    pub(super) lookups: Vec<Inquiry>,
    pub(super) lookup_answers: Vec<(LookupTicket, LookupAnswer)>,
}

impl ShardMailbox {
    /// That of a further shard, which has been told what this one has been told before it began.
    pub(super) fn clone_pending(&self) -> Self {
        let state = self.lock();
        let (stop, report) = (state.stop, state.report.clone());
        drop(state);
        Self { state: Mutex::new(MailboxState { stop, report, ..MailboxState::default() }) }
    }

    pub(super) fn session(&self, session: SessionId) {
        self.change(|state| state.sessions.push(session));
    }

    /// The server is to stop. An abort that nobody has looked at is not weakened.
    pub(super) fn stop(&self, how: StopKind) {
        self.change(|state| state.stop = state.stop.max(Some(how)));
    }

    /// A later report replaces one that nobody has looked at.
    pub(super) fn set_health_extras(&self, report: HealthExtras) {
        self.change(|state| state.report = Some(report));
    }

    /// Something else wants a look: a control was sent.
    pub(super) fn wake(&self) {
        self.change(|_| {});
    }

    /// How many posts may wait for the shard, and how many bytes of them.
    pub(super) fn limit_posts(&self, count: Option<u32>, bytes: Option<u64>) {
        self.change(|state| {
            state.posts_max = count.unwrap_or(u32::MAX);
            state.posts_bytes_max = bytes.unwrap_or(u64::MAX);
        });
    }

    /// A post for one of the shard's sessions.
    ///
    /// # Errors
    ///
    /// The post's ticket if too many are waiting, or the shard has ended.
    pub(super) fn post(&self, request: ForwardRequest) -> Result<(), PostTicket> {
        let mut refused = None;
        self.change(|state| {
            let bytes = state.posts_bytes.saturating_add(request.post.bytes());
            let fits = state.posts.is_empty()
                || (state.posts.len() < state.posts_max as usize && bytes <= state.posts_bytes_max);
            if state.closed || !fits {
                refused = Some(request.ticket);
                return;
            }
            state.posts_bytes = bytes;
            state.posts.push(request);
        });
        refused.map_or(Ok(()), Err)
    }

    /// What became of a post that the shard sent to another.
    pub(super) fn outcome(&self, ticket: PostTicket, outcome: Outcome) {
        self.change(|state| {
            if !state.closed {
                state.outcomes.push((ticket, outcome));
            }
        });
    }

    /// A question about one of the shard's sessions.
    ///
    /// # Errors
    ///
    /// The question's ticket if too many are waiting, or the shard has ended.
    pub(super) fn lookup(&self, inquiry: Inquiry) -> Result<(), LookupTicket> {
        let mut refused = None;
        self.change(|state| {
            let fits = state.lookups.is_empty() || state.lookups.len() < state.posts_max as usize;
            if state.closed || !fits {
                refused = Some(inquiry.ticket);
            } else {
                state.lookups.push(inquiry);
            }
        });
        refused.map_or(Ok(()), Err)
    }

    /// What another shard has said about a session.
    pub(super) fn lookup_answer(&self, ticket: LookupTicket, answer: LookupAnswer) {
        self.change(|state| {
            if !state.closed {
                state.lookup_answers.push((ticket, answer));
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, MailboxState> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut MailboxState)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes what is wanted, and sees to being woken about what comes.
    pub(super) fn take(&self, cx: &Context<'_>) -> Pending {
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        state.take()
    }

    /// The shard ends. Returns what it has not looked at: posts and lookups.
    pub(super) fn close(&self) -> Pending {
        let mut state = self.lock();
        state.closed = true;
        state.waker = None;
        state.take()
    }
}

impl MailboxState {
    fn take(&mut self) -> Pending {
        self.posts_bytes = 0;
        Pending {
            sessions: mem::take(&mut self.sessions),
            stop: self.stop.take(),
            report: self.report.take(),
            posts: mem::take(&mut self.posts),
            outcomes: mem::take(&mut self.outcomes),
            lookups: mem::take(&mut self.lookups),
            lookup_answers: mem::take(&mut self.lookup_answers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_a_mailbox_is_as_small_as_the_formula_in_limits_says() {
        assert!(size_of::<Inquiry>() <= 112, "{}", size_of::<Inquiry>());
        assert!(size_of::<ForwardRequest>() <= 192 + 64 + 24, "{}", size_of::<ForwardRequest>());
    }
}
