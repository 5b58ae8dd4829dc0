//! Questions to the application's authorizer, and the futures that answer them.
//!
//! Knows: which requests wait for which answer, how many are worked out at once, and until when.
//! Does not know: what makes a credential good, or any runtime: the futures are polled by the turn.
//!
//! A question is answered from the [`Verdicts`] that are remembered; or it joins one about the same
//! credential that is being worked out; or it gets one of [`DECISIONS_MAX`] places; or it waits for
//! one, first come, first served. Each place has a waker of its own, so that a turn polls what was
//! woken and nothing else.

use core::fmt;
use core::mem;
use core::panic::AssertUnwindSafe;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::task::Wake;

use mcp_sse_core::{AuthTicket, Refusal, RequestHead, Server, Time, Verdict};

use super::shard_set::ShardHandle;
use super::verdicts::{CredentialKey, Decision, VerdictCache, Verdicts};
use crate::log_throttle::LogThrottle;

/// Decisions that one shard has worked out at once; further questions wait.
pub const DECISIONS_MAX: usize = 64;

/// Waiting questions beyond which it is worth looking for those whose clients have left.
const SWEEP_MIN: usize = 64;

type DecisionFuture = Pin<Box<dyn Future<Output = Decision>>>;

/// Whether a request may proceed, as the application has it: what
/// [`Listener::authorize`](crate::Listener::authorize) makes of its argument.
#[derive(Clone)]
pub struct Authorizer(Arc<dyn Fn(Arc<RequestHead>) -> DecisionFuture + Send + Sync>);

impl Authorizer {
    /// An authorizer of a function that is called on the thread of each shard, where what it returns
    /// is polled too.
    pub fn new<D: Into<Decision>>(
        decide: impl AsyncFn(Arc<RequestHead>) -> D + Send + Sync + 'static,
    ) -> Self {
        let decide = Arc::new(decide);
        Self(Arc::new(move |head| {
            let decide = decide.clone();
            Box::pin(async move { decide(head).await.into() })
        }))
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer")
    }
}

struct Question {
    ticket: AuthTicket,
    head: Arc<RequestHead>,
    key: Option<CredentialKey>,
}

/// A decision that is being worked out, or room for one.
struct DecisionSlot {
    work: Option<DecisionFuture>,
    /// Those who wait for it.
    tickets: Vec<AuthTicket>,
    key: Option<CredentialKey>,
    until: Option<Time>,
    wake: Arc<SlotWaker>,
    waker: Waker,
}

/// What wakes the turn on behalf of one place.
struct SlotWaker {
    woken: AtomicBool,
    /// Whether any place has been woken.
    any: Arc<AtomicBool>,
    link: Arc<ShardHandle>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        if !self.any.swap(true, Ordering::AcqRel) {
            self.link.mailbox.wake();
        }
    }
}

/// The questions of one shard.
pub(super) struct Decisions {
    authorizer: Option<Authorizer>,
    verdicts: Verdicts,
    /// As many as have been needed at once.
    slots: Vec<DecisionSlot>,
    waiting: VecDeque<Question>,
    /// Tickets in `slots` and `waiting`.
    pending: usize,
    /// When `pending` comes to this, those whose clients have left are looked for.
    sweep_at: usize,
    /// Decisions that this turn has begun with.
    begun: usize,
    any: Arc<AtomicBool>,
    link: Arc<ShardHandle>,
}

impl Decisions {
    pub(super) fn new(
        authorizer: Option<Authorizer>,
        cache: VerdictCache,
        link: Arc<ShardHandle>,
    ) -> Self {
        Self {
            authorizer,
            verdicts: Verdicts::new(cache),
            slots: Vec::new(),
            waiting: VecDeque::new(),
            pending: 0,
            sweep_at: SWEEP_MIN,
            begun: 0,
            any: Arc::default(),
            link,
        }
    }

    /// A request asks. It is answered at once if that is possible.
    pub(super) fn ask(
        &mut self,
        ticket: AuthTicket,
        head: Arc<RequestHead>,
        server: &mut Server,
        now: Time,
    ) {
        // The application's own code may make the key.
        let Some(key) = catch_panic(|| self.verdicts.key(&head)) else {
            return answer(server, ticket, Verdict::Refuse(Refusal::Unavailable), now);
        };
        if let Some(verdict) = key.as_ref().and_then(|key| self.verdicts.get(key, now)) {
            server.count_remembered_verdict();
            return answer(server, ticket, verdict, now);
        }
        if self.authorizer.is_none() || !self.has_room(server) {
            return answer(server, ticket, Verdict::Refuse(Refusal::Unavailable), now);
        }
        self.pending += 1;
        let question = Question { ticket, head, key };
        let Some(question) = self.join(question) else { return };
        // First come, first served.
        let at = self.vacancy().filter(|_| self.waiting.is_empty() && self.begun < DECISIONS_MAX);
        match at {
            Some(at) => self.begin(at, question, server, now),
            None => self.waiting.push_back(question),
        }
    }

