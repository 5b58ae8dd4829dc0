//! The server: one value that owns every connection and every session of one shard.
//!
//! Knows: who is who, and which of its parts to ask. Does not know: sockets, clocks, randomness.
//!
//! Its methods come in four kinds. `handle_*`: the network or the clock speaks. Plain verbs: the
//! application speaks. `poll_*`: the core speaks. The rest: anyone may look.
//!
//! - `server/input.rs`: bytes from peers, through requests, to what they ask for.
//! - `server/guard.rs`: who vouches for requests, rates, places, refusals.
//! - `server/posts.rs`: a post's way from its head to the application and to its answer.
//! - `server/guests.rs`: posts that came by other shards.
//! - `server/streams.rs`: sessions: opening, sending, ending.
//! - `server/lifetime.rs`: deadlines and the shutdown.

mod guard;
mod guests;
mod input;
mod lifetime;
mod posts;
mod streams;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

use crate::answer::{Answers, Reply, Vitals};
use crate::arena::{Arena, Key};
use crate::config::Config;
use crate::conn::{Conn, Phase as ConnPhase};
use crate::entropy::Entropy;
use crate::error::AcceptError;
use crate::event::{CloseReason, ConnId, Deadline, Event, Interest, Phase, SessionId};
use crate::exchange::{Exchange, ResponseHead};
use crate::http1::{BodyLimits, HeadLimits, Persistence};
use crate::limits::within;
use crate::metrics::Metrics;
use crate::outbox::{Segment, Transmit};
use crate::peer::{AddressKey, Peer};
use crate::refusals::Refusals;
use crate::report::Report;
use crate::request::Unread;
use crate::session::{Held, Session, SessionView};
use crate::tally::Tally;
use crate::tenants::{Rates, Tenants};
use crate::time::Time;
use crate::timers::{Role, TimerKind, Timers};

pub(crate) use guests::Guest;

/// The MCP HTTP+SSE server transport of one shard: bytes, write completions, disconnects and the
/// time go in; events, wake-ups, bytes and one deadline come out.
///
/// After each call of a `handle_*` method or a verb, a driver
///
/// 1. polls [`poll_event`](Self::poll_event) until it is empty and serves the application;
/// 2. polls [`poll_wake`](Self::poll_wake) until it is empty and looks at the
///    [`interest`](Self::interest) of each connection named;
/// 3. arms one timer for [`poll_timeout`](Self::poll_timeout).
///
/// A socket's own life is: [`accept`](Self::accept) when it comes,
/// [`handle_input`](Self::handle_input) and [`handle_eof`](Self::handle_eof) for what it says,
/// [`transmit`](Self::transmit) and [`handle_written`](Self::handle_written) for what it is told,
/// and exactly one [`handle_disconnect`](Self::handle_disconnect) when it is gone.
///
/// Time is an argument. It should not go back; where it does, the core stays at the latest time it
/// was told, and counts.
pub struct Server {
    config: Config,
    head_limits: HeadLimits,
    body_limits: BodyLimits,
    entropy: Box<dyn Entropy + Send>,
    started: Time,
    now: Time,
    conns: Arena<Conn>,
    sessions: Arena<Session>,
    guests: Arena<Guest>,
    timers: Timers,
    events: VecDeque<Event>,
    wakes: VecDeque<ConnId>,
    /// Connections that have stashed input which they may be able to use again.
    resumable: VecDeque<Key>,
    /// Sessions some of whose held posts may have room now.
    releasable: VecDeque<Key>,
    /// Sessions that were refused room because all queues together were full.
    starved: VecDeque<Key>,
    conn_addresses: Tally<AddressKey>,
    session_addresses: Tally<AddressKey>,
    session_rates: Rates<AddressKey>,
    tenants: Tenants,
    refusals: Refusals,
    /// Connections that were closed to make room and are not gone yet.
    evicted: u32,
    /// The sum of all outboxes' costs.
    queues_cost: u64,
    /// The sum of all connections', sessions' and waiting events' request bytes.
    bodies_bytes: u64,
    answers: Answers,
    report: Report,
    metrics: Metrics,
    /// Sessions and connections of other shards.
    elsewhere: (u32, u32),
    phase: Phase,
}

/// A list this long has had a burst; when it is empty again its memory is given back.
const CAPACITY_KEPT: usize = 256;

