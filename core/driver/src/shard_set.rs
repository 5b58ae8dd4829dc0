//! The shards of one server, as they see each other.
//!
//! Knows: how a post gets to the shard that has its session, how its answer gets back, and what each
//! shard has open. Does not know: threads, or what a session is.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::{fmt, mem};
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use async_channel::Sender;

use mcp_sse_core::{
    Clock, Config, Delivery, ForwardedPost, LookupAnswer, LookupTicket, Metrics, Outcome,
    PostTicket, QueuedPostId, Server, SessionLookup, ShardId, Time,
};

use super::control::Control;
use super::shard_mailbox::{ForwardRequest, Inquiry, ShardMailbox};
use super::slots::put;

/// What everybody who has to do with one shard of a server shares about it.
pub(super) struct ShardHandle {
    pub(super) mailbox: ShardMailbox,
    pub(super) controls: Sender<Control>,
    /// What the shard has open. The other shards read it before they answer whoever asks, so it is
    /// written before anybody can know of the change.
    sessions: AtomicU32,
    connections: AtomicU32,
    /// Whether it would take a connection.
    room: AtomicBool,
    /// The counters of a shard that has ended.
    last: Mutex<Option<Box<Metrics>>>,
}

impl ShardHandle {
    pub(super) fn new(mailbox: ShardMailbox, controls: Sender<Control>) -> Arc<Self> {
        Arc::new(Self {
            mailbox,
            controls,
            sessions: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            room: AtomicBool::new(true),
            last: Mutex::default(),
        })
    }

    pub(super) fn has_room(&self) -> bool {
        self.room.load(Ordering::Acquire) && !self.controls.is_closed()
    }

    pub(super) fn last_metrics(&self) -> Option<Metrics> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).as_deref().cloned()
    }
}

impl fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardHandle")
            .field("ended", &self.controls.is_closed())
            .finish_non_exhaustive()
    }
}

/// One shard's place among the shards of its server. Dropping it ends that place: posts that wait in
/// it or are held, and posts and lookups that come, are answered 503.
pub(super) struct ShardSet {
    links: Arc<[Arc<ShardHandle>]>,
    number: usize,
    own: Arc<ShardHandle>,
    /// By its slot, whom the outcome of a held post is owed.
    held: Vec<Option<PendingReply>>,
}

struct PendingReply {
    post: QueuedPostId,
    to: usize,
    ticket: PostTicket,
}

impl ShardSet {
    pub(super) fn new(
        links: Arc<[Arc<ShardHandle>]>,
        number: usize,
        own: Arc<ShardHandle>,
    ) -> Self {
        Self { links, number, own, held: Vec::new() }
    }

    /// There are other shards beside this one, which has been the only one so far.
    pub(super) fn join(&mut self, links: Arc<[Arc<ShardHandle>]>) {
        self.links = links;
    }

    pub(super) const fn own(&self) -> &Arc<ShardHandle> {
        &self.own
    }

    pub(super) fn shards(&self) -> usize {
        self.links.len()
    }

    fn alone(&self) -> bool {
        self.links.len() == 1
    }

    /// The configuration of this shard of a server that is to have `config` as a whole.
    pub(super) fn configure(&self, mut config: Config) -> Config {
        if !self.alone() {
            let shards = u16::try_from(self.links.len()).expect("invariant: WORKERS_MAX");
            config = config.for_shard(ShardId(self.number as u16), shards);
            let limits = config.limits();
            self.own.mailbox.limit_posts(limits.forwarded_max, limits.bodies_bytes_max);
        }
        config
    }

    /// Sends a post to the shard of its session.
    ///
    /// # Errors
    ///
    /// The ticket, and the answer that can be given at once.
    pub(super) fn forward(
        &self,
        post: ForwardedPost,
        ticket: PostTicket,
        sent: Option<Instant>,
    ) -> Result<(), (PostTicket, Outcome)> {
        match self.links.get(usize::from(post.shard().0)) {
            None => Err((ticket, Outcome::UnknownSession)),
            Some(link) => {
                let request = ForwardRequest { post, ticket, from: self.number, sent };
                link.mailbox.post(request).map_err(|ticket| (ticket, Outcome::Busy))
            }
        }
    }

    /// Asks a shard whether it has a session.
    ///
    /// # Errors
    ///
    /// The ticket, and the answer that can be given at once.
    pub(super) fn ask(
        &self,
        to: ShardId,
        lookup: SessionLookup,
        ticket: LookupTicket,
    ) -> Result<(), (LookupTicket, LookupAnswer)> {
        match self.links.get(usize::from(to.0)) {
            None => Err((ticket, LookupAnswer::UnknownSession)),
            Some(link) => {
                let inquiry = Inquiry { lookup, ticket, from: self.number };
                let asked = link.mailbox.lookup(inquiry);
                asked.map_err(|ticket| (ticket, LookupAnswer::Unavailable))
            }
        }
    }

    /// Answers what another shard asks about a session of this one.
    pub(super) fn look_up(&self, inquiry: Inquiry, server: &Server) {
        let Inquiry { lookup, ticket, from } = inquiry;
        self.tell(from, ticket, server.look_up(&lookup));
    }

