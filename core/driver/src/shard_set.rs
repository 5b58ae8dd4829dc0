//! One shard among the shards of its server.
//!
//! Knows: how a post reaches the shard of its session, how its outcome comes back, and how many
//! sessions and connections each shard has open. Does not know: threads, or what a session is.
//!
//! Decision: each worker is a complete server. Its thread has a shard with a `Server`, sockets
//! and a share of the limits. All threads share one [`ShardHandle`] for each shard; its locks are
//! held only for the time of one access. A post for another shard's session goes into that shard's
//! mailbox, which takes as many as `forwarded_max` and `bodies_bytes_max` allow one shard; the
//! post is answered 503 beyond that. In its next turn that shard passes the post to
//! [`Server::deliver`], and the outcome returns the same way to [`Server::acknowledge`]. The
//! ticket travels with the post, so that a post is answered once. A shard that ends answers 503
//! to the posts in its mailbox and to those that it holds.
//!
//! Decision: the counts of `/health` are added up before each request is read, and not once in
//! each turn: an idle shard takes no turn until its next heartbeat, and would report old
//! counts. Each shard stores two counters after anything that may have changed them, and loads
//! those of the others before anything that may report them. The core is told the sum
//! (`handle_elsewhere`), so it stays a function of its inputs. None of this happens with one
//! worker.
//!
//! Decision: the serial numbers of [`SessionId`](mcp_sse_core::SessionId)s begin 2^24 apart on
//! different shards, so that an application may use those of all shards as keys.

use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use async_channel::Sender;

use mcp_sse_core::{
    Clock, Config, Delivery, ForwardedPost, LookupAnswer, LookupTicket, Metrics, Outcome,
    PostTicket, QueuedPostId, Server, SessionLookup, ShardId, Time,
};

use super::control::Control;
use super::published::Published;
use super::shard_mailbox::{ForwardRequest, LookupRequest, ShardMailbox};
use super::slots::put;

/// What is known of one shard on every thread: shared by the shard itself, the other shards of its
/// server, and all handles.
pub(super) struct ShardHandle {
    pub(super) mailbox: ShardMailbox,
    pub(super) controls: Sender<Control>,
    /// How many sessions the shard has open. The other shards add it to theirs when they answer
    /// `/health` and `/metrics`, so it is stored before a client can observe the change.
    sessions: AtomicU32,
    /// How many connections the shard has open; see `sessions`.
    connections: AtomicU32,
    /// Whether the shard has room for a connection.
    room: AtomicBool,
    /// The counters for readers that must not wait.
    pub(super) published: Published,
    /// The last counters of a shard that has ended.
    last: OnceLock<Metrics>,
}

impl ShardHandle {
    pub(super) fn new(mailbox: ShardMailbox, controls: Sender<Control>) -> Arc<Self> {
        Arc::new(Self {
            mailbox,
            controls,
            sessions: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            room: AtomicBool::new(true),
            published: Published::default(),
            last: OnceLock::new(),
        })
    }

    pub(super) fn has_room(&self) -> bool {
        self.room.load(Ordering::Acquire) && !self.controls.is_closed()
    }

    pub(super) fn last_metrics(&self) -> Option<&Metrics> {
        self.last.get()
    }
}

/// One shard's view of the shards of its server. When it is dropped, the shard has ended: posts that
/// are queued in it, and posts and lookups that are sent to it, are answered 503.
pub(super) struct ShardSet {
    shards: Arc<[Arc<ShardHandle>]>,
    number: usize,
    own: Arc<ShardHandle>,
    /// For each queued post that was forwarded to this shard, by its slot: where its outcome goes.
    replies: Vec<Option<PendingReply>>,
}

/// The shard that waits for the outcome of a queued post, and the ticket that takes it there.
struct PendingReply {
    post: QueuedPostId,
    to: usize,
    ticket: PostTicket,
}

impl ShardSet {
    pub(super) fn new(
        shards: Arc<[Arc<ShardHandle>]>,
        number: usize,
        own: Arc<ShardHandle>,
    ) -> Self {
        Self { shards, number, own, replies: Vec::new() }
    }

    /// Replaces the list of shards, of which this one was the only one so far.
    pub(super) fn join(&mut self, shards: Arc<[Arc<ShardHandle>]>) {
        self.shards = shards;
    }

    pub(super) const fn own(&self) -> &Arc<ShardHandle> {
        &self.own
    }

    /// How many shards the server has.
    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    fn alone(&self) -> bool {
        self.shards.len() == 1
    }