impl core::fmt::Debug for Server {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Server")
            .field("shard", &self.config.shard)
            .field("connections", &self.conns.len())
            .field("sessions", &self.sessions.len())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server without connections. `now` is the moment from which it counts its uptime.
    #[must_use]
    pub fn new(config: Config, entropy: Box<dyn Entropy + Send>, now: Time) -> Self {
        let limits = &config.limits;
        let session_rates = Rates::new(limits.sessions_rate_per_address, limits.rate_entries_max);
        let tenants = Tenants::new(limits.posts_rate_per_principal, limits.rate_entries_max);
        Self {
            head_limits: config.limits.head(),
            body_limits: config.limits.body(),
            sessions: Arena::of_shard(config.shard),
            config,
            entropy,
            started: now,
            now,
            conns: Arena::new(),
            guests: Arena::new(),
            timers: Timers::new(),
            events: VecDeque::new(),
            wakes: VecDeque::new(),
            resumable: VecDeque::new(),
            releasable: VecDeque::new(),
            starved: VecDeque::new(),
            conn_addresses: Tally::new(),
            session_addresses: Tally::new(),
            session_rates,
            tenants,
            refusals: Refusals::new(),
            evicted: 0,
            queues_cost: 0,
            bodies_bytes: 0,
            answers: Answers::default(),
            report: Report::default(),
            metrics: Metrics::default(),
            elsewhere: (0, 0),
            phase: Phase::Running,
        }
    }

    // ── 1. The network and the clock speak. ─────────────────────────────────────────────────────

    /// Takes in a new connection. Next: [`interest`](Self::interest).
    ///
    /// # Errors
    ///
    /// [`AcceptError`] when a limit is reached or the server is draining: close the socket; nothing
    /// was recorded but the count of refusals.
    pub fn accept(&mut self, peer: Peer, now: Time) -> Result<ConnId, AcceptError> {
        self.advance(now);
        if let Err(error) = self.admit_connection(&peer) {
            self.note_unaccepted(error);
            return Err(error);
        }
        if let Some(address) = self.config.address_key(peer.ip()) {
            self.conn_addresses.add(address);
        }
        let key = self.conns.insert(Conn::new(peer));
        self.metrics.connections_accepted += 1;
        self.arm(TimerKind::Head, key);
        log::debug!("{} from {peer}", ConnId(key));
        self.make_room_for(key);
        self.settle();
        Ok(ConnId(key))
    }

