//! The server: one value that owns every connection and every session of one shard.
//!
//! Knows: the public methods, and which part serves each. Does not know: sockets, clocks, randomness.
//!
//! Its methods come in four kinds. `accept`, `exchange` and `handle_*` report what the network or the clock has
//! done. Methods such as `send`, `close` and `shutdown` are requests of the application. `poll_*` take what
//! the core has for the driver and the application. Methods that take `&self` read the state and change
//! nothing. Each method that changes something notes the time, does its work in one of the parts, and calls
//! `settle`, which releases held posts and resumes connections that can proceed after that work.
//!
//! The parts, in the order in which a request passes them:
//!
//! - `server/dispatch.rs`: from bytes to a request head, and from the head to what it asks for.
//! - `server/authorize.rs`: whether the request may proceed.
//! - `server/tokens.rs`: replacing the static tokens, and the sessions whose token was removed.
//! - `server/admission.rs`: whether there is room for it, and whether a rate allows it.
//! - `server/bodies.rs`: request bytes in memory, in all and by address.
//! - `server/post.rs`: a post's body and envelope, and its message's way to the application.
//! - `server/lookup.rs`: whether another shard has the session of a post whose body is not read yet.
//! - `server/queue.rs`: posts that wait for room in their session, forwarded ones among them.
//! - `server/stream.rs`: sessions: opening, sending, ending.
//! - `server/output.rs`: what is queued for a peer, and what has left.
//! - `server/output_budget.rs`: the budget that all output queues share.
//! - `server/lifecycle.rs`: the phases of a connection, from request to request and to its end.
//! - `server/deadlines.rs`: timers.
//! - `server/shutdown.rs`: the shutdown, from its delay to the end of its grace.
//! - `server/refuse.rs`: from a fault to an answer, a counter and the log.
//! - `server/records.rs`: what the log says about each request and each session.
//! - `server/check.rs`: what must hold between all of these.

mod admission;
mod authorize;
mod bodies;
mod check;
mod deadlines;
mod dispatch;
mod lifecycle;
mod lookup;
mod output;
mod output_budget;
mod post;
mod queue;
mod records;
mod refuse;
mod shutdown;
mod stream;
mod tokens;

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use crate::answer::Answers;
use crate::arena::{Arena, Key};
use crate::config::Config;
use crate::conn::{Conn, Stage};
use crate::counter::Counter;
use crate::entropy::Entropy;
use crate::error::{AcceptError, Expired, Fault, NoStaticTokens, SendError};
use crate::event::{
    AuthTicket, CloseReason, ConnId, Deadline, Delivery, Event, ForwardedPost, Interest,
    LookupAnswer, LookupTicket, Outcome, PostTicket, Reach, ServerPhase, SessionId, SessionLookup,
    Verdict,
};
use crate::exchange::{Exchange, ResponseHead};
use crate::health_extras::HealthExtras;
use crate::http1::{BodyLimits, HeadLimits};
use crate::jitter::Jitter;
use crate::line_throttle::LineThrottle;
use crate::metrics::Metrics;
use crate::outbox::Transmit;
use crate::peer::{AddressKey, Peer};
use crate::policy::bearer::StaticTokens;
use crate::principal::Principal;
use crate::principal_table::{PrincipalTable, Rates};
use crate::session::{SessionState, SessionView};
use crate::sse::Frame;
use crate::time::Time;
use crate::timers::Timers;

pub(crate) use queue::Forward;
use shutdown::IdleSessions;
use stream::SessionLines;
pub(crate) use tokens::TokenSerial;
use tokens::TokenSerials;