    /// Says to the shard that asked what was found.
    fn tell(&self, to: usize, ticket: LookupTicket, answer: LookupAnswer) {
        if let Some(link) = self.links.get(to) {
            link.mailbox.lookup_answer(ticket, answer);
        }
    }

    /// Delivers a post that another shard has sent. It is `now`, by this shard's clock.
    pub(super) fn take_in(
        &mut self,
        request: ForwardRequest,
        server: &mut Server,
        clock: &Clock,
        now: Time,
    ) {
        let ForwardRequest { post, ticket, from, sent } = request;
        // Shards' clocks have epochs of their own.
        let waited = clock.instant(now).zip(sent).map(|(now, sent)| now.duration_since(sent));
        // Held for as long as it may be from now on, it must not outlast its ticket: see `deliver`.
        let way = server.config().timeouts().decision;
        if way.zip(waited).is_some_and(|(way, waited)| waited > way / 2) {
            return self.answer(from, ticket, Outcome::Busy);
        }
        match server.deliver(post, now) {
            Delivery::Done(outcome) => self.answer(from, ticket, outcome),
            Delivery::Held(post) => {
                put(&mut self.held, post.slot(), PendingReply { post, to: from, ticket });
            }
        }
    }

    /// What became of a post that was held.
    pub(super) fn settle(&mut self, post: QueuedPostId, outcome: Outcome) {
        let place = self.held.get_mut(post.slot());
        if let Some(owed) = place.and_then(|place| place.take_if(|owed| owed.post == post)) {
            self.answer(owed.to, owed.ticket, outcome);
        }
    }

    /// Says what became of a post to the shard that sent it.
    fn answer(&self, to: usize, ticket: PostTicket, outcome: Outcome) {
        if let Some(link) = self.links.get(to) {
            link.mailbox.outcome(ticket, outcome);
        }
    }

    /// Tells the others what this shard has open, and this shard's server what the others have.
    pub(super) fn sync_counts(&self, server: &mut Server) {
        if self.alone() {
            return;
        }
        self.own.sessions.store(server.sessions_open(), Ordering::Release);
        self.own.connections.store(server.connections_open(), Ordering::Release);
        self.own.room.store(server.can_accept(), Ordering::Release);
        let (mut sessions, mut connections) = (0_u32, 0_u32);
        for (_, link) in self.links.iter().enumerate().filter(|(at, _)| *at != self.number) {
            sessions = sessions.saturating_add(link.sessions.load(Ordering::Acquire));
            connections = connections.saturating_add(link.connections.load(Ordering::Acquire));
        }
        server.handle_elsewhere(sessions, connections);
    }

    /// The shard ends with these counters.
    pub(super) fn leave(&self, metrics: &Metrics) {
        let mut last = self.own.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Box::new(metrics.clone()));
    }
}

impl Drop for ShardSet {
    fn drop(&mut self) {
        let left = self.own.mailbox.close();
        for ForwardRequest { ticket, from, .. } in left.posts {
            self.answer(from, ticket, Outcome::Busy);
        }
        for Inquiry { ticket, from, .. } in left.lookups {
            self.tell(from, ticket, LookupAnswer::Unavailable);
        }
        for PendingReply { to, ticket, .. } in mem::take(&mut self.held).into_iter().flatten() {
            self.answer(to, ticket, Outcome::Busy);
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

    /// What a connection of `server` hears when it has said `request`.
    fn asks(server: &mut Server, request: &str) -> String {
        let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
        server.handle_input(conn, request.as_bytes(), Time::ZERO);
        String::from_utf8(server.transmit(conn).chunks().flatten().copied().collect()).unwrap()
    }

    /// A post that shard 0 has received for a session of `there`, which is shard 1.
    fn forwarded(here: &mut Server, there: &mut Server) -> (ForwardedPost, PostTicket) {
        let heard = asks(there, "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (_, endpoint) = heard.split_once("data: ").unwrap();
        let endpoint = endpoint.lines().next().unwrap();
        let body = r#"{"jsonrpc":"2.0","method":"note"}"#;
        let head = "Host: localhost\r\nContent-Type: application/json\r\n";
        let len = body.len();
        asks(
            here,
            &format!("POST {endpoint} HTTP/1.1\r\n{head}Content-Length: {len}\r\n\r\n{body}"),
        );
        match here.poll_event() {
            Some(Event::Foreign { post, ticket, .. }) => (post, ticket),
            other => panic!("no post for another shard: {other:?}"),
        }
    }

    #[test]
    fn post_on_its_way_for_half_of_decision_is_taken_in_and_a_longer_one_is_busy() {
        const DECISION: Duration = Duration::from_secs(4);
        let timeouts = Timeouts { decision: Some(DECISION), ..Timeouts::default() };
        let config = Config::builder().timeouts(timeouts).build().unwrap();
        let clock = Clock::start();
        let sent = Time::from_micros(5_000_000);
        for (way, expected) in [
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
            second.take_in(request, &mut there, &clock, sent.saturating_add(way));
            let cx = Context::from_waker(Waker::noop());
            let outcomes = first.own().mailbox.take(&cx).outcomes;
            let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
            assert_eq!(outcomes, [expected], "on its way for {way:?}");
        }
    }
}
