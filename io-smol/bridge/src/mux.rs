//! The multiplexer: many sessions over one server on stdio, without I/O.
//!
//! Knows: which session an answer belongs to; what of MCP is a matter of one connection (the handshake, ids,
//! progress tokens, cancellations, subscriptions) and therefore has to be divided among sessions; and what becomes
//! of messages while there is no server.
//! Does not know: processes, sockets, tasks, or the clock: the time is an argument.
//!
//! Theory of operation. To the server the bridge is one client. Each request gets a number that was never used
//! before; the answer to it goes to the session that sent the request, with the id put back as it was spelled. The
//! number is the progress token too, so one table serves both. The first `initialize` is passed on and its result
//! kept for every session that comes later. It speaks for all sessions, so it offers no capabilities, and requests
//! of the server are refused here. What cannot be passed on yet is parked:
//!
//! ```text
//!  Down ──started──▶ Uninitialized ──initialize──▶ Initializing ──result──▶ Ready
//!   ▲                  ▲     parked too long ─▶      │   │ error              │
//!   │                  ╰─────────────────────────────┼───╯                    │
//!   ╰────────────── exited ──────────────────────────┴────────────────────────╯
//! ```
//!
//! Call a `handle_` verb, then [`poll_output`](Mux::poll_output) until there is nothing, then look at
//! [`poll_timeout`](Mux::poll_timeout).
//!
//! Decision: `notifications/initialized` is sent as soon as `initialize` is answered, because the client
//! that should send it might leave. An `initialize` that the server refuses concerns its sender only, and
//! the next one is tried.
//!
//! Decision: requests wait for a process that has ended for 5 s, because the first restart comes after 1 s.
//! Later requests are refused at once until a process has completed its handshake; otherwise a process that
//! crashes in its handshake would keep them for ever. Without sessions no process is started.

mod from_server;
mod from_sessions;
mod subscriptions;
mod text;

use core::fmt;
use core::mem;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mcp_sse_core::jsonrpc::{self, Kind, Message, code};
use mcp_sse_core::{Frame, Time};
use mcp_sse_driver::LogThrottle;

use super::handshakes::{HANDSHAKE_TIMEOUT, unknown_client};
use super::ids::{self, ID_BYTES_MAX};
use super::printed::{LostAnswer, UnreadableRequest, lost_answer_body};
use subscriptions::Subscriptions;
use text::Ambiguous;

/// What bounds a [`Mux`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MuxLimits {
    /// The most requests under way, of all sessions together.
    pub requests_max: usize,
    /// The most bytes of one id or progress token, as JSON. Longer ones are refused, because each is kept until
    /// the answer.
    pub id_bytes_max: usize,
    /// The most bytes of ids and progress tokens that are kept until the answer, of all sessions together.
    pub ids_bytes_max: usize,
    /// The most bytes of ids and progress tokens that are kept until the answer, of one session.
    pub session_ids_bytes_max: usize,
    /// The most messages that wait for the server to be ready, of all sessions together.
    pub parked_max: usize,
    /// The most bytes of messages that wait for the server to be ready, of all sessions together.
    pub parked_bytes_max: usize,
    /// The most messages of one session that wait for the server to be ready.
    pub session_parked_max: usize,
    /// How long other messages wait for an `initialize` before the bridge does the handshake itself.
    pub park: Duration,
    /// How long after a server's end requests wait for the next one; later ones are refused at once.
    pub outage: Duration,
    /// How long the server may take to answer the `initialize` of a session. It is long because the first start may
    /// install the server.
    pub initialize_timeout: Duration,
    /// How long the server may take to answer the bridge's own `initialize`.
    pub own_initialize_timeout: Duration,
    /// The most bytes of the URIs that one session subscribes to, each counted with
    /// [`SUBSCRIPTION_BYTES`](Self::SUBSCRIPTION_BYTES).
    pub session_subscriptions_bytes_max: usize,
    /// The most bytes of the URIs that all sessions together subscribe to, counted likewise.
    pub subscriptions_bytes_max: usize,
}