    /// Takes in a request whose HTTP is spoken elsewhere, as a connection of its own.
    ///
    /// Give its body to [`handle_input`](Self::handle_input), and the body's end to
    /// [`handle_eof`](Self::handle_eof). Once there is an answer, [`response`](Self::response) has its
    /// head, and [`transmit`](Self::transmit) shows the bytes of its body, which ends when
    /// [`interest`](Self::interest) says to close. If the client goes away before that, say
    /// [`handle_disconnect`](Self::handle_disconnect), as you do in the end anyway.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn exchange(
        &mut self,
        request: Exchange<'_>,
        peer: Peer,
        now: Time,
    ) -> Result<ConnId, AcceptError> {
        let conn = self.accept(peer, now)?;
        if let Some(found) = self.conns.get_mut(conn.0) {
            found.exchange = Some(Box::default());
        }
        self.take_exchange(conn.0, request);
        self.settle();
        Ok(conn)
    }

    /// The peer sent `input`. All of it is taken.
    ///
    /// Call it with whatever a read returned; how the bytes were cut makes no difference. While
    /// [`interest`](Self::interest) says not to read, at most one slice may still arrive; it is
    /// kept and used later.
    pub fn handle_input(&mut self, conn: ConnId, input: &[u8], now: Time) {
        self.advance(now);
        self.metrics.bytes_received += input.len() as u64;
        self.take_input(conn.0, input);
        self.settle();
    }

    /// The peer will send no more: its side of the connection was shut down in order.
    pub fn handle_eof(&mut self, conn: ConnId, now: Time) {
        self.advance(now);
        self.take_eof(conn.0);
        self.settle();
    }

    /// `count` bytes of what [`transmit`](Self::transmit) showed have left for the peer.
    ///
    /// Call it after each write that took some. It frees those bytes, restarts the stall timer (if
    /// they are enough, see [`Limits::stall_bytes_min`](crate::Limits::stall_bytes_min)) and the
    /// heartbeat's, and may emit [`Event::Unblocked`]. Next, look at
    /// [`interest`](Self::interest) again: there may be more to do.
    ///
    /// # Panics
    ///
    /// If `count` is more than is queued: that is a bug in the driver, and the stream is corrupt. Only
    /// where the connection has been cut meanwhile, and what was queued thrown away, counts are
    /// ignored: a write of [detached](Transmit::detach) shares may complete after that.
    pub fn handle_written(&mut self, conn: ConnId, count: usize, now: Time) {
        self.advance(now);
        self.take_written(conn.0, count);
        self.settle();
    }

    /// The connection is gone, however that came about; its handle is stale from here on.
    ///
    /// Say it exactly once for each accepted connection, after closing the socket.
    pub fn handle_disconnect(&mut self, conn: ConnId, now: Time) {
        self.advance(now);
        self.disconnect(conn.0);
        self.settle();
    }

    /// The deadline that [`poll_timeout`](Self::poll_timeout) named has come, or any time else.
    ///
    /// Takes a bounded number of due timers; if more are due, the next deadline is in the past, so
    /// that a herd of them cannot keep the sockets waiting.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
        self.take_timeouts();
        self.settle();
    }

    /// The wall clock shows `unix_seconds`. With it, answers carry a `Date`; a server that was never
    /// told is, to RFC 9110 section 6.6.1, one without a clock. Once a second is enough.
    pub fn handle_wall_clock(&mut self, unix_seconds: u64) {
        self.answers.handle_wall_clock(unix_seconds);
    }

    /// The application says what else `/health` and `/ready` are to tell. It replaces what was said
    /// before.
    pub fn report(&mut self, report: Report) {
        self.report = report;
    }

    /// The other shards of the same server have so many sessions and connections open: `/health`
    /// reports the sum of these and of what is open here. None unless said; the figures replace those
    /// said before.
    pub fn handle_elsewhere(&mut self, sessions: u32, connections: u32) {
        self.elsewhere = (sessions, connections);
    }

    // ── 3. The core speaks. (2., the verbs, is in `posts`, `streams` and `lifetime`.) ───────────

    /// The next thing the application has to know. Poll until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        let Some(event) = self.events.pop_front() else { return self.poll_unblocked() };
        self.bodies_bytes -= event.body_bytes();
        if self.events.is_empty() && self.events.capacity() > CAPACITY_KEPT {
            self.events = VecDeque::new();
        }
        if let Event::Message { session, message, .. } = &event {
            self.message_polled(session.0, message.body().len() as u64);
            self.settle();
        }
        if let Event::Settled { post, .. } = &event {
            self.guests.remove(post.0);
        }
        Some(event)
    }

    /// The next connection whose [`interest`](Self::interest) may have changed. Poll until `None`;
    /// each is named at most once until then.
    ///
    /// One change is not announced: while all queues together are full, connections with output of
    /// their own are not read. Such a connection is looked at after its next write anyway; what is
    /// read before that is kept.
    pub fn poll_wake(&mut self) -> Option<ConnId> {
        while let Some(id) = self.wakes.pop_front() {
            if let Some(conn) = self.conns.get_mut(id.0) {
                conn.woken = false;
                return Some(id);
            }
        }
        if self.wakes.capacity() > CAPACITY_KEPT {
            self.wakes = VecDeque::new();
        }
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next needed, and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let timers = self.timers.earliest().map(|(at, cause)| Deadline { at, cause });
        let shutdown = match self.phase {
            Phase::Draining { until: Some(at) } if self.conns.len() > 0 => {
                Some(Deadline { at, cause: TimerKind::Shutdown })
            }
            Phase::Running | Phase::Draining { .. } | Phase::Drained => None,
        };
        [timers, shutdown].into_iter().flatten().min_by_key(|deadline| deadline.at)
    }

    // ── 4. Anyone may look. ─────────────────────────────────────────────────────────────────────

    /// What the connection's socket should be doing now. Always the present truth; a stale handle
    /// is told to close.
    #[must_use]
    pub fn interest(&self, conn: ConnId) -> Interest {
        match self.conns.get(conn.0) {
            Some(conn) => conn.interest(&self.config.limits, self.queues_full()),
            None => Interest::Close,
        }
    }

    /// The bytes that wait for the connection's peer.
    #[must_use]
    pub fn transmit(&self, conn: ConnId) -> Transmit<'_> {
        Transmit::new(self.conns.get(conn.0).map(|conn| &conn.outbox))
    }

    /// The head of the answer to an [`exchange`](Self::exchange), once there is one. `None` for
    /// connections, whose answers are whole in [`transmit`](Self::transmit).
    #[must_use]
    pub fn response(&self, conn: ConnId) -> Option<&ResponseHead> {
        self.conns.get(conn.0)?.exchange.as_deref()?.as_ref()
    }

    /// A look at a session; `None` once it has ended.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<SessionView<'_>> {
        self.sessions.get(session.0).map(|found| self.view(session.0, found))
    }

    /// A look at every session.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView<'_>> {
        self.sessions.iter().map(|(key, session)| self.view(key, session))
    }

    fn view<'a>(&self, key: Key, session: &'a Session) -> SessionView<'a> {
        let queued_frames = self.conns.get(session.conn).map_or(0, |conn| conn.outbox.frames());
        SessionView { id: SessionId(key), session, queued_frames }
    }

    /// Whether [`accept`](Self::accept) would take a connection from anywhere. When not, a driver
    /// leaves further connections in the listener's backlog until this changes.
    #[must_use]
    pub fn can_accept(&self) -> bool {
        self.admit_connection(&Peer::local()).is_ok()
    }

    /// Running, draining or drained.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Connections open now.
    #[must_use]
    pub fn connections_open(&self) -> u32 {
        self.conns.len()
    }

    /// Sessions open now, those that are ending among them.
    #[must_use]
    pub fn sessions_open(&self) -> u32 {
        self.sessions.len()
    }

    /// The counters.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Walks the whole state and asserts that it holds together. For tests and debug builds: it
    /// takes time in proportion to everything.
    ///
    /// # Panics
    ///
    /// If an invariant is broken, which is a bug in this crate.
    pub fn check(&self) {
        self.timers.check();
        let mut frames = 0;
        let (mut queues_cost, mut bodies_bytes) = (0, 0);
        for (key, conn) in self.conns.iter() {
            conn.outbox.check();
            frames += u64::from(conn.outbox.frames());
            queues_cost += conn.outbox.cost();
            bodies_bytes += conn.body_bytes();
            assert_eq!(conn.woken, self.wakes.contains(&ConnId(key)), "a wake bit is off");
            let stall = self.timers.is_armed(Role::Stall, key.index());
            let expected = !conn.outbox.is_empty() && self.config.timeouts.stall.is_some();
            assert_eq!(stall, expected, "queued bytes and the stall timer go together");
            if let ConnPhase::Streaming { session, .. } = &conn.phase {
                let session = self.sessions.get(*session).expect("a stream has a session");
                assert_eq!(session.conn, key, "the session points back");
            } else if let ConnPhase::Held { session, .. } = &conn.phase {
                let session = self.sessions.get(*session).expect("a held post has a session");
                let waits = session.is_waited_for_by(Held::Conn(key));
                assert!(waits, "the session knows who waits");
            }
        }
        for (key, session) in self.sessions.iter() {
            bodies_bytes += session.backlog_bytes();
            let conn = self.conns.get(session.conn).expect("a session has a stream");
            let streams =
                matches!(conn.phase, ConnPhase::Streaming { session, .. } if session == key);
            assert!(streams, "a session's connection streams it");
        }
        for event in &self.events {
            bodies_bytes += event.body_bytes();
        }
        bodies_bytes += self.check_guests();
        assert_eq!(self.queues_cost, queues_cost, "the budget of queues is the sum of its parts");
        assert_eq!(self.bodies_bytes, bodies_bytes, "the budget of bodies is the sum of its parts");
        assert!(self.conn_addresses.total() <= u64::from(self.conns.len()));
        assert!(self.session_addresses.total() <= u64::from(self.sessions.len()));
        assert!(self.tenants.check() <= u64::from(self.sessions.len()));
        let evicted = self.conns.iter().filter(|(_, conn)| conn.evicted).count();
        assert_eq!(evicted as u32, self.evicted, "connections that make room");
        let undone = self.resumable.len() + self.releasable.len();
        assert_eq!(undone, 0, "a verb returned with work undone");
        self.metrics.check(self.conns.len(), self.sessions.len(), frames);
    }

    // ── Inside. ─────────────────────────────────────────────────────────────────────────────────

    fn advance(&mut self, now: Time) {
        if now < self.now {
            self.metrics.clock_backsteps += 1;
        } else {
            self.now = now;
        }
    }

    /// Ends every verb: connections that were waiting and need not any more use what they have.
    fn settle(&mut self) {
        self.make_room_at_last();
        loop {
            if let Some(session) = self.releasable.pop_front() {
                self.release_held(session);
            } else if let Some(conn) = self.resumable.pop_front() {
                self.resume(conn);
            } else {
                break;
            }
        }
        for list in [&mut self.releasable, &mut self.resumable] {
            if list.capacity() > CAPACITY_KEPT {
                *list = VecDeque::new();
            }
        }
        if self.conns.len() == 0 && matches!(self.phase, Phase::Draining { .. }) {
            self.phase = Phase::Drained;
            self.events.push_back(Event::Drained);
        }
        #[cfg(test)]
        self.check();
    }

    fn arm(&mut self, kind: TimerKind, key: Key) {
        self.timers.arm(kind, key.index(), self.now, &self.config.timeouts);
        if matches!(kind, TimerKind::Head | TimerKind::Idle | TimerKind::Linger)
            && let Some(conn) = self.conns.get_mut(key)
        {
            conn.waiting_since = self.now;
        }
    }

    fn disarm(&mut self, role: Role, key: Key) {
        self.timers.disarm(role, key.index());
    }

    fn wake(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.woken
        {
            conn.woken = true;
            self.wakes.push_back(ConnId(key));
        }
    }

    fn queues_full(&self) -> bool {
        !within(self.config.limits.queues_bytes_max, self.queues_cost)
    }

    /// Queues bytes for a peer.
    fn push(&mut self, key: Key, segment: Segment) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let was_empty = conn.outbox.is_empty();
        self.queues_cost += segment.cost();
        conn.outbox.push(segment);
        if was_empty {
            conn.taken = 0;
            self.arm(TimerKind::Stall, key);
        }
        self.wake(key);
    }

    /// Queues a rendered answer, or the beginning of a stream. Where HTTP is spoken elsewhere its head
    /// is kept apart from it.
    fn push_answer(&mut self, key: Key, bytes: Arc<[u8]>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let mut start = 0;
        if let Some(response) = conn.exchange.as_deref_mut() {
            let (head, body) = ResponseHead::split(&bytes);
            *response = Some(head);
            start = body;
        }
        if start < bytes.len() {
            // A head is far below 2^32 bytes.
            self.push(key, Segment::Answer { bytes, start: start as u32 });
        } else {
            self.wake(key);
        }
    }

    /// Throws away what waits for a peer. Returns how many events that were.
    fn clear_outbox(&mut self, key: Key) -> u32 {
        let Some(conn) = self.conns.get_mut(key) else { return 0 };
        let frames = conn.outbox.frames();
        self.queues_cost -= conn.outbox.cost();
        self.metrics.frames_undelivered += u64::from(frames);
        conn.outbox.clear();
        self.disarm(Role::Stall, key);
        frames
    }

    /// Moves a connection to another phase, and keeps the books of what the old one held.
    fn enter(&mut self, key: Key, phase: ConnPhase) -> Option<ConnPhase> {
        let conn = self.conns.get_mut(key)?;
        let (from, to) = (conn.phase.stage(), phase.stage());
        debug_assert!(from.followers().contains(&to), "{from:?} became {to:?}");
        let before = conn.body_bytes();
        let old = core::mem::replace(&mut conn.phase, phase);
        self.bodies_bytes = self.bodies_bytes - before + conn.body_bytes();
        // The new phase may have a use for input that the old one had to leave.
        if conn.eof || !conn.stashed().is_empty() {
            self.resumable.push_back(key);
        }
        self.wake(key);
        Some(old)
    }

    /// Sends the last word on a request and goes on to what follows it: the next request, or the
    /// end of the connection.
    fn answer(&mut self, key: Key, bytes: Arc<[u8]>, unread: Unread) {
        self.push_answer(key, bytes);
        self.after_answer(key, unread);
    }

    /// How an answer is framed, given what will be left unread of its request: the connection goes on
    /// only behind little.
    fn reply_before(&mut self, key: Key, unread: Unread) -> Reply {
        let Some(conn) = self.conns.get_mut(key) else { return Reply::CLOSE };
        let little = match unread {
            Unread::Known(left) => left <= u64::from(self.config.limits.discard_bytes_max),
            Unread::Unknown => false,
        };
        if !little {
            conn.reply.persistence = Persistence::Close;
        }
        conn.reply
    }

    fn after_answer(&mut self, key: Key, unread: Unread) {
        let Some(conn) = self.conns.get(key) else { return };
        let keep = conn.reply.persistence != Persistence::Close;
        match unread {
            Unread::Known(0) if keep => self.await_request(key),
            Unread::Known(left) if keep => {
                self.enter(key, ConnPhase::Discarding { left });
                self.arm(TimerKind::Body, key);
            }
            Unread::Known(_) | Unread::Unknown => self.close_after_flush(key),
        }
    }

    /// Ready for the next request on this connection.
    fn await_request(&mut self, key: Key) {
        if self.phase != Phase::Running {
            return self.close_after_flush(key);
        }
        self.enter(key, ConnPhase::Head);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.scanner = Default::default();
            conn.reply = Reply::CLOSE;
            // A proxy's next request may be another client's.
            (conn.client, conn.route, conn.session) = (conn.peer.ip(), None, None);
        }
        self.arm(TimerKind::Idle, key);
    }

    /// Everything has been said; the peer gets what is queued and then some time to read it.
    fn close_after_flush(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Closing { discarded: 0 });
        self.after_flush(key);
    }

    /// What a connection without queued bytes goes on to.
    fn after_flush(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        if !conn.outbox.is_empty() {
            return;
        }
        match conn.phase {
            ConnPhase::Closing { .. } if conn.eof || conn.exchange.is_some() => {
                self.enter(key, ConnPhase::Ended);
            }
            ConnPhase::Closing { discarded } => {
                // Closing with bytes unread makes the kernel send a reset, which can overtake and
                // destroy the answer (RFC 9112 section 9.6).
                self.enter(key, ConnPhase::Lingering { discarded });
                self.arm(TimerKind::Linger, key);
            }
            ConnPhase::Streaming { session, ending: true, .. } => self.finish_session(session),
            ConnPhase::Head
            | ConnPhase::Deciding(_)
            | ConnPhase::Body { .. }
            | ConnPhase::Held { .. }
            | ConnPhase::Awaiting
            | ConnPhase::Discarding { .. }
            | ConnPhase::Streaming { ending: false, .. }
            | ConnPhase::Lingering { .. }
            | ConnPhase::Ended => {}
        }
    }

    /// The connection has no future, not even for what is queued.
    fn cut(&mut self, key: Key) {
        self.clear_outbox(key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Ended);
        self.timers.disarm_all(key.index());
    }

    /// Forgets stashed input and half a head.
    fn drop_input(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key) {
            self.bodies_bytes -= conn.stash.capacity() as u64;
            conn.stash = Default::default();
            conn.stash_at = 0;
            conn.partial = Default::default();
        }
    }

    /// Ends a connection without an answer; what was queued before still leaves.
    fn end_quietly(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        self.drop_input(key);
        self.enter(key, ConnPhase::Ended);
    }

    fn vitals(&self) -> Vitals<'_> {
        Vitals {
            sessions: self.sessions.len().saturating_add(self.elsewhere.0),
            connections: self.conns.len().saturating_add(self.elsewhere.1),
            uptime_seconds: self.now.saturating_since(self.started).as_secs(),
            draining: self.phase != Phase::Running,
            report: &self.report,
        }
    }

    fn disconnect(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        if let ConnPhase::Streaming { session, .. } = conn.phase {
            self.end_session(session, CloseReason::Peer);
        }
        self.abandon_post(key);
        self.cut(key);
        let Some(conn) = self.conns.remove(key) else { return };
        if let Some(address) = self.config.address_key(conn.peer.ip()) {
            self.conn_addresses.subtract(&address);
        }
        self.evicted -= u32::from(conn.evicted);
        self.metrics.connections_ended += 1;
        log::debug!("{} is gone", ConnId(key));
    }
}

#[cfg(test)]
mod tests;