    /// Derives this shard's configuration from that of the whole server: its number, and its share of
    /// the limits.
    pub(super) fn configure(&self, mut config: Config) -> Config {
        if !self.alone() {
            let shards = u16::try_from(self.shards.len()).expect("invariant: WORKERS_MAX");
            config = config.for_shard(ShardId(self.number as u16), shards);
            let limits = config.limits();
            self.own.mailbox.limit_posts(limits.forwarded_max, limits.bodies_bytes_max);
        }
        config
    }

    /// Forwards a post to the shard of its session. `sent` is the time now.
    ///
    /// # Errors
    ///
    /// The ticket and the post's outcome, if that shard cannot take it or does not exist.
    pub(super) fn forward(
        &self,
        post: ForwardedPost,
        ticket: PostTicket,
        sent: Option<Instant>,
    ) -> Result<(), (PostTicket, Outcome)> {
        match self.shards.get(usize::from(post.shard().0)) {
            None => Err((ticket, Outcome::UnknownSession)),
            Some(shard) => {
                let request = ForwardRequest { post, ticket, from: self.number, sent };
                shard.mailbox.post(request).map_err(|ticket| (ticket, Outcome::Busy))
            }
        }
    }

    /// Sends a lookup to the shard `to`.
    ///
    /// # Errors
    ///
    /// The ticket and the lookup's answer, if that shard cannot take it or does not exist.
    pub(super) fn send_lookup(
        &self,
        to: ShardId,
        lookup: SessionLookup,
        ticket: LookupTicket,
    ) -> Result<(), (LookupTicket, LookupAnswer)> {
        match self.shards.get(usize::from(to.0)) {
            None => Err((ticket, LookupAnswer::UnknownSession)),
            Some(shard) => {
                let request = LookupRequest { lookup, ticket, from: self.number };
                let sent = shard.mailbox.lookup(request);
                sent.map_err(|ticket| (ticket, LookupAnswer::Unavailable))
            }
        }
    }

    /// Answers another shard's lookup of a session of this one.
    pub(super) fn answer_lookup(&self, request: LookupRequest, server: &Server) {
        let LookupRequest { lookup, ticket, from } = request;
        self.send_lookup_answer(from, ticket, server.look_up(&lookup));
    }

    fn send_lookup_answer(&self, to: usize, ticket: LookupTicket, answer: LookupAnswer) {
        if let Some(shard) = self.shards.get(to) {
            shard.mailbox.lookup_answer(ticket, answer);
        }
    }

    /// Delivers a post that another shard forwarded. `now` is this shard's time.
    pub(super) fn deliver(
        &mut self,
        request: ForwardRequest,
        server: &mut Server,
        clock: &Clock,
        now: Time,
    ) {
        let ForwardRequest { post, ticket, from, sent } = request;
        // The instants are compared because the epochs of two shards' clocks differ.
        let waited = clock.instant(now).zip(sent).map(|(now, sent)| now.duration_since(sent));
        // The other shard's ticket is valid for `hold` and `decision` together (see `Server::deliver`).
        // A post that took more than half of `decision` to get here could be queued for all of `hold`
        // and leave too little time for its outcome to get back.
        let limit = server.config().timeouts().decision;
        if limit.zip(waited).is_some_and(|(limit, waited)| waited > limit / 2) {
            return self.send_outcome(from, ticket, Outcome::Busy);
        }
        match server.deliver(post, now) {
            Delivery::Done(outcome) => self.send_outcome(from, ticket, outcome),
            Delivery::Held(post) => {
                put(&mut self.replies, post.slot(), PendingReply { post, to: from, ticket });
            }
        }
    }

    /// Sends the outcome of a queued post to the shard that forwarded it.
    pub(super) fn settle(&mut self, post: QueuedPostId, outcome: Outcome) {
        let slot = self.replies.get_mut(post.slot());
        if let Some(reply) = slot.and_then(|slot| slot.take_if(|reply| reply.post == post)) {
            self.send_outcome(reply.to, reply.ticket, outcome);
        }
    }

    fn send_outcome(&self, to: usize, ticket: PostTicket, outcome: Outcome) {
        if let Some(shard) = self.shards.get(to) {
            shard.mailbox.outcome(ticket, outcome);
        }
    }