impl MuxLimits {
    /// What a subscription counts for besides its URI, in bytes.
    pub const SUBSCRIPTION_BYTES: usize = 256;
}

impl Default for MuxLimits {
    fn default() -> Self {
        Self {
            requests_max: 65_536,
            id_bytes_max: ID_BYTES_MAX,
            ids_bytes_max: 16 << 20,
            session_ids_bytes_max: 256 << 10,
            parked_max: 4_096,
            parked_bytes_max: 16 << 20,
            session_parked_max: 64,
            park: Duration::from_secs(2),
            outage: Duration::from_secs(5),
            initialize_timeout: Duration::from_secs(120),
            own_initialize_timeout: HANDSHAKE_TIMEOUT,
            session_subscriptions_bytes_max: 512 << 10,
            subscriptions_bytes_max: 16 << 20,
        }
    }
}

/// The key of one session: a number that no other session has or will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u64);

/// What has to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MuxOutput {
    /// Write this line, without its end, to the server.
    Server(String),
    /// Write this line, without its end, to the server. It answers a request of the server, so the server decides
    /// how many there are.
    Answer(String),
    /// Send this to a session.
    Session(SessionKey, Frame),
    /// End the server, which is of no use for this reason. Its exit is to be told like any other.
    Abandon(String),
}

/// Counts of what was dropped or refused. They only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MuxCounts {
    /// Answers to no pending request, and answers to the bridge's own requests: subscriptions that are undone, and
    /// those that are made again with a new server.
    pub answers_dropped: u64,
    /// Progress of no pending request.
    pub progress_dropped: u64,
    /// Notifications of a session that concern that session alone, or came when there was no room.
    pub notifications_dropped: u64,
    /// Cancellations, by either side, of no pending request.
    pub cancellations_dropped: u64,
    /// Responses of a session, to which no request was sent.
    pub responses_dropped: u64,
    /// Requests of the server, which were answered with an error.
    pub server_requests_refused: u64,
    /// Requests of sessions that were answered that there is no room for them.
    pub requests_refused: u64,
}

/// A request that the server has not answered.
struct PendingRequest {
    by: SessionKey,
    /// The raw id, as the session spelled it.
    id: Box<str>,
    token: Option<Box<str>>,
    /// The URI that it subscribes to.
    subscribes: Option<Arc<str>>,
}

impl PendingRequest {
    fn bytes(&self) -> usize {
        self.id.len() + self.token.as_deref().map_or(0, str::len)
    }
}

#[derive(Default)]
struct MuxSession {
    /// It has had its handshake, or goes on without one: notifications are sent to it.
    receives_notifications: bool,
    pending: Vec<u64>,
    ids_bytes: usize,
    parked: usize,
    /// The URIs that it has subscribed to, and their bytes.
    subscribed: BTreeSet<Arc<str>>,
    subscribed_bytes: usize,
}

enum MuxPhase {
    /// There is no server, for this reason.
    Down { why: Box<str> },
    /// There is a server, and it was not sent `initialize`.
    Uninitialized { parked_since: Option<Time> },
    /// The server was sent `initialize` under this number, for this session's request or for none.
    Initializing {
        number: u64,
        params: Box<str>,
        requester: Option<(SessionKey, Box<str>)>,
        limit: Duration,
        until: Time,
    },
    /// The server has answered `initialize`.
    Ready,
}

