//! Requests that wait for the application's authorizer, and the futures that decide about them.
//!
//! Knows: which requests wait for which decision, how many decisions run at once, and their deadlines.
//! Does not know: what makes a credential valid, or any runtime: a turn polls the futures.
//!
//! A request is answered by a cached verdict ([`Verdicts`]). Otherwise it joins a running decision
//! about the same credential, so that many clients with one token cause one call; or it starts one in a free
//! slot, of which there are [`DECISIONS_MAX`]; or it waits for a slot, first come, first served. Each slot has its own waker, so that a turn polls
//! the futures that were woken and no others.
//!
//! Decision: a request of an address that has [`DECISIONS_PER_ADDRESS_MAX`] slots waits until one of
//! them is free, and requests of other addresses overtake it. Refusing it was considered, which is
//! simpler; but some clients never come back after an error, and many of them may share an address.
//!
//! Decision: futures are polled by the turn, and not spawned. The driver knows no runtime, and a
//! future that is polled where it was made need not be `Send`. At most [`DECISIONS_MAX`] futures are
//! started in one turn. At most `events_max` requests wait, one for each connection; those whose
//! clients have left are removed when the number of waiting requests has doubled since the last removal.
//!
//! Decision: a slot is freed when its decision is made or its time (`decision`) is over, and not when
//! the client leaves: the verdict is cached all the same. The core's deadline for a request starts
//! when the request arrives, the driver's for a decision when the decision starts.
//!
//! Decision: if the authorizer panics, or the function that makes cache keys, the request is answered
//! 503. A panic of a handler ends its session, and a panic of any other function that a turn calls
//! ends the server. But here a client chooses the input, and a client must not be able to end the
//! server.

use core::fmt;
use core::net::IpAddr;
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

/// How many decisions of an [`Authorizer`] run at once on one shard; further requests wait.
pub const DECISIONS_MAX: usize = 64;

/// How many of those decisions may be about requests of one address (for IPv6, one /64). Loopback
/// peers and trusted proxies are exempt, because they send the requests of others.
pub const DECISIONS_PER_ADDRESS_MAX: usize = 16;

/// With fewer pending requests than this, those whose clients have left are not searched for.
const SWEEP_MIN: usize = 64;

type DecisionFuture = Pin<Box<dyn Future<Output = Decision>>>;

/// The application's function that decides whether a request may proceed.
///
/// [`Listener::authorize`](crate::Listener::authorize) makes it of its argument.
/// It gets the head of each `GET` and `POST` request and returns a [`Verdict`], or a [`Decision`] that
/// also says for how long the verdict may be cached. A decision that takes longer than
/// [`Timeouts::decision`](mcp_sse_core::Timeouts::decision), or that panics, refuses the request with
/// 503.
///
/// ```
/// use mcp_sse_core::{Principal, Refusal, Verdict};
/// use mcp_sse_driver::Authorizer;
///
/// let authorizer = Authorizer::new(async |head| match head.bearer_token() {
///     Some("secret") => Verdict::Allow(Principal::new("alice")),
///     Some(_) => Verdict::Refuse(Refusal::InvalidToken),
///     None => Verdict::Refuse(Refusal::Unauthenticated),
/// });
/// # drop(authorizer);
/// ```
#[derive(Clone)]
pub struct Authorizer(Arc<dyn Fn(Arc<RequestHead>) -> DecisionFuture + Send + Sync>);