/// The MCP HTTP+SSE server transport of one shard, as a state machine.
///
/// Bytes, write completions, disconnects and the time go in; events, wake-ups, bytes and one deadline come
/// out. After each call that takes a time, a driver
///
/// 1. polls [`poll_event`](Self::poll_event) until it returns `None`, and passes the events to the
///    application;
/// 2. polls [`poll_wake`](Self::poll_wake) until it returns `None`, and acts on the
///    [`interest`](Self::interest) of each connection that it names;
/// 3. arms one timer for [`poll_timeout`](Self::poll_timeout).
///
/// For each socket a driver calls [`accept`](Self::accept) once,
/// [`handle_input`](Self::handle_input) and [`handle_eof`](Self::handle_eof) for what it has read,
/// [`transmit`](Self::transmit) and [`handle_written`](Self::handle_written) for what it writes,
/// and [`handle_disconnect`](Self::handle_disconnect) once, after it has closed the socket. The crate page
/// has the whole loop.
///
/// Time is an argument, and should not go back. A time before the latest one counts as the latest one
/// ([`Metrics::clock_backsteps`]).
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
    /// Connections that may be able to use pending input, or the end of it.
    resumable: VecDeque<Key>,
    /// Sessions that may have room for held posts.
    releasable: VecDeque<Key>,
    /// Sessions that were refused room because all queues together were full, in the order of waiting.
    waiting_for_budget: VecDeque<Key>,
    /// When queues are next looked at to make room for them.
    queues_looked_until: Time,
    /// Connections by address.
    conn_addresses: Counter<AddressKey>,
    /// Sessions by address.
    session_addresses: Counter<AddressKey>,
    /// Request bytes in memory by address; see `server/bodies.rs`.
    body_addresses: Counter<AddressKey>,
    session_rates: Rates<AddressKey>,
    principals: PrincipalTable,
    token_serials: TokenSerials,
    /// For each fault, the lines of the log about requests that were refused with it.
    fault_lines: [LineThrottle; Fault::ALL.len()],
    session_lines: SessionLines,
    /// The connection that was closed to make room, until its driver has closed the socket.
    evicted: Option<Key>,
    /// The cost of all output queues, without the sessions' reserves.
    queues_cost: u64,
    /// The request bytes of all connections, sessions, forwarded posts and events.
    bodies_bytes: u64,
    answers: Answers,
    health_extras: HealthExtras,
    metrics: Metrics,
    /// How many sessions and connections other shards have.
    elsewhere: (u32, u32),
    phase: ServerPhase,
    /// When a shutdown that was asked for begins, while the server is still running.
    drain_at: Option<Time>,
    /// What is idle during a shutdown, and ends little by little.
    idle_sessions: IdleSessions,
    /// What `Retry-After` is drawn from.
    retry_after: Jitter,
}