/// Many sessions over one server.
pub struct Mux {
    limits: MuxLimits,
    phase: MuxPhase,
    sessions: BTreeMap<SessionKey, MuxSession>,
    pending: BTreeMap<u64, PendingRequest>,
    ids_bytes: usize,
    subscriptions: Subscriptions,
    parked: VecDeque<(SessionKey, Message)>,
    parked_bytes: usize,
    /// The number of the last request to the server.
    last_number: u64,
    /// Since when there is no server that has answered `initialize`; `None` also before the first one.
    away_since: Option<Time>,
    /// The params of `initialize` for the next server, and what the last one answered to them.
    initialize_params: Option<Box<str>>,
    initialize_result: Box<str>,
    output: VecDeque<MuxOutput>,
    counts: MuxCounts,
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux")
            .field("ready", &self.is_ready())
            .field("sessions", &self.sessions())
            .field("requests", &self.requests())
            .field("parked", &self.parked.len())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

const BUSY: &str = "server busy";

impl Mux {
    /// A multiplexer without sessions, whose server has not been started.
    #[must_use]
    pub fn new(limits: MuxLimits) -> Self {
        Self {
            limits,
            phase: MuxPhase::Down { why: "is not running".into() },
            sessions: BTreeMap::new(),
            pending: BTreeMap::new(),
            ids_bytes: 0,
            subscriptions: Subscriptions::default(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            last_number: 0,
            away_since: None,
            initialize_params: None,
            initialize_result: Box::default(),
            output: VecDeque::new(),
            counts: MuxCounts::default(),
        }
    }

    /// Adds a session. The caller bounds how many there are.
    ///
    /// # Panics
    ///
    /// If there is a session with this key.
    pub fn join(&mut self, key: SessionKey) {
        let known = self.sessions.insert(key, MuxSession::default());
        assert!(known.is_none(), "invariant: session keys are numbered");
    }

    /// Removes a session that has ended: its requests are cancelled, and answers to them will be dropped. Messages
    /// of a session that has left are not taken any more.
    pub fn leave(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(&key) else { return };
        for uri in &session.subscribed {
            self.unsubscribe_departed(key, uri);
        }
        for number in session.pending {
            if let Some(pending) = self.pending.remove(&number) {
                self.ids_bytes -= pending.bytes();
                self.cancel(number);
            }
        }
        if session.parked > 0 {
            let parked = mem::take(&mut self.parked);
            let (gone, kept) = parked.into_iter().partition(|(by, _)| *by == key);
            self.parked = kept;
            let gone: VecDeque<(SessionKey, Message)> = gone;
            self.parked_bytes -=
                gone.iter().map(|(_, message)| message.body().len()).sum::<usize>();
        }
        if let MuxPhase::Initializing { requester, .. } = &mut self.phase {
            requester.take_if(|(by, _)| *by == key);
        }
    }

    /// Takes in a message of a session's client.
    pub fn handle_session(&mut self, key: SessionKey, message: Message, now: Time) {
        if self.sessions.contains_key(&key) {
            self.handle_message(key, message, now);
        }
    }

    /// The server was started.
    pub fn handle_started(&mut self, now: Time) {
        self.phase = MuxPhase::Uninitialized { parked_since: None };
        match self.initialize_params.clone() {
            Some(params) => self.initialize(params, None, now),
            None => self.unpark(now),
        }
    }

    /// Takes in a message of the server.
    pub fn handle_server(&mut self, message: &Message, now: Time) {
        match message.kind() {
            Kind::Response => self.handle_response(message, now),
            Kind::Request => self.refuse_server(message),
            Kind::Notification => self.handle_notification(message),
        }
    }

    /// Takes in an answer of the server that cannot be passed on. Without an id it counts for the only pending
    /// request.
    pub fn handle_lost_answer(&mut self, lost: &LostAnswer, now: Time) {
        let (number, error) = match (&lost.id, &self.phase) {
            (Some(id), _) => (ids::number(id), None),
            (None, MuxPhase::Initializing { number, .. }) => (Some(*number), lost.error.as_deref()),
            // The text of its error may be about a request of another session, which has left.
            (None, _) if self.pending.len() == 1 => (self.pending.keys().next().copied(), None),
            (None, _) => (None, None),
        };
        let Some(number) = number else { return self.counts.answers_dropped += 1 };
        let body = lost_answer_body(&number.to_string(), &lost.why, error);
        match Message::read(body, None) {
            Ok(message) => self.handle_response(&message, now),
            Err((why, _)) => log_unsendable(&why),
        }
    }

    /// Answers a request of the server that cannot be passed on.
    pub fn handle_unreadable_request(&mut self, unread: &UnreadableRequest) {
        self.counts.server_requests_refused += 1;
        self.answer_server(unread.answer());
    }

    /// The server has ended, or could not be started. `why` goes on after "MCP server process".
    pub fn handle_exit(&mut self, why: &str, now: Time) {
        self.away_since.get_or_insert(now);
        // Lines for the server that has ended must not reach the next one.
        self.output.retain(|output| matches!(output, MuxOutput::Session(..)));
        let before = mem::replace(&mut self.phase, MuxPhase::Down { why: why.into() });
        for (number, pending) in mem::take(&mut self.pending) {
            if let Some(uri) = &pending.subscribes {
                self.subscribe_failed(pending.by, uri, number);
            }
            self.answer_process_error(pending.by, &pending.id, why);
        }
        self.subscriptions.handle_exit();
        self.ids_bytes = 0;
        for session in self.sessions.values_mut() {
            session.pending.clear();
            session.ids_bytes = 0;
        }
        if let MuxPhase::Initializing { requester: Some((by, id)), .. } = before {
            self.answer_process_error(by, &id, why);
        }
        self.handle_timeout(now);
    }

    /// Does what is due, if anything is. Call it at [`poll_timeout`](Self::poll_timeout), or at any other time.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match &mut self.phase {
            MuxPhase::Down { why } => {
                let why = why.clone();
                self.fail_parked(&why);
            }
            MuxPhase::Uninitialized { .. } => self.initialize(unknown_client().into(), None, now),
            MuxPhase::Initializing { until, limit, .. } => {
                // Only once: the exit that follows changes the phase.
                *until = Time::MAX;
                let why = format!("did not answer initialize within {limit:?}");
                self.output.push_back(MuxOutput::Abandon(why));
            }
            MuxPhase::Ready => {}
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.phase {
            MuxPhase::Down { .. } if self.parked.is_empty() => None,
            MuxPhase::Down { .. } => self.outage_over(),
            MuxPhase::Uninitialized { parked_since } => {
                Some(parked_since.as_ref()?.saturating_add(self.limits.park))
            }
            MuxPhase::Initializing { until, .. } => Some(*until).filter(|at| *at < Time::MAX),
            MuxPhase::Ready => None,
        }
    }