impl Authorizer {
    /// Makes an authorizer of an async function.
    ///
    /// The function is called, and its future is polled, on the thread of the shard that received the
    /// request, so it must not block. Up to [`DECISIONS_MAX`] futures are pending at once on a shard.
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

/// A request that waits for a verdict.
struct Question {
    ticket: AuthTicket,
    head: Arc<RequestHead>,
    key: Option<CredentialKey>,
    /// The address by which its client is limited.
    address: Option<IpAddr>,
}

/// A running decision.
struct RunningDecision {
    future: DecisionFuture,
    /// The requests that wait for the decision.
    tickets: Vec<AuthTicket>,
    key: Option<CredentialKey>,
    address: Option<IpAddr>,
    until: Option<Time>,
}

/// A running decision, or room for one.
struct DecisionSlot {
    running: Option<RunningDecision>,
    wake: Arc<SlotWaker>,
    waker: Waker,
}

/// The waker of one slot: it wakes the task that takes turns.
struct SlotWaker {
    woken: AtomicBool,
    /// Set if any slot was woken.
    any: Arc<AtomicBool>,
    shard: Arc<ShardHandle>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        if !self.any.swap(true, Ordering::AcqRel) {
            self.shard.mailbox.wake();
        }
    }
}

/// The requests of one shard that wait for a verdict, and its running decisions.
pub(super) struct Decisions {
    authorizer: Option<Authorizer>,
    verdicts: Verdicts,
    /// It grows to the largest number that was needed at once.
    slots: Vec<DecisionSlot>,
    waiting: VecDeque<Question>,
    /// Some waiting question may be able to start. While that is false none is considered: many may wait
    /// for the slots of their addresses, and each turn would go through all of them.
    may_start: bool,
    /// How many waiting questions were considered.
    #[cfg(test)]
    pub(super) considered: usize,
    /// When so many requests are pending, those of clients that have left are removed.
    sweep_at: usize,
    /// How many decisions this turn has started.
    begun: usize,
    any: Arc<AtomicBool>,
    shard: Arc<ShardHandle>,
}

impl Decisions {
    pub(super) fn new(
        authorizer: Option<Authorizer>,
        cache: VerdictCache,
        shard: Arc<ShardHandle>,
    ) -> Self {
        Self {
            authorizer,
            verdicts: Verdicts::new(cache),
            slots: Vec::new(),
            waiting: VecDeque::new(),
            may_start: false,
            #[cfg(test)]
            considered: 0,
            sweep_at: SWEEP_MIN,
            begun: 0,
            any: Arc::default(),
            shard,
        }
    }

    /// Handles a request that needs a verdict: answers it at once, starts a decision, or lets it wait.
    pub(super) fn ask(
        &mut self,
        ticket: AuthTicket,
        head: Arc<RequestHead>,
        server: &mut Server,
        now: Time,
    ) {
        // The key may be made by the application's code, which may panic.
        let Some(key) = catch_panic(|| self.verdicts.key(&head)) else {
            return answer(server, ticket, Verdict::Refuse(Refusal::Unavailable), now);
        };
        if let Some(principal) = key.as_ref().and_then(|key| self.verdicts.get(key, now)) {
            server.count_remembered_verdict();
            return answer(server, ticket, Verdict::Allow(principal), now);
        }
        if self.authorizer.is_none() || !self.has_room(server) {
            return answer(server, ticket, Verdict::Refuse(Refusal::Unavailable), now);
        }
        let address = server.config().limited_address(head.client());
        let question = Question { ticket, head, key, address };
        let Some(question) = self.join(question) else { return };
        // First come, first served: while a slot is free, only requests of addresses that may not
        // use it wait.
        let may_begin = self.begun < DECISIONS_MAX && self.has_slot_for(&question);
        match self.vacancy().filter(|_| may_begin) {
            Some(at) => self.begin(at, question, server, now),
            None => {
                self.may_start |= self.begun == DECISIONS_MAX;
                self.waiting.push_back(question);
            }
        }
    }