/// A list whose capacity is above this gives its memory back when it is empty.
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
    /// Makes a server without connections. Its uptime counts from `now`.
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
            token_serials: TokenSerials::new(&config.authorization),
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
            fault_lines: [LineThrottle::new(); Fault::ALL.len()],
            session_lines: SessionLines::new(),
            evicted: None,
            queues_cost: 0,
            bodies_bytes: 0,
            answers: Answers::default(),
            health_extras: HealthExtras::default(),
            metrics: Metrics::default(),
            elsewhere: (0, 0),
            phase: ServerPhase::Running,
            drain_at: None,
            idle_sessions: IdleSessions::default(),
            retry_after: Jitter::default(),
        }
    }

    // ── 1. The network and the clock speak. ─────────────────────────────────────────────────────

    /// Takes in a new connection from `peer`, and returns its handle.
    ///
    /// Call it when a socket was accepted. It counts the connection, arms its first deadline
    /// ([`Timeouts::head`](crate::Timeouts::head)), and may close an idle connection to make room. Next,
    /// look at [`interest`](Self::interest).
    ///
    /// # Errors
    ///
    /// [`AcceptError`] when a limit is reached or the server is draining: close the socket; nothing
    /// was recorded but the count of refusals.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let conn = server.accept(Peer::local(), now)?;
    /// assert_eq!(server.interest(conn), Interest::Io { read: true, write: false });
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept(&mut self, peer: Peer, now: Time) -> Result<ConnId, AcceptError> {
        self.advance(now);
        let key = self.connect(peer)?;
        self.settle();
        Ok(ConnId(key))
    }

    /// Takes in a request whose HTTP is spoken elsewhere, as a connection of its own.
    ///
    /// Give its body to [`handle_input`](Self::handle_input), and the body's end to
    /// [`handle_eof`](Self::handle_eof). Once there is an answer, [`response`](Self::response) has its
    /// head, and [`transmit`](Self::transmit) shows the bytes of its body, which ends when
    /// [`interest`](Self::interest) says to close. If the client goes away before that, call
    /// [`handle_disconnect`](Self::handle_disconnect), as in the end anyway.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let request = Exchange {
    ///     method: "GET",
    ///     target: "/health",
    ///     fields: &[("host", b"localhost")],
    ///     mount: "",
    /// };
    /// let conn = server.exchange(request, Peer::local(), now)?;
    /// assert_eq!(server.response(conn).map(ResponseHead::status), Some(200));
    /// assert!(server.transmit(conn).chunks().next().is_some_and(|body| body.starts_with(b"{")));
    /// # Ok(())
    /// # }
    /// ```
    pub fn exchange(
        &mut self,
        request: Exchange<'_>,
        peer: Peer,
        now: Time,
    ) -> Result<ConnId, AcceptError> {
        self.advance(now);
        let key = self.connect(peer)?;
        self.conns[key].exchange = Some(Box::default());
        self.take_exchange(key, request);
        self.settle();
        Ok(ConnId(key))
    }

    /// The peer of `conn` has sent `input`. All of it is taken.
    ///
    /// Call it with whatever a read returned; how the bytes were cut makes no difference. While
    /// [`interest`](Self::interest) does not ask to read, at most one slice may still arrive; it is
    /// kept and used later. Next, poll events and wake-ups.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let conn = server.accept(Peer::local(), now)?;
    /// server.handle_input(conn, b"GET /sse HTTP/1.1\r\nHost: local", now);
    /// server.handle_input(conn, b"host\r\n\r\n", now);
    /// assert!(matches!(server.poll_event(), Some(Event::Opened { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn handle_input(&mut self, conn: ConnId, input: &[u8], now: Time) {
        self.advance(now);
        self.metrics.bytes_received += input.len() as u64;
        self.take_input(conn.0, input);
        self.settle();
    }

    /// The peer of `conn` will send no more: its side of the connection was shut down in order.
    ///
    /// Call it when a read returned nothing, once. A request that was whole is still answered; one cut
    /// short is not executed. A stream ends, unless
    /// [`ConfigBuilder::allow_half_close`](crate::ConfigBuilder::allow_half_close) is on. Next, look at
    /// [`interest`](Self::interest).
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let conn = server.accept(Peer::local(), now)?;
    /// server.handle_eof(conn, now);
    /// assert_eq!(server.interest(conn), Interest::Close);
    /// # Ok(())
    /// # }
    /// ```
    pub fn handle_eof(&mut self, conn: ConnId, now: Time) {
        self.advance(now);
        self.take_eof(conn.0);
        self.settle();
    }

    /// `count` bytes of what [`transmit`](Self::transmit) showed have left for the peer of `conn`.
    ///
    /// Call it after each write that took some. It frees those bytes, restarts the stall timer (if
    /// they are enough, see [`Limits::stall_bytes_min`](crate::Limits::stall_bytes_min)) and the
    /// heartbeat's, and may emit [`Event::Unblocked`]. Next, look at
    /// [`interest`](Self::interest) again: there may be more to do.
    ///
    /// # Panics
    ///
    /// If `count` is more than is queued: that is a bug in the driver, and the stream is corrupt. Once the
    /// connection has been cut and its queue dropped, counts are ignored instead: a write of
    /// [detached](Transmit::detach) shares may complete after that.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let conn = server.accept(Peer::local(), now)?;
    /// server.handle_input(conn, GET, now);
    /// let mut socket = Vec::new(); // anything that is `std::io::Write`
    /// let count = server.transmit(conn).write_to(&mut socket)?;
    /// server.handle_written(conn, count, now);
    /// assert!(server.transmit(conn).is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn handle_written(&mut self, conn: ConnId, count: usize, now: Time) {
        self.advance(now);
        self.take_written(conn.0, count);
        self.settle();
    }

    /// The connection is gone, however that came about; its handle is stale from here on.
    ///
    /// Call it exactly once for each accepted connection, after closing the socket. A session on it ends
    /// with [`CloseReason::Peer`] unless it was ending already.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (conn, session, _) = open(&mut server);
    /// server.handle_disconnect(conn, now);
    /// assert!(matches!(server.poll_event(), Some(Event::Closed { session: it, .. }) if it == session));
    /// # Ok(())
    /// # }
    /// ```
    pub fn handle_disconnect(&mut self, conn: ConnId, now: Time) {
        self.advance(now);
        self.disconnect(conn.0);
        self.settle();
    }

    /// The deadline that [`poll_timeout`](Self::poll_timeout) named has come, or any other time.
    ///
    /// Takes a bounded number of due timers; if more are due, the next deadline is in the past, so
    /// that many of them at once cannot keep the sockets waiting.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (stream, _, _) = open(&mut server);
    /// let deadline = server.poll_timeout().expect("a heartbeat is due");
    /// assert_eq!(deadline.cause, TimerKind::Heartbeat);
    /// server.handle_timeout(deadline.at);
    /// assert!(!server.transmit(stream).is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
        self.take_timeouts();
        self.settle();
    }

    /// The wall clock shows `unix_seconds`, in seconds since 1970 without leap seconds.
    ///
    /// Call it once a second, if the driver knows the time: answers then carry a `Date`. A server that
    /// was never told is, to RFC 9110 section 6.6.1, one without a clock.
    pub fn handle_wall_clock(&mut self, unix_seconds: u64) {
        self.answers.handle_wall_clock(unix_seconds);
    }

    /// The other shards of the same server have so many sessions and connections open.
    ///
    /// `/health` reports the sum of these and of what is open here. The default is none; the figures
    /// replace those of the last call.
    pub fn handle_elsewhere(&mut self, sessions: u32, connections: u32) {
        self.elsewhere = (sessions, connections);
    }

    // ── 2. The application speaks. ──────────────────────────────────────────────────────────────

    /// Queues an event for a session's stream. Nothing is encoded or copied. A response releases the
    /// request that it answers.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`]: wait for [`Event::Unblocked`], then send again. [`SendError::TooLarge`]:
    /// it never will fit. [`SendError::Gone`]: the session has ended or is ending.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (stream, session, _) = open(&mut server);
    /// let frame = Frame::message(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#)?;
    /// server.send(session, &frame, now)?;
    /// assert_eq!(server.interest(stream), Interest::Io { read: true, write: true });
    /// # Ok(())
    /// # }
    /// ```
    pub fn send(&mut self, session: SessionId, frame: &Frame, now: Time) -> Result<(), SendError> {
        self.advance(now);
        self.send_frame(session.0, frame)?;
        self.settle();
        Ok(())
    }

    /// Queues one event for many sessions, and says how many it reached. It is encoded once and shared by
    /// all of them. A response releases the request that it answers in each.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (_, one, _) = open(&mut server);
    /// let (_, two, _) = open(&mut server);
    /// let frame = Frame::message(br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#)?;
    /// assert_eq!(server.broadcast([one, two], &frame, now).queued, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn broadcast(
        &mut self,
        to: impl IntoIterator<Item = SessionId>,
        frame: &Frame,
        now: Time,
    ) -> Reach {
        self.advance(now);
        let reach = self.send_to_all(to, frame);
        self.settle();
        reach
    }

    /// Ends a session in order: what is queued still leaves, then the stream ends.
    ///
    /// Posts are answered like those to an unknown session from now on. [`Event::Closed`] follows when it
    /// is over. For a session that has ended or is ending, nothing happens.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (stream, session, _) = open(&mut server);
    /// server.close(session, now);
    /// let rest = server.transmit(stream).len(); // the last chunk
    /// server.handle_written(stream, rest, now);
    /// assert!(matches!(server.poll_event(), Some(Event::Closed { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&mut self, session: SessionId, now: Time) {
        self.advance(now);
        self.begin_end(session.0, CloseReason::Application);
        self.settle();
    }

    /// The application holds this many of a session's messages, of so many bytes in all, in a queue
    /// of its own, and has not handled them.
    ///
    /// They count against the session's inbound limits as if they had not been polled, so a slow
    /// handler slows its client down. An application that handles messages as it polls them need
    /// never call this. The figures replace those of the last call; 4 GiB and more count as 4 GiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (_, session, _) = open(&mut server);
    /// server.set_backlog(session, 3, 4_096, now); // three messages wait
    /// assert_eq!(server.session(session).map(|view| view.inbound_messages()), Some(3));
    /// server.set_backlog(session, 0, 0, now); // and are handled
    /// assert_eq!(server.session(session).map(|view| view.inbound_messages()), Some(0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_backlog(&mut self, session: SessionId, messages: u32, bytes: u64, now: Time) {
        self.advance(now);
        self.take_backlog(session.0, messages, bytes);
        self.settle();
    }

    /// Answers [`Event::Asked`]: the request proceeds on behalf of a principal, or is refused.
    ///
    /// # Errors
    ///
    /// [`Expired`] if the request has been refused meanwhile, or its connection is gone.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server_of(Config::builder().authorization(Authorization::Deferred));
    /// let conn = server.accept(Peer::local(), now)?;
    /// server.handle_input(conn, GET, now);
    /// let Some(Event::Asked { ticket, head }) = server.poll_event() else { panic!("no question") };
    /// let verdict = match head.field("authorization") {
    ///     Some(b"Bearer x") => Verdict::Allow(Principal::new("alice")),
    ///     _ => Verdict::Refuse(Refusal::Unauthenticated),
    /// };
    /// server.authorize(ticket, verdict, now)?;
    /// assert!(matches!(server.poll_event(), Some(Event::Opened { principal: Some(_), .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn authorize(
        &mut self,
        ticket: AuthTicket,
        verdict: Verdict,
        now: Time,
    ) -> Result<(), Expired> {
        self.advance(now);
        let key = self.redeem(ticket.0, Stage::Deciding);
        let key = key.inspect_err(|_| self.metrics.verdicts_late += 1)?;
        self.take_verdict(key, verdict);
        self.settle();
        Ok(())
    }

    /// Counts an answer that a driver gave from its memory, without asking the application
    /// ([`Metrics::verdicts_remembered`]).
    pub const fn count_remembered_verdict(&mut self) {
        self.metrics.verdicts_remembered += 1;
    }

    /// Whether this shard has the session that another shard's post is for, and takes its posts. Give
    /// the answer to that shard's [`answer_lookup`](Self::answer_lookup), where there is an example.
    ///
    /// Every way to miss takes the same steps. Nothing is counted: [`deliver`](Self::deliver) does that,
    /// and may still find that the session has ended.
    #[must_use]
    pub fn look_up(&self, lookup: &SessionLookup) -> LookupAnswer {
        self.has_session(lookup)
    }

    /// Answers [`Event::LookedFor`]: the body of the post is read, or the post is refused.
    ///
    /// # Errors
    ///
    /// [`Expired`] if the post has been refused meanwhile, or its connection is gone.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let (mut here, there, target) = pair();
    /// let conn = here.accept(Peer::local(), now)?;
    /// here.handle_input(conn, post_head(&target, NOTIFICATION).as_bytes(), now);
    /// let Some(Event::LookedFor { shard, lookup, ticket }) = here.poll_event() else {
    ///     panic!("no question")
    /// };
    /// assert_eq!(shard, ShardId(1));
    /// here.answer_lookup(ticket, there.look_up(&lookup), now)?;
    /// assert_eq!(here.interest(conn), Interest::Io { read: true, write: false });
    /// # Ok(())
    /// # }
    /// ```
    pub fn answer_lookup(
        &mut self,
        ticket: LookupTicket,
        answer: LookupAnswer,
        now: Time,
    ) -> Result<(), Expired> {
        self.advance(now);
        let key = self.redeem(ticket.0, Stage::Locating)?;
        self.take_lookup_answer(key, answer);
        self.settle();
        Ok(())
    }

    /// Takes in a post that another shard received for a session of this one. Give what comes of it to
    /// that shard's [`acknowledge`](Self::acknowledge): the outcome at once, or that of
    /// [`Event::Settled`] if the post is held.
    ///
    /// That shard waits for [`Timeouts::hold`](crate::Timeouts::hold) and
    /// [`Timeouts::decision`](crate::Timeouts::decision) together. Do not deliver what has been on its way
    /// for most of the latter: its client may have been told that it was refused.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let (mut here, mut there, target) = pair();
    /// let conn = here.accept(Peer::local(), now)?;
    /// let request = post_head(&target, NOTIFICATION) + NOTIFICATION;
    /// here.handle_input(conn, request.as_bytes(), now);
    /// let Some(Event::Foreign { post, ticket, .. }) = here.poll_event() else { panic!("no post") };
    /// let Delivery::Done(outcome) = there.deliver(post, now) else { panic!("it is held") };
    /// assert_eq!(outcome, Outcome::Accepted);
    /// here.acknowledge(ticket, outcome, now)?;
    /// assert!(!here.transmit(conn).is_empty()); // the 202
    /// assert!(matches!(there.poll_event(), Some(Event::Message { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn deliver(&mut self, post: ForwardedPost, now: Time) -> Delivery {
        self.advance(now);
        let delivery = self.take_forward(post);
        self.settle();
        delivery
    }

    /// Answers a post whose ticket came with [`Event::Foreign`], with what became of it on the other
    /// shard; [`deliver`](Self::deliver) has an example.
    ///
    /// # Errors
    ///
    /// [`Expired`] if the post has been refused meanwhile, or its connection is gone.
    pub fn acknowledge(
        &mut self,
        ticket: PostTicket,
        outcome: Outcome,
        now: Time,
    ) -> Result<(), Expired> {
        self.advance(now);
        let key = self.redeem(ticket.0, Stage::Awaiting)?;
        self.take_outcome(key, outcome);
        self.settle();
        Ok(())
    }

    /// Sets what `/health` and `/ready` tell besides what the core knows. It replaces what was set
    /// before.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// server.set_health_extras(HealthExtras::default().not_ready("warming up"));
    /// let conn = server.accept(Peer::local(), now)?;
    /// server.handle_input(conn, b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n", now);
    /// let answer = server.transmit(conn).chunks().collect::<Vec<_>>().concat();
    /// assert!(answer.starts_with(b"HTTP/1.1 503 "));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_health_extras(&mut self, extras: HealthExtras) {
        self.health_extras = extras;
    }

    /// Replaces the static tokens of [`Authorization::Static`](crate::Authorization::Static), for example after a
    /// change of the file that they are from.
    ///
    /// From here on, requests are accepted with the new tokens only. Sessions that were opened with a token that is
    /// not among them, or that belongs to another principal now, end with [`CloseReason::TokenRemoved`]: they take no
    /// further posts and frames, and end when what is queued has left. The other sessions stay, also those of
    /// a principal that has lost another token. A post whose head was accepted before is still accepted.
    ///
    /// One call looks at a limited number of sessions. [`poll_timeout`](Self::poll_timeout) is then due at once, and
    /// [`handle_timeout`](Self::handle_timeout) looks at further ones, so that other clients need not wait.
    ///
    /// # Errors
    ///
    /// [`NoStaticTokens`] if the configuration has no static tokens. Nothing has changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_core::{Authorization, Config, Server, StaticTokens, Time};
    ///
    /// # let entropy = Box::new(|dest: &mut [u8]| { dest.fill(1); Ok(()) });
    /// let before = StaticTokens::builder().token("alice", "first").build()?;
    /// let config = Config::builder().authorization(Authorization::Static(before)).build()?;
    /// let mut server = Server::new(config, entropy, Time::ZERO);
    /// // While clients change over, both are valid. Later, the first is removed.
    /// let both = StaticTokens::builder().token("alice", "first").token("alice", "second");
    /// server.replace_tokens(both.build()?, Time::ZERO)?;
    /// let after = StaticTokens::builder().token("alice", "second").build()?;
    /// server.replace_tokens(after, Time::ZERO)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace_tokens(
        &mut self,
        tokens: StaticTokens,
        now: Time,
    ) -> Result<(), NoStaticTokens> {
        self.advance(now);
        let replaced = self.take_tokens(tokens);
        self.settle();
        replaced
    }

    /// Stops serving, in order.
    ///
    /// With [`Timeouts::drain_delay`](crate::Timeouts::drain_delay) the server goes on as before for that
    /// time, and is only not ready: `/ready` is answered 503. Then the shutdown begins.
    ///
    /// From then on no connection is accepted and idle ones close. Requests under way are answered;
    /// sessions with requests in flight go on until those have their answers. The others end at once, or
    /// spread over [`Timeouts::drain_spread`](crate::Timeouts::drain_spread): what is queued leaves, then
    /// the stream ends. When the grace ([`Timeouts::shutdown_grace`](crate::Timeouts::shutdown_grace)) is
    /// over, or at [`abort`](Self::abort), the rest is cut. [`Event::Drained`] follows when no connection is
    /// left.
    ///
    /// A server that is stopping already goes on as it does: calling this again changes nothing, and
    /// does not lengthen the delay or the grace.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// server.shutdown(now);
    /// assert_eq!(server.accept(Peer::local(), now), Err(AcceptError::ShuttingDown));
    /// assert!(matches!(server.poll_event(), Some(Event::Drained)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown(&mut self, now: Time) {
        self.advance(now);
        self.begin_shutdown();
        self.settle();
    }

    /// Stops serving at once, whether or not [`shutdown`](Self::shutdown) was called before.
    ///
    /// Every connection is cut: what is queued for its peer is thrown away, requests under way get no
    /// answer, and sessions end with [`CloseReason::Shutdown`]. [`Event::Drained`] follows when the driver
    /// has closed every socket. Calling this again changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (stream, _, _) = open(&mut server);
    /// server.abort(now);
    /// assert_eq!(server.interest(stream), Interest::Close);
    /// server.handle_disconnect(stream, now);
    /// assert_eq!(server.phase(), ServerPhase::Drained);
    /// # Ok(())
    /// # }
    /// ```
    pub fn abort(&mut self, now: Time) {
        self.advance(now);
        if self.phase != ServerPhase::Drained {
            log::info!(
                event = "shutdown_aborted",
                shard = self.config.shard,
                connections = self.conns.len();
                "the server stops at once: {} connections are cut", self.conns.len()
            );
            self.cut_everything();
        }
        self.settle();
    }

    // ── 3. The core speaks. ─────────────────────────────────────────────────────────────────────

    /// The next thing the application has to know. Poll until `None`.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (_, _, target) = open(&mut server);
    /// let conn = server.accept(Peer::local(), now)?;
    /// let request = post_head(&target, NOTIFICATION) + NOTIFICATION;
    /// server.handle_input(conn, request.as_bytes(), now);
    /// while let Some(event) = server.poll_event() {
    ///     if let Event::Message { message, .. } = event {
    ///         assert_eq!(message.method(), Some("notifications/initialized"));
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/tests/doc_setup.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let now = Time::ZERO;
    /// let mut server = server();
    /// let (stream, session, _) = open(&mut server);
    /// while server.poll_wake().is_some() {}
    /// server.send(session, &Frame::message(NOTIFICATION.as_bytes())?, now)?;
    /// assert_eq!(server.poll_wake(), Some(stream)); // there is something to write
    /// assert_eq!(server.poll_wake(), None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_wake(&mut self) -> Option<ConnId> {
        while let Some(id) = self.wakes.pop_front() {
            if let Some(conn) = self.conns.find_mut(id.0) {
                conn.woken = false;
                return Some(id);
            }
        }
        if self.wakes.capacity() > CAPACITY_KEPT {
            self.wakes = VecDeque::new();
        }
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next needed, and what for; it has an example.
    /// `None` while nothing is due at any time.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.next_deadline()
    }

    // ── 4. Anyone may look. ─────────────────────────────────────────────────────────────────────

    /// What the connection's socket should be doing now. Always the present truth; a stale handle
    /// is told to close.
    #[must_use]
    pub fn interest(&self, conn: ConnId) -> Interest {
        match self.conns.find(conn.0) {
            Some(conn) => conn.interest(&self.config.limits, self.queues_full()),
            None => Interest::Close,
        }
    }

    /// The bytes that wait for the connection's peer; none for a stale handle. Tell the core with
    /// [`handle_written`](Self::handle_written), where there is an example, how many have left.
    #[must_use]
    pub fn transmit(&self, conn: ConnId) -> Transmit<'_> {
        Transmit::new(self.conns.find(conn.0).map(|conn| &conn.outbox))
    }

    /// The head of the answer to an [`exchange`](Self::exchange), once there is one. `None` for
    /// connections, whose answers are whole in [`transmit`](Self::transmit).
    #[must_use]
    pub fn response(&self, conn: ConnId) -> Option<&ResponseHead> {
        self.conns.find(conn.0)?.exchange.as_deref()?.as_ref()
    }

    /// Whether the request still waits for this ticket's answer: [`authorize`](Self::authorize) would
    /// not return [`Expired`]. For a driver that keeps tickets in a queue.
    #[must_use]
    pub fn expects(&self, ticket: &AuthTicket) -> bool {
        self.awaits(&ticket.0, Stage::Deciding)
    }

    /// A look at a session; `None` once it has ended.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<SessionView<'_>> {
        self.sessions.find(session.0).map(|found| self.view(session.0, found))
    }

    /// A look at every session.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView<'_>> {
        self.sessions.iter().map(|(key, session)| self.view(key, session))
    }

    fn view<'a>(&self, key: Key, session: &'a SessionState) -> SessionView<'a> {
        let queued_frames = self.conns[session.conn].outbox.frames();
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

    /// The latest time that the server was told.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// How many connections are open now.
    #[must_use]
    pub fn connections_open(&self) -> u32 {
        self.conns.len()
    }

    /// How many sessions are open now, those that are ending among them.
    #[must_use]
    pub fn sessions_open(&self) -> u32 {
        self.sessions.len()
    }

    /// The principals that have open sessions, in the order of their names, and how many sessions each
    /// has.
    pub fn principals(&self) -> impl Iterator<Item = (&Principal, u32)> {
        self.principals.with_sessions()
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

    // ── Around every method. ────────────────────────────────────────────────────────────────────

    fn advance(&mut self, now: Time) {
        if now < self.now {
            self.metrics.clock_backsteps += 1;
        } else {
            self.now = now;
        }
    }

    /// Ends every method that changes something: releases held posts that have room now, and lets connections
    /// use pending input.
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
        self.end_shutdown_if_drained();
        #[cfg(test)]
        self.check();
    }
}

#[cfg(test)]
pub(crate) mod tests;