    /// When requests stop waiting for the next server.
    fn outage_over(&self) -> Option<Time> {
        Some(self.away_since?.saturating_add(self.limits.outage))
    }

    /// What has to be done next, in this order.
    pub fn poll_output(&mut self) -> Option<MuxOutput> {
        self.output.pop_front()
    }

    /// Whether a server should be running, which it should while there are sessions.
    #[must_use]
    pub fn wants_server(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Whether the server has answered `initialize`.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.phase, MuxPhase::Ready)
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many requests the server has not answered, a session's `initialize` included.
    #[must_use]
    pub fn requests(&self) -> usize {
        let initializes = matches!(self.phase, MuxPhase::Initializing { requester: Some(_), .. });
        self.pending.len() + usize::from(initializes)
    }

    /// What was dropped or refused so far.
    #[must_use]
    pub const fn counts(&self) -> &MuxCounts {
        &self.counts
    }

    /// Asserts that the sums are those of their parts, and that everything belongs to a session.
    #[cfg(test)]
    fn check(&self) {
        let parked = || self.parked.iter().map(|(by, message)| (by, message.body().len()));
        assert_eq!(self.parked_bytes, parked().map(|(_, bytes)| bytes).sum::<usize>());
        assert_eq!(self.ids_bytes, self.pending.values().map(PendingRequest::bytes).sum::<usize>());
        let listed: usize = self.sessions.values().map(|session| session.pending.len()).sum();
        assert_eq!(listed, self.pending.len());
        for (key, session) in &self.sessions {
            let pending: Vec<&PendingRequest> =
                session.pending.iter().map(|n| &self.pending[n]).collect();
            assert!(pending.iter().all(|pending| pending.by == *key));
            assert_eq!(
                session.ids_bytes,
                pending.iter().map(|pending| pending.bytes()).sum::<usize>()
            );
            assert_eq!(session.parked, parked().filter(|(by, _)| *by == key).count());
        }
        assert!(parked().all(|(by, _)| self.sessions.contains_key(by)));
        assert!(self.is_ready() || self.pending.is_empty(), "requests without a server");
        assert!(!self.is_ready() || self.parked.is_empty(), "parked for no reason");
        assert!(self.parked.len() <= self.limits.parked_max);
        assert!(self.parked_bytes <= self.limits.parked_bytes_max);
        assert!(self.pending.len() <= self.limits.requests_max);
        self.check_subscriptions();
    }