    /// Publishes how much this shard has open, and tells its server how much the others have.
    pub(super) fn sync_counts(&self, server: &mut Server) {
        if self.alone() {
            return;
        }
        self.own.sessions.store(server.sessions_open(), Ordering::Release);
        self.own.connections.store(server.connections_open(), Ordering::Release);
        self.own.room.store(server.can_accept(), Ordering::Release);
        let (mut sessions, mut connections) = (0_u32, 0_u32);
        for (_, other) in self.shards.iter().enumerate().filter(|(at, _)| *at != self.number) {
            sessions = sessions.saturating_add(other.sessions.load(Ordering::Acquire));
            connections = connections.saturating_add(other.connections.load(Ordering::Acquire));
        }
        server.handle_elsewhere(sessions, connections);
    }

    /// Records the last counters of this shard, which ends.
    pub(super) fn leave(&self, metrics: &Metrics) {
        // A shard ends once.
        let _ = self.own.last.set(metrics.clone());
    }
}

impl Drop for ShardSet {
    fn drop(&mut self) {
        let left = self.own.mailbox.close();
        for ForwardRequest { ticket, from, .. } in left.posts {
            self.send_outcome(from, ticket, Outcome::Busy);
        }
        for LookupRequest { ticket, from, .. } in left.lookups {
            self.send_lookup_answer(from, ticket, LookupAnswer::Unavailable);
        }
        for PendingReply { to, ticket, .. } in mem::take(&mut self.replies).into_iter().flatten() {
            self.send_outcome(to, ticket, Outcome::Busy);
        }
        self.own.sessions.store(0, Ordering::Release);
        self.own.connections.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use core::task::{Context, Waker};
    use core::time::Duration;

    use super::*;
    use crate::handle::shard_control;
    use crate::testing::Random;
    use mcp_sse_core::{Event, Peer, Timeouts};

    /// Sends `request` on a new connection of `server`, and returns the bytes that it sends back.
    fn respond(server: &mut Server, request: &str) -> String {
        let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
        server.handle_input(conn, request.as_bytes(), Time::ZERO);
        String::from_utf8(server.transmit(conn).chunks().flatten().copied().collect()).unwrap()
    }

    /// Makes shard 0 (`here`) receive a post to a session of shard 1 (`there`).
    fn forwarded(here: &mut Server, there: &mut Server) -> (ForwardedPost, PostTicket) {
        let response = respond(there, "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (_, endpoint) = response.split_once("data: ").unwrap();
        let endpoint = endpoint.lines().next().unwrap();
        let body = r#"{"jsonrpc":"2.0","method":"note"}"#;
        let head = "Host: localhost\r\nContent-Type: application/json\r\n";
        let len = body.len();
        respond(
            here,
            &format!("POST {endpoint} HTTP/1.1\r\n{head}Content-Length: {len}\r\n\r\n{body}"),
        );
        match here.poll_event() {
            Some(Event::Foreign { post, ticket, .. }) => (post, ticket),
            other => panic!("no post for another shard: {other:?}"),
        }
    }

    #[test]
    fn forwarded_post_that_took_longer_than_half_of_decision_is_busy() {
        const DECISION: Duration = Duration::from_secs(4);
        let timeouts = Timeouts { decision: Some(DECISION), ..Timeouts::default() };
        let config = Config::builder().timeouts(timeouts).build().unwrap();
        let clock = Clock::start();
        let sent = Time::from_micros(5_000_000);
        for (delay, expected) in [
            (Duration::ZERO, Outcome::Accepted),
            (DECISION / 2, Outcome::Accepted),
            (DECISION / 2 + Duration::from_micros(1), Outcome::Busy),
            (DECISION, Outcome::Busy),
        ] {
            let controls = shard_control().1.split(2);
            let [first, mut second] = <[_; 2]>::try_from(
                controls.into_iter().map(|controls| controls.shard_set).collect::<Vec<_>>(),
            )
            .unwrap_or_else(|_| panic!("two shards"));
            let server = |shard_set: &ShardSet| {
                let config = shard_set.configure(config.clone());
                Server::new(config, Box::new(Random::seeded(1)), Time::ZERO)
            };
            let (mut here, mut there) = (server(&first), server(&second));
            let (post, ticket) = forwarded(&mut here, &mut there);
            let request = ForwardRequest { post, ticket, from: 0, sent: clock.instant(sent) };
            second.deliver(request, &mut there, &clock, sent.saturating_add(delay));
            let cx = Context::from_waker(Waker::noop());
            let outcomes = first.own().mailbox.take(&cx).outcomes;
            let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
            assert_eq!(outcomes, [expected], "after {delay:?}");
        }
    }
}