    /// Goes on with the places that were woken, gives up those whose time is over, and fills them
    /// again. Says whether there is more to do at once.
    pub(super) fn poll(&mut self, server: &mut Server, now: Time) -> bool {
        self.begun = 0;
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(at) else { break };
            if slot.work.is_some() && slot.until.is_some_and(|until| until <= now) {
                log::debug!("a decision was given up, {} waited for it", slot.tickets.len());
                self.finish(at, Verdict::Refuse(Refusal::Unavailable).into(), server, now);
            }
        }
        if self.any.swap(false, Ordering::AcqRel) {
            for at in 0..self.slots.len() {
                let woken =
                    self.slots.get(at).is_some_and(|p| p.wake.woken.load(Ordering::Acquire));
                if woken {
                    self.work(at, server, now);
                }
            }
        }
        while self.begun < DECISIONS_MAX
            && let Some(question) = self.waiting.pop_front()
        {
            if !server.expects(&question.ticket) {
                self.pending -= 1;
                continue;
            }
            // What it asks may have been decided while it waited.
            let known = question.key.as_ref().and_then(|key| self.verdicts.get(key, now));
            if let Some(verdict) = known {
                self.pending -= 1;
                server.count_remembered_verdict();
                answer(server, question.ticket, verdict, now);
                continue;
            }
            let Some(question) = self.join(question) else { continue };
            let Some(at) = self.vacancy() else {
                self.waiting.push_front(question);
                return false;
            };
            self.begin(at, question, server, now);
        }
        !self.waiting.is_empty()
    }

    /// When [`poll`](Self::poll) has work even if nothing is woken.
    pub(super) fn deadline(&self) -> Option<Time> {
        let busy = self.slots.iter().filter(|slot| slot.work.is_some());
        busy.filter_map(|slot| slot.until).min()
    }

    /// Has a question wait for a decision about the same that is being worked out. Gives it back if
    /// there is none.
    fn join(&mut self, question: Question) -> Option<Question> {
        let Some(key) = &question.key else { return Some(question) };
        let same =
            |slot: &&mut DecisionSlot| slot.key.as_ref().is_some_and(|other| other.same(key));
        match self.slots.iter_mut().find(same) {
            Some(slot) => {
                slot.tickets.push(question.ticket);
                None
            }
            None => Some(question),
        }
    }

    /// Gives a question a place.
    fn begin(&mut self, at: usize, question: Question, server: &mut Server, now: Time) {
        self.begun += 1;
        let until = server.config().timeouts().decision.map(|limit| now.saturating_add(limit));
        let decide = self.authorizer.clone();
        let Some(slot) = self.slots.get_mut(at) else { return };
        slot.tickets.push(question.ticket);
        (slot.key, slot.until) = (question.key, until);
        slot.work = decide.map(|decide| (decide.0)(question.head));
        self.work(at, server, now);
    }

    /// Polls one place.
    fn work(&mut self, at: usize, server: &mut Server, now: Time) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        slot.wake.woken.store(false, Ordering::Release);
        let Some(work) = &mut slot.work else { return };
        let cx = &mut Context::from_waker(&slot.waker);
        let decision = match catch_panic(|| work.as_mut().poll(cx)) {
            Some(Poll::Pending) => return,
            Some(Poll::Ready(decision)) => decision,
            None => Verdict::Refuse(Refusal::Unavailable).into(),
        };
        self.finish(at, decision, server, now);
    }

    /// Tells everybody who waits for it, and makes the place free.
    fn finish(&mut self, at: usize, decision: Decision, server: &mut Server, now: Time) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let (work, key) = (slot.work.take(), slot.key.take());
        let tickets = mem::take(&mut slot.tickets);
        self.pending -= tickets.len();
        let verdict = decision.verdict.clone();
        if let Some(key) = key {
            self.verdicts.put(key, decision, now);
        }
        for ticket in tickets {
            answer(server, ticket, verdict.clone(), now);
        }
        // The application's own code runs here too.
        let _ = catch_panic(|| drop(work));
    }

    /// A place that nobody uses.
    fn vacancy(&mut self) -> Option<usize> {
        let free = self.slots.iter().position(|slot| slot.work.is_none());
        if free.is_some() || self.slots.len() == DECISIONS_MAX {
            return free;
        }
        let wake = Arc::new(SlotWaker {
            woken: AtomicBool::new(false),
            any: self.any.clone(),
            link: self.link.clone(),
        });
        let waker = Waker::from(wake.clone());
        let slot =
            DecisionSlot { work: None, tickets: Vec::new(), key: None, until: None, wake, waker };
        self.slots.push(slot);
        Some(self.slots.len() - 1)
    }

    /// Whether one more may wait, once those have been forgotten whose clients have left.
    fn has_room(&mut self, server: &Server) -> bool {
        if self.pending >= self.sweep_at {
            self.waiting.retain(|question| server.expects(&question.ticket));
            self.pending = self.waiting.len();
            for slot in &mut self.slots {
                slot.tickets.retain(|ticket| server.expects(ticket));
                self.pending += slot.tickets.len();
            }
            self.sweep_at = SWEEP_MIN.max(2 * self.pending);
        }
        // There are fewer than 2^32 connections.
        server.config().limits().events_max.is_none_or(|max| self.pending < max as usize)
    }
}

/// Runs the application's code. If it panics it is a request that fails, and not the server: what a
/// peer has sent may have brought it about.
pub(super) fn catch_panic<T>(run: impl FnOnce() -> T) -> Option<T> {
    static PANICS: LogThrottle = LogThrottle::new();
    let done = catch_unwind(AssertUnwindSafe(run)).ok();
    if done.is_none()
        && let Some(unsaid) = PANICS.tell()
    {
        log::error!("the authorizer panicked; the request is refused{unsaid}");
    }
    done
}

fn answer(server: &mut Server, ticket: AuthTicket, verdict: Verdict, now: Time) {
    if server.authorize(ticket, verdict, now).is_err() {
        log::debug!("a decision came too late");
    }
}
