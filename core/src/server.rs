//! The server: one value that owns every connection and every session of one shard.
//!
//! Knows: who is who, and which of its parts to ask. Does not know: sockets, clocks, randomness.
//!
//! Its methods come in four kinds. `handle_*`: the network or the clock speaks. Plain verbs: the
//! application speaks. `poll_*`: the core speaks. The rest: anyone may look.
//!
//! - `server/input.rs`: bytes from peers, through requests, to what they ask for.
//! - `server/guard.rs`: who vouches for requests, rates, places, refusals.
//! - `server/bodies.rs`: whose request bytes are in memory, by address.
//! - `server/posts.rs`: a post's way from its head to the application and to its answer.
//! - `server/forwards.rs`: posts that came by other shards.
//! - `server/lookups.rs`: whether another shard has the session of a post whose body is not read yet.
//! - `server/streams.rs`: sessions: opening, sending, ending.
//! - `server/queues.rs`: room in the budget that all queues share, and whose queue is ended for it.
//! - `server/lifetime.rs`: deadlines and the shutdown.
//! - `server/cycle.rs`: what leaves on a connection, and what comes after it: the next request or the end.
//! - `server/check.rs`: what must hold between all of these.

mod bodies;
mod check;
mod cycle;
mod forwards;
mod guard;
mod input;
mod lifetime;
mod lookups;
mod posts;
mod queues;
mod streams;

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use crate::answer::{Answers, HealthSnapshot};
use crate::arena::{Arena, Key};
use crate::config::Config;
use crate::conn::Conn;
use crate::counter::Counter;
use crate::entropy::Entropy;
use crate::error::AcceptError;
use crate::event::{ConnId, Deadline, Event, Interest, ServerPhase, SessionId};
use crate::exchange::{Exchange, ResponseHead};
use crate::fault_log_throttle::FaultLogThrottle;
use crate::health_extras::HealthExtras;
use crate::http1::{BodyLimits, HeadLimits};
use crate::limits::within;
use crate::metrics::Metrics;
use crate::outbox::Transmit;
use crate::peer::{AddressKey, Peer};
use crate::principal_table::{PrincipalTable, Rates};
use crate::session::{SessionState, SessionView};
use crate::time::Time;
use crate::timers::{Role, TimerKind, Timers};

pub(crate) use forwards::Forward;
use streams::SessionLines;

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
    sessions: Arena<SessionState>,
    forwards: Arena<Forward>,
    timers: Timers,
    events: VecDeque<Event>,
    wakes: VecDeque<ConnId>,
    /// Connections that have stashed input which they may be able to use again.
    resumable: VecDeque<Key>,
    /// Sessions some of whose held posts may have room now.
    releasable: VecDeque<Key>,
    /// Sessions that were refused room because all queues together were full, in the order of waiting.
    waiting_for_budget: VecDeque<Key>,
    /// Before then nobody's queue is looked at to make room for them.
    queues_looked_until: Time,
    conn_addresses: Counter<AddressKey>,
    session_addresses: Counter<AddressKey>,
    /// Request bytes in memory by address, of those that had to wait.
    body_addresses: Counter<AddressKey>,
    session_rates: Rates<AddressKey>,
    principals: PrincipalTable,
    refusals: FaultLogThrottle,
    session_lines: SessionLines,
    /// The connection that was closed to make room and is not gone yet.
    evicted: Option<Key>,
    /// The sum of what all outboxes cost, without what sessions have of their own.
    queues_cost: u64,
    /// The sum of all connections', sessions' and waiting events' request bytes.
    bodies_bytes: u64,
    answers: Answers,
    report: HealthExtras,
    metrics: Metrics,
    /// Sessions and connections of other shards.
    elsewhere: (u32, u32),
    phase: ServerPhase,
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
        let principals =
            PrincipalTable::new(limits.posts_rate_per_principal, limits.rate_entries_max);
        Self {
            head_limits: config.limits.head(),
            body_limits: config.limits.body(),
            sessions: Arena::of_shard(config.shard),
            config,
            entropy,
            started: now,
            now,
            conns: Arena::new(),
            forwards: Arena::new(),
            timers: Timers::new(),
            events: VecDeque::new(),
            wakes: VecDeque::new(),
            resumable: VecDeque::new(),
            releasable: VecDeque::new(),
            waiting_for_budget: VecDeque::new(),
            queues_looked_until: Time::ZERO,
            conn_addresses: Counter::new(),
            session_addresses: Counter::new(),
            body_addresses: Counter::new(),
            session_rates,
            principals,
            refusals: FaultLogThrottle::new(),
            session_lines: SessionLines::new(),
            evicted: None,
            queues_cost: 0,
            bodies_bytes: 0,
            answers: Answers::default(),
            report: HealthExtras::default(),
            metrics: Metrics::default(),
            elsewhere: (0, 0),
            phase: ServerPhase::Running,
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
            self.note_unaccepted(error, &peer);
            return Err(error);
        }
        if let Some(address) = self.config.address_key(peer.ip()) {
            self.conn_addresses.add(address);
        }
        let key = self.conns.insert(Conn::new(peer));
        self.metrics.connections_accepted += 1;
        self.arm(TimerKind::Head, key);
        log::debug!("{} from {peer}", ConnId(key));
        self.make_room(Some(key));
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
    pub fn set_health_extras(&mut self, report: HealthExtras) {
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
            self.forwards.remove(post.0);
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
            ServerPhase::Draining { until: Some(at) } if self.conns.len() > 0 => {
                Some(Deadline { at, cause: TimerKind::Shutdown })
            }
            ServerPhase::Running | ServerPhase::Draining { .. } | ServerPhase::Drained => None,
        };
        let all = [timers, shutdown, self.room_deadline(), self.queue_room_deadline()];
        all.into_iter().flatten().min_by_key(|deadline| deadline.at)
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

    fn view<'a>(&self, key: Key, session: &'a SessionState) -> SessionView<'a> {
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
    pub const fn phase(&self) -> ServerPhase {
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
        self.make_room(None);
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
        if self.conns.len() == 0 && matches!(self.phase, ServerPhase::Draining { .. }) {
            self.phase = ServerPhase::Drained;
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
        if kind == TimerKind::Stall
            && let Some(conn) = self.conns.get_mut(key)
        {
            conn.stalled_since = self.now;
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

    fn snapshot(&self) -> HealthSnapshot<'_> {
        HealthSnapshot {
            sessions: self.sessions.len().saturating_add(self.elsewhere.0),
            connections: self.conns.len().saturating_add(self.elsewhere.1),
            uptime_seconds: self.now.saturating_since(self.started).as_secs(),
            draining: self.phase != ServerPhase::Running,
            report: &self.report,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