    /// Removes a request that has been answered or cancelled.
    fn finish_request(&mut self, number: u64) -> Option<PendingRequest> {
        let pending = self.pending.remove(&number)?;
        self.ids_bytes -= pending.bytes();
        if let Some(session) = self.sessions.get_mut(&pending.by) {
            session.pending.retain(|known| *known != number);
            session.ids_bytes -= pending.bytes();
        }
        Some(pending)
    }

    fn cancel(&mut self, number: u64) {
        self.send_to_server(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the session has ended"}}}}"#
        ));
    }

    fn send_to_server(&mut self, text: String) {
        self.output.push_back(MuxOutput::Server(text::on_one_line(text)));
    }

    /// Sends the server a request of the bridge's own. Its answer is dropped.
    fn ask_server(&mut self, method: &str, uri: &str) {
        self.last_number += 1;
        let number = self.last_number;
        let uri = serde_json::to_string(uri).expect("invariant: any text is a JSON string");
        self.send_to_server(format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{{"uri":{uri}}}}}"#
        ));
    }

    /// Sends a session the answer to its request with this raw id.
    fn send_answer(&mut self, key: SessionKey, id: &str, text: &str) {
        match Frame::message(text.as_bytes()) {
            Ok(frame) => self.output.push_back(MuxOutput::Session(key, frame)),
            Err(error) => {
                log_unsendable(&error);
                let why = format!("the answer cannot be sent: {error}");
                self.answer_error(key, id, code::INTERNAL_ERROR, &why);
            }
        }
    }

    fn answer_process_error(&mut self, key: SessionKey, id: &str, why: &str) {
        self.answer_error(key, id, code::INTERNAL_ERROR, &format!("MCP server process {why}"));
    }

    fn refuse_busy(&mut self, key: SessionKey, id: &str) {
        self.counts.requests_refused += 1;
        self.answer_error(key, id, code::SERVER_BUSY, BUSY);
    }

    fn refuse_params(&mut self, key: SessionKey, message: &Message, why: Ambiguous) {
        let id = message.id().unwrap_or_default();
        self.answer_error(key, id, code::INVALID_PARAMS, &why.to_string());
    }

    fn answer_error(&mut self, key: SessionKey, id: &str, code: i32, message: &str) {
        match Frame::message(&jsonrpc::error_body(Some(id), code, message)) {
            Ok(frame) => self.output.push_back(MuxOutput::Session(key, frame)),
            Err(error) => log_unsendable(&error),
        }
    }
}

/// Logs that a message of the server cannot be sent.
fn log_unsendable(error: &dyn fmt::Display) {
    static UNSENDABLE: LogThrottle = LogThrottle::new();
    if let Some(unsaid) = UNSENDABLE.tell() {
        log::error!("a message of a server cannot be sent: {error}{unsaid}");
    }
}

/// `text` with `slice`, which is a slice of it, replaced.
pub(super) fn replaced(text: &str, slice: &str, instead: &str) -> String {
    text::replaced(text, [(slice, instead)])
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod walk;