    /// Ends decisions whose deadline has passed, polls those that were woken, and starts waiting ones in
    /// free slots. Returns whether there is more to do at once.
    pub(super) fn poll(&mut self, server: &mut Server, now: Time) -> bool {
        self.begun = 0;
        for at in 0..self.slots.len() {
            let running = self.slots.get(at).and_then(|slot| slot.running.as_ref());
            if let Some(running) = running
                && running.until.is_some_and(|until| until <= now)
            {
                let waited = running.tickets.len();
                log::debug!(
                    event = "decision_timed_out",
                    requests = waited;
                    "a decision of the authorizer timed out; {waited} requests waited for it"
                );
                self.finish(at, Verdict::Refuse(Refusal::Unavailable).into(), server, now);
            }
        }
        if self.any.swap(false, Ordering::AcqRel) {
            for at in 0..self.slots.len() {
                let slot = self.slots.get(at);
                if slot.is_some_and(|slot| slot.wake.woken.load(Ordering::Acquire)) {
                    self.work(at, server, now);
                }
            }
        }
        if !self.may_start {
            return false;
        }
        let more = self.begin_waiting(server, now);
        self.may_start = self.begun == DECISIONS_MAX && more;
        self.may_start
    }

    /// Starts waiting questions in free slots. Returns whether some were not considered yet.
    fn begin_waiting(&mut self, server: &mut Server, now: Time) -> bool {
        let mut overtaken = Vec::new();
        while self.begun < DECISIONS_MAX
            && !self.waiting.is_empty()
            && let Some(at) = self.vacancy()
            && let Some(question) = self.waiting.pop_front()
        {
            #[cfg(test)]
            {
                self.considered += 1;
            }
            if !server.expects(&question.ticket) {
                continue;
            }
            // The same credential may have been decided about while the request waited.
            let known = question.key.as_ref().and_then(|key| self.verdicts.get(key, now));
            if let Some(principal) = known {
                server.count_remembered_verdict();
                answer(server, question.ticket, Verdict::Allow(principal), now);
                continue;
            }
            let Some(question) = self.join(question) else { continue };
            if self.has_slot_for(&question) {
                self.begin(at, question, server, now);
            } else {
                overtaken.push(question);
            }
        }
        let more = !self.waiting.is_empty();
        while let Some(question) = overtaken.pop() {
            self.waiting.push_front(question);
        }
        more
    }

    fn running(&self) -> impl Iterator<Item = &RunningDecision> {
        self.slots.iter().filter_map(|slot| slot.running.as_ref())
    }

    fn running_mut(&mut self) -> impl Iterator<Item = &mut RunningDecision> {
        self.slots.iter_mut().filter_map(|slot| slot.running.as_mut())
    }

    /// How many slots the requests of an address use.
    fn running_for(&self, address: Option<IpAddr>) -> usize {
        self.running().filter(|running| running.address == address).count()
    }

    /// Whether the address of a question may use one more slot.
    fn has_slot_for(&self, question: &Question) -> bool {
        question.address.is_none() || self.running_for(question.address) < DECISIONS_PER_ADDRESS_MAX
    }

    /// The earliest deadline of the running decisions: [`poll`](Self::poll) then has to be called.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.running().filter_map(|running| running.until).min()
    }

    /// Adds a question to a running decision with the same key. Returns the question if there is none.
    fn join(&mut self, question: Question) -> Option<Question> {
        let Some(key) = &question.key else { return Some(question) };
        let same = |running: &&mut RunningDecision| {
            running.key.as_ref().is_some_and(|other| other.same(key))
        };
        match self.running_mut().find(same) {
            Some(running) => {
                running.tickets.push(question.ticket);
                None
            }
            None => Some(question),
        }
    }

    /// Starts the decision of a question in the free slot `at`.
    fn begin(&mut self, at: usize, question: Question, server: &mut Server, now: Time) {
        self.begun += 1;
        let until = server.config().timeouts().decision.map(|limit| now.saturating_add(limit));
        let (Some(authorizer), Some(slot)) = (&self.authorizer, self.slots.get_mut(at)) else {
            return;
        };
        let Question { ticket, head, key, address } = question;
        let future = (authorizer.0)(head);
        slot.running = Some(RunningDecision { future, tickets: vec![ticket], key, address, until });
        // If the decision ends at once, it leaves as many slots free as there were.
        let may_start = self.may_start;
        self.work(at, server, now);
        self.may_start = may_start;
    }

    /// Polls the decision in the slot `at`.
    fn work(&mut self, at: usize, server: &mut Server, now: Time) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        slot.wake.woken.store(false, Ordering::Release);
        let Some(running) = &mut slot.running else { return };
        let cx = &mut Context::from_waker(&slot.waker);
        let decision = match catch_panic(|| running.future.as_mut().poll(cx)) {
            Some(Poll::Pending) => return,
            Some(Poll::Ready(decision)) => decision,
            None => Verdict::Refuse(Refusal::Unavailable).into(),
        };
        self.finish(at, decision, server, now);
    }

    /// Whether the end of the decision in the slot `at` lets a waiting question start: all slots are in use,
    /// or all that its address may use.
    fn frees_a_wanted_slot(&self, at: usize) -> bool {
        let address = self.slots.get(at).and_then(|slot| slot.running.as_ref()?.address);
        (address.is_some() && self.running_for(address) == DECISIONS_PER_ADDRESS_MAX)
            || self.running().count() == DECISIONS_MAX
    }

    /// Answers every request that waits for the decision in the slot `at`, and frees the slot.
    fn finish(&mut self, at: usize, decision: Decision, server: &mut Server, now: Time) {
        self.may_start |= self.frees_a_wanted_slot(at);
        let running = self.slots.get_mut(at).and_then(|slot| slot.running.take());
        let Some(RunningDecision { future, tickets, key, .. }) = running else { return };
        let verdict = decision.verdict.clone();
        if let Some(key) = key {
            self.verdicts.put(key, decision, now);
        }
        for ticket in tickets {
            answer(server, ticket, verdict.clone(), now);
        }
        // Dropping the future runs the application's code, which may panic.
        let _ = catch_panic(|| drop(future));
    }

    /// The number of a free slot; a new one if there are fewer than [`DECISIONS_MAX`].
    fn vacancy(&mut self) -> Option<usize> {
        let free = self.slots.iter().position(|slot| slot.running.is_none());
        if free.is_some() || self.slots.len() == DECISIONS_MAX {
            return free;
        }
        let wake = Arc::new(SlotWaker {
            woken: AtomicBool::new(false),
            any: self.any.clone(),
            shard: self.shard.clone(),
        });
        let waker = Waker::from(wake.clone());
        self.slots.push(DecisionSlot { running: None, wake, waker });
        Some(self.slots.len() - 1)
    }

    /// How many requests wait for a verdict.
    fn pending(&self) -> usize {
        let deciding = self.running().map(|running| running.tickets.len());
        self.waiting.len() + deciding.sum::<usize>()
    }

    /// Whether one more request may wait, after removing those whose clients have left.
    fn has_room(&mut self, server: &Server) -> bool {
        if self.pending() >= self.sweep_at {
            self.waiting.retain(|question| server.expects(&question.ticket));
            let running = self.running_mut();
            running.for_each(|running| running.tickets.retain(|ticket| server.expects(ticket)));
            self.sweep_at = SWEEP_MIN.max(2 * self.pending());
        }
        // There are fewer than 2^32 connections.
        server.config().limits().events_max.is_none_or(|max| self.pending() < max as usize)
    }
}

/// Runs the application's code; `None` if it panics. A panic fails the request and not the server,
/// because a peer's input may have caused it.
pub(super) fn catch_panic<T>(run: impl FnOnce() -> T) -> Option<T> {
    static PANICS: LogThrottle = LogThrottle::new();
    let done = catch_unwind(AssertUnwindSafe(run)).ok();
    if done.is_none()
        && let Some(unsaid) = PANICS.tell()
    {
        log::error!(
            event = "authorizer_panicked",
            suppressed = unsaid;
            "the authorizer panicked; the request is refused{unsaid}"
        );
    }
    done
}

fn answer(server: &mut Server, ticket: AuthTicket, verdict: Verdict, now: Time) {
    if server.authorize(ticket, verdict, now).is_err() {
        log::debug!(
            event = "verdict_late";
            "a verdict of the authorizer came after its request had ended"
        );
    }
}
